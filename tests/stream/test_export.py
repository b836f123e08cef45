"""A recording as a table or as structures, read back by programs that nobody here wrote."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import ase.io
import h5py
import numpy as np
import pytest

from engine.atoms import Atoms
from stream.cli import main
from stream.extxyz import element, frame_text
from tests.stream.archives import archive, child, found, record

SERIES = 'Mo "S2", α=1'


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Three frames, the second without atoms, the third without much that is known."""
    last = record(4, 2, series=None, timestamp=None)
    return archive(tmp_path / "a.h5", [record(1, series=SERIES, dose_e_A2=12.5), record(2, 0), last])


def export(recording: Path, name: str) -> Path:
    output = recording.parent / name
    assert main(["export", str(recording), "--output", str(output)]) == 0
    return output


class TestTables:
    def test_csv(self, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with export(recording, "a.csv").open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        assert "5 atoms in 3 frames\n" in capsys.readouterr().err
        assert [(row["record"], row["frame"], row["series"]) for row in rows] == [("1", "101", SERIES)] * 3 + [
            ("4", "104", "")
        ] * 2
        assert [float(row["y"]) for row in rows] == [*found(3, 1).y, *found(2, 4).y]
        assert [row["class"] for row in rows] == ["C", "N", "C", "C", "N"]
        assert (rows[0]["time_s"], rows[0]["timestamp"], rows[4]["timestamp"]) == ("1.5", "1700000001.0", "")

    def test_parquet_holds_the_same(self, recording: Path) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        table = parquet.read_table(export(recording, "a.parquet")).to_pydict()
        with export(recording, "a.csv").open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        assert list(table) == list(rows[0])
        for name, column in table.items():
            assert ["" if value is None else str(value) for value in column] == [row[name] for row in rows]


class TestXyz:
    def test_ase_reads_it(self, recording: Path) -> None:
        structures: Any = ase.io.read(export(recording, "a.extxyz"), ":", format="extxyz")
        assert [len(structure) for structure in structures] == [3, 0, 2]
        first, _, last = structures
        expected = found(3, 1)
        np.testing.assert_allclose(first.positions[:, 0], (expected.x + 0.5) * 0.2, atol=1e-5)
        np.testing.assert_allclose(first.positions[:, 1], (63.5 - expected.y) * 0.2, atol=1e-5)
        assert np.diag(first.cell).tolist() == pytest.approx([48 * 0.2, 64 * 0.2, 1.0])
        assert not first.pbc.any()
        assert first.get_chemical_symbols() == ["C", "N", "C"]
        assert first.arrays["class"].tolist() == ["C", "N", "C"]
        for name in ("score", "sigma_pm", "agreement", "flags"):
            np.testing.assert_allclose(first.arrays[name], getattr(expected, name), atol=1e-3)
        assert (first.info["frame"], first.info["record"], first.info["dose_e_A2"]) == (101, 1, 12.5)
        assert first.info["series"] == SERIES.replace("α", "?")
        assert (first.info["timestamp"], first.info["time_s"]) == (1700000001.0, 1.5)
        assert not {"series", "timestamp", "dose_e_A2"} & set(last.info)

    def test_it_is_as_the_specification_says(self, recording: Path) -> None:
        lines = export(recording, "a.xyz").read_text(encoding="ascii").splitlines()
        assert lines[0] == "3"
        (properties,) = re.findall(r"Properties=(\S+)", lines[1])
        columns = sum(int(count) for count in properties.split(":")[2::3])
        assert all(len(line.split()) == columns for line in lines[2:5])
        assert lines[5] == "0"
        assert len(lines) == 5 + 2 + 4

    @pytest.mark.parametrize(
        ("name", "symbol"),
        [("C", "C"), ("Mo", "Mo"), ("S2", "S"), ("Mo_Se", "Mo"), ("vacancy", "X"), ("Vacancy", "X"), ("Zz", "X")],
    )
    def test_elements(self, name: str, symbol: str) -> None:
        assert element(name) == symbol

    def test_names_without_a_place_in_the_format(self, tmp_path: Path) -> None:
        text = frame_text(found(2), ["two words", "ü"], (4, 4), 0.1, {"series": "a\\b\nc"})
        (tmp_path / "a.extxyz").write_text(text, encoding="ascii")
        read: Any = ase.io.read(tmp_path / "a.extxyz")
        assert read.arrays["class"].tolist() == ["two_words", "?"]
        assert read.get_chemical_symbols() == ["X", "X"]
        assert read.info["series"] == "a\\b?c"

    def test_the_picture_is_not_mirrored(self) -> None:
        one = np.ones(1, np.float32)
        upper_left = Atoms(0 * one, 0 * one, np.zeros(1, np.uint8), one, one, one, np.zeros(1, np.uint8))
        x, y = map(float, frame_text(upper_left, "C", (100, 50), 1.0, {}).splitlines()[2].split()[1:3])
        assert (x, y) == (0.5, 99.5)


class TestMistakes:
    def one_line(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
        assert main(["export", *map(str, arguments)]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    def test_names(self, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        said = self.one_line(capsys, recording, "--output", tmp_path / "a.xlsx")
        assert "expected a name in .csv, .parquet, .extxyz, got '.xlsx'" in said
        assert "expected a file to write to" in self.one_line(capsys, recording, "--output", tmp_path / "no" / "a.xyz")
        assert "expected a recording, got " in self.one_line(capsys, tmp_path / "b.h5", "--output", tmp_path / "b.csv")

    def test_a_file_that_is_there_is_kept(
        self, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("a.csv", "a.extxyz"):
            (tmp_path / name).write_text("mine")
            said = self.one_line(capsys, recording, "--output", tmp_path / name)
            assert f"{name}: expected a new file to export to, got one that is there" in said
            assert (tmp_path / name).read_text() == "mine"

    def test_classes_that_nobody_named(self, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with h5py.File(recording, "r+", libver="latest") as file:
            file["entry/atoms/class_id"][0] = 9
        assert "expected classes ('C', 'N'), got another" in self.one_line(
            capsys, recording, "--output", recording.with_suffix(".csv")
        )
        assert not recording.with_suffix(".csv").exists()  # half an export could be taken for a whole one

    def test_frames_without_a_sampling(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = archive(tmp_path / "a.h5", [record(1, sampling_A=None)])
        said = self.one_line(capsys, path, "--output", tmp_path / "a.extxyz")
        assert "expected frames of known size and sampling, got none in 1: export .csv" in said
        assert main(["export", str(path), "--output", str(tmp_path / "a.csv")]) == 0

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_a_full_disk(self, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "a.extxyz").symlink_to("/dev/full")
        said = self.one_line(capsys, recording, "--output", tmp_path / "a.extxyz")
        assert "expected room for the table, got No space left on device" in said


def test_one_whose_recorder_was_killed_and_has_gaps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import os, sys; from pathlib import Path; from stream.archive import Archive\n"
    code += "from tests.stream.archives import BEGIN, record\n"
    code += "made = Archive(Path(sys.argv[1]), BEGIN, record(1)); made.add(record(1))\n"
    code += "made.gap(2, 3, 'disk_full', 1.0); made.flush(); made.add(record(5)); os.kill(os.getpid(), 9)"
    child(code, tmp_path / "a.h5")
    export(tmp_path / "a.h5", "a.csv")
    assert "3 atoms in 1 frame; 3 results are missing in the recording" in capsys.readouterr().err
