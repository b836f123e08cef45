"""Frames of HDF5: the largest dataset of them, or those of the files that a detector's master file names.

h5py comes with the extra `formats` and is imported once such a file is opened. What a file points to is followed
only from a detector's master to files beside it.
"""

from __future__ import annotations

import itertools
import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import FileError, FrameError
from stream.compression import Packing, unpack
from stream.formats import Frames, Lazy, Movie, load_package
from stream.nexus import FORMAT

HDF5 = (".h5", ".hdf5", ".hdf", ".nxs")
_MAX_CHUNK_BYTES = 2**30  # what is uncompressed at once, whatever part of it is wanted
_BITSHUFFLE, _LZ4 = 32008, 2  # the filter's number at the HDF Group, and what it compresses with
_NO_FRAMES = re.compile(r"mask|flat_?field|trim_?bit|countrate_correction", re.IGNORECASE)  # of a detector
_DATA = re.compile(r"data_(\d+)")


def read_hdf5(path: Path) -> Movie:
    """Open the largest dataset of frames. Only of recordings of ours is it known where they say their pixel size."""
    h5py = load_package("h5py")
    with ExitStack() as opened:
        file = opened.enter_context(h5py.File(path, "r"))
        links = _data_links(file)
        if links:
            linked = _Linked(path, links, opened.enter_context(ExitStack()))
            return Movie(linked, linked.shape, linked.dtype, None, None, opened.pop_all(), elsewhere=True)
        largest = _largest(path, file)
        shape = (1, *largest.shape) if largest.ndim == 2 else tuple(largest.shape)
        ours = file.attrs.get("format") == FORMAT and largest.name == "/entry/images/data"
        known = _recorded(file["entry/frames"]) if ours else (None, None)
        return Movie(_frames(path, largest), shape, largest.dtype, *known, opened.pop_all())


def _largest(path: Path, file: Any) -> Any:
    """Dataset of frames; a detector's masks and corrections are none."""
    found: list[Any] = []

    def look(_: str, item: Any) -> None:
        if _holds_frames(item):
            found.append(item)

    file.visititems(look)
    images = [one for one in found if not _NO_FRAMES.search(one.name.rpartition("/")[2])]
    if not images:
        got = ", ".join(one.name for one in found[:3]) or "none"
        raise FileError(f"{path}: expected a dataset (H, W) or (T, H, W) of numbers, got {got}: name another file")
    return max(images, key=lambda one: (one.size, one.name))


def _holds_frames(item: Any) -> bool:
    """(H, W), (T, H, W), or triplets (T, 3, H, W), of real numbers."""
    if not hasattr(item, "dtype") or not hasattr(item, "is_virtual"):  # a group, or a type
        return False
    shaped = item.ndim in (2, 3) or (item.ndim == 4 and item.shape[1] == 3)
    # A dataset whose bytes are in another file would read whatever that names.
    return shaped and item.dtype.kind in "uif" and item.size and not item.is_virtual and item.external is None


def _frames(path: Path, dataset: Any) -> Frames:
    """Frames of a dataset; FileError or ConfigError where they cannot be uncompressed."""
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > _MAX_CHUNK_BYTES:
        raise FileError(f"{path}: expected chunks of at most {_MAX_CHUNK_BYTES} bytes, got larger ones: write it anew")
    created, h5z = dataset.id.get_create_plist(), load_package("h5py").h5z
    filters = [created.get_filter(number) for number in range(created.get_nfilters())]
    if len(filters) == 1 and filters[0][0] == _BITSHUFFLE and [*filters[0][2]][4:5] == [_LZ4]:
        load_package("bitshuffle", "dectris")
        return _Bitshuffled(dataset, Packing("bslz4", filters[0][2][2], framed=True))
    for code, _, _, name in filters:
        if not h5z.filter_avail(code):
            said = f"{name.decode(errors='replace')[:40]} ({code})"
            raise FileError(f"{path}: expected gzip or bitshuffle with LZ4, got the filter {said}: write it anew")
    return _Single(dataset) if dataset.ndim == 2 else Lazy(dataset)


class _Single:
    """One frame, read when asked for."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> NDArray[Any]:
        return np.asarray(self._array[...])


class _Bitshuffled:
    """Frames whose chunks are uncompressed here: bitshuffle's own filter ends the process where they are damaged."""

    def __init__(self, dataset: Any, packing: Packing) -> None:
        self._dataset, self._packing = dataset, packing
        self._single = dataset.ndim == 2

    def __len__(self) -> int:
        return 1 if self._single else int(self._dataset.shape[0])

    def __getitem__(self, number: int) -> NDArray[Any]:
        number = range(len(self))[number]
        chunks, first = self._dataset.chunks, 0 if self._single else 1
        shape = self._dataset.shape[first:]
        frame = np.empty(shape, self._dataset.dtype)
        for corner in itertools.product(*map(range, itertools.repeat(0), shape, chunks[first:])):
            start = corner if self._single else (number - number % chunks[0], *corner)
            chunk = self._chunk(start)
            part = chunk if self._single else chunk[number % chunks[0]]
            place = frame[tuple(slice(at, at + size) for at, size in zip(corner, part.shape, strict=True))]
            # COPY: each chunk to its place; those at the edges are larger than what is left.
            place[...] = part[tuple(slice(size) for size in place.shape)]
        return frame

    def _chunk(self, start: tuple[int, ...]) -> NDArray[Any]:
        dataset = self._dataset
        left_out, blob = dataset.id.read_direct_chunk(start)
        size = math.prod(dataset.chunks) * dataset.dtype.itemsize
        try:
            pixels = np.frombuffer(blob, np.uint8) if left_out else unpack(memoryview(blob), self._packing, size)
        except FrameError:
            raise ValueError(f"damaged compressed pixels at {start}") from None
        chunk: NDArray[Any] = pixels.view(dataset.dtype).reshape(dataset.chunks)
        return chunk


def _data_links(file: Any) -> list[tuple[str, str]]:
    """File and dataset of each entry/data/data_000001 that is elsewhere, in their order: as DECTRIS writes a master."""
    h5py, group = load_package("h5py"), _own(file, "entry/data")
    if not isinstance(group, h5py.Group):
        return []
    links = {name: group.get(name, getlink=True) for name in group if _DATA.fullmatch(name)}
    elsewhere = [name for name, link in links.items() if isinstance(link, h5py.ExternalLink)]
    return [(links[name].filename, links[name].path) for name in sorted(elsewhere, key=lambda name: int(name[5:]))]


def _own(file: Any, name: str) -> Any:
    """What a name leads to within the file itself, or None."""
    h5py, item = load_package("h5py"), file
    for part in name.strip("/").split("/"):
        if not isinstance(item, h5py.Group) or not isinstance(item.get(part, getlink=True), h5py.HardLink):
            return None
        item = item[part]
    return item


class _Linked:
    """Frames of datasets in other files, one after the other. One of the files is open at a time, in `opened`."""

    def __init__(self, master: Path, links: Sequence[tuple[str, str]], opened: ExitStack) -> None:
        self._parts = [(master, _beside(master, name), dataset) for name, dataset in links]
        self._opened, self._at = opened, -1
        self._frames: Frames = ()
        kinds = list(self._look())
        self._ends = list(itertools.accumulate(shape[0] for shape, _ in kinds))
        first, self.dtype = kinds[0]
        self.shape = (self._ends[-1], *first[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, number: int) -> NDArray[Any]:
        number = range(len(self))[number]
        at = bisect_right(self._ends, number)
        if at != self._at:
            self._open(at)
        pixels = self._frames[number - (self._ends[at - 1] if at else 0)]
        if pixels.shape != self.shape[1:]:
            raise ValueError(f"{self._parts[at][1].name} of {pixels.shape} where the first has {self.shape[1:]}")
        return pixels

    def _look(self) -> Iterator[tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and type of each, which are alike."""
        first: tuple[Any, ...] = ()
        for at, (master, file, _) in enumerate(self._parts):
            dataset = self._open(at)
            kind = (*dataset.shape[1:], dataset.dtype)
            first = first or kind
            if kind != first:
                said = f"{' x '.join(map(str, kind[:-1]))} {kind[-1]} in {file.name}"
                raise FileError(f"{master}: expected data files of one shape and type, got {said}: name the files")
            yield tuple(dataset.shape), dataset.dtype

    def _open(self, at: int) -> Any:
        self._opened.close()
        self._at = -1
        master, path, name = self._parts[at]
        h5py = load_package("h5py")
        try:
            file = self._opened.enter_context(h5py.File(path, "r"))
            dataset = _own(file, name)
        except (OSError, RuntimeError, KeyError) as error:
            raise ValueError(f"{path.name}: {error}") from None
        if dataset is None or not _holds_frames(dataset) or dataset.ndim == 2:
            raise FileError(f"{master}: expected frames at {name} of {path.name}, got none: name the files of data")
        self._frames, self._at = _frames(path, dataset), at
        return dataset


def _beside(master: Path, name: str) -> Path:
    """The file of that name in the master's own folder: a master that is not to be trusted names any file."""
    folder = master.parent.resolve()
    path = folder / name
    if Path(name).name != name or path.resolve().parent != folder:
        raise FileError(f"{master}: expected data files beside it, got {name!r:.200}: put them there, or name them")
    if not path.is_file():
        raise FileError(f"{master}: expected its data files beside it, got no {name!r:.200}: copy it there")
    return path


def _recorded(rows: Any) -> tuple[float | None, float | None]:
    """Pixel size and interval of the frames whose images are kept: the median, for some may be lost in between."""
    kept = rows["image"][:] >= 0
    sampling_A = rows["sampling_A"][:][kept]
    alike = len(sampling_A) and np.allclose(sampling_A, sampling_A[0], rtol=1e-3, atol=0)
    for name in ("timestamp", "elapsed_s"):  # the sender's clock, else ours
        intervals_s = np.diff(rows[name][:][kept])
        if len(intervals_s) and np.isfinite(intervals_s).all():
            return float(sampling_A[0]) if alike else None, float(np.median(intervals_s))
    return float(sampling_A[0]) if alike else None, None
