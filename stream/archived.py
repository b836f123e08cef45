"""A recording read back, frame by frame: one that is complete, one that still grows, or one whose recorder was killed.

Files are as little to be trusted as the network: only so much is read at once, whatever their tables say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.atoms import Atoms
from engine.errors import FileError, one_line
from stream.accounting import GAPS
from stream.archive import FRAME_COLUMNS, GAP_COLUMNS, import_h5py
from stream.exposure import DRIFT_COLUMNS
from stream.nexus import FORMAT

_BLOCK = 256  # frames whose rows are read at once
_MOST_ATOMS = 10_000_000  # in such a block
_MOST_TEXT = 1_000_000
_MOST_CHUNK = 16_000_000  # bytes that HDF5 makes room for at once
_MOST_GAPS = 1_000_000


@dataclass(frozen=True, slots=True)
class Gap:
    """Results that are missing: `count` of them from number `first` on."""

    first: int
    count: int
    reason: str
    time: float


@dataclass(frozen=True, slots=True, eq=False)
class RecordedFrame:
    """One frame of a recording.

    Attributes
    ----------
    row : dict
        The columns of the table of frames; NaN and -1 stand for what is not known.
    """

    row: dict[str, Any]
    series: str | int | None
    warnings: tuple[str, ...]
    header: dict[str, Any]
    atoms: Atoms


class Archived:
    """An open recording. A context manager, and an iterable of its frames."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # SWMR, because any other reader is refused while the file grows or after its writer was killed.
            self._file = import_h5py().File(path, "r", libver="latest", swmr=True)
        except (OSError, RuntimeError, ValueError) as error:  # h5py raises whatever HDF5 comes upon
            cause = getattr(error, "strerror", None) or one_line(error)[:120]
            raise FileError(f"{path}: expected a recording, got {cause}: check the path") from None
        try:
            if self._file.attrs.get("format") != FORMAT:
                raise FileError(f"{path}: expected a recording of `atomstream record`, got another file: choose one")
            entry = self._file["entry"]
            self.classes = tuple(str(name) for name in entry["atoms"].attrs["classes"])
            self.complete = bool(entry["complete"][()])
            self._atoms = {field.name: entry["atoms"][field.name] for field in fields(Atoms)}
            older = () if "drift_certain" in entry["frames"] else (*DRIFT_COLUMNS, "drift_certain")  # had none of these
            self._frames = {name: entry["frames"][name] for name in FRAME_COLUMNS if name not in older}
            self._gaps = {name: entry["gaps"][name] for name in GAP_COLUMNS}
            self._texts = (entry["texts/bytes"], entry["texts/stop"])
            for column in (*self._atoms.values(), *self._frames.values(), *self._gaps.values(), *self._texts):
                if column.ndim != 1 or column.chunks is None or column.chunks[0] * column.dtype.itemsize > _MOST_CHUNK:
                    raise ValueError(f"{column.name} of shape {column.shape} in chunks of {column.chunks}")
        except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            self._file.close()
            raise FileError(f"{path}: expected the tables of a recording, got {error}: record it again") from None
        except FileError:
            self._file.close()
            raise

    def __len__(self) -> int:
        """Frames that are whole: a recorder that was killed may have left one column longer than another."""
        return min(len(column) for column in self._frames.values())

    def __iter__(self) -> Iterator[RecordedFrame]:
        for start in range(0, len(self), _BLOCK):
            try:
                yield from self._block(start, min(start + _BLOCK, len(self)))
            except (IndexError, OSError, RuntimeError, TypeError, ValueError) as error:
                cause = one_line(error)[:200]
                raise FileError(f"{self.path}: expected a readable recording, got {cause}: copy it again") from None

    def gaps(self) -> list[Gap]:
        """What is missing, in order."""
        rows = min(_MOST_GAPS, *(len(column) for column in self._gaps.values()))
        columns = [column[:rows].tolist() for column in self._gaps.values()]
        return [Gap(first, count, GAPS[reason], time) for first, count, reason, time in zip(*columns, strict=True)]

    def image(self, frame: RecordedFrame) -> NDArray[Any] | None:
        """The pixels of a frame, as its sender sent them; None where they were not recorded."""
        row = frame.row["image"]
        if row < 0 or "images" not in self._file["entry"]:
            return None
        pixels: NDArray[Any] = self._file["entry/images/data"][row]
        return pixels

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _block(self, start: int, stop: int) -> Iterator[RecordedFrame]:
        columns = {name: column[start:stop] for name, column in self._frames.items()}
        begins, ends = columns["atoms_start"], columns["atoms_stop"]
        first, last = int(begins[0]), int(ends[-1])
        steps = np.concatenate([[first], ends])
        if not 0 <= last - first <= _MOST_ATOMS or (np.diff(steps) < 0).any() or (begins != steps[:-1]).any():
            raise ValueError(f"atoms {first} to {last} for the frames {start} to {stop}")
        atoms = {name: column[first:last] for name, column in self._atoms.items()}
        if any(len(column) != last - first for column in atoms.values()):
            raise ValueError(f"fewer atoms than {last}")
        for k in range(stop - start):
            row = {name: column[k].item() for name, column in columns.items()}
            rows = slice(int(begins[k]) - first, int(ends[k]) - first)
            yield RecordedFrame(
                row,
                self._text(row["series"]),
                tuple(self._text(row["warnings"]) or ()),
                self._text(row["header"]) or {},
                Atoms(**{name: column[rows] for name, column in atoms.items()}),
            )

    def _text(self, number: int) -> Any:
        raw, stops = self._texts
        if number < 0:
            return None
        begin, end = int(stops[number - 1]) if number else 0, int(stops[number])
        if not 0 <= end - begin <= _MOST_TEXT:
            raise ValueError(f"a text of {end - begin} bytes")
        return json.loads(raw[begin:end].tobytes())
