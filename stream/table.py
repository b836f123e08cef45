"""Atoms of many frames as a table, written frame by frame: CSV, or Parquet where the name ends so. Other tables too."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeGuard

import numpy as np
from numpy.typing import NDArray

from engine.atoms import Atoms
from engine.errors import ConfigError, FileError

COLUMNS = ("frame", "time_s", "y", "x", "class", "score", "sigma_pm", "sampling_A")
_TYPES = dict.fromkeys(COLUMNS, "float") | {"frame": "int", "class": "text"}
_SUFFIXES = (".csv", ".parquet")
_STDOUT = "standard output"
_ROWS = 65_536  # rows that wait until Parquet writes them as one group


class _Writer(Protocol):
    """Takes rows, as columns of equal length."""

    def write(self, columns: dict[str, list[Any]]) -> None: ...


class Rows:
    """A table of any columns, in CSV or Parquet. A context manager: what was written until an early end is there.

    A folder or a package that is not there is told at once, `late` or not.

    Parameters
    ----------
    path : Path or None
        Ends in .csv or .parquet: a recording that was named by mistake is not overwritten. None writes CSV to stdout.
    types : dict
        "int", "float" or "text" for each column.
    late : bool
        Begin with the first rows: until then, a table that was there before stays as it was.
    """

    def __init__(self, path: Path | None, types: Mapping[str, str], late: bool = False) -> None:
        if path is not None and path.suffix.lower() not in _SUFFIXES:
            raise ConfigError(
                f"{path}: expected a name in {', '.join(_SUFFIXES)} for the table, got {path.suffix!r}: rename it"
            )
        if path is not None and not path.parent.is_dir():
            raise FileError(f"{path}: expected a file to write to, got a folder that is not there: make it")
        if _is_parquet(path):
            _pyarrow(path)
        self._path, self._types = path, types
        self._open = ExitStack()
        self._writer = None if late else self._begin()

    def write(self, columns: dict[str, list[Any]]) -> None:
        """Append rows; None is an empty cell."""
        self._writer = self._writer or self._begin()
        with writing(self._path):
            self._writer.write(columns)

    def _begin(self) -> _Writer:
        path = self._path
        try:
            if _is_parquet(path):
                return self._open.enter_context(_Parquet(path, self._types))
            text = sys.stdout if path is None else self._open.enter_context(path.open("w", newline=""))
            return _Csv(text, self._types)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise FileError(
                f"{path or _STDOUT}: expected a file to write to, got {error.strerror}: choose another path"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self._path):
            self._open.close()
            if self._path is None:
                print(end="", flush=True)  # a full disk is found here, not at the end of Python


class Table(Rows):
    """The table of atoms. It begins with the first frame: an earlier one is not lost where no frame can be processed.

    Parameters
    ----------
    classes : sequence of str
        Name of each class_id.
    """

    def __init__(self, path: Path | None, classes: Sequence[str]) -> None:
        super().__init__(path, _TYPES, late=True)
        self._classes = np.array(classes)

    def add(self, frame: int, time_s: float | None, atoms: Atoms, sampling_A: float) -> None:
        """Append the atoms of one frame; a time that is not known stays empty."""
        count = len(atoms)
        self.write(
            {
                "frame": [frame] * count,
                "time_s": [time_s] * count,
                "y": decimals(atoms.y, 4),
                "x": decimals(atoms.x, 4),
                "class": self._classes[atoms.class_id].tolist(),
                "score": decimals(atoms.score, 4),
                "sigma_pm": decimals(atoms.sigma_pm, 2),
                "sampling_A": [sampling_A] * count,
            }
        )


@contextmanager
def writing(path: Path | None) -> Iterator[None]:
    """A full disk in one line; a reader of stdout that left is the command's to handle."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileError(
            f"{path or _STDOUT}: expected room for the table, got {error.strerror or error}: choose another path"
        ) from None


def decimals(column: NDArray[np.float32], digits: int) -> list[float]:
    """Rounded in double precision: 0.1 is written as 0.1."""
    rounded: list[float] = np.round(column.astype(np.float64), digits).tolist()
    return rounded


class _Csv:
    def __init__(self, text: Any, types: Mapping[str, str]) -> None:
        self._rows = csv.writer(text, lineterminator="\n")
        self._rows.writerow(types)

    def write(self, columns: dict[str, list[Any]]) -> None:
        self._rows.writerows(zip(*columns.values(), strict=True))


def _is_parquet(path: Path | None) -> TypeGuard[Path]:
    return path is not None and path.suffix.lower() == ".parquet"


def _pyarrow(path: Path) -> tuple[Any, Any]:
    """The package, and its part for Parquet; ConfigError where it is not installed."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(
            f"{path}: expected pyarrow for a name that ends in .parquet, got an install without it: "
            "pip install 'atomstream[parquet]', or write .csv"
        ) from None
    return arrow, parquet


class _Parquet:
    """Collects frames to row groups; a context manager."""

    def __init__(self, path: Path, types: Mapping[str, str]) -> None:
        arrow, parquet = _pyarrow(path)
        text = arrow.dictionary(arrow.int32(), arrow.string())
        kinds = {"int": arrow.int64(), "float": arrow.float64(), "text": text}
        self._schema = arrow.schema([(column, kinds[kind]) for column, kind in types.items()])
        self._from_columns = arrow.table
        self._file = parquet.ParquetWriter(path, self._schema)
        self._waiting: dict[str, list[Any]] = {column: [] for column in types}

    def write(self, columns: dict[str, list[Any]]) -> None:
        for name, values in columns.items():
            self._waiting[name] += values
        if len(next(iter(self._waiting.values()))) >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        self._file.write_table(self._from_columns(self._waiting, schema=self._schema))
        self._waiting = {column: [] for column in self._waiting}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        self._file.close()
