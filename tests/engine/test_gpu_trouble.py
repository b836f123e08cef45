"""The GPU's detector where memory runs out, an engine is missing, or the device is lost; on the CPU."""

import weakref

import numpy as np
import pytest

from engine import Frame, FrameError, ModelError, load_detector
from engine.device_plan import PLACES, Ledger
from engine.errors import DeviceError
from tests.cuda_on_cpu import OnDevice
from tests.engine.host_network import expect_same_atoms, no_memory, some_frame


@pytest.fixture
def scarce(cuda_on_cpu, monkeypatch):
    """A function that lets the device have no memory while something holds."""
    zeros = cuda_on_cpu.zeros

    def let(is_full):
        def some(shape, dtype):
            if is_full():
                no_memory()
            return zeros(shape, dtype)

        monkeypatch.setattr(cuda_on_cpu, "zeros", some)

    return let


class TestKindsWithoutRoomTogether:
    """Two cameras, or one that changes its binning, and memory for one of them at a time."""

    @pytest.fixture(params=["buffers", "what the network works in"])
    def alternating(self, request, make, tiny_model, draw_frame, scarce, monkeypatch):
        """A detector, and frames of two kinds."""
        detector, works_in = make(tiny_model), []
        if request.param == "buffers":
            scarce(lambda: len(detector._plans._alive) > 0)
        else:
            bind = detector._device_network.bind

            def bind_alone(stream, pixels, maps):
                if any(enqueue() for enqueue in works_in):
                    no_memory()
                enqueue = bind(stream, pixels, maps)
                works_in.append(weakref.ref(enqueue))
                return enqueue

            monkeypatch.setattr(detector._device_network, "bind", bind_alone)
        return detector, [some_frame(draw_frame), some_frame(draw_frame, (48, 48))]

    def test_they_take_turns_and_are_all_answered(self, alternating, reference, caplog):
        detector, frames = alternating
        for frame in frames * 3:
            expect_same_atoms(detector, reference, frame)
        (told,) = caplog.messages
        assert "buffers of 96 x 112 float32 at 0.2 A/px are freed for 48 x 48 float32 at 0.2 A/px" in told
        assert "allow more than 4096 MB" in told

    def test_frames_on_their_way_keep_theirs_and_the_other_says_what_it_waits_for(
        self, alternating, reference, cuda_on_cpu
    ):
        """Else the frames that follow would find no room either, beside those on their way."""
        detector, frames = alternating
        detector.detect(frames[0])
        prepared = detector.prepare(frames[0])
        maps = detector.infer(prepared)
        for _ in range(2):
            with pytest.raises(
                FrameError, match=r"got no room for 48 x 48 .* beside 96 x 112 .*: allow more than 4096 MB"
            ) as caught:
                detector.detect(frames[1])
            assert caught.value.reason == "no_memory"
        cuda_on_cpu.log.clear()
        detector.detect(frames[0])
        assert "zeros" not in [entry[0] for entry in cuda_on_cpu.log]
        assert len(detector.locate(frames[0], prepared, maps)) > 0
        del prepared, maps, caught
        expect_same_atoms(detector, reference, frames[1])

    def test_it_is_told_now_and_then(self, alternating, caplog):
        detector, frames = alternating
        now_s = [0.0]
        detector._plans._clock = lambda: now_s[0]
        for now_s[0] in (0.0, 500.0, 1200.0):
            for frame in frames:
                detector.detect(frame)
        assert caplog.text.count("Out of GPU memory") == 2


class TestTrouble:
    def test_what_a_frame_took_in_vain_is_free_for_its_next_try_and_not_held_by_its_error(
        self, make, tiny_model, draw_frame, cuda_on_cpu, monkeypatch
    ):
        detector, taken, held = make(tiny_model), [], []

        def bind(stream, pixels, maps):
            context = np.zeros(9)
            taken.append(weakref.ref(context))
            no_memory()

        detector.detect(some_frame(draw_frame))
        monkeypatch.setattr(detector._device_network, "bind", bind)
        monkeypatch.setattr(cuda_on_cpu, "trim", lambda: held.append([one() is not None for one in taken]))
        with pytest.raises(FrameError, match="got none: free some") as caught:
            detector.detect(some_frame(draw_frame, (48, 48)))
        assert held == [[], [False]]
        assert len(taken) == 2
        assert caught.value.__context__ is None
        assert taken[1]() is None

    def test_out_of_memory_drops_the_frame_and_the_next_runs_in_smaller_strips(self, make, tiny_model, draw_frame):
        def full(stream):
            if len(detector._device_network.sizes) < 2:
                no_memory()

        detector = make(tiny_model, full)
        frame = some_frame(draw_frame, (1500, 48))
        with pytest.raises(FrameError, match="GPU expects free memory") as caught:
            detector.detect(frame)
        assert caught.value.reason == "no_memory"
        expected = make(tiny_model).detect(frame)
        atoms = detector.detect(frame)
        assert detector._device_network.sizes == [(1504, 48), (752, 48)]
        assert len(atoms) == len(expected) > 100

    def test_a_frame_whose_next_runs_in_smaller_strips_is_not_told_to_allow_more(self, make, tiny_model, draw_frame):
        """Whatever other kinds hold memory: it may be enough then."""
        is_full = False

        def full(stream):
            if is_full:
                no_memory()

        detector = make(tiny_model, full)
        other, frame = some_frame(draw_frame), some_frame(draw_frame, (1500, 48))
        prepared = detector.prepare(other)
        maps, is_full = detector.infer(prepared), True
        with pytest.raises(FrameError, match="got none: free some") as caught:
            detector.detect(frame)
        assert caught.value.reason == "no_memory"
        while detector._plans.most_pixels > 656 * 48:  # the lowest that can be cut
            with pytest.raises(FrameError):
                detector.detect(frame)
        with pytest.raises(FrameError, match=r"beside 96 x 112 .*: allow more than 4096 MB"):
            detector.detect(frame)
        assert len(detector.locate(other, prepared, maps)) > 0

    def test_strips_never_shrink_to_what_cannot_be_cut(self, make, tiny_model, draw_frame):
        """Memory that others took may be free again: frames are dropped until then, not for ever."""
        is_full = True

        def full(stream):
            if is_full:
                no_memory()

        detector = make(tiny_model, full)
        frames = [some_frame(draw_frame), some_frame(draw_frame, (1500, 48))]
        for frame in frames * 5:
            with pytest.raises(FrameError, match="got none: free some"):
                detector.detect(frame)
        is_full = False
        for frame in frames:
            assert len(detector.detect(frame)) > 10

    def test_frames_on_their_way_in_as_large_strips_halve_them_once(
        self, make, tiny_model, draw_frame, cuda_on_cpu, caplog
    ):
        def full(stream):
            no_memory()

        detector = make(tiny_model, full)
        frame = some_frame(draw_frame, (1500, 48))
        for prepared in [detector.prepare(frame) for _ in range(PLACES)]:
            with pytest.raises(FrameError, match="got none: free some"):
                detector.infer(prepared)
        assert detector._plans.most_pixels == 1504 * 48 // 2
        assert caplog.text.count("Out of GPU memory") == 1
        assert [entry[0] for entry in cuda_on_cpu.log].count("synchronize") == 3  # once for each stream

    @pytest.mark.parametrize("fallback", [True, False])
    def test_memory_that_a_frame_on_its_way_holds_is_waited_for(
        self, make, tiny_model, draw_frame, scarce, fallback, caplog
    ):
        """It is over in a moment: nothing is decided for good."""
        detector = make(tiny_model, fallback=(lambda: pytest.fail("gave the GPU up")) if fallback else None)
        frames = [some_frame(draw_frame), some_frame(draw_frame, (1500, 48))]
        prepared = detector.prepare(frames[0])
        maps, before = detector.infer(prepared), detector._plans.most_pixels
        plan = weakref.ref(prepared.ticket.plan)
        scarce(lambda: plan() is not None)
        for _ in range(2):
            with pytest.raises(FrameError, match=r"no room for 1500 x 48 .* beside 96 x 112") as caught:
                detector.detect(frames[1])
            assert caught.value.reason == "no_memory"
        assert detector._plans.most_pixels == before
        assert len(detector.locate(frames[0], prepared, maps)) > 0
        del prepared, maps
        assert not caplog.records
        assert len(detector.detect(frames[1])) > 100
        assert set(detector._device_network.sizes) == {(96, 112), (1504, 48)}

    def test_buffers_that_find_no_memory_shrink_the_strips_too(self, make, tiny_model, draw_frame, scarce):
        """The frame is told how much it takes."""
        detector = make(tiny_model, memory_MB=100)
        frame = some_frame(draw_frame, (1500, 48))
        sizes = []
        scarce(lambda: len(sizes) < 2)
        for _ in range(2):
            with pytest.raises(
                FrameError, match=r"GPU expects [45] MB for buffers of 1500 x 48 .* limit of 100 MB, got"
            ):
                detector.detect(frame)
            sizes.append(detector._plans.most_pixels)
        assert sizes[0] == 1504 * 48 // 2
        assert len(detector.detect(frame)) > 100
        assert detector._device_network.sizes == [(656, 48)]

    def test_what_no_strip_makes_fit_goes_to_the_cpu_where_it_may(
        self, make, tiny_model, reference, draw_frame, scarce
    ):
        alone = make(tiny_model)
        behind = make(tiny_model, fallback=lambda: load_detector(tiny_model, precision="f32"))
        scarce(lambda: True)
        frame = some_frame(draw_frame)
        for _ in range(3):
            with pytest.raises(FrameError, match="or raise the limit") as caught:
                alone.detect(frame)
            assert caught.value.reason == "no_memory"
        assert not alone.lost
        assert behind.detect(frame).positions.tolist() == reference.detect(frame).positions.tolist()
        assert behind.backend == "openvino f32"

    def test_what_is_reckoned_is_what_is_taken(self, make, tiny_model, draw_frame, cuda_on_cpu, monkeypatch):
        taken = []
        for name in ("zeros", "constant"):
            ours = getattr(cuda_on_cpu, name)

            def keep(*arguments, ours=ours):
                taken.append(ours(*arguments))
                return taken[-1]

            monkeypatch.setattr(cuda_on_cpu, name, keep)
        detector = make(tiny_model)
        detector.detect(some_frame(draw_frame))
        ledger = Ledger()
        detector._plans._plan(ledger, next(iter(detector._plans.kept)))
        assert ledger.bytes == sum(array.nbytes for array in taken) > 100_000

    def test_buffers_of_other_frames_make_room(self, make, tiny_model, draw_frame, scarce):
        detector = make(tiny_model)
        detector.detect(some_frame(draw_frame))
        scarce(lambda: detector._plans.kept)
        assert len(detector.detect(some_frame(draw_frame, (112, 112)))) > 0
        assert len(detector._plans.kept) == 1

    def test_a_size_without_an_engine_does_not_shrink_anything(self, make, tiny_model, draw_frame):
        detector = make(tiny_model)

        def not_yet(size):
            raise FrameError("no_engine", "GPU expects an engine, got none yet: wait")

        detector._device_network.ready = not_yet
        before = detector._plans.most_pixels
        for _ in range(2 * PLACES):
            with pytest.raises(FrameError, match="none yet"):
                detector.detect(some_frame(draw_frame))
        assert detector._plans.most_pixels == before

    def test_a_kind_of_frame_that_has_its_engine_keeps_it(self, make, tiny_model, draw_frame):
        """Whatever is built for others meanwhile."""
        detector = make(tiny_model)
        frame = some_frame(draw_frame)
        detector.detect(frame)

        def gone(size):
            raise FrameError("no_engine", "GPU expects an engine, got none yet: wait")

        detector._device_network.ready = gone
        assert len(detector.detect(frame)) > 0

    @pytest.mark.parametrize("step", ["upload", "wait", "synchronize"])
    def test_a_lost_device_hands_over_to_the_cpu(
        self, make, tiny_model, reference, draw_frame, cuda_on_cpu, monkeypatch, step
    ):
        detector = make(tiny_model, fallback=lambda: load_detector(tiny_model, precision="f32"))
        frame = some_frame(draw_frame)
        expect_same_atoms(detector, reference, frame)

        def lost(*arguments):
            raise DeviceError("GPU 0: expected an answer, got cudaErrorDeviceUnavailable: restart")

        monkeypatch.setattr(cuda_on_cpu, step, lost)
        if step == "wait":  # the frame itself is not at hand any more: it is dropped, the next is not
            with pytest.raises(FrameError, match="the CPU takes over"):
                detector.detect(frame)
        assert detector.detect(frame).positions.tolist() == reference.detect(frame).positions.tolist()
        assert detector.backend == "openvino f32"

    @pytest.mark.parametrize("step", ["adopt", "copy", "synchronize"])
    def test_pixels_on_a_lost_device_are_refused_as_a_frame(
        self, make, tiny_model, reference, draw_frame, cuda_on_cpu, monkeypatch, step
    ):
        detector = make(tiny_model, fallback=lambda: load_detector(tiny_model, precision="f32"))
        frame = some_frame(draw_frame)
        there = Frame(OnDevice(frame.pixels), frame.sampling_A)
        taken = detector.take(there)

        def lost(*arguments):
            raise DeviceError("GPU 0: expected an answer, got cudaErrorDeviceUnavailable: restart")

        monkeypatch.setattr(cuda_on_cpu, step, lost)
        for _ in range(2):
            with pytest.raises(FrameError, match=r"Engine expects pixels of NumPy .*: copy them") as caught:
                detector.detect(there)
            assert caught.value.reason == "unknown_dtype"
        with pytest.raises(FrameError, match="copy them"):  # what was taken while there was a GPU
            detector.prepare(taken)
        assert detector.detect(frame).positions.tolist() == reference.detect(frame).positions.tolist()

    def test_a_cpu_that_cannot_take_over_is_an_error_of_the_device(
        self, make, tiny_model, draw_frame, cuda_on_cpu, monkeypatch
    ):
        def lost(*arguments):
            raise DeviceError("GPU 0: expected an answer, got cudaErrorDeviceUnavailable: restart")

        def no_cpu():
            raise ModelError("tiny.onnx: expected a weight file, got no such file: reinstall the model")

        detector = make(tiny_model, fallback=no_cpu)
        monkeypatch.setattr(cuda_on_cpu, "synchronize", lost)
        with pytest.raises(DeviceError, match=r"cudaErrorDevice.*; nor can the CPU take over: tiny\.onnx"):
            detector.detect(some_frame(draw_frame))

    def test_without_a_fallback_it_is_an_error(self, make, tiny_model, draw_frame, cuda_on_cpu, monkeypatch):
        detector = make(tiny_model)

        def lost(*arguments):
            raise DeviceError("GPU 0: expected an answer, got cudaErrorDeviceUnavailable: restart")

        monkeypatch.setattr(cuda_on_cpu, "synchronize", lost)
        with pytest.raises(DeviceError, match="cudaErrorDeviceUnavailable"):
            detector.detect(some_frame(draw_frame))

    def test_frames_far_outside_are_refused_as_ever(self, make, tiny_model):
        with pytest.raises(FrameError) as caught:
            make(tiny_model).detect(Frame(np.zeros((64, 64)), 5.0))
        assert caught.value.reason == "sampling_out_of_range"
