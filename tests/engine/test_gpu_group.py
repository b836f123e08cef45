"""Several GPUs, each a device of its own whose kernels run on the CPU."""

from contextlib import suppress

import numpy as np
import pytest

from engine import Frame, FrameError, load_detector
from engine.device_plan import PLACES
from engine.errors import DeviceError
from engine.gpu_detector import GpuDetector
from engine.gpu_group import GpuGroup
from engine.spec import ModelSpec
from tests.cuda_on_cpu import Foreign, HostDevice, OnDevice
from tests.engine.host_network import HostNetwork, some_frame


@pytest.fixture
def group(cuda_on_cpu, tiny_model):
    """Three of them, with the CPU behind."""
    spec, members = ModelSpec.read(tiny_model), []
    for _ in range(3):
        device = HostDevice(cuda_on_cpu._functions)
        network = HostNetwork(device, tiny_model, spec)
        members.append(GpuDetector(spec, device, network, replaceable=True))
    with GpuGroup(members, lambda: load_detector(tiny_model, precision="f32")) as made:
        yield made


def runs(group):
    """Frames that each GPU computed."""
    return [[entry[0] for entry in member._device.log].count("download") for member in group._members]


def lose(member, monkeypatch, step="upload"):
    def lost(*arguments):
        raise DeviceError("GPU 1: expected an answer, got cudaErrorDeviceUnavailable: restart")

    monkeypatch.setattr(member._device, step, lost)


def lie_on(member, monkeypatch, group):
    """Pixels lie on the GPU of this member, and no other can read them."""
    for other in group._members:

        def refuse(pixels):
            raise FrameError("unknown_dtype", "Engine expects pixels on its own GPU, got another's: copy them")

        if other is not member:
            monkeypatch.setattr(other._device, "adopt", refuse)


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


@pytest.mark.parametrize(("step", "dropped"), [("upload", 0), ("wait", 1), ("synchronize", 1)])
def test_a_gpu_that_is_lost_gets_no_more_frames(group, draw_frame, monkeypatch, caplog, step, dropped):
    lost = group._members[1]
    lose(lost, monkeypatch, step)
    refused = []
    for seed in range(6):  # and no CPU is loaded
        try:
            assert len(group.detect(some_frame(draw_frame, seed=seed))) > 0
        except FrameError as error:
            refused.append((error.reason, str(error).rpartition("; ")[2]))
    assert refused == [("internal", "2 x host f32, CPU sm_0 takes over")] * dropped
    assert runs(group)[0] + runs(group)[2] == 6 - dropped
    assert group.backend == "2 x host f32, CPU sm_0"
    assert group.places == 2 * PLACES
    assert caplog.text.count("GPUs that go on: 2") == 1
    assert not lost._plans.kept


@pytest.mark.parametrize("step", ["wait", "synchronize"])
def test_frames_on_their_way_to_a_lost_gpu_are_dropped_and_nothing_waits(
    group, tiny_model, draw_frame, monkeypatch, step
):
    """All places of the others are taken, and only this thread gives them back."""
    frames = [some_frame(draw_frame, seed=seed) for seed in range(3 * PLACES)]
    prepared = [group.prepare(frame) for frame in frames]
    lose(group._members[2], monkeypatch, step)
    found = {}
    for number in sorted(range(3 * PLACES), key=lambda number: number % 3 != 2):  # those that are lost first
        frame, one = frames[number], prepared[number]
        with suppress(FrameError):
            found[number] = group.locate(frame, one, group.infer(one)).positions
    assert list(found) == [number for number in range(3 * PLACES) if number % 3 != 2]
    with load_detector(tiny_model, precision="f32") as reference:
        for number, positions in found.items():
            np.testing.assert_allclose(positions, reference.detect(frames[number]).positions, atol=0.02)


def test_buffers_that_no_strip_makes_fit_go_to_the_next(group, draw_frame, monkeypatch):
    def full(shape, dtype):
        raise FrameError("no_memory", "GPU expects free memory, got none: free some")

    monkeypatch.setattr(group._members[0]._device, "zeros", full)
    assert len(group.detect(some_frame(draw_frame))) > 0
    assert group.backend == "2 x host f32, CPU sm_0"


def test_after_the_last_one_cpu_takes_over(group, draw_frame, monkeypatch):
    made = []
    load = group._fallback
    group._fallback = lambda: made.append(load()) or made[-1]
    for member in group._members:
        lose(member, monkeypatch)
    for seed in range(4):
        assert len(group.detect(some_frame(draw_frame, seed=seed))) > 0
    assert group.backend == "openvino f32"
    assert group.places == 0
    assert len(made) == 1


def test_without_a_fallback_the_last_loss_is_an_error(group, draw_frame, monkeypatch):
    group._fallback = None
    for member in group._members:
        lose(member, monkeypatch)
    for _ in range(2):
        with pytest.raises(DeviceError, match="cudaErrorDeviceUnavailable"):
            group.detect(some_frame(draw_frame))


@pytest.mark.parametrize("held_by", [OnDevice, Foreign])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_pixels_that_lie_on_a_gpu_are_that_ones(group, draw_frame, monkeypatch, held_by, which):
    lie_on(group._members[which], monkeypatch, group)
    for seed in range(4):
        frame = some_frame(draw_frame, seed=seed)
        assert len(group.detect(Frame(held_by(frame.pixels), frame.sampling_A))) > 0
    assert runs(group)[which] == sum(runs(group)) == 4


def test_pixels_on_a_gpu_that_is_lost_are_refused_as_a_frame(group, draw_frame, monkeypatch):
    lie_on(group._members[1], monkeypatch, group)
    lose(group._members[1], monkeypatch, "copy")
    frame = some_frame(draw_frame)
    with pytest.raises(FrameError, match="another's: copy them"):
        group.detect(Frame(OnDevice(frame.pixels), frame.sampling_A))
    assert len(group.detect(frame)) > 0
    assert group.backend == "2 x host f32, CPU sm_0"


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


@pytest.mark.parametrize("lost", [1, 3])
def test_what_is_left_is_settled(group, draw_frame, monkeypatch, lost):
    for member in group._members[:lost]:
        lose(member, monkeypatch)
    group.settle(some_frame(draw_frame))
    assert runs(group) == [0] * lost + [1] * (3 - lost)
    assert group.backend.startswith("openvino" if lost == 3 else "2 x host")


def test_closing_closes_all(group):
    group.close()
    assert all(member._device_network.closed for member in group._members)
