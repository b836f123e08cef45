"""Atoms of many frames as a table, written frame by frame: CSV, or Parquet where the name ends so."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from engine.atoms import Atoms
from engine.errors import ConfigError, FileError

COLUMNS = ("frame", "time_s", "y", "x", "class", "score", "sigma_pm", "sampling_A")
_SUFFIXES = (".csv", ".parquet")
_ROWS = 65_536  # rows that wait until Parquet writes them as one group


class _Writer(Protocol):
    """Takes the rows of one frame, as columns of equal length."""

    def write(self, columns: dict[str, list[Any]]) -> None: ...


class Table:
    """The table of atoms. A context manager: a table that was left early holds the frames until then.

    Parameters
    ----------
    path : Path or None
        Ends in .csv or .parquet: a recording that was named by mistake is not overwritten. None writes CSV to stdout.
    classes : sequence of str
        Name of each class_id.
    """

    def __init__(self, path: Path | None, classes: Sequence[str]) -> None:
        if path is not None and path.suffix.lower() not in _SUFFIXES:
            raise ConfigError(
                f"{path}: expected a name in {', '.join(_SUFFIXES)} for the table, got {path.suffix!r}: rename it"
            )
        self._path = path
        self._classes = np.array(classes)
        self._open = ExitStack()
        self._writer: _Writer
        try:
            if path is not None and path.suffix.lower() == ".parquet":
                self._writer = self._open.enter_context(_Parquet(path))
            else:
                text = sys.stdout if path is None else self._open.enter_context(path.open("w", newline=""))
                self._writer = _Csv(text)
        except OSError as error:
            raise FileError(f"{path}: expected a file to write to, got {error.strerror}: choose another path") from None

    def add(self, frame: int, time_s: float | None, atoms: Atoms, sampling_A: float) -> None:
        """Append the atoms of one frame; a time that is not known stays empty."""
        count = len(atoms)
        rows = {
            "frame": [frame] * count,
            "time_s": [time_s] * count,
            "y": _decimals(atoms.y, 4),
            "x": _decimals(atoms.x, 4),
            "class": self._classes[atoms.class_id].tolist(),
            "score": _decimals(atoms.score, 4),
            "sigma_pm": _decimals(atoms.sigma_pm, 2),
            "sampling_A": [sampling_A] * count,
        }
        with _writing(self._path):
            self._writer.write(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _writing(self._path):
            self._open.close()


@contextmanager
def _writing(path: Path | None) -> Iterator[None]:
    """A full disk in one line; a reader of stdout that left is the command's to handle."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileError(
            f"{path or 'stdout'}: expected room for the table, got {error.strerror or error}: choose another path"
        ) from None


def _decimals(column: NDArray[np.float32], digits: int) -> list[float]:
    """Rounded in double precision: 0.1 is written as 0.1."""
    rounded: list[float] = np.round(column.astype(np.float64), digits).tolist()
    return rounded


class _Csv:
    def __init__(self, text: Any) -> None:
        self._rows = csv.writer(text, lineterminator="\n")
        self._rows.writerow(COLUMNS)

    def write(self, columns: dict[str, list[Any]]) -> None:
        self._rows.writerows(zip(*columns.values(), strict=True))


class _Parquet:
    """Collects frames to row groups; a context manager."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as arrow
            from pyarrow import parquet
        except ImportError:
            raise ConfigError(
                f"{path}: expected pyarrow for a name that ends in .parquet, got an install without it: "
                "pip install 'atomstream[parquet]', or write .csv"
            ) from None
        number, name = arrow.float64(), arrow.dictionary(arrow.int32(), arrow.string())
        types = dict.fromkeys(COLUMNS, number) | {"frame": arrow.int64(), "class": name}
        self._schema = arrow.schema([(column, types[column]) for column in COLUMNS])
        self._from_columns = arrow.table
        self._file = parquet.ParquetWriter(path, self._schema)
        self._waiting: dict[str, list[Any]] = {column: [] for column in COLUMNS}

    def write(self, columns: dict[str, list[Any]]) -> None:
        for name, values in columns.items():
            self._waiting[name] += values
        if len(self._waiting["frame"]) >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        self._file.write_table(self._from_columns(self._waiting, schema=self._schema))
        self._waiting = {column: [] for column in COLUMNS}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        self._file.close()
