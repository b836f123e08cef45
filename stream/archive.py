"""A recording on disk: one HDF5 file that grows while others read it (SWMR), laid out as docs/recording.md says.

Rows are collected and appended by `flush`, atoms before the frames they belong to. A process that is killed leaves a
file that opens and holds what was flushed. Nothing is created once the file grows: SWMR does not allow it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.atoms import Atoms
from engine.errors import ConfigError, FileError, FrameError, one_line
from stream.accounting import GAPS
from stream.exposure import DRIFT_COLUMNS, drift_row
from stream.nexus import UNITS, annotate, describe, iso_time
from stream.recording import Record

COMPRESSIONS = ("gzip", "lzf", "none")
STAGES_MS = ("decode", "wait", "prepare", "network", "locate")
NUMBERS = ("sampling_A", "dose_e_A2", "dose_total_e_A2", "latency_ms", "age_ms", "clock_difference_ms")
FRAME_COLUMNS = (
    {"elapsed_s": "<f8", "record": "<i8", "frame": "<i8", "series": "<i4", "timestamp": "<f8", "answered": "<f8"}
    | {"height": "<i4", "width": "<i4"}
    | dict.fromkeys((*NUMBERS, "frame_interval_ms"), "<f8")
    | {f"{stage}_ms": "<f4" for stage in STAGES_MS}
    | {"in_time": "|i1", "count": "<i4", "atoms_start": "<i8", "atoms_stop": "<i8", "image": "<i8"}
    | {"covered": "<i4", "warnings": "<i4", "header": "<i4"}
    | dict.fromkeys(DRIFT_COLUMNS, "<f4")
    | {"drift_certain": "|i1"}
)
GAP_COLUMNS = {"first": "<i8", "count": "<i8", "reason": "|i1", "time": "<f8"}

# A chunk that is not full is compressed and stored anew with every flush, and the place of the one before is lost. So
# chunks of atoms are small, and what grows slowly is not compressed: such chunks are rewritten in place.
_ATOM_ROWS, _ROWS, _TEXT_BYTES = 1024, 256, 16_384
_TEXTS_KNOWN = 1000
_FILTERS: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "lzf": {"compression": "lzf", "shuffle": True},
    "none": {},
}
_CAUSE = re.compile(r"error message = '([^']+)'")


def import_h5py() -> Any:
    """The module h5py; ConfigError where it is not installed."""
    try:
        import h5py
    except ImportError:
        raise ConfigError(
            "expected h5py for recordings, got an install without it: pip install 'atomstream[record]'"
        ) from None
    return h5py


class Archive:
    """The file of one recording. Any FileError means that it cannot go on: `close` must not be called then.

    Parameters
    ----------
    path : Path
        Must not exist. The file appears there as soon as it can be read.
    begin : dict
        Header of serve's first message: model, configuration.
    first : Record or None
        Its columns, and the shape of its pixels, are those of the whole file.
    """

    def __init__(self, path: Path, begin: Mapping[str, Any], first: Record | None, compression: str = "gzip") -> None:
        self.path = path
        self.images_left_out = 0
        self._texts: dict[str, int] = {}
        self._text_count = self._text_bytes = 0
        self._gaps: list[list[float]] = []
        self._gaps_changed: int | None = None
        filters = _FILTERS[compression]
        columns = Atoms.none().columns() if first is None else first.columns
        self._dtypes = {name: column.dtype.newbyteorder("<") for name, column in columns.items()}
        self._started = _finite(begin.get("started"))
        part = path.with_name(f"{path.name}.part")
        with self._writing():
            self._file = import_h5py().File(part, "w", libver="latest")
            describe(self._file, begin)
            entry = self._file["entry"]
            self._atoms = _Table(entry.create_group("atoms"), self._dtypes, _ATOM_ROWS, filters)
            self._frames = _Table(entry.create_group("frames"), FRAME_COLUMNS, _ROWS)
            self._gap_table = _Table(entry.create_group("gaps"), GAP_COLUMNS, _ROWS)
            texts = entry.create_group("texts")
            self._text_table = _Table(texts, {"bytes": "|u1"}, _TEXT_BYTES)
            self._stop_table = _Table(texts, {"stop": "<i8"}, _ROWS)
            self._images = None if first is None or first.pixels is None else _images(entry, first.pixels, filters)
            annotate(entry, begin)
            self._file.swmr_mode = True
            self._file.flush()
            if path.exists():
                raise FileError(f"{path}: expected a new file to record to, got one that is there: choose another name")
            os.rename(part, path)
        self._lock = os.open(path, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_SH)  # until the process ends, so that nobody repairs what still grows

    def add(self, record: Record) -> None:
        """Collect the atoms of one frame; its pixels are written at once. FrameError where it does not fit the file."""
        header = record.header
        if {name: column.dtype.newbyteorder("<") for name, column in record.columns.items()} != self._dtypes:
            raise FrameError("wrong_key", f"Expected the columns {sorted(self._dtypes)}, got others: begin a new file")
        row = self._row(header) | {"image": self._add_image(record)}
        start = self._atoms.length
        self._atoms.add(record.columns)
        stop = self._atoms.length
        row |= {"count": stop - start, "atoms_start": start, "atoms_stop": stop}
        self._frames.add({name: np.array([row[name]], dtype) for name, dtype in FRAME_COLUMNS.items()})

    def gap(self, first: int, count: int, reason: str, time_s: float) -> None:
        """So many results from this number on are missing; a gap that goes on stays one row."""
        code = GAPS.index(reason)
        last = self._gaps[-1] if self._gaps else None
        if last is not None and last[0] + last[1] == first and last[2] == code:
            last[1] += count
        else:
            self._gaps.append([first, count, code, time_s])
        changed = len(self._gaps) - 1
        self._gaps_changed = changed if self._gaps_changed is None else min(changed, self._gaps_changed)

    def flush(self) -> None:
        """Bring everything collected into the file, for readers and for whoever finds it after a crash."""
        with self._writing():
            if self._images is not None:
                self._images.flush()
            # This order: a row that can be read refers only to what can be read.
            for table in (self._atoms, self._text_table, self._stop_table, self._frames):
                table.write()
            if self._gaps_changed is not None:
                rows = np.array(self._gaps, np.float64).T
                self._gap_table.rewrite(dict(zip(GAP_COLUMNS, rows, strict=True)), self._gaps_changed)
                self._gaps_changed = None

    def close(self) -> None:
        """Flush, note that the recording is complete, and close."""
        self.flush()
        with self._writing():
            self._file["entry/end_time"][()] = iso_time(None).encode()
            self._file["entry/complete"][()] = 1
            self._file.close()
        os.close(self._lock)

    @property
    def frames(self) -> int:
        """Frames in the file, or collected for it."""
        return self._frames.length

    @property
    def atoms(self) -> int:
        """Their atoms."""
        return self._atoms.length

    def _row(self, header: Mapping[str, Any]) -> dict[str, Any]:
        shape = header.get("shape")
        height, width = shape if isinstance(shape, list) and len(shape) == 2 else (-1, -1)
        stages = header.get("stages_ms")
        stages = stages if isinstance(stages, dict) else {}
        answered = _finite(header.get("answered"))
        return {
            "elapsed_s": answered - self._started,
            "record": _whole(header.get("record")),
            "frame": _whole(header.get("frame")),
            "series": self._text(header.get("series")),
            "timestamp": _finite(header.get("timestamp")),
            "answered": answered,
            "height": _whole(height, 2**31),
            "width": _whole(width, 2**31),
            **{name: _finite(header.get(name)) for name in (*NUMBERS, "frame_interval_ms")},
            **{f"{stage}_ms": _finite(stages.get(stage)) for stage in STAGES_MS},
            "in_time": _yes_or_no(header.get("in_time")),
            "covered": _whole(header.get("covered"), 2**31),
            "warnings": self._text(header.get("warnings") or None),
            "header": self._text(header.get("header") or None),
            **_drift(header.get("drift_px")),
            "drift_certain": _yes_or_no(header.get("drift_certain")),
        }

    def _text(self, value: Any) -> int:
        """Number of a text, as JSON, in the file's texts; -1 for none."""
        if value is None:
            return -1
        text = json.dumps(value)
        if text not in self._texts:
            if len(self._texts) >= _TEXTS_KNOWN:
                self._texts.clear()
            raw = np.frombuffer(text.encode(), np.uint8)
            self._text_table.add({"bytes": raw})
            self._stop_table.add({"stop": np.array([self._text_table.length], np.int64)})
            self._texts[text] = self._stop_table.length - 1
        return self._texts[text]

    def _add_image(self, record: Record) -> int:
        """Row of the pixels in the file; -1 where there are none, or where they are of another shape or type."""
        pixels, images = record.pixels, self._images
        if pixels is None:
            return -1
        if images is None or images.shape[1:] != pixels.shape or images.dtype != pixels.dtype:
            self.images_left_out += 1
            return -1
        with self._writing():
            row = len(images)
            images.resize(row + 1, axis=0)
            images[row] = pixels
        return int(row)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """h5py's errors as ours: they come as OSError or as RuntimeError, the cause inside a long text."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            said = _CAUSE.search(str(error))
            cause = said[1] if said else getattr(error, "strerror", None) or one_line(error)[:200]
            raise FileError(
                f"{self.path}: expected room for the recording, got {cause}: free some, and record to another file"
            ) from None


class _Table:
    """Columns of one length that grow together; rows are collected until they are written."""

    def __init__(
        self, group: Any, dtypes: Mapping[str, Any], chunk: int, filters: Mapping[str, Any] | None = None
    ) -> None:
        self.length = 0  # with the rows collected
        self._written = 0
        self._pending: dict[str, list[NDArray[Any]]] = {name: [] for name in dtypes}
        self._columns = {
            name: group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(chunk,), **(filters or {}))
            for name, dtype in dtypes.items()
        }
        for name in self._columns.keys() & UNITS.keys():
            self._columns[name].attrs["units"] = UNITS[name]

    def add(self, columns: Mapping[str, NDArray[Any]]) -> None:
        for name, values in columns.items():
            self._pending[name].append(values)
        self.length += len(values)

    def write(self) -> None:
        if self.length == self._written:
            return
        for name, column in self._columns.items():
            column.resize(self.length, axis=0)
            column[self._written :] = np.concatenate(self._pending[name])
            column.flush()
            self._pending[name].clear()
        self._written = self.length

    def rewrite(self, columns: Mapping[str, NDArray[Any]], first: int) -> None:
        """Replace the rows from `first` on."""
        for name, values in columns.items():
            self._columns[name].resize(len(values), axis=0)
            self._columns[name][first:] = values[first:]
            self._columns[name].flush()


def _images(entry: Any, pixels: NDArray[Any], filters: Mapping[str, Any]) -> Any:
    """One chunk a frame."""
    shape = pixels.shape
    images = entry.create_group("images").create_dataset(
        "data", (0, *shape), pixels.dtype, maxshape=(None, *shape), chunks=(1, *shape), **filters
    )
    images.attrs["interpretation"] = "image"
    return images


def _finite(value: Any) -> float:
    try:
        return float(value) if type(value) in (int, float) else float("nan")
    except OverflowError:  # a whole number that no float holds
        return float("nan")


def _drift(value: Any) -> dict[str, float]:
    """NaN for what is no three pairs: a recording goes on whatever serve says."""
    pairs = value if isinstance(value, list) and all(isinstance(one, list) and len(one) == 2 for one in value) else []
    return drift_row([[_finite(one) for one in pair] for pair in pairs])


def _yes_or_no(value: Any) -> int:
    return int(value) if isinstance(value, bool) else -1


def _whole(value: Any, most: int = 2**63) -> int:
    return value if type(value) is int and -most <= value < most else -1
