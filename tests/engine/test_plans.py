"""Which kinds of frames keep their buffers, and that no buffer is freed while something may run on it."""

import weakref

import pytest

from engine import FrameError
from engine.device import KINDS
from tests.engine.host_network import no_memory, some_frame


def test_shapes_that_alternate_keep_their_buffers_and_more_do_not_pile_up(make, tiny_model, draw_frame):
    detector = make(tiny_model)
    frames = [some_frame(draw_frame, (96, 96 + 16 * k)) for k in range(3)]
    detector.detect(frames[0])
    first = next(iter(detector._plans.kept.values()))
    detector.detect(frames[1])
    detector.detect(frames[0])
    assert first in detector._plans.kept.values()
    detector.detect(frames[2])
    assert len(detector._plans.kept) == 2
    assert first in detector._plans.kept.values()
    assert detector._device_network.bound == 3  # once for each kind, so that no graph finds its network changed


def test_as_many_kinds_are_kept_as_told(make, tiny_model, draw_frame):
    detector = make(tiny_model, kinds=3)
    for k in (0, 1, 2, 0, 1, 2):
        detector.detect(some_frame(draw_frame, (96, 96 + 16 * k)))
    assert detector._device_network.bound == 3


def test_kinds_that_push_each_other_out_are_told_of_now_and_then(make, tiny_model, draw_frame, caplog):
    detector, now = make(tiny_model), [0.0]
    detector._plans._clock = lambda: now[0]
    frames = [some_frame(draw_frame, (96, 96 + 16 * k)) for k in range(3)]

    def warnings(seconds, count):
        caplog.clear()
        for k in range(count):
            detector.detect(frames[k % 3])
            now[0] += seconds
        return caplog.text.count("GPU expects frames of at most 2 kinds in turn, got another of 96 x")

    assert warnings(60.0, 6) == 0  # a camera that changes its binning now and then
    assert warnings(0.1, 30) == 1
    assert warnings(0.1, 30) == 0
    now[0] += 1000
    assert warnings(0.1, 30) == 1


@pytest.mark.parametrize("what", ["shrink", "another kind", "close"])
def test_buffers_are_freed_once_nothing_runs_on_them(make, tiny_model, draw_frame, cuda_on_cpu, what):
    detector = make(tiny_model)
    frames = [some_frame(draw_frame, (96, 96 + 16 * k)) for k in range(KINDS + 1)]
    for frame in frames[:KINDS]:
        detector.infer(detector.prepare(frame))  # and its atoms are never asked for
    plan = next(iter(detector._plans.kept.values()))
    cuda_on_cpu.log.clear()
    if what == "shrink":
        plan.least_pixels = 0
        with pytest.raises(FrameError, match="got none"):
            detector._plans.make_room(FrameError("no_memory", "GPU expects memory, got none: free some"), plan)
    elif what == "another kind":
        detector.prepare(frames[KINDS])
    else:
        detector.close()
    assert plan not in detector._plans.kept.values()
    streams = (detector._uploads, detector._computes, detector._fetches)
    waits = [entry for stream in streams for entry in (("record", stream), ("synchronize", stream))]
    assert cuda_on_cpu.log[: len(waits) + 1] == [*waits, ("trim",)]  # then other libraries may have the memory


def test_buffers_of_a_frame_that_was_dropped_are_freed_once_nothing_runs_on_them(
    make, tiny_model, draw_frame, cuda_on_cpu
):
    """Its plan was given up when the device was last waited for; then the frame was computed, and nobody waited."""
    detector = make(tiny_model)
    frames = [some_frame(draw_frame, (96, 96 + 16 * k)) for k in range(KINDS + 2)]
    prepared = detector.prepare(frames[0])
    plan = weakref.ref(prepared.ticket.plan)
    for frame in frames[1 : KINDS + 1]:
        detector.detect(frame)
    assert plan() not in detector._plans.kept.values()
    maps = detector.infer(prepared)
    del prepared, maps
    assert plan() is not None
    detector.detect(frames[-1])
    assert plan() is None


def test_memory_of_a_frame_that_failed_is_the_drivers_before_other_buffers_are_made(
    make, tiny_model, draw_frame, cuda_on_cpu
):
    """The frame held its plan while the others were freed."""

    def full(stream):
        no_memory()

    detector = make(tiny_model, full)
    frame = some_frame(draw_frame, (1500, 48))
    for _ in range(2):
        cuda_on_cpu.log.clear()
        with pytest.raises(FrameError, match="got none"):
            detector.detect(frame)
        whats = [entry[0] for entry in cuda_on_cpu.log]
        assert whats.index("trim") < whats.index("zeros")


def test_half_a_plan_holds_no_memory_while_there_is_another_try(make, tiny_model, draw_frame, cuda_on_cpu, monkeypatch):
    detector, made, held = make(tiny_model), [], []
    detector.detect(some_frame(draw_frame))
    zeros, trim = cuda_on_cpu.zeros, cuda_on_cpu.trim

    def some(shape, dtype):
        if len(made) == 4:
            made.append(None)
            no_memory()
        array = zeros(shape, dtype)
        made.append(weakref.ref(array))
        return array

    def count():
        held.append(sum(one is not None and one() is not None for one in made))
        trim()

    monkeypatch.setattr(cuda_on_cpu, "zeros", some)
    monkeypatch.setattr(cuda_on_cpu, "trim", count)
    assert len(detector.detect(some_frame(draw_frame, (112, 112)))) > 0
    assert held == [0, 0]
    assert len(made) > 5
