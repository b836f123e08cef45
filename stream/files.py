"""Recorded frames in, one (H, W) or (3, H, W) array after another out, when asked for; of vendors through formats.py.

Files are as little to be trusted as the network: nothing is unpickled, sizes are checked before pixels are read.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import mrcfile
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.errors import ConfigError, FileError, one_line
from stream.formats import PLAUSIBLE_A, SUFFIXES, Frames, Movie, read_folder, read_movie
from stream.hdf5 import HDF5, read_hdf5
from stream.tiff import TIFF, read_tiff

_MAX_PIXELS = 67_108_864
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
    index: dict[str, float] = {}
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines)
            for row in rows:
                index[row["file"]] = _size_A(path, rows.line_num, row["sampling_A_per_px"])
    except OSError as error:
        raise FileError(f"{path}: expected an index of frames, got {error.strerror}: check the path") from None
    except (KeyError, ValueError, csv.Error) as error:
        raise FileError(
            f"{path}: expected CSV with the columns file, sampling_A_per_px, got a wrong {error}: correct it"
        ) from None
    if not index:
        raise FileError(f"{path}: expected CSV with the columns file, sampling_A_per_px, got no row: fill it")
    return index


def _size_A(path: Path, row: int, text: str | None) -> float:
    """Of one row, counted as a spreadsheet does, the names of the columns among them."""
    try:
        size_A = float(text or "")
    except ValueError:
        size_A = math.nan
    if not 0 < size_A < 1e9:
        raise FileError(f"{path}: expected a pixel size over 0 in row {row}, got {text!r}: correct it")
    return size_A


def pixel_size_A(recording: Recording, given_A: float | None) -> float:
    """The pixel size that was given, else the file's own."""
    sampling_A = recording.sampling_A if given_A is None else given_A
    if sampling_A is None:
        raise FileError(f"{recording.path}: expected a pixel size in the file, got none: state it with --sampling")
    return sampling_A


def _unreadable(path: Path, error: Exception) -> FileError:
    if isinstance(error, OSError) and error.strerror:
        return FileError(f"{path}: expected a readable file of frames, got {error.strerror}: check the path")
    cause = one_line(error) or type(error).__name__
    if "Python objects" in cause:
        return FileError(f"{path}: expected numbers, got Python objects: save it with a numeric dtype")
    remedy = "save it uncompressed, or pip install imagecodecs" if "imagecodecs" in cause else "save it again"
    return FileError(f"{path}: expected a readable file of frames, got {cause}: {remedy}")


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


def _unmapped(path: Path, stack: Frames) -> Frames:
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


def _read_tiff(path: Path) -> Recording:
    return _of_movie(path, read_tiff(path))


def _read_oneview(path: Path) -> Recording:
    return _of_movie(path, read_folder(path))


def _read_other(path: Path) -> Recording:
    with path.open("rb"):  # a missing file is told as for any other kind
        pass
    return _of_movie(path, read_hdf5(path) if path.suffix.lower() in HDF5 else read_movie(path))


def _of_movie(path: Path, movie: Movie) -> Recording:
    with movie.opened:
        frames = _unmapped(path, movie.frames)
        recording = _recording(path, frames, movie.shape, movie.dtype, movie.sampling_A, movie.interval_s)
        recording = replace(recording, elsewhere=movie.elsewhere)
        recording._open.enter_context(movie.opened.pop_all())  # a file that was refused is closed here
        return recording


_READERS: dict[str, Callable[[Path], Recording]] = {
    ".npy": _read_npy,
    **dict.fromkeys(TIFF, _read_tiff),
    ".png": _read_png,
    ".mrc": _read_mrc,
    **dict.fromkeys((*SUFFIXES, *HDF5), _read_other),
}
KINDS = tuple(_READERS)
