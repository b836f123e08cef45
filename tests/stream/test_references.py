"""Dark and gain references, and the dose that counts amount to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import ConfigError, FileError, FrameError
from stream.references import References, mean_dose


def save(path: Path, values: Any) -> str:
    np.save(path, values)
    return str(path)


def test_counts_minus_dark_times_gain(tmp_path: Path) -> None:
    dark = save(tmp_path / "dark.npy", np.array([[1, 2], [3, 4]], np.uint16))
    gain = save(tmp_path / "gain.npy", np.array([[1, 2], [0.5, 1]]))
    counts = np.array([[0, 5], [13, 4]], np.uint16)
    corrected = References.read(dark, gain).apply(counts)
    assert corrected.dtype == np.float32
    assert corrected.tolist() == [[-1, 6], [5, 0]]  # below the dark is negative, not wrapped around
    assert counts.tolist() == [[0, 5], [13, 4]]


def test_one_of_the_two_is_enough(tmp_path: Path) -> None:
    path = save(tmp_path / "reference.npy", np.full((1, 2), 3))
    counts = np.array([[5, 6]], np.uint8)
    assert References.read(path, None).apply(counts).tolist() == [[2, 3]]
    assert References.read(None, path).apply(counts).tolist() == [[15, 18]]
    assert References.read(path, None).dark_mean(None) == 3


def test_without_references_the_pixels_are_left_alone() -> None:
    counts = np.zeros((2, 2), np.uint16)
    assert References.read(None, None).apply(counts) is counts


def test_every_image_of_a_triplet_is_corrected(tmp_path: Path) -> None:
    dark = save(tmp_path / "dark.npy", np.ones((2, 2)))
    assert References.read(dark, None).apply(np.full((3, 2, 2), 5)).tolist() == np.full((3, 2, 2), 4).tolist()


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    references = References.read(save(tmp_path / "dark.npy", np.zeros((2, 2))), None)
    with pytest.raises(FrameError, match=r"Expected frames of \(2, 2\) as the references have, got \(2, 3\)") as caught:
        references.apply(np.zeros((2, 3)))
    assert caught.value.reason == "shape_out_of_range"


@pytest.mark.parametrize(
    "values",
    [np.zeros(3), np.zeros((2, 2), complex), np.full((2, 2), np.nan), np.array([[{}]], object)],
    ids=["one axis", "complex", "nan", "objects"],
)
def test_a_file_that_is_no_reference_is_refused(tmp_path: Path, values: NDArray[Any]) -> None:
    path = tmp_path / "dark.npy"
    np.save(path, values, allow_pickle=True)
    with pytest.raises(FileError, match=r"dark\.npy: expected"):
        References.read(str(path), None)


def test_a_file_that_is_not_there_or_no_npy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("no numbers")
    for name in ("absent.npy", "text.npy"):
        with pytest.raises(FileError, match=f"{name}: expected"):
            References.read(str(tmp_path / name), None)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04junk", b"\x93NUMPY\x01\x00", b"\x80\x04junk"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dark.npy").write_bytes(content)
    with pytest.raises(FileError, match=r"dark\.npy: expected a \.npy .*: save it") as caught:
        References.read(str(tmp_path / "dark.npy"), None)
    assert "\n" not in str(caught.value)


def test_a_header_of_a_size_that_the_file_has_not_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dark.npy"
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (4000000, 4000000), }".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64))
    with pytest.raises(FileError, match=r"expected a \.npy"):
        References.read(str(path), None)


def test_references_of_two_shapes_are_refused(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{size}.npy", np.zeros((size, 2))) for size in (2, 3)]
    with pytest.raises(ConfigError, match="one shape"):
        References.read(*paths)


class TestDose:
    def test_electrons_per_area(self) -> None:
        pixels = np.full((4, 4), 110, np.uint16)  # 5 electrons in a pixel of 0.25 A^2
        assert mean_dose(pixels, None, sampling_A=0.5, gain=2, offset=100) == pytest.approx(20)

    def test_masked_pixels_are_left_out(self) -> None:
        pixels = np.array([[10, 65535], [10, 10]], np.uint16)
        assert mean_dose(pixels, pixels == 65535, 1.0, 1.0, 0.0) == 10
        assert mean_dose(pixels, np.ones((2, 2), bool), 1.0, 1.0, 0.0) is None

    def test_a_triplet_adds_up(self) -> None:
        assert mean_dose(np.full((3, 2, 2), 10), np.zeros((2, 2), bool), 1.0, 1.0, 0.0) == 30

    def test_rows_of_a_large_frame_stand_for_all(self) -> None:
        pixels = np.random.default_rng(0).poisson(100, (2048, 1024)).astype(np.uint16)
        assert mean_dose(pixels, None, 1.0, 1.0, 0.0) == pytest.approx(pixels.mean(), rel=1e-3)

    def test_noise_below_the_offset_is_no_negative_dose(self) -> None:
        assert mean_dose(np.zeros((2, 2)), None, 1.0, 1.0, 100.0) == 0

    def test_pixels_that_are_not_finite_give_none(self) -> None:
        assert mean_dose(np.full((2, 2), np.inf), None, 1.0, 1.0, 0.0) is None

    def test_what_is_no_number_does_not_count(self) -> None:
        assert mean_dose(np.array([[7.0, np.nan], [9.0, np.inf]]), None, 1.0, 1.0, 0.0) == 8

    def test_the_dark_of_what_is_masked_does_not_count(self) -> None:
        dark = np.array([[100, 65535], [102, 100]], np.float32)
        mask = dark == 65535
        assert References(dark).dark_mean(mask) == pytest.approx(302 / 3)
        assert References(dark).dark_mean(None) == References(dark).dark_mean(mask[:1]) == dark.mean()
        assert References(dark).dark_mean(np.ones((2, 2), bool)) == dark.mean()
