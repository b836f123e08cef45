"""Recorded frames become what a model takes: single ones, or triplets by each form that a file can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from engine.errors import FileError
from stream.files import read_frames
from stream.samples import Sample, Samples
from tests.engine.test_drift import shifted, textured

SHAPE = (64, 80)
DRIFT_PX = ((2.3, -0.8), (0.0, 0.0), (-1.6, 3.4))


def images(triplets: int) -> NDArray[np.float32]:
    """(T, 3, H, W) of a pattern that drifts alike in each."""
    pattern = textured(SHAPE) / textured(SHAPE).std()
    moved = [1000 + 40 * shifted(pattern, (-y, -x)) for y, x in DRIFT_PX]
    return np.stack([np.stack(moved)] * triplets).astype(np.float32)


def write(path: Path, pixels: NDArray[Any]) -> Path:
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="minisblack", compression="zlib" if "packed" in path.name else None)
    elif path.suffix == ".mrc":
        with mrcfile.new(path) as mrc:
            mrc.set_data(pixels)
    else:
        with h5py.File(path, "w") as file:
            file["frames"] = pixels
    return path


def read(path: Path, channels: int = 3, max_drift_A: float = 1.0) -> list[Sample]:
    with read_frames(path) as recording:
        samples = Samples(recording, 0.2, channels, max_drift_A)
        return [samples[number] for number in range(len(samples))]


@pytest.mark.parametrize("name", ["a.npy", "a.tif", "packed.tif", "a.mrc", "a.h5"])
@pytest.mark.parametrize("form", ["(T, 3, H, W)", "(T, H, W)"])
def test_triplets_of_either_form_lie_on_each_other(tmp_path: Path, name: str, form: str) -> None:
    given = images(2)
    path = write(tmp_path / name, given if form == "(T, 3, H, W)" else given.reshape(6, *SHAPE))
    samples = read(path)
    assert len(samples) == 2
    for sample in samples:
        assert sample.warnings == ()
        assert sample.frame.pixels.shape == (3, *SHAPE)
        assert sample.frame.mask is not None
        np.testing.assert_array_equal(sample.frame.pixels[1], given[0, 1])
        assert np.abs(sample.frame.pixels - given[0, 1])[:, ~sample.frame.mask].max() < 12  # of a contrast of 40


def test_the_interval_is_that_from_triplet_to_triplet(tmp_path: Path) -> None:
    given = images(2).astype(np.uint16)
    for name, stack in (("grouped.tif", given.reshape(6, *SHAPE)), ("whole.tif", given)):
        axes = "TCYX" if stack.ndim == 4 else "TYX"
        tifffile.imwrite(tmp_path / name, stack, imagej=True, metadata={"axes": axes, "finterval": 0.05})
        with read_frames(tmp_path / name) as recording:
            assert Samples(recording, 0.2, 3, 1.0).rate_Hz == pytest.approx(20 / 3 if name == "grouped.tif" else 20)
            if name == "grouped.tif":
                assert Samples(recording, 0.2, 1, 1.0).rate_Hz == pytest.approx(20)


def test_three_images_are_one_triplet(tmp_path: Path) -> None:
    assert len(read(write(tmp_path / "a.npy", images(1)[0]))) == 1


def test_no_drift_is_taken_out_where_none_is_looked_for(tmp_path: Path) -> None:
    (sample,) = read(write(tmp_path / "a.npy", images(1)), max_drift_A=0.0)
    np.testing.assert_array_equal(sample.frame.pixels, images(1)[0])


def test_a_drift_that_is_doubtful_is_told(tmp_path: Path) -> None:
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    waves = [np.cos((rows - shift) * np.pi / 8) + np.cos(columns * np.pi / 8) for shift in (4, 0, 4)]
    (sample,) = read(write(tmp_path / "a.npy", np.stack(waves)), max_drift_A=1.6)
    assert "a lattice vector away" in sample.warnings[0]


def test_single_frames_stay_single(tmp_path: Path) -> None:
    given = images(1)[0]
    samples = read(write(tmp_path / "a.npy", given), channels=1)
    assert [np.array_equal(sample.frame.pixels, one) for sample, one in zip(samples, given, strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((4, *SHAPE), 3, "expected triplets .* got 4 frames, which three does not divide"),
        (SHAPE, 3, "got 1 frames, which three does not divide"),
        ((2, 3, *SHAPE), 1, "expected single frames .* got triplets"),
        ((2, 4, *SHAPE), 3, "got 2 x 4 x 64 x 80"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, shape: tuple[int, ...], channels: int, expected: str) -> None:
    with pytest.raises(FileError, match=expected):
        read(write(tmp_path / "a.npy", np.ones(shape, np.float32)), channels)


@pytest.mark.parametrize("channels", [1, 3])
def test_saturated_pixels_are_no_measurement(tmp_path: Path, channels: int) -> None:
    frames = images(1)[0].astype(np.uint16)
    frames[1, 20, 30] = 65535
    samples = read(write(tmp_path / "a.npy", frames), channels)
    if channels == 1:
        assert [sample.frame.mask is None for sample in samples] == [True, False, True]
        assert np.argwhere(samples[1].frame.mask).tolist() == [[20, 30]]
    else:
        assert samples[0].frame.mask is not None
        assert samples[0].frame.mask[20, 30]


def test_255_of_a_byte_is_content(tmp_path: Path) -> None:
    frames = np.full((2, *SHAPE), 255, np.uint8)
    assert all(sample.frame.mask is None for sample in read(write(tmp_path / "a.npy", frames), 1))
