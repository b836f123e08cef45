"""When a place's launches become a graph, and what is done where they do not; on the CPU."""

import numpy as np
import pytest

from engine import FrameError, device_plan
from engine.device_plan import PLACES
from engine.errors import DeviceError
from tests.engine.host_network import expect_same_atoms, some_frame


def test_a_place_that_is_used_again_runs_as_one_graph(make, tiny_model, reference, draw_frame, cuda_on_cpu):
    detector = make(tiny_model)
    for seed in range(3 * PLACES):
        cuda_on_cpu.log.clear()
        expect_same_atoms(detector, reference, some_frame(draw_frame, seed=seed))
        whats = [entry[0] for entry in cuda_on_cpu.log]
        assert ("graph" in whats) == (seed >= PLACES)
        assert ("peaks" in whats) == (seed < PLACES)


@pytest.mark.parametrize(
    "error",
    [
        DeviceError("operation not permitted when stream is capturing"),
        FrameError("no_memory", "GPU expects free memory, got cudaErrorMemoryAllocation: free some"),
    ],
)
def test_a_graph_that_cannot_be_is_done_without(
    make, tiny_model, reference, draw_frame, cuda_on_cpu, monkeypatch, error
):
    def refuse(stream, steps):
        raise error

    monkeypatch.setattr(cuda_on_cpu, "capture", refuse)
    detector = make(tiny_model)
    before = detector._plans.most_pixels
    for seed in range(2 * PLACES):
        expect_same_atoms(detector, reference, some_frame(draw_frame, seed=seed))
    assert detector._plans.most_pixels == before


@pytest.mark.parametrize("step", ["bind", "run"])
def test_a_run_that_failed_is_none_before_a_capture(make, tiny_model, draw_frame, cuda_on_cpu, step):
    """The network makes its memory, or compiles, in the first that does not."""
    failing = True

    def fail(where):
        if failing and where == step:
            raise FrameError("internal", "GPU expects an answer, got none: wait")

    detector, frame = make(tiny_model, lambda stream: fail("run")), some_frame(draw_frame)
    bind = detector._device_network.bind

    def bind_with_memory(*arguments):
        fail("bind")
        cuda_on_cpu.zeros((1,), np.uint8)
        return bind(*arguments)

    detector._device_network.bind = bind_with_memory
    for _ in range(2 * PLACES):
        with pytest.raises(FrameError, match="got none: wait"):
            detector.detect(frame)
    failing = False
    cuda_on_cpu.log.clear()
    for _ in range(2 * PLACES):
        assert len(detector.detect(frame)) > 0
    assert [entry[0] for entry in cuda_on_cpu.log].count("graph") == PLACES


def test_a_capture_that_failed_is_tried_again_later(make, tiny_model, draw_frame, cuda_on_cpu, monkeypatch, caplog):
    """What was in its way, an allocation of others or a build, is over soon."""
    capture, tries = cuda_on_cpu.capture, []

    def refuse(stream, steps):
        tries.append(len(tries))
        if len(tries) < 3:
            raise DeviceError("operation not permitted when stream is capturing")
        return capture(stream, steps)

    monkeypatch.setattr(cuda_on_cpu, "capture", refuse)
    monkeypatch.setattr(device_plan, "_CAPTURE_AGAIN", 4)
    detector, frame = make(tiny_model), some_frame(draw_frame)
    tried_at = []
    for number in range(1, PLACES + 10):
        before = len(tries)
        detector.detect(frame)
        tried_at += [number] * (len(tries) - before)
    assert tried_at[:3] == [PLACES + 1, PLACES + 5, PLACES + 9]
    assert ("graph", detector._computes) in cuda_on_cpu.log
    assert caplog.text.count("No CUDA graph for now") == 1


def test_nothing_is_captured_while_the_network_says_no(make, tiny_model, draw_frame, cuda_on_cpu):
    """It is asked at each run: an engine may be under way, or done."""
    detector, frame = make(tiny_model), some_frame(draw_frame)
    # What was captured before goes on to be run: only to capture is out of the question.
    for capturable, graphs in ((False, 0), (True, 2 * PLACES), (False, 2 * PLACES)):
        detector._device_network.capturable = capturable
        cuda_on_cpu.log.clear()
        for _ in range(2 * PLACES):
            detector.detect(frame)
        assert [entry[0] for entry in cuda_on_cpu.log].count("graph") == graphs
