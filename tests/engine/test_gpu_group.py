"""Several GPUs, each a device of its own whose kernels run on the CPU."""

import numpy as np
import pytest

from engine import Frame, FrameError, load_detector
from engine.errors import DeviceError
from engine.gpu_detector import GpuDetector
from engine.gpu_group import GpuGroup
from engine.spec import ModelSpec
from tests.cuda_on_cpu import HostDevice
from tests.engine.host_network import HostNetwork, some_frame


@pytest.fixture
def group(cuda_on_cpu, tiny_model):
    """Three of them, with the CPU behind."""
    spec, members = ModelSpec.read(tiny_model), []
    for _ in range(3):
        device = HostDevice(cuda_on_cpu._functions)
        network = HostNetwork(device, tiny_model, spec)
        members.append(GpuDetector(spec, device, network, fallback=lambda: load_detector(tiny_model, precision="f32")))
    with GpuGroup(members) as made:
        yield made


def runs(group):
    """Frames that each GPU computed."""
    return [[entry[0] for entry in member._device.log].count("network") for member in group._members]


def lose(member, monkeypatch):
    def lost(*arguments):
        raise DeviceError("GPU 1: expected an answer, got cudaErrorDeviceUnavailable: restart")

    monkeypatch.setattr(member._device, "upload", lost)


def test_frames_are_dealt_round_and_atoms_come_in_order(group, tiny_model, draw_frame):
    frames = [some_frame(draw_frame, seed=seed) for seed in range(6)]
    prepared = [group.prepare(frame) for frame in frames]
    maps = [group.infer(one) for one in prepared]
    with load_detector(tiny_model, precision="f32") as reference:
        for one in zip(frames, prepared, maps, strict=True):
            expected = reference.detect(one[0]).positions
            np.testing.assert_allclose(group.locate(*one).positions, expected, atol=0.02)
    assert runs(group) == [2, 2, 2]


def test_one_frame_at_a_time_is_dealt_too(group, draw_frame):
    for seed in range(4):
        assert len(group.detect(some_frame(draw_frame, seed=seed))) > 0
    assert runs(group) == [2, 1, 1]
    assert group.backend == "3 x host f32, CPU sm_0"


def test_a_gpu_that_is_lost_gets_no_more_frames(group, draw_frame, monkeypatch):
    lose(group._members[1], monkeypatch)
    for seed in range(6):  # not even the frame that found it lost is lost
        assert len(group.detect(some_frame(draw_frame, seed=seed))) > 0
    assert runs(group)[1] == 0
    assert sum(runs(group)) == 5
    assert group.backend == "2 x host f32, CPU sm_0"


def test_after_the_last_the_cpu_takes_over(group, draw_frame, monkeypatch):
    for member in group._members:
        lose(member, monkeypatch)
    for seed in range(4):
        assert len(group.detect(some_frame(draw_frame, seed=seed))) > 0
    assert group.backend == "openvino f32"


def test_frames_of_others_are_refused_and_bad_ones_as_ever(group, draw_frame):
    frame = some_frame(draw_frame)
    other = group._members[0].prepare(frame)
    with pytest.raises(ValueError, match="use its own prepare"):
        group.infer(other)
    with pytest.raises(FrameError):
        group.detect(Frame(np.zeros((64, 64)), 5.0))


def test_each_is_settled(group, draw_frame):
    group.settle(some_frame(draw_frame))
    assert runs(group) == [1, 1, 1]


def test_closing_closes_all(group):
    group.close()
    assert all(member._device_network.closed for member in group._members)
