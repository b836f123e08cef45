"""The GPU's detector where memory runs out, an engine is missing, or the device is lost; on the CPU."""

import numpy as np
import pytest

from engine import Frame, FrameError, load_detector
from engine.device_plan import PLACES
from engine.errors import DeviceError
from tests.engine.host_network import expect_same_atoms, some_frame


class TestTrouble:
    def test_out_of_memory_drops_the_frame_and_the_next_runs_in_smaller_strips(self, make, tiny_model, draw_frame):
        def full(stream):
            if len(detector._device_network.sizes) < 3:
                raise FrameError("no_memory", "GPU expects free memory, got none: free some")

        detector = make(tiny_model, full, memory_MB=4 * 64 * 4 * 1200 * 48 / 1e6)
        frame = some_frame(draw_frame, (1200, 48))
        for _ in range(2):
            with pytest.raises(FrameError, match="GPU expects free memory"):
                detector.detect(frame)
        detector._most_pixels = 800 * 48
        assert len(detector.detect(frame)) > 100
        assert detector._device_network.sizes == [(1200, 48), (1200, 48), (800, 48)]

    def test_out_of_memory_halves_what_is_run_at_once(self, make, tiny_model, draw_frame):
        def full(stream):
            raise FrameError("no_memory", "GPU expects free memory, got none: free some")

        detector = make(tiny_model, full)
        before = detector._most_pixels
        with pytest.raises(FrameError):
            detector.detect(some_frame(draw_frame))
        assert detector._most_pixels == before // 2
        assert not detector._plans

    def test_buffers_of_other_frames_make_room(self, make, tiny_model, draw_frame, cuda_on_cpu, monkeypatch):
        detector = make(tiny_model)
        detector.detect(some_frame(draw_frame))
        zeros = cuda_on_cpu.zeros

        def scarce(shape, dtype):
            if detector._plans:
                raise FrameError("no_memory", "GPU expects free memory, got none: free some")
            return zeros(shape, dtype)

        monkeypatch.setattr(cuda_on_cpu, "zeros", scarce)
        assert len(detector.detect(some_frame(draw_frame, (112, 112)))) > 0
        assert len(detector._plans) == 1

    def test_a_size_without_an_engine_does_not_shrink_anything(self, make, tiny_model, draw_frame):
        detector = make(tiny_model)

        def not_yet(size):
            raise FrameError("no_engine", "GPU expects an engine, got none yet: wait")

        detector._device_network.ready = not_yet
        before = detector._most_pixels
        for _ in range(2 * PLACES):
            with pytest.raises(FrameError, match="none yet"):
                detector.detect(some_frame(draw_frame))
        assert detector._most_pixels == before

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
