"""Recorded frames of every kind, good and bad."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import zlib
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from engine.errors import FileError
from stream.files import pixel_size_A, read_frames, read_index

STACK = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5) * 1000


def frames_of(path: Path) -> NDArray[np.generic]:
    with read_frames(path) as recording:
        frames = np.stack(list(recording))
        assert frames.shape == (len(recording), *recording.shape)
        assert frames.dtype.isnative
        return frames


def refuse(path: Path, match: str) -> None:
    with pytest.raises(FileError, match=match) as caught:
        read_frames(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def write_mrc(path: Path, array: NDArray[np.generic], voxel_A: float = 0.0) -> None:
    with mrcfile.new(path) as mrc:
        mrc.set_data(array)
        mrc.voxel_size = voxel_A


class TestGoodFiles:
    @pytest.mark.parametrize("dtype", ["uint8", "<u2", ">u2", "int32", "float16", "float32", ">f8"])
    def test_npy(self, tmp_path: Path, dtype: str) -> None:
        array = (STACK // 1000).astype(dtype)
        np.save(tmp_path / "a.npy", array)
        np.save(tmp_path / "one.npy", array[1])
        np.testing.assert_array_equal(frames_of(tmp_path / "a.npy"), array)
        np.testing.assert_array_equal(frames_of(tmp_path / "one.npy"), array[1:2])

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    @pytest.mark.parametrize("options", [{}, {"imagej": True}, {"compression": "zlib"}, {"bigtiff": True}])
    def test_tiff(self, tmp_path: Path, dtype: type, options: dict[str, object]) -> None:
        array = (STACK // 1000).astype(dtype)
        tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", **options)
        tifffile.imwrite(tmp_path / "one.TIFF", array[0], **options)
        np.testing.assert_array_equal(frames_of(tmp_path / "a.tif"), array)
        np.testing.assert_array_equal(frames_of(tmp_path / "one.TIFF"), array[:1])

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_png(self, tmp_path: Path, dtype: type) -> None:
        array = (STACK[0] // 1000 * (1 if dtype is np.uint8 else 1000)).astype(dtype)
        Image.fromarray(array).save(tmp_path / "a.png")
        frames = frames_of(tmp_path / "a.png")
        np.testing.assert_array_equal(frames, array[None])
        assert frames.dtype == dtype

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA", "1"])
    def test_png_of_other_kinds_becomes_grey(self, tmp_path: Path, mode: str) -> None:
        Image.fromarray(np.full((6, 8), 255, np.uint8)).convert(mode).save(tmp_path / "a.png")
        assert (frames_of(tmp_path / "a.png") == 255).all()

    @pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f2", "f4"])
    def test_mrc(self, tmp_path: Path, dtype: str) -> None:
        array = (STACK // 1000).astype(dtype)
        write_mrc(tmp_path / "a.mrc", array)
        np.testing.assert_array_equal(frames_of(tmp_path / "a.mrc"), array)

    def test_frames_are_read_one_by_one(self, tmp_path: Path) -> None:
        """A stack far larger than memory opens at once: it is mapped."""
        np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype=np.uint16, shape=(100_000, 2048, 2048))
        with read_frames(tmp_path / "a.npy") as recording:
            assert len(recording) == 100_000
            assert recording[99_999].max() == 0


class TestPixelSize:
    def test_mrc(self, tmp_path: Path) -> None:
        for voxel_A, expected in ((0.12, 0.12), (0.0, None), (1.0, None)):
            write_mrc(tmp_path / f"{voxel_A}.mrc", STACK, voxel_A)
            with read_frames(tmp_path / f"{voxel_A}.mrc") as recording:
                assert recording.sampling_A == (expected and pytest.approx(expected))

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"imagej": True, "resolution": (80, 80), "metadata": {"unit": "nm"}}, 0.125),
            ({"imagej": True, "resolution": (5e4, 5e4), "metadata": {"unit": "um"}}, 0.2),
            ({"imagej": True, "resolution": (8, 8), "metadata": {"unit": "angstrom"}}, 0.125),
            ({"resolution": (1e9, 1e9), "resolutionunit": "CENTIMETER"}, 0.1),
            ({"resolution": (1e9, 5e8), "resolutionunit": "CENTIMETER"}, None),
            ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),
            ({"imagej": True, "resolution": (80, 80)}, None),
            ({}, None),
        ],
    )
    def test_tiff(self, tmp_path: Path, options: dict[str, object], expected: float | None) -> None:
        tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack", **options)
        with read_frames(tmp_path / "a.tif") as recording:
            assert recording.sampling_A == (expected and pytest.approx(expected, rel=1e-6))

    @pytest.mark.parametrize(
        ("size_x", "unit", "expected"),
        [
            (0.0125, "nm", 0.125),
            (0.125, "Å", 0.125),
            (1.25e-5, "µm", 0.125),
            (0.0125, "pixel", None),
            (0.02, "nm", None),
            ("unknown", "nm", None),
        ],
    )
    def test_ome(self, tmp_path: Path, size_x: float | str, unit: str, expected: float | None) -> None:
        size_y = 0.0125 if size_x == 0.02 else size_x
        described = {"axes": "TYX", "PhysicalSizeX": size_x, "PhysicalSizeXUnit": unit}
        described |= {"PhysicalSizeY": size_y, "PhysicalSizeYUnit": unit}
        tifffile.imwrite(tmp_path / "a.ome.tif", STACK, photometric="minisblack", metadata=described)
        with read_frames(tmp_path / "a.ome.tif") as recording:
            assert recording.sampling_A == (expected and pytest.approx(expected))

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"imagej": True, "metadata": {"finterval": 0.05}}, 0.05),
            ({"imagej": True, "metadata": {"finterval": 50, "tunit": "ms"}}, 0.05),
            ({"imagej": True, "metadata": {"finterval": 0}}, None),
            ({"ome": True, "metadata": {"axes": "TYX", "TimeIncrement": 0.05}}, 0.05),
            ({"ome": True, "metadata": {"axes": "TYX", "TimeIncrement": 50, "TimeIncrementUnit": "ms"}}, 0.05),
            ({"ome": True, "metadata": {"axes": "TYX", "TimeIncrement": "unknown"}}, None),
            ({}, None),
        ],
    )
    def test_interval_of_a_tiff(self, tmp_path: Path, options: dict[str, object], expected: float | None) -> None:
        tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack", **options)
        with read_frames(tmp_path / "a.tif") as recording:
            assert recording.interval_s == (expected and pytest.approx(expected))

    def test_what_is_given_comes_first(self, tmp_path: Path) -> None:
        write_mrc(tmp_path / "a.mrc", STACK, 0.12)
        np.save(tmp_path / "a.npy", STACK)
        with read_frames(tmp_path / "a.mrc") as known, read_frames(tmp_path / "a.npy") as unknown:
            assert pixel_size_A(known, 0.3) == 0.3
            assert pixel_size_A(known, None) == pytest.approx(0.12)
            with pytest.raises(FileError, match="got none: state it with --sampling"):
                pixel_size_A(unknown, None)


class TestBadFiles:
    def test_not_there(self, tmp_path: Path) -> None:
        for suffix in (".npy", ".tif", ".png", ".mrc"):
            refuse(tmp_path / f"none{suffix}", "No such file")

    def test_of_no_known_kind(self, tmp_path: Path) -> None:
        refuse(tmp_path / "a.xyz", r"expected a name in \.npy, .*got '\.xyz'")

    @pytest.mark.parametrize("suffix", [".npy", ".tif", ".png", ".mrc"])
    @pytest.mark.parametrize("content", [b"", b"hello", bytes(2000), b"II*\0\xff\xff\xff\xff", b"\x93NUMPY\x01\x00"])
    def test_garbage(self, tmp_path: Path, suffix: str, content: bytes) -> None:
        path = tmp_path / f"a{suffix}"
        path.write_bytes(content)
        refuse(path, "expected a readable file of frames|expected a whole TIFF, got one that ends before page 1")

    def test_npy_with_objects_is_not_unpickled(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([{}, []], dtype=object), allow_pickle=True)
        refuse(tmp_path / "a.npy", "expected numbers, got Python objects: save it with a numeric dtype")
        (tmp_path / "b.npy").write_bytes(pickle.dumps([1, 2, 3]))
        refuse(tmp_path / "b.npy", "got something else than a .npy file")

    def test_npy_shorter_than_its_header_says(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", STACK)
        whole = (tmp_path / "a.npy").read_bytes()
        (tmp_path / "a.npy").write_bytes(whole.replace(b"(3, 4, 5)", b"(9999999999, 4, 5)"[:9])[:-20])
        refuse(tmp_path / "a.npy", "expected a readable file")

    @pytest.mark.parametrize("dtype", ["complex64", "S3", "bool", "datetime64[s]"])
    def test_no_real_numbers(self, tmp_path: Path, dtype: str) -> None:
        np.save(tmp_path / "a.npy", np.zeros((4, 4), dtype))
        refuse(tmp_path / "a.npy", "expected real numbers")

    @pytest.mark.parametrize("shape", [(), (4,), (0, 4), (3, 0, 4), (2, 4, 4, 5), (0, 3, 4, 5)])
    def test_shapes_that_are_no_frames(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        np.save(tmp_path / "a.npy", np.zeros(shape, np.uint16))
        refuse(tmp_path / "a.npy", r"expected one frame \(H, W\), many|expected a readable file")

    def test_a_picture_bomb_is_not_expanded(self, tmp_path: Path) -> None:
        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        for size in (9_000, 60_000):
            header = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0))
            data = chunk(b"IDAT", zlib.compress(bytes(100)))
            (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))
            refuse(tmp_path / "a.png", "expected at most 67108864 pixels|exceeds limit")

    def test_a_frame_too_large(self, tmp_path: Path) -> None:
        np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype=np.uint8, shape=(2, 10_000, 10_000))
        refuse(tmp_path / "a.npy", "expected at most 67108864 pixels a frame, got 10000 x 10000")

    def test_damage_found_later_is_told_as_well(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(1).integers(0, 255, (3, 64, 64), np.uint8)
        tifffile.imwrite(tmp_path / "a.tif", noise, photometric="minisblack", compression="zlib")
        with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
            offset = tiff.pages[2].dataoffsets[0]
        content = bytearray((tmp_path / "a.tif").read_bytes())
        content[offset : offset + 40] = bytes(40)
        (tmp_path / "a.tif").write_bytes(content)
        with read_frames(tmp_path / "a.tif") as recording:
            recording[1]
            with pytest.raises(FileError, match="expected a readable file of frames"):
                recording[2]

    @pytest.mark.parametrize("suffix", [".npy", ".tif", ".mrc"])
    def test_a_file_cut_off_while_it_is_read(self, tmp_path: Path, suffix: str) -> None:
        """Were it mapped, the process would end."""
        path, frames = tmp_path / f"a{suffix}", np.ones((3, 64, 64), np.uint16)
        if suffix == ".tif":
            tifffile.imwrite(path, frames, photometric="minisblack")
        else:
            {".npy": np.save, ".mrc": write_mrc}[suffix](path, frames)
        with read_frames(path) as recording:
            os.truncate(path, 12_000)
            assert recording[0].sum() == 64 * 64
            with pytest.raises(FileError, match=r"got \d+ of the 4096 pixels of frame 1"):
                recording[1].sum()

    def test_npy_in_the_order_of_fortran(self, tmp_path: Path) -> None:
        for array in (STACK, STACK[0]):
            np.save(tmp_path / "a.npy", np.asfortranarray(array))
            np.testing.assert_array_equal(frames_of(tmp_path / "a.npy"), array.reshape(-1, 4, 5))

    @pytest.mark.parametrize("suffix", [".npy", ".tif", ".png", ".mrc"])
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_damaged_files_are_read_or_refused(self, tmp_path: Path, suffix: str, data: st.DataObject) -> None:
        good = tmp_path / f"good{suffix}"
        if not good.exists():
            writers = {".npy": np.save, ".mrc": write_mrc, ".tif": tifffile.imwrite, ".png": self.write_png}
            writers[suffix](good, STACK[0])
        content = bytearray(good.read_bytes())
        for at in data.draw(st.lists(st.integers(0, min(len(content), 400) - 1), min_size=1, max_size=4)):
            content[at] = data.draw(st.integers(0, 255))
        bad = tmp_path / f"bad{suffix}"
        bad.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
        with contextlib.suppress(FileError):  # and nothing else
            frames_of(bad)

    def write_png(self, path: Path, array: NDArray[np.uint16]) -> None:
        Image.fromarray(array).save(path)


class TestIndex:
    def test_in_the_order_of_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "index.csv").write_text("file,sampling_A_per_px,more\nb.png,0.3,x\na.png,0.25,y\n")
        assert list(read_index(tmp_path / "index.csv").items()) == [("b.png", 0.3), ("a.png", 0.25)]

    @pytest.mark.parametrize("text", ["", "file,size\na,1\n", "size,sampling_A_per_px\n1,1\n", "\0\0", "\xff"])
    def test_bad(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "index.csv").write_bytes(text.encode("latin-1"))
        with pytest.raises(FileError, match="expected CSV with the columns file, sampling_A_per_px"):
            read_index(tmp_path / "index.csv")

    @pytest.mark.parametrize("size", ["nan", "-3", "0", "inf", "1e9", "x", ""])
    def test_a_size_that_cannot_be(self, tmp_path: Path, size: str) -> None:
        (tmp_path / "ix.csv").write_text(f"file,sampling_A_per_px\na.png,0.25\nb.png,{size}\n")
        with pytest.raises(FileError, match=rf"ix\.csv: expected a pixel size over 0 in row 3, got '{size}': correct"):
            read_index(tmp_path / "ix.csv")

    def test_a_row_that_ends_early(self, tmp_path: Path) -> None:
        (tmp_path / "ix.csv").write_text("file,sampling_A_per_px\na.png\n")
        with pytest.raises(FileError, match="in row 2, got None"):
            read_index(tmp_path / "ix.csv")

    def test_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="expected an index of frames"):
            read_index(tmp_path / "index.csv")
