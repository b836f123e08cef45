"""The GPU path on the CPU: kernels through g++, the network through OpenVINO, the very plan and detector of a GPU."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Frame, FrameError, load_detector
from engine.device_plan import PLACES
from engine.gpu_detector import DeviceMaps, GpuDetector
from engine.network import Maps
from engine.shipped import find_spec, list_models
from engine.spec import ModelSpec
from tests.cuda_on_cpu import Foreign, OnDevice
from tests.engine.host_network import HostNetwork, expect_same_atoms, some_frame


@pytest.fixture(scope="module")
def running(cuda_on_cpu, tiny_model):
    """One that has seen other frames before."""
    spec = ModelSpec.read(tiny_model)
    with GpuDetector(spec, cuda_on_cpu, HostNetwork(cuda_on_cpu, tiny_model, spec)) as detector:
        yield detector


class TestSameAtoms:
    @given(
        seed=st.integers(0, 1000), sampling_A=st.floats(0.06, 0.4), height=st.integers(0, 30), width=st.integers(0, 30)
    )
    def test_as_the_cpu_path(self, running, reference, draw_frame, seed, sampling_A, height, width):
        shape = round(14 / sampling_A) + height, round(14 / sampling_A) + width
        expect_same_atoms(running, reference, some_frame(draw_frame, shape, sampling_A, seed))

    @pytest.mark.parametrize("dtype", [np.uint8, "<u2", ">u2", np.int32, np.float32, np.float64])
    def test_every_dtype(self, make, tiny_model, reference, draw_frame, dtype):
        frame = some_frame(draw_frame)
        expect_same_atoms(make(tiny_model), reference, Frame(frame.pixels.astype(dtype), 0.2))

    def test_masked_pixels(self, make, tiny_model, reference, draw_frame):
        frame = some_frame(draw_frame)
        mask = np.random.default_rng(0).random(frame.shape) < 0.01
        pixels = np.where(mask, 65535, frame.pixels).astype(np.uint16)
        expect_same_atoms(make(tiny_model), reference, Frame(pixels, 0.2, mask=mask))

    @pytest.mark.parametrize("times", [100, 1000])
    def test_hot_pixels(self, make, tiny_model, reference, draw_frame, times):
        frame = some_frame(draw_frame, (200, 230))
        pixels = np.random.default_rng(0).poisson(frame.pixels).astype(np.uint32)
        places = np.random.default_rng(1).choice(pixels.size, 20, replace=False)
        pixels.reshape(-1)[places] = times * 100
        expect_same_atoms(make(tiny_model), reference, Frame(pixels, 0.2))

    def test_classes_and_series(self, make, build_tiny_model, draw_frame):
        path = build_tiny_model(channels=3, classes=("A", "B"))
        frame = some_frame(draw_frame)
        series = Frame(np.stack([frame.pixels, 2 * frame.pixels, 50 + frame.pixels]), 0.2, defocus_A=(-50.0, 0.0, 50.0))
        with load_detector(path, precision="f32") as expected:
            expect_same_atoms(make(path), expected, series)

    @pytest.mark.parametrize("name", list_models())
    def test_a_shipped_model_whole_and_in_strips(self, make, name):
        path = find_spec(name)
        # A sheet of dots on a hexagonal grid, with noise: the network finds many in it.
        y, x = np.mgrid[:1300, :96] * 0.2
        period_A = {"graphene": 2.13, "mos2": 2.74, "gold": 2.36}[name]
        waves = sum(np.cos(2 * np.pi / period_A * (x * np.cos(a) + y * np.sin(a))) for a in np.pi * np.arange(3) / 3)
        pixels = np.random.default_rng(0).poisson(400 * (1 - 0.03 * waves)).astype(np.uint16)
        with load_detector(path, precision="f32", threads=1) as expected:
            channels = expected.spec.channels
            frame = Frame(pixels if channels == 1 else np.stack([pixels] * channels), 0.2)
            whole = expected.detect(frame)
            detector = make(path, memory_MB=4 * 64 * 800 * 96 / 1e6)
            atoms = detector.detect(frame)
            sizes = set(detector._device_network.sizes)
        assert sizes == {(800, 96)}
        assert len(whole) > 100
        assert len(atoms) == len(whole)
        np.testing.assert_allclose(atoms.positions, whole.positions, atol=0.02)

    def test_strips_give_what_the_whole_gives(self, make, build_tiny_model, draw_frame):
        path = build_tiny_model(channels=3, trained={})
        frame = some_frame(draw_frame, (1200, 48))
        series = Frame(np.stack([frame.pixels] * 3), 0.2)
        whole, strips = make(path), make(path, memory_MB=4 * 64 * 800 * 48 / 1e6)
        expected = whole.detect(series)
        atoms = strips.detect(series)
        assert set(strips._device_network.sizes) == {(784, 48)}
        assert len(atoms) > 100
        for name, column in atoms.columns().items():
            np.testing.assert_allclose(column, expected.columns()[name], atol=1e-4)

    def test_a_constant_frame_holds_no_atoms(self, make, tiny_model):
        detector = make(tiny_model)
        for value in (0, 7):
            assert len(detector.detect(Frame(np.full((60, 64), value, np.uint16), 0.2))) == 0

    def test_a_map_full_of_plateaus_is_fetched_whole(self, make, tiny_model, tiny_spec, cuda_on_cpu):
        detector = make(tiny_model)
        detector._device_network.bind = lambda stream, pixels, maps: lambda stream: maps.fill(0.9)
        frame = Frame(np.random.default_rng(0).poisson(50, (160, 160)).astype(np.uint16), 0.2)
        atoms = detector.detect(frame)

        class Everywhere:
            backend = "imagined"

            def infer(self, pixels):
                return Maps(np.full((6, pixels.shape[2] // 2, pixels.shape[3] // 2), 0.9, np.float32))

        from engine.detector import Detector

        expected = Detector(tiny_spec, Everywhere()).detect(frame)
        assert len(atoms) == len(expected) > 500
        np.testing.assert_allclose(atoms.positions, expected.positions, atol=1e-4)
        fetches = [entry for entry in cuda_on_cpu.log if entry == ("download", detector._fetches)]
        assert len(fetches) == 6  # 6401 rows by 1025, the first of them as ever
        cuda_on_cpu.log.clear()
        assert len(detector.detect(frame)) == len(atoms)
        assert "pinned" not in [entry[0] for entry in cuda_on_cpu.log]  # through the memory that is there


class TestPipeline:
    def test_a_frame_goes_up_while_the_one_before_is_not_yet_waited_for(
        self, make, tiny_model, draw_frame, cuda_on_cpu
    ):
        detector = make(tiny_model)
        frames = [some_frame(draw_frame, seed=seed) for seed in range(3)]
        prepared = [detector.prepare(frame) for frame in frames]
        maps = [detector.infer(one) for one in prepared]
        assert not [entry for entry in cuda_on_cpu.log if entry[0] == "synchronize"]
        atoms = [detector.locate(*one) for one in zip(frames, prepared, maps, strict=True)]
        assert [entry[0] for entry in cuda_on_cpu.log].count("synchronize") == 3
        for frame, found in zip(frames, atoms, strict=True):
            np.testing.assert_array_equal(found.positions, detector.detect(frame).positions)

    def test_any_number_of_threads(self, make, tiny_model, draw_frame):
        detector = make(tiny_model)
        frames = [some_frame(draw_frame, (96, 96 + 16 * (seed % 2)), seed=seed) for seed in range(24)]
        with ThreadPoolExecutor(2 * PLACES) as threads:
            found = list(threads.map(detector.detect, frames))
        for frame, atoms in zip(frames, found, strict=True):
            assert len(atoms) > 0
            np.testing.assert_array_equal(atoms.positions, detector.detect(frame).positions)

    def test_two_streams_and_their_order(self, make, tiny_model, draw_frame, cuda_on_cpu):
        detector = make(tiny_model)
        detector.detect(some_frame(draw_frame))
        log = [entry for entry in cuda_on_cpu.log if entry[0] not in ("zeros", "pinned", "constant", "trim")]
        uploads, computes = detector._uploads, detector._computes
        assert uploads != computes
        assert log[:4] == [("upload", uploads), ("record", uploads), ("wait", computes, uploads), ("begin", computes)]
        assert log[-5:] == [
            ("network", computes),
            ("peaks", computes),
            ("download", computes),
            ("record", computes),
            ("synchronize", computes),
        ]
        assert {entry[1] for entry in log[3:]} == {computes}

    def test_nothing_is_allocated_after_the_first_frame(self, make, tiny_model, draw_frame, cuda_on_cpu):
        detector = make(tiny_model)
        detector.detect(some_frame(draw_frame))
        cuda_on_cpu.log.clear()
        for seed in range(5):
            detector.detect(some_frame(draw_frame, seed=seed))
        assert not [entry for entry in cuda_on_cpu.log if entry[0] in ("zeros", "pinned", "constant")]

    def test_frames_that_are_dropped_on_the_way_give_their_places_back(self, make, tiny_model, draw_frame, cuda_on_cpu):
        detector = make(tiny_model)
        frame = some_frame(draw_frame)
        for _ in range(2 * PLACES):
            detector.prepare(frame)
        for _ in range(2 * PLACES):
            detector.infer(detector.prepare(frame))
        cuda_on_cpu.log.clear()
        assert len(detector.detect(frame)) > 0
        # What the dropped frame left in the streams is waited for before its memory is written to.
        assert [entry[0] for entry in cuda_on_cpu.log][:3] == ["synchronize", "wait", "upload"]

    def test_atoms_are_located_once(self, make, tiny_model, draw_frame):
        detector = make(tiny_model)
        frame = some_frame(draw_frame)
        prepared = detector.prepare(frame)
        maps = detector.infer(prepared)
        assert isinstance(maps, DeviceMaps)
        detector.locate(frame, prepared, maps)
        with pytest.raises(ValueError, match="already located"):
            detector.locate(frame, prepared, maps)

    def test_settled_first_nothing_is_made_with_the_frames(self, make, tiny_model, draw_frame, cuda_on_cpu):
        detector = make(tiny_model)
        detector.settle(some_frame(draw_frame))
        plans = list(detector._plans.kept.values())
        assert len(detector.detect(some_frame(draw_frame, seed=1))) > 0
        assert list(detector._plans.kept.values()) == plans
        assert detector._device_network.bound == 1

    def test_settling_waits_for_the_engine_that_is_built(self, make, tiny_model, draw_frame):
        detector = make(tiny_model)

        def not_yet(size):
            raise FrameError("no_engine", "GPU expects an engine, got none yet: wait")

        detector._device_network.ready = not_yet
        detector.settle(some_frame(draw_frame))
        assert detector._device_network.finished

    def test_closing_closes_the_network(self, make, tiny_model):
        detector = make(tiny_model)
        detector.close()
        assert detector._device_network.closed
        assert detector.backend == "host f32, CPU sm_0"


class TestPixelsOfOthers:
    """In-process callers hand over what they have."""

    @pytest.mark.parametrize("held_by", [OnDevice, Foreign])
    def test_what_lies_on_the_gpu_is_not_brought_down(
        self, make, tiny_model, reference, draw_frame, cuda_on_cpu, held_by
    ):
        frame = some_frame(draw_frame)
        detector = make(tiny_model)
        atoms = detector.detect(Frame(held_by(frame.pixels), frame.sampling_A))
        np.testing.assert_allclose(atoms.positions, reference.detect(frame).positions, atol=0.02)
        uploads = [entry for entry in cuda_on_cpu.log if entry[1:] == (detector._uploads,)]
        # It waits for the caller's own stream: what makes the pixels may still be running.
        assert [entry[0] for entry in uploads] == ["follow", "copy", "record"]
        assert "upload" not in [entry[0] for entry in cuda_on_cpu.log]

    @pytest.mark.parametrize("shape", [(8, 8), (3, 64, 64)])
    def test_it_is_checked_as_any_other(self, make, tiny_model, shape):
        with pytest.raises(FrameError) as caught:
            make(tiny_model).detect(Frame(OnDevice(np.zeros(shape)), 0.2))
        assert caught.value.reason == "shape_out_of_range"

    def test_tensors_of_the_cpu(self, make, tiny_model, reference, draw_frame):
        torch = pytest.importorskip("torch")
        frame = some_frame(draw_frame)
        tensor = Frame(torch.from_numpy(frame.pixels.copy()), frame.sampling_A)
        expected = reference.detect(frame).positions
        np.testing.assert_array_equal(reference.detect(tensor).positions, expected)
        np.testing.assert_allclose(make(tiny_model).detect(tensor).positions, expected, atol=0.02)

    @pytest.mark.parametrize("pixels", [[[1, 2], [3, 4]], OnDevice(np.zeros((64, 64)))])
    def test_what_cannot_be_read_is_refused(self, reference, pixels):
        with pytest.raises(FrameError, match=r"Engine expects pixels of NumPy .*, got (list|OnDevice)") as caught:
            reference.detect(Frame(pixels, 0.2))
        assert caught.value.reason == "unknown_dtype"


def test_thresholds_and_separation_are_the_models(make, build_tiny_model, draw_frame):
    frame = some_frame(draw_frame)
    counts = []
    for changes in ({}, {"threshold": 0.999}, {"separation_A": 12.0}):
        path = build_tiny_model(**changes)
        with load_detector(path, precision="f32") as expected:
            counts.append(len(make(path).detect(frame)))
            assert counts[-1] == len(expected.detect(frame))
    assert counts[0] > counts[2] > counts[1] == 0
