"""Formats of microscope vendors: DM3, DM4, EMD, SER, and folders of OneView-IS frames. Read when asked for.

RosettaSciIO is under the GPL and comes with the extra `formats` only: it is imported once such a file is opened.
"""

from __future__ import annotations

import importlib
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import ConfigError, FileError

LENGTHS_A = {
    "angstrom": 1.0,
    "a": 1.0,
    "å": 1.0,
    "nm": 10.0,
    "pm": 0.01,
    "um": 1e4,
    "µm": 1e4,
    "μm": 1e4,  # with the Greek letter, not the sign
    "micron": 1e4,
    "mm": 1e7,
    "m": 1e10,
}
PLAUSIBLE_A = (1e-3, 50.0)  # a printer's resolution is far from it
TIMES_S = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "min": 60.0}
_READERS = {".dm3": "digitalmicrograph", ".dm4": "digitalmicrograph", ".emd": "emd", ".ser": "tia"}
SUFFIXES = tuple(_READERS)
_ONEVIEW = re.compile(r"Hour_(\d+)/Minute_(\d+)/Second_(\d+)/[^/]*_Frame_(\d+)\.dm[34]$")


class Frames(Protocol):
    """(H, W) or (3, H, W) arrays by number; a (T, H, W) array is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Movie:
    """Frames of one file or folder, not checked yet.

    Attributes
    ----------
    shape : tuple of int
        (T, H, W) or (T, 3, H, W).
    sampling_A : float or None
        Pixel size, where the file says it beyond doubt.
    interval_s : float or None
        From one frame to the next, where the file says it.
    opened : ExitStack
        Closes the file.
    elsewhere : bool
        Whether the frames are those of other files, that this one names.
    """

    frames: Frames
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sampling_A: float | None
    interval_s: float | None = None
    opened: ExitStack = field(default_factory=ExitStack)
    elsewhere: bool = False


def read_movie(path: Path) -> Movie:
    """Open a file by its suffix, one of SUFFIXES; whatever its reader raises where it is damaged."""
    return _read_vendor(path, _READERS[path.suffix.lower()])


def load_package(name: str, extra: str = "formats") -> ModuleType:
    """Import what comes with an extra; ConfigError where that is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = "rosettasciio" if name.startswith("rsciio") else name
        raise ConfigError(
            f"Expected the package {package} for files of this format, got none: pip install 'atomstream[{extra}]'"
        ) from None


def is_movie_folder(path: Path) -> bool:
    """Whether it holds frames as OneView-IS writes them: Hour_00/Minute_00/Second_00/..._Frame_0000.dm4."""
    return path.is_dir() and next(_oneview(path), None) is not None


def read_folder(path: Path) -> Movie:
    """Open the frames of a OneView-IS folder in the order they were taken; all have the shape of the first."""
    found = sorted(_oneview(path))
    if not found:
        raise FileError(
            f"{path}: expected a folder with Hour_00/Minute_00/Second_00/*_Frame_0000.dm4, got none: name its files"
        )
    files = [file for _, file in found]
    first = read_movie(files[0])
    frames, interval_s = _Files(files, first.shape[1:]), _oneview_interval_s([taken for taken, _ in found])
    return Movie(frames, (len(files), *first.shape[1:]), first.dtype, first.sampling_A, interval_s)


def _oneview_interval_s(taken: Sequence[tuple[int, ...]]) -> float | None:
    """The names say the second; how many frames there are in one says the rate, the last, which was cut off, apart."""
    in_a_second = list(Counter(moment[:3] for moment in taken).values())[:-1]
    return 1 / statistics.median(in_a_second) if in_a_second else None


def _oneview(path: Path) -> Any:
    """When each frame was taken, and its file."""
    for file in path.rglob("*_Frame_*.dm[34]"):
        found = _ONEVIEW.search(file.as_posix())
        if found is not None:
            yield tuple(int(number) for number in found.groups()), file


class Lazy:
    """Frames of an array that reads what is asked for."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __len__(self) -> int:
        return int(self._array.shape[0])

    def __getitem__(self, number: int) -> NDArray[Any]:
        part = self._array[number]
        # In this thread: the files are small, and other threads have work.
        # COPY: of what the reader has mapped, which whoever writes the file may still cut off.
        return np.array(part.compute(scheduler="synchronous") if hasattr(part, "compute") else part)


class _Files:
    """Frames that are files of their own."""

    def __init__(self, files: Sequence[Path], shape: tuple[int, ...]) -> None:
        self._files = files
        self._shape = shape

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> NDArray[Any]:
        path = self._files[number]
        pixels = read_movie(path).frames[0]
        if pixels.shape != self._shape:
            raise ValueError(f"{path.name} of {pixels.shape} where the first frame has {self._shape}")
        return pixels


def _read_vendor(path: Path, reader: str) -> Movie:
    read: Callable[..., list[dict[str, Any]]] = load_package(f"rsciio.{reader}").file_reader
    images = [one for one in read(str(path), lazy=True) if _is_image(one)]
    if not images:
        raise FileError(f"{path}: expected images, got none: is it a spectrum?")
    # The first is the picture; an EMD of Velox also holds what was derived from it, as a complex Fourier transform.
    picture = next((one for one in images if one["data"].dtype.kind != "c"), images[0])
    array, axes = picture["data"], picture["axes"]
    array = array[None] if array.ndim == 2 else array
    interval_s = (_axis_interval_s(axes[0]) if len(axes) == 3 else None) or _stamps_interval_s(picture)
    return Movie(Lazy(array), tuple(array.shape), np.dtype(array.dtype), _axes_sampling_A(axes[-2:]), interval_s)


def _is_image(signal: Mapping[str, Any]) -> bool:
    """Two axes of an image last, one more of time or none."""
    axes = signal["axes"]
    return len(axes) == signal["data"].ndim in (2, 3) and not any(axis.get("navigate") for axis in axes[-2:])


def _axes_sampling_A(axes: Sequence[Mapping[str, Any]]) -> float | None:
    """Pixel size of two axes that agree on a length."""
    sizes = [
        float(axis.get("scale") or 0) * LENGTHS_A.get(str(axis.get("units") or "").strip().lower(), 0.0)
        for axis in axes
    ]
    plausible = PLAUSIBLE_A[0] < sizes[0] < PLAUSIBLE_A[1] and math.isclose(*sizes, rel_tol=1e-3)
    return sizes[0] if plausible else None


def _axis_interval_s(axis: Mapping[str, Any]) -> float | None:
    """Where the frames' axis is one of time."""
    unit_s = TIMES_S.get(str(axis.get("units") or "").strip().lower())
    return None if unit_s is None else float(axis.get("scale") or 0) * unit_s


def _stamps_interval_s(picture: Mapping[str, Any]) -> float | None:
    """TIA stamps every frame with whole seconds: from the first to the last they still say the rate."""
    stamps = np.atleast_1d(picture["original_metadata"].get("ser_header_parameters", {}).get("Time", 0))
    return float(int(stamps[-1]) - int(stamps[0])) / (len(stamps) - 1) if len(stamps) > 1 else None
