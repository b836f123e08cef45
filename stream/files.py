"""Recorded frames in, one (H, W) or (3, H, W) array after another out, when asked for; of vendors through formats.py.

Files are as little to be trusted as the network: nothing is unpickled, sizes are checked before pixels are read.
"""

from __future__ import annotations

import csv
import html
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import mrcfile
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from engine.errors import ConfigError, FileError
from stream.formats import LENGTHS_A, PLAUSIBLE_A, SUFFIXES, TIMES_S, Frames, Movie, read_folder, read_movie
from stream.hdf5 import HDF5, read_hdf5
from stream.whole import check_end, check_page, check_whole

_MAX_PIXELS = 67_108_864
_TIFF_UNITS_A = {2: 2.54e8, 3: 1e8}  # ResolutionUnit: inch, centimetre
_PLAUSIBLE_S = (1e-5, 3600.0)  # from one frame to the next
_TRIPLET = 3
_NPY = b"\x93NUMPY"


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Frames of one file. A context manager, and an iterable of arrays in this machine's byte order.

    They are (H, W), or (3, H, W) where the file holds triplets.

    Attributes
    ----------
    path : Path
    shape : (int, int)
        Of every frame.
    sampling_A : float or None
        Pixel size, where the file says it beyond doubt.
    interval_s : float or None
        From one frame to the next, where the file says it.
    images : int
        In a frame: 1, or 3 for a triplet.
    elsewhere : bool
        Whether the frames are those of other files, that this one names.
    """

    path: Path
    shape: tuple[int, int]
    sampling_A: float | None
    _frames: Frames
    images: int = 1
    interval_s: float | None = None
    elsewhere: bool = False
    _open: ExitStack = field(default_factory=ExitStack)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, number: int) -> NDArray[Any]:
        try:
            return _native(self._frames[number])
        except Exception as error:  # see read_frames
            raise _unreadable(self.path, error) from None

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[number] for number in range(len(self)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def read_frames(path: Path) -> Recording:
    """Open a file of one frame (H, W), many (T, H, W), or triplets (T, 3, H, W), or a folder of OneView-IS frames.

    Raises
    ------
    FileError
        Not there, not of a known kind, damaged, without real numbers, or with frames over 67 million pixels.
    ConfigError
        Of a kind whose reader is not installed.
    """
    reader = _read_oneview if path.is_dir() else _READERS.get(path.suffix.lower())
    if reader is None:
        raise FileError(f"{path}: expected a name in {', '.join(_READERS)}, got {path.suffix!r}: convert the file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a reader only warns of, it can read
            return reader(path)
    except (FileError, ConfigError):
        raise
    except Exception as error:  # the readers' parsers raise whatever they come upon, SyntaxError included
        raise _unreadable(path, error) from None


def read_index(path: Path) -> dict[str, float]:
    """An index of frames: CSV with the columns file and sampling_A_per_px; pixel size by file name, in its order."""
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            index = {row["file"]: float(row["sampling_A_per_px"]) for row in csv.DictReader(lines)}
    except OSError as error:
        raise FileError(f"{path}: expected an index of frames, got {error.strerror}: check the path") from None
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise FileError(
            f"{path}: expected CSV with the columns file, sampling_A_per_px, got a wrong {error}: correct it"
        ) from None
    if not index:
        raise FileError(f"{path}: expected CSV with the columns file, sampling_A_per_px, got no row: fill it")
    return index


def pixel_size_A(recording: Recording, given_A: float | None) -> float:
    """The pixel size that was given, else the file's own."""
    sampling_A = recording.sampling_A if given_A is None else given_A
    if sampling_A is None:
        raise FileError(f"{recording.path}: expected a pixel size in the file, got none: state it with --sampling")
    return sampling_A


def _unreadable(path: Path, error: Exception) -> FileError:
    if isinstance(error, OSError) and error.strerror:
        return FileError(f"{path}: expected a readable file of frames, got {error.strerror}: check the path")
    cause = " ".join(str(error).split()) or type(error).__name__
    return FileError(f"{path}: expected a readable file of frames, got {cause}: save it again")


def _recording(
    path: Path,
    frames: Frames,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    sampling_A: float | None = None,
    interval_s: float | None = None,
) -> Recording:
    """What every reader ends with: refuse what no frame can be. `shape` is (T, H, W) or (T, 3, H, W)."""
    if dtype.kind not in "uif":
        raise FileError(f"{path}: expected real numbers, got {dtype}: convert the file")
    triplets = len(shape) == 4 and shape[1] == _TRIPLET
    if not (len(shape) == 3 or triplets) or 0 in shape:
        said = " x ".join(map(str, shape))
        raise FileError(
            f"{path}: expected one frame (H, W), many (T, H, W) or triplets (T, 3, H, W), got {said}: split the file"
        )
    height, width = shape[-2:]
    if height * width > _MAX_PIXELS:
        raise FileError(f"{path}: expected at most {_MAX_PIXELS} pixels a frame, got {height} x {width}: bin it")
    known_s = interval_s if interval_s and _PLAUSIBLE_S[0] <= interval_s <= _PLAUSIBLE_S[1] else None
    return Recording(path, (height, width), sampling_A, frames, _TRIPLET if triplets else 1, known_s)


def _native(pixels: NDArray[Any]) -> NDArray[Any]:
    """This machine's byte order, and a type that travels; COPY: only where it is another."""
    dtype = np.dtype({2: np.float32, 16: np.float64}.get(pixels.dtype.itemsize, pixels.dtype))
    return np.ascontiguousarray(pixels, (dtype if pixels.dtype.kind == "f" else pixels.dtype).newbyteorder("="))


def _stack(array: NDArray[Any]) -> NDArray[Any]:
    return array[None] if array.ndim == 2 else array


class _Consecutive:
    """Frames one after the other in a file, each read when asked for.

    Not mapped: where the program that writes the file cuts it off, a mapped page that is gone ends the whole process.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], offset: int, shape: Sequence[int]) -> None:
        self._path, self._dtype, self._offset, self._shape = path, dtype, offset, tuple(shape)

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, number: int) -> NDArray[Any]:
        pixels = math.prod(self._shape[1:])
        start = self._offset + range(len(self))[number] * pixels * self._dtype.itemsize
        frame = np.fromfile(self._path, self._dtype, pixels, offset=start)
        if frame.size != pixels:
            raise ValueError(f"{frame.size} of the {pixels} pixels of frame {number}")
        return frame.reshape(self._shape[1:])


def _unmapped(path: Path, stack: NDArray[Any]) -> Frames:
    """What a reader has mapped, without the map; not in Fortran's order, which interleaves the frames."""
    if not isinstance(stack, np.memmap) or not stack.flags.c_contiguous:
        return stack
    return _Consecutive(path, stack.dtype, stack.offset, stack.shape)


def _read_npy(path: Path) -> Recording:
    with path.open("rb") as file:
        if file.read(len(_NPY)) != _NPY:  # else numpy takes it for a pickle, and advises to load it unsafely
            raise ValueError("something else than a .npy file")
    # Mapped, a size in the header that the file does not have is an error and no allocation.
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    frames = _stack(array)
    return _recording(path, _unmapped(path, frames), frames.shape, frames.dtype)


def _read_mrc(path: Path) -> Recording:
    with mrcfile.mmap(path, mode="r", permissive=False) as mrc:
        frames, voxel_A = _stack(mrc.data), (float(mrc.voxel_size.y), float(mrc.voxel_size.x))
    # Programs that know no pixel size write 0, or 1 exactly.
    square = math.isclose(*voxel_A, rel_tol=1e-4) and not math.isclose(voxel_A[0], 1, rel_tol=1e-6)
    known = square and PLAUSIBLE_A[0] < voxel_A[0] < PLAUSIBLE_A[1]
    return _recording(path, _unmapped(path, frames), frames.shape, frames.dtype, voxel_A[0] if known else None)


def _read_png(path: Path) -> Recording:
    with Image.open(path, formats=["PNG"]) as image:
        width, height = image.size
        if width * height > _MAX_PIXELS:  # before Pillow expands it
            raise FileError(f"{path}: expected at most {_MAX_PIXELS} pixels a frame, got {height} x {width}: bin it")
        grey = image if image.mode in ("L", "I", "I;16") else image.convert("L")
        pixels = np.array(grey)
    return _recording(path, pixels[None], (1, *pixels.shape), pixels.dtype)


class _TiffPages:
    """Frames of a TIFF that are pages of their own, compressed or scattered; RGB becomes grey.

    A program that adds page after page writes a series for each: all of them have as many pages as the first.
    """

    def __init__(self, path: Path, series: Sequence[tifffile.TiffPageSeries]) -> None:
        self._path, self._series = path, series
        self._pages = len(series[0].pages)

    def __len__(self) -> int:
        return len(self._series) * self._pages

    def __getitem__(self, number: int) -> NDArray[Any]:
        one, within = divmod(range(len(self))[number], self._pages)
        page = self._series[one].pages[within]
        if page is None:
            raise ValueError(f"no page {number}")
        check_page(self._path, page, f"image {number}")
        pixels: NDArray[Any] = page.asarray()
        return pixels if pixels.ndim == 2 else pixels[..., :3].mean(axis=-1, dtype=np.float32)


class _Stacks:
    """Frames of several images, that lie one after the other."""

    def __init__(self, images: Frames, size: int) -> None:
        self._images = images
        self._size = size

    def __len__(self) -> int:
        return len(self._images) // self._size

    def __getitem__(self, number: int) -> NDArray[Any]:
        return np.stack([self._images[number * self._size + one] for one in range(self._size)])


def _read_tiff(path: Path) -> Recording:
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it reports is told by our own error
    with ExitStack() as opened:
        # Of a set of files the frames of this one: the others are whatever it names.
        tiff = tifffile.TiffFile(opened.enter_context(path.open("rb")), _multifile=False)
        check_whole(path, tiff, _tiff_images(tiff))
        frames, shape, dtype = _tiff_frames(path, tiff)
        recording = _recording(path, frames, shape, dtype, _tiff_sampling_A(tiff), _tiff_interval_s(tiff))
        recording._open.enter_context(opened.pop_all())  # only now: a file that was refused is closed here
        return recording


def _tiff_frames(path: Path, tiff: tifffile.TiffFile) -> tuple[Frames, tuple[int, ...], np.dtype[Any]]:
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
    if len(series) == 1 and first.dataoffset is not None and not coloured:
        check_end(path, tiff, first.dataoffset + math.prod(shape) * dtype.itemsize, f"image {shape[0] - 1}")
        stored = dtype.newbyteorder("<" if tiff.byteorder == "<" else ">")
        return _unmapped(path, np.memmap(path, stored, "r", first.dataoffset, shape)), shape, dtype
    images = math.prod(shape[1:-2])
    if len(first.pages) != shape[0] * images:
        said = f"{len(first.pages)} pages for {' x '.join(map(str, shape))}"
        raise FileError(f"{path}: expected a page an image, got {said}: save them as a stack")
    pages = _TiffPages(path, series)
    return pages if images == 1 else _Stacks(pages, images), (shape[0] * len(series), *shape[1:]), dtype


def _tiff_images(tiff: tifffile.TiffFile) -> int:
    """How many it should hold by ImageJ or OME, 0 where neither says it, or OME says it of a set of files."""
    imagej, ome = tiff.imagej_metadata or {}, _ome(tiff)
    if len(set(re.findall(r'FileName="([^"]*)"', tiff.ome_metadata or ""))) > 1:
        return 0
    said = (ome.get(f"Size{axis}", 0) for axis in "TZC") if ome else [imagej.get("images", 0)]
    return int(min(math.prod(map(_number, said)), 2**53))


def _tiff_sampling_A(tiff: tifffile.TiffFile) -> float | None:
    """Pixel size from OME's description, ImageJ's unit or a resolution that can only be a microscope's; of squares."""
    sizes_A = _ome_sizes_A(_ome(tiff)) or _resolution_sizes_A(tiff)
    square = math.isclose(*sizes_A, rel_tol=1e-6) and PLAUSIBLE_A[0] < sizes_A[0] < PLAUSIBLE_A[1]
    return sizes_A[0] if square else None


def _tiff_interval_s(tiff: tifffile.TiffFile) -> float | None:
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
        unit_A = _TIFF_UNITS_A.get(int(tags["ResolutionUnit"].value), 0.0) if "ResolutionUnit" in tags else 0.0
    (count_y, units_y), (count_x, units_x) = tags["YResolution"].value, tags["XResolution"].value
    return (unit_A * units_y / count_y, unit_A * units_x / count_x) if count_y and count_x else (0.0, 0.0)


def _read_oneview(path: Path) -> Recording:
    return _of_movie(path, read_folder(path))


def _read_other(path: Path) -> Recording:
    with path.open("rb"):  # a missing file is told as for any other kind
        pass
    return _of_movie(path, read_hdf5(path) if path.suffix.lower() in HDF5 else read_movie(path))


def _of_movie(path: Path, movie: Movie) -> Recording:
    with movie.opened:
        recording = _recording(path, movie.frames, movie.shape, movie.dtype, movie.sampling_A, movie.interval_s)
        recording = replace(recording, elsewhere=movie.elsewhere)
        recording._open.enter_context(movie.opened.pop_all())  # a file that was refused is closed here
        return recording


_READERS: dict[str, Callable[[Path], Recording]] = {
    ".npy": _read_npy,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
    ".png": _read_png,
    ".mrc": _read_mrc,
    **dict.fromkeys((*SUFFIXES, *HDF5), _read_other),
}
KINDS = tuple(_READERS)
