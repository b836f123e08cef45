"""The table of atoms: its columns, its two formats, what waits in memory."""

from __future__ import annotations

import builtins
import contextlib
import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import Atoms
from engine.errors import ConfigError, FileError
from stream import table
from stream.table import COLUMNS, Table


def some_atoms(count: int = 2) -> Atoms:
    ramp = np.arange(count, dtype=np.float32)
    none = np.zeros(count, np.uint8)
    return Atoms(
        ramp + 0.1, ramp + 0.25, none + np.arange(count, dtype=np.uint8) % 2, ramp * 0 + 0.9, ramp + 7, ramp, none
    )


def write(path: Path | None) -> None:
    with Table(path, ("C", "Si")) as rows:
        rows.add(0, 0.0, some_atoms(), 0.12)
        rows.add(1, 0.04, Atoms.none(), 0.12)
        rows.add(2, None, some_atoms(1), 0.3)


EXPECTED = [
    "frame,time_s,y,x,class,score,sigma_pm,sampling_A",
    "0,0.0,0.1,0.25,C,0.9,7.0,0.12",
    "0,0.0,1.1,1.25,Si,0.9,8.0,0.12",
    "2,,0.1,0.25,C,0.9,7.0,0.3",
]


def test_csv(tmp_path: Path) -> None:
    write(tmp_path / "atoms.csv")
    assert (tmp_path / "atoms.csv").read_text().splitlines() == EXPECTED
    with (tmp_path / "atoms.csv").open(newline="") as lines:
        assert next(csv.reader(lines)) == list(COLUMNS)


def test_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    write(None)
    assert capsys.readouterr().out.splitlines() == EXPECTED
    print("still open", file=sys.stdout)


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "atoms.parquet")
    read: dict[str, list[Any]] = parquet.read_table(tmp_path / "atoms.parquet").to_pydict()
    assert list(read) == list(COLUMNS)
    assert read["frame"] == [0, 0, 2]
    assert read["time_s"] == [0.0, 0.0, None]
    assert read["class"] == ["C", "Si", "C"]
    assert read["y"] == [0.1, 1.1, 0.1]


def test_parquet_writes_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(table, "_ROWS", 10)
    with Table(tmp_path / "atoms.parquet", ("C", "Si")) as rows:
        for frame in range(9):
            rows.add(frame, None, some_atoms(5), 0.1)
    with parquet.ParquetFile(tmp_path / "atoms.parquet") as written:
        assert written.metadata.num_rows == 45
        assert written.metadata.num_row_groups == 5


@pytest.mark.parametrize("name", ["atoms.csv", "atoms.parquet"])
def test_a_table_left_early_holds_what_came(tmp_path: Path, name: str) -> None:
    with contextlib.suppress(RuntimeError), Table(tmp_path / name, ("C", "Si")) as rows:
        rows.add(0, None, some_atoms(), 0.12)
        raise RuntimeError
    if name.endswith("csv"):
        assert len((tmp_path / name).read_text().splitlines()) == 3
    else:
        assert pytest.importorskip("pyarrow.parquet").read_table(tmp_path / name).num_rows == 2


@pytest.mark.parametrize("name", ["atoms.csv", "atoms.parquet"])
def test_without_a_frame_an_earlier_table_stays(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_text("earlier")
    with contextlib.suppress(RuntimeError), Table(tmp_path / name, ("C",)):
        raise RuntimeError
    assert (tmp_path / name).read_text() == "earlier"
    with Table(tmp_path / name, ("C", "Si")) as rows:
        rows.add(0, None, Atoms.none(), 0.12)
    assert b"sigma_pm" in (tmp_path / name).read_bytes()  # a frame without atoms is one


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_pyarrow(name: str, *arguments: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return original(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(ConfigError, match=r"pip install 'atomstream\[parquet\]'"):
        Table(tmp_path / "atoms.parquet", ("C",))


@pytest.mark.parametrize("name", ["atoms.csv", "atoms.parquet"])
def test_a_path_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match="expected a file to write to"):
        Table(tmp_path / "none" / name, ("C",))
    (tmp_path / name).mkdir()
    with pytest.raises(FileError, match=r"expected a file to write to, got .*Is a directory"):
        write(tmp_path / name)


def test_no_recording_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "movie.npy").write_bytes(b"frames")
    with pytest.raises(ConfigError, match=r"expected a name in \.csv, \.parquet"):
        Table(tmp_path / "movie.npy", ("C",))
    assert (tmp_path / "movie.npy").read_bytes() == b"frames"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("buffering", [1, 8192])  # found with the first line, and at the end
def test_standard_output_on_a_full_disk(monkeypatch: pytest.MonkeyPatch, buffering: int) -> None:
    full = Path("/dev/full").open("w", buffering=buffering)  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", full)
    with pytest.raises(FileError, match=r"standard output: expected .*, got No space left on device: choose another"):
        write(None)
    with contextlib.suppress(OSError):
        full.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("frames", [1, 1000])  # found when it is closed, and before
def test_a_full_disk(tmp_path: Path, frames: int) -> None:
    (tmp_path / "atoms.csv").symlink_to("/dev/full")

    def fill() -> None:
        with Table(tmp_path / "atoms.csv", ("C", "Si")) as rows:
            for frame in range(frames):
                rows.add(frame, None, some_atoms(), 0.12)

    with pytest.raises(FileError, match="expected room for the table"):
        fill()
