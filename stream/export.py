"""A recording as a table, or as structures for ASE and others: one file in, one file out (docs/recording.md)."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from engine.errors import ConfigError, FileError
from stream.archived import Archived, RecordedFrame
from stream.extxyz import frame_text
from stream.table import Rows, decimals, writing

HELP = "a recording as CSV, Parquet or extended XYZ"
TYPES = (
    {"record": "int", "series": "text", "frame": "int", "time_s": "float", "timestamp": "float"}
    | dict.fromkeys(("y", "x"), "float")
    | {"class": "text", "score": "float", "sigma_pm": "float", "agreement": "float", "flags": "int"}
    | {"sampling_A": "float"}
)

_XYZ = (".extxyz", ".xyz")


class _Output(Protocol):
    def add(self, frame: RecordedFrame) -> None: ...


class TableOutput:
    """One row an atom."""

    def __init__(self, rows: Rows, classes: Sequence[str]) -> None:
        self._rows = rows
        self._classes = np.array(classes)

    def add(self, frame: RecordedFrame) -> None:
        """The atoms of one frame."""
        atoms, row, count = frame.atoms, frame.row, len(frame.atoms)
        every = {
            "record": row["record"],
            "series": None if frame.series is None else str(frame.series),
            "frame": row["frame"],
            "time_s": known(row["elapsed_s"]),
            "timestamp": known(row["timestamp"]),
            "sampling_A": known(row["sampling_A"]),
        }
        own = {
            "y": decimals(atoms.y, 4),
            "x": decimals(atoms.x, 4),
            "class": self._classes[atoms.class_id].tolist(),
            "score": decimals(atoms.score, 4),
            "sigma_pm": decimals(atoms.sigma_pm, 2),
            "agreement": decimals(atoms.agreement, 4),
            "flags": atoms.flags.tolist(),
        }
        columns = {name: [value] * count for name, value in every.items()} | own
        self._rows.write({name: columns[name] for name in TYPES})


class XyzOutput:
    """One block a frame."""

    def __init__(self, file: Any, path: Path, classes: Sequence[str]) -> None:
        self._file = file
        self._path = path
        self._classes = classes

    def add(self, frame: RecordedFrame) -> None:
        """The atoms of one frame."""
        row = frame.row
        if not (row["sampling_A"] > 0 and row["height"] > 0 and row["width"] > 0):
            raise FileError(
                f"{self._path}: expected frames of known size and sampling, got none in {row['record']}: export .csv"
            )
        about = {"frame": row["frame"], "series": frame.series, "record": row["record"], "time_s": row["elapsed_s"]}
        about |= {"timestamp": row["timestamp"], "dose_e_A2": row["dose_e_A2"]}
        shape = (row["height"], row["width"])
        with writing(self._path):
            self._file.write(frame_text(frame.atoms, self._classes, shape, row["sampling_A"], about))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """From where to where."""
    parser.add_argument("recording", type=Path, metavar="FILE.h5", help="a recording, complete or not")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=".csv, .parquet or .extxyz")


def run(options: argparse.Namespace) -> int:
    """Export, and say on stderr how much there was and what is missing."""
    if options.output.is_file():  # what is no file, such as /dev/stdout, holds nothing that could be lost
        raise FileError(f"{options.output}: expected a new file to export to, got one that is there: rename it")
    with Archived(options.recording) as archived:
        count = frames = 0
        with _whole_or_not_at_all(options.output), ExitStack() as stack:
            output = _open(options.output, archived, stack)
            for frame in archived:
                if frame.atoms.class_id.max(initial=0) >= len(archived.classes):
                    raise FileError(
                        f"{options.recording}: expected classes {archived.classes}, got another: copy it again"
                    )
                output.add(frame)
                count, frames = count + len(frame.atoms), frames + 1
        missing = sum(gap.count for gap in archived.gaps())
    said = f"; {missing} results are missing in the recording" if missing else ""
    print(f"{count} atoms in {frames} frame{'s' * (frames != 1)}{said}", file=sys.stderr)
    return 0


def known(value: float) -> float | None:
    """None for NaN."""
    return value if math.isfinite(value) else None


@contextmanager
def _whole_or_not_at_all(path: Path) -> Iterator[None]:
    """Half an export could be taken for a whole one."""
    try:
        yield
    except BaseException:
        if path.is_file():
            path.unlink()
        raise


def _open(path: Path, archived: Archived, stack: ExitStack) -> _Output:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".parquet"):
        return TableOutput(stack.enter_context(Rows(path, TYPES)), archived.classes)
    if suffix not in _XYZ:
        raise ConfigError(f"{path}: expected a name in .csv, .parquet, .extxyz, got {path.suffix!r}: rename it")
    stack.enter_context(writing(path))  # the last lines are written when the file is closed
    try:
        file = stack.enter_context(path.open("w", encoding="ascii"))
    except OSError as error:
        raise FileError(f"{path}: expected a file to write to, got {error.strerror}: choose another path") from None
    return XyzOutput(file, path, archived.classes)
