"""The shipped models on a real GPU against the CPU: the same atoms, whichever precision, runtime, strips or memory.

What no test without a GPU can show. Frames are those of the simulated camera.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from bench.gpu_speed import agreement
from engine import Atoms, Detector, Frame, load_detector
from engine.gpu_probe import obstacle
from stream.camera import SPECIMEN, CameraSettings, expose, read_specimen

pytestmark = pytest.mark.gpu
LEAST_F1 = 0.999
LARGEST_PX = {"f32": 0.02, "f16": 0.05}
RUNS = 7  # frames of one kind: from the second run of each of three places on its launches are a graph


@pytest.fixture(autouse=True)
def gpu() -> None:
    if reason := obstacle():
        pytest.skip(f"expected a GPU that can be used, got {reason}")


@cache
def frames(channels: int, side: int = 512, sampling_A: float = 0.1, count: int = RUNS) -> tuple[Frame, ...]:
    """Of graphene, or of MoS2 in triplets: frames of a camera whose focus wanders."""
    single = channels == 1
    specimen = read_specimen() if single else read_specimen(SPECIMEN.with_stem("mos2"))
    settings = CameraSettings(sampling=sampling_A, focus_step=0.0 if single else 30.0, focus_shift=0.0, drift=0.0)
    counts = [expose(specimen, settings, (side, side), 20 * k, 0.04) for k in range(count * channels)]
    pixels = np.stack([one for one, _ in counts]).reshape(count, channels, side, side)
    sampling_A = counts[0][1]["sampling"]
    return tuple(Frame(one if channels > 1 else one[0], sampling_A) for one in pixels)


@contextmanager
def both(model: str, precision: str, **options: object) -> Iterator[tuple[Detector, Detector]]:
    """The model on the GPU, and on the CPU in the precision that all others are held against."""
    with (
        load_detector(model, device="cuda", precision=precision, **options) as there,
        load_detector(model, device="cpu", precision="f32") as here,
    ):
        yield there, here


def expect_same(there: Detector, here: Detector, shown: Sequence[Frame], largest_px: float | None) -> None:
    there.settle(shown[0])
    found, expected = ([detector.detect(frame) for frame in shown] for detector in (there, here))
    assert min(map(len, expected)) > 100
    same = agreement(found, expected, shown[0].sampling_A)
    assert same["f1"] >= LEAST_F1, same
    assert largest_px is None or same["largest_px"] <= largest_px, same


@pytest.mark.parametrize("precision", LARGEST_PX)
@pytest.mark.parametrize(("model", "channels"), [("graphene", 1), ("mos2", 3)])
def test_a_shipped_model_finds_the_atoms_of_the_cpu(model: str, channels: int, precision: str) -> None:
    with both(model, precision) as (there, here):
        expect_same(there, here, frames(channels), LARGEST_PX[precision])


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
def test_of_any_dtype_and_with_pixels_that_are_no_counts(dtype: str) -> None:
    shown = [replace(frame, pixels=frame.pixels.astype(dtype)) for frame in frames(1)]
    mask = np.zeros(shown[0].shape, np.bool_)
    mask[100:110, 200:260] = True
    with both("graphene", "f32") as (there, here):
        expect_same(there, here, shown, LARGEST_PX["f32"])
        expect_same(there, here, [replace(frame, mask=mask) for frame in shown], LARGEST_PX["f32"])


def test_int8_finds_nearly_all_of_them() -> None:
    if not any(map(importlib.util.find_spec, ("tensorrt", "tensorrt_rtx"))):
        pytest.skip("expected TensorRT, which alone runs INT8, found none: pip install atomstream[gpu]")
    with both("graphene", "int8") as (there, here):
        found, expected = ([detector.detect(frame) for frame in frames(1)] for detector in (there, here))
        assert "int8" in there.backend
    assert agreement(found, expected, frames(1)[0].sampling_A)["f1"] > 0.99


def test_in_strips_of_little_memory() -> None:
    shown = frames(1, 2048, 0.1, 3)
    with both("graphene", "f32", memory_MB=250) as (there, here):
        expect_same(there, here, shown, LARGEST_PX["f32"])
        (plan,) = there._plans.kept.values()
        assert plan.strip_size[0] < plan.padded[0]


def test_the_largest_frame() -> None:
    shown = frames(1, 8192, 0.05, 1)
    with both("graphene", "f16") as (there, here):
        expect_same(there, here, shown, LARGEST_PX["f16"])


def test_a_frame_beyond_the_memory_is_refused_and_the_next_is_answered() -> None:
    with both("graphene", "f32", memory_MB=150) as (there, here):
        with pytest.raises(Exception, match="memory"):
            there.detect(frames(1, 8192, 0.05, 1)[0])
        expect_same(there, here, frames(1), LARGEST_PX["f32"])


@pytest.mark.parametrize("library", ["cupy", "torch"])
def test_pixels_that_lie_on_the_gpu(library: str) -> None:
    module = pytest.importorskip(library, reason=f"expected {library}: install it")
    if library == "torch" and not module.cuda.is_available():
        pytest.skip("expected torch with CUDA, got one for the CPU")

    def lifted(frame: Frame) -> Frame:
        counts = frame.pixels.astype(np.float32)
        return replace(frame, pixels=module.asarray(counts, **({"device": "cuda"} if library == "torch" else {})))

    with both("graphene", "f32") as (there, _):
        for frame in frames(1):
            # Made in the stream of the library just before: the detector has to wait for it.
            expect_equal(there.detect(lifted(frame)), there.detect(frame))


def expect_equal(found: Atoms, expected: Atoms) -> None:
    assert len(found) == len(expected) > 100
    np.testing.assert_allclose(found.positions, expected.positions, atol=1e-4)


def test_torch_runs_the_network_where_tensorrt_does_not() -> None:
    torch = pytest.importorskip("torch", reason="expected torch: install it")
    if not torch.cuda.is_available():
        pytest.skip("expected torch with CUDA, got one for the CPU")
    with both("graphene", "f16", backend="torch") as (there, here):
        assert "torch" in there.backend
        expect_same(there, here, frames(1), LARGEST_PX["f16"])


def test_after_warming_up_nothing_is_allocated() -> None:
    from engine.cupy_device import CupyDevice

    device = CupyDevice(0)
    with both("graphene", "f16") as (there, _):
        for frame in frames(1):
            there.detect(frame)
        free = device.free_bytes()
        for frame in frames(1) * 20:
            there.detect(frame)
        assert device.free_bytes() == free
