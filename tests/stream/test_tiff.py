"""Frames of a TIFF, however they lie in it, and TIFFs that are not whole."""

from __future__ import annotations

import gc
import struct
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from engine.errors import FileError
from stream import tiff
from stream.files import read_frames
from tests.stream.test_files import STACK, frames_of, refuse

LONG = np.random.default_rng(1).integers(0, 60_000, (48, 16, 16)).astype(np.uint16)
WAYS: dict[str, dict[str, Any]] = {
    "imagej": {"imagej": True},
    "ome": {"ome": True, "metadata": {"axes": "TYX"}},
    "zlib": {"compression": "zlib"},
    "plain": {},
    "one description": {"truncate": True},
    "appended": {"append": True},
    "appended zlib": {"append": True, "compression": "zlib"},
}


def write_tiff(path: Path, stack: NDArray[np.generic], way: str) -> None:
    options = {} if way == "imagej" else {"photometric": "minisblack"}
    for part in stack if "append" in WAYS[way] else [stack]:
        tifffile.imwrite(path, part, **options, **WAYS[way])


def replace_in(path: Path, old: bytes, new: bytes) -> None:
    """Of the same length, and there once."""
    content = path.read_bytes()
    assert len(old) == len(new)
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


class TestWaysOfWriting:
    @pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"metadata": None}])
    @pytest.mark.parametrize("append", [True, False])
    def test_tiff_written_page_by_page(self, tmp_path: Path, options: dict[str, object], append: bool) -> None:
        path = tmp_path / "a.tif"
        if append:
            for page in STACK:
                tifffile.imwrite(path, page, append=True, **options)
        else:
            with tifffile.TiffWriter(path) as writer:
                for page in STACK:
                    writer.write(page, **options)
        np.testing.assert_array_equal(frames_of(path), STACK)

    @pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5)])
    def test_tiff_of_stack_after_stack(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        stacks = np.arange(2 * np.prod(shape), dtype=np.uint16).reshape(2, *shape)
        for stack in stacks:
            tifffile.imwrite(tmp_path / "a.tif", stack, append=True, photometric="minisblack")
        with read_frames(tmp_path / "a.tif") as recording:
            assert recording.images == (3 if len(shape) == 4 else 1)
            np.testing.assert_array_equal(np.stack(list(recording)), np.concatenate(stacks))

    def test_a_thumbnail_in_a_tiff_is_no_frame(self, tmp_path: Path) -> None:
        with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
            writer.write(STACK, photometric="minisblack")
            writer.write(STACK[0, ::2, ::2], subfiletype=1)
        np.testing.assert_array_equal(frames_of(tmp_path / "a.tif"), STACK)

    @pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}])
    @pytest.mark.parametrize("shape", [(3, 40, 24), (4, 40, 24), (2, 3, 40, 24)])
    def test_tiff_of_frames_in_planes(self, tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any]) -> None:
        """As tifffile writes a stack of three or four, or triplets: it calls them RGB."""
        stack = np.random.default_rng(2).integers(0, 60_000, shape).astype(np.uint16)
        tifffile.imwrite(tmp_path / "a.tif", stack, photometric="rgb", planarconfig="separate", **options)
        with read_frames(tmp_path / "a.tif") as recording:
            np.testing.assert_array_equal(list(recording), stack)
            backwards = [recording[number] for number in reversed(range(len(recording)))]
        np.testing.assert_array_equal(backwards[::-1], stack)

    @pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
    def test_three_planes_of_grey_are_frames(self, tmp_path: Path, options: dict[str, Any]) -> None:
        options = {"photometric": "minisblack", "planarconfig": "separate", **options}
        for _ in range(2):
            tifffile.imwrite(tmp_path / "a.tif", STACK, append=True, **options)
        np.testing.assert_array_equal(frames_of(tmp_path / "a.tif"), [*STACK, *STACK])

    def test_tiff_in_colour_becomes_grey(self, tmp_path: Path) -> None:
        colours = np.zeros((6, 8, 3), np.uint8) + np.array([30, 60, 90], np.uint8)
        tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
        assert (frames_of(tmp_path / "a.tif") == 60).all()


class TestRefused:
    @pytest.mark.parametrize("compression", [None, "zlib"])
    @pytest.mark.parametrize(("shape", "dtype"), [((5, 5), np.uint16), ((4, 4), np.uint8)])
    def test_tiff_of_pages_that_differ(
        self, tmp_path: Path, shape: tuple[int, int], dtype: type, compression: str | None
    ) -> None:
        with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
            for page in (np.zeros((4, 4), np.uint16), np.zeros(shape, dtype)):
                writer.write(page, contiguous=False, compression=compression)
        refuse(tmp_path / "a.tif", "expected pages of one shape and type, got 4 x 4 uint")

    def test_planes_too_large_to_uncompress_together(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        options = {"photometric": "minisblack", "planarconfig": "separate"}
        tifffile.imwrite(tmp_path / "a.tif", STACK, compression="zlib", **options)
        tifffile.imwrite(tmp_path / "b.tif", STACK, **options)
        monkeypatch.setattr(tiff, "_MAX_PAGE_PIXELS", STACK.size - 1)
        refuse(tmp_path / "a.tif", "expected at most 59 pixels a page, got 3 x 4 x 5: save a page a frame")
        np.testing.assert_array_equal(frames_of(tmp_path / "b.tif"), STACK)

    @pytest.mark.skipif(find_spec("imagecodecs") is not None, reason="with imagecodecs it is read")
    def test_a_compression_that_needs_another_package(self, tmp_path: Path) -> None:
        Image.fromarray(STACK[0]).save(tmp_path / "a.tif", compression="tiff_lzw")
        refuse(tmp_path / "a.tif", "LZW.*: save it uncompressed, or pip install imagecodecs")

    def test_a_tiff_without_a_page(self, tmp_path: Path) -> None:
        (tmp_path / "a.tif").write_bytes(b"II*\0" + bytes(4))
        refuse(tmp_path / "a.tif", "expected a TIFF with frames in it, got one without a page: write it anew")

    def test_a_tiff_that_is_refused_is_closed(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4), np.complex64))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            refuse(tmp_path / "a.tif", "expected real numbers")
            gc.collect()
        assert [str(one.message) for one in told] == []


class TestTiffsThatAreNotWhole:
    """tifffile reads what there is of them, and only logs the rest."""

    @pytest.mark.parametrize("way", WAYS)
    def test_cut_off(self, tmp_path: Path, way: str) -> None:
        path = tmp_path / "a.tif"
        write_tiff(path, LONG, way)
        whole = path.read_bytes()
        np.testing.assert_array_equal(frames_of(path), LONG)
        for part in (0.01, 0.3, 0.5, 0.9):
            path.write_bytes(whole[: int(part * len(whole))])
            with pytest.raises(FileError, match=r"expected a whole TIFF, got one that ends before .*: copy it again"):
                read_frames(path)

    @pytest.mark.parametrize("way", ["zlib", "appended", "appended zlib"])
    def test_one_byte_is_missing(self, tmp_path: Path, way: str) -> None:
        path = tmp_path / "a.tif"
        write_tiff(path, LONG, way)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(FileError, match=r"got one that ends before .*page 48: copy it again"):
            read_frames(path)

    @pytest.mark.parametrize(
        ("way", "old", "new"),
        [("imagej", b"images=48", b"images=96"), ("ome", b'SizeT="48"', b'SizeT="96"')],
    )
    def test_fewer_images_than_it_says(self, tmp_path: Path, way: str, old: bytes, new: bytes) -> None:
        """A program that adds page after page may say from the start how many there will be."""
        write_tiff(tmp_path / "a.tif", LONG, way)
        replace_in(tmp_path / "a.tif", old, new)
        with pytest.raises(FileError, match="expected the 96 images that it says it has, got 48: copy it again"):
            read_frames(tmp_path / "a.tif")

    def test_imagej_describes_the_first_image_only_of_very_many(self, tmp_path: Path) -> None:
        """As it writes what does not fit into 4 GB: the images follow the first, without a page of their own."""
        path = tmp_path / "a.tif"
        write_tiff(path, LONG, "imagej")
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            link, end = page.offset + 2 + 12 * len(page.tags), page.dataoffsets[0] + LONG.nbytes
        content = bytearray(path.read_bytes())
        content[link : link + 4] = bytes(4)
        path.write_bytes(content[:end])
        np.testing.assert_array_equal(frames_of(path), LONG)
        path.write_bytes(content[: end // 2])
        with pytest.raises(FileError, match=r"expected the 48 images that it says it has, got 2\d: copy it again"):
            read_frames(path)

    def test_colours_that_count_as_images(self, tmp_path: Path) -> None:
        colours = np.full((4, 6, 8, 3), 60, np.uint8)
        tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb", ome=True, metadata={"axes": "TYXS"})
        assert (frames_of(tmp_path / "a.tif") == 60).all()

    def test_of_a_set_of_files_the_frames_of_this_one(self, tmp_path: Path) -> None:
        """Whatever the others are called: they are not opened."""
        write_tiff(tmp_path / "a.tif", LONG, "ome")
        said = f"""<?xml version="1.0"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">
<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="16" SizeY="16" SizeZ="1" SizeC="1"
 SizeT="96"><TiffData FirstT="0" IFD="0" PlaneCount="48"><UUID FileName="a.tif">urn:uuid:1</UUID></TiffData>
<TiffData FirstT="48" IFD="0" PlaneCount="48"><UUID FileName="{tmp_path}/b.tif">urn:uuid:2</UUID></TiffData>
</Pixels></Image></OME>"""
        write_tiff(tmp_path / "b.tif", LONG[::-1], "plain")
        tifffile.tiffcomment(tmp_path / "a.tif", said.encode())
        np.testing.assert_array_equal(frames_of(tmp_path / "a.tif"), LONG)

    def test_pixels_in_between_that_lie_beyond_the_end(self, tmp_path: Path) -> None:
        """tifffile makes zeros of them."""
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as writer:
            for page in LONG[:3]:
                writer.write(page, contiguous=False, rowsperstrip=8)
        with tifffile.TiffFile(path) as tiff:
            tag = tiff.pages[1].tags["StripOffsets"]
        content = bytearray(path.read_bytes())
        content[tag.valueoffset + 4 : tag.valueoffset + 8] = struct.pack("<I", len(content) - 10)
        path.write_bytes(content)
        with read_frames(path) as recording:
            np.testing.assert_array_equal(recording[2], LONG[2])
            with pytest.raises(FileError, match="expected a whole TIFF, got one that ends before the end of image 1:"):
                recording[1]

    def test_pages_in_a_circle(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tif"
        write_tiff(path, LONG[:3], "zlib")
        with tifffile.TiffFile(path) as tiff:
            first, link = tiff.pages.first.offset, tiff.pages.next_page_offset
        content = bytearray(path.read_bytes())
        content[link : link + 4] = struct.pack("<I", first)
        path.write_bytes(content)
        with pytest.raises(FileError, match="got a page after page 3 that came before"):
            read_frames(path)
