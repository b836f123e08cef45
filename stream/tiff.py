"""Frames of a TIFF: of one stack, or pages of their own, compressed or in planes; the pixel size and time it says."""

from __future__ import annotations

import html
import logging
import math
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from engine.errors import FileError
from stream.formats import LENGTHS_A, PLAUSIBLE_A, TIMES_S, Frames, Movie
from stream.whole import check_end, check_page, check_whole, count_pages

TIFF = (".tif", ".tiff")
_UNITS_A = {2: 2.54e8, 3: 1e8}  # ResolutionUnit: inch, centimetre
_MAX_PAGE_PIXELS = 268_435_456  # of a page in planes, which are uncompressed together


def read_tiff(path: Path) -> Movie:
    """Open a TIFF; whatever tifffile raises where it is damaged."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it reports is told by our own error
    with ExitStack() as opened:
        # Of a set of files the frames of this one: the others are whatever it names.
        tiff = tifffile.TiffFile(opened.enter_context(path.open("rb")), _multifile=False)
        pages = count_pages(path, tiff)
        check_whole(path, tiff, pages, _images(tiff))
        frames, shape, dtype = _frames(path, tiff)
        return Movie(frames, shape, dtype, _sampling_A(tiff), _interval_s(tiff), opened.pop_all())


def _frames(path: Path, tiff: tifffile.TiffFile) -> tuple[Frames, tuple[int, ...], np.dtype[Any]]:
    """All frames of the file, or none: what holds pictures of several kinds does not say which are the frames."""
    series = [one for one in tiff.series if not one.keyframe.is_reduced] or list(tiff.series)  # thumbnails are none
    kinds = {(one.shape, np.dtype(one.dtype), len(one.pages)) for one in series}
    if len(kinds) > 1:
        said = ", ".join(sorted({f"{' x '.join(map(str, shape))} {dtype}" for shape, dtype, _ in kinds})[:3])
        raise FileError(f"{path}: expected pages of one shape and type, got {said}: save them as a stack")
    first = series[0]
    coloured = first.axes.endswith("S")
    shape = first.shape[:-1] if coloured else first.shape
    shape = (1, *shape) if len(shape) == 2 else shape
    dtype = np.dtype(first.dtype)
    planes = _planes(first.keyframe)
    if len(series) == 1 and first.dataoffset is not None and not coloured:
        check_end(path, tiff, first.dataoffset + math.prod(shape) * dtype.itemsize, f"image {shape[0] - 1}")
        stored = dtype.newbyteorder("<" if tiff.byteorder == "<" else ">")
        return np.memmap(path, stored, "r", first.dataoffset, shape), shape, dtype
    images = math.prod(shape[1:-2])
    if len(first.pages) * planes != shape[0] * images:
        said = f"{len(first.pages)} pages for {' x '.join(map(str, shape))}"
        raise FileError(f"{path}: expected a page an image, got {said}: save them as a stack")
    if planes * math.prod(shape[-2:]) > _MAX_PAGE_PIXELS:
        said = f"{planes} x {shape[-2]} x {shape[-1]}"
        raise FileError(f"{path}: expected at most {_MAX_PAGE_PIXELS} pixels a page, got {said}: save a page a frame")
    first.keyframe.decode(None, 0)  # of no pixels: a compression that cannot be undone is an error here already
    pages = _Pages(path, series, planes)
    return pages if images == 1 else _Stacks(pages, images), (shape[0] * len(series), *shape[1:]), dtype


def _planes(page: tifffile.TiffPage) -> int:
    """Images that lie in a page one after the other.

    tifffile writes a stack of three or four so, and calls it RGB. They are frames, or a triplet: cameras that count
    electrons have no colours, and pictures that have them lie pixel by pixel.
    """
    return page.samplesperpixel if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE else 1


class _Pages:
    """Frames of a TIFF that are pages of their own, or planes of one, compressed or scattered; RGB becomes grey.

    A program that adds page after page writes a series for each: all of them have as many pages as the first.
    """

    def __init__(self, path: Path, series: Sequence[tifffile.TiffPageSeries], planes: int) -> None:
        self._path, self._series, self._planes = path, series, planes
        self._pages = len(series[0].pages)
        self._last: tuple[int, NDArray[Any]] | None = None  # a page in planes, and its number

    def __len__(self) -> int:
        return len(self._series) * self._pages * self._planes

    def __getitem__(self, number: int) -> NDArray[Any]:
        page, plane = divmod(range(len(self))[number], self._planes)
        if self._planes == 1:
            pixels = self._page(page, number)
            return pixels if pixels.ndim == 2 else pixels[..., :3].mean(axis=-1, dtype=np.float32)
        if self._last is None or self._last[0] != page:
            self._last = page, self._page(page, number)
        frame: NDArray[Any] = self._last[1][plane]
        return frame

    def _page(self, number: int, image: int) -> NDArray[Any]:
        one, within = divmod(number, self._pages)
        page = self._series[one].pages[within]
        if page is None:
            raise ValueError(f"no page {number}")
        check_page(self._path, page, f"image {image}")
        pixels: NDArray[Any] = page.asarray()
        return pixels


class _Stacks:
    """Frames of several images, that lie one after the other."""

    def __init__(self, images: Frames, size: int) -> None:
        self._images = images
        self._size = size

    def __len__(self) -> int:
        return len(self._images) // self._size

    def __getitem__(self, number: int) -> NDArray[Any]:
        return np.stack([self._images[number * self._size + one] for one in range(self._size)])


def _images(tiff: tifffile.TiffFile) -> int:
    """How many it should hold by ImageJ or OME, 0 where neither says it, or OME says it of a set of files."""
    imagej, ome = tiff.imagej_metadata or {}, _ome(tiff)
    if len(set(re.findall(r'FileName="([^"]*)"', tiff.ome_metadata or ""))) > 1:
        return 0
    said = (ome.get(f"Size{axis}", 0) for axis in "TZC") if ome else [imagej.get("images", 0)]
    return int(min(math.prod(map(_number, said)), 2**53))


def _sampling_A(tiff: tifffile.TiffFile) -> float | None:
    """Pixel size from OME's description, ImageJ's unit or a resolution that can only be a microscope's; of squares."""
    sizes_A = _ome_sizes_A(_ome(tiff)) or _resolution_sizes_A(tiff)
    square = math.isclose(*sizes_A, rel_tol=1e-6) and PLAUSIBLE_A[0] < sizes_A[0] < PLAUSIBLE_A[1]
    return sizes_A[0] if square else None


def _interval_s(tiff: tifffile.TiffFile) -> float | None:
    """From one frame to the next, by ImageJ or OME."""
    imagej, ome = tiff.imagej_metadata or {}, _ome(tiff)
    interval, unit = imagej.get("finterval", 0), imagej.get("tunit", "s")
    if "TimeIncrement" in ome:
        interval, unit = ome["TimeIncrement"], ome.get("TimeIncrementUnit", "s")
    return _number(interval) * TIMES_S.get(str(unit).lower(), 0.0)


def _ome(tiff: tifffile.TiffFile) -> dict[str, str]:
    """What OME says of the first image's pixels. Not parsed as XML, whose entities can be bombs."""
    pixels = re.search(r"<(?:\w+:)?Pixels\s[^>]*>", tiff.ome_metadata or "")
    return {name: html.unescape(text) for name, text in re.findall(r'(\w+)="([^"]*)"', pixels[0])} if pixels else {}


def _ome_sizes_A(said: dict[str, str]) -> tuple[float, float] | None:
    """(y, x); None where it does not say them."""
    if not {"PhysicalSizeY", "PhysicalSizeX"} <= set(said):
        return None
    units = (said.get(f"PhysicalSize{axis}Unit", "µm").lower() for axis in "YX")  # µm by OME's schema
    y_A, x_A = (
        _number(said[f"PhysicalSize{axis}"]) * LENGTHS_A.get(unit, 0.0) for axis, unit in zip("YX", units, strict=True)
    )
    return y_A, x_A


def _number(said: float | str) -> float:
    """0, as if it were not there, for what is no number: the frames can be read all the same."""
    try:
        return float(said)
    except ValueError:
        return 0.0


def _resolution_sizes_A(tiff: tifffile.TiffFile) -> tuple[float, float]:
    """(y, x); 0 where it is not known."""
    tags = tiff.pages.first.tags
    if "XResolution" not in tags or "YResolution" not in tags:
        return 0.0, 0.0
    named = str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ").replace("\\u00C5", "å").lower()
    unit_A = LENGTHS_A.get(named)
    if unit_A is None:
        unit_A = _UNITS_A.get(int(tags["ResolutionUnit"].value), 0.0) if "ResolutionUnit" in tags else 0.0
    (count_y, units_y), (count_x, units_x) = tags["YResolution"].value, tags["XResolution"].value
    return (unit_A * units_y / count_y, unit_A * units_x / count_x) if count_y and count_x else (0.0, 0.0)
