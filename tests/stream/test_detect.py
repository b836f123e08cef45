"""From files to the table of atoms, with a tiny network; and what the command says when it cannot."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from engine import Atoms, Frame
from engine.errors import FileError
from stream.cli import main
from stream.drawing import draw_atoms, write_picture

WHERE = np.array([(20.25, 30.5), (41.0, 55.75), (70.5, 20.0)])  # in pixels of a 90 x 96 frame at 0.12 A/px

Draw = Callable[..., Frame]


@pytest.fixture
def movie(tmp_path: Path, draw_frame: Draw) -> Path:
    """Two frames; in the second, all atoms have moved by (4, -3) pixels."""
    frames = [draw_frame((90, 96), WHERE + shift, 0.12).pixels for shift in ((0, 0), (4, -3))]
    np.save(tmp_path / "movie.npy", np.stack(frames))
    return tmp_path / "movie.npy"


def detect(model: Path, *arguments: object) -> int:
    return main(["detect", "--model", str(model), "--precision", "f32", *map(str, arguments)])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def positions(rows: list[dict[str, str]]) -> NDArray[np.float64]:
    return np.array([(float(row["y"]), float(row["x"])) for row in rows]).reshape(-1, 2)


def test_atoms_are_where_they_were_drawn(tmp_path: Path, movie: Path, tiny_model: Path) -> None:
    assert detect(tiny_model, movie, "--sampling", 0.12, "--output", tmp_path / "atoms.csv", "--rate", 25) == 0
    rows = read(tmp_path / "atoms.csv")
    assert list(rows[0]) == ["frame", "time_s", "y", "x", "class", "score", "sigma_pm", "sampling_A"]
    for frame, shift in (("0", (0, 0)), ("1", (4, -3))):
        here = [row for row in rows if row["frame"] == frame]
        np.testing.assert_allclose(positions(here), WHERE + shift, atol=0.25)
        assert {row["time_s"] for row in here} == {"0.0" if frame == "0" else "0.04"}
    assert {(row["class"], row["sampling_A"]) for row in rows} == {("C", "0.12")}
    assert all(0.5 <= float(row["score"]) <= 1 and float(row["sigma_pm"]) > 0 for row in rows)


def test_times_are_as_the_file_says(tmp_path: Path, movie: Path, tiny_model: Path) -> None:
    told = tmp_path / "told.tif"
    frames = np.load(movie)
    tifffile.imwrite(told, frames.astype(np.float32), imagej=True, metadata={"finterval": 0.5})
    assert detect(tiny_model, told, "--sampling", 0.12, "--output", tmp_path / "atoms.csv") == 0
    assert {row["time_s"] for row in read(tmp_path / "atoms.csv")} == {"0.0", "0.5"}


def test_frames_count_through_all_files(tmp_path: Path, movie: Path, draw_frame: Draw, tiny_model: Path) -> None:
    pixels = np.rint(draw_frame((90, 96), WHERE, 0.12).pixels).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    assert detect(tiny_model, tmp_path / "one.png", movie, "--sampling", 0.12, "--output", tmp_path / "atoms.csv") == 0
    rows = read(tmp_path / "atoms.csv")
    assert [row["frame"] for row in rows] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3
    assert {row["time_s"] for row in rows} == {""}


def test_parquet_holds_the_same(tmp_path: Path, movie: Path, tiny_model: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("atoms.csv", "atoms.parquet"):
        assert detect(tiny_model, movie, "--sampling", 0.12, "--output", tmp_path / name) == 0
    table = parquet.read_table(tmp_path / "atoms.parquet").to_pydict()
    np.testing.assert_allclose(np.stack([table["y"], table["x"]], 1), positions(read(tmp_path / "atoms.csv")))


def test_stdout_is_the_table_alone(movie: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert detect(tiny_model, movie, "--sampling", 0.12) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[0] == "frame,time_s,y,x,class,score,sigma_pm,sampling_A"
    assert len(out.splitlines()) == 7
    assert "6 atoms in 2 frames" in err


def test_a_frame_that_cannot_be_processed_is_told_and_passed_over(
    tmp_path: Path, movie: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = np.load(movie)
    np.save(tmp_path / "nan.npy", np.stack([frames[0], frames[0] * np.nan, frames[1]]))
    assert detect(tiny_model, tmp_path / "nan.npy", "--sampling", 0.12, "--output", tmp_path / "atoms.csv") == 0
    assert [row["frame"] for row in read(tmp_path / "atoms.csv")] == ["0"] * 3 + ["2"] * 3
    assert "frame 1: Engine expects" in capsys.readouterr().err


def test_where_no_frame_can_be_processed_an_earlier_table_stays(
    tmp_path: Path, movie: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "atoms.csv").write_text("earlier\n")
    assert detect(tiny_model, movie, "--sampling", 3, "--output", tmp_path / "atoms.csv") == 2
    assert (tmp_path / "atoms.csv").read_text() == "earlier\n"
    assert detect(tiny_model, movie, "--sampling", 3, "--output", tmp_path / "new.csv") == 2
    assert not (tmp_path / "new.csv").exists()
    assert detect(tiny_model, movie, "--sampling", 3) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("form", [(2, 3), (6,)])
def test_triplets_for_a_model_of_three_images(
    tmp_path: Path, movie: Path, build_tiny_model: Callable[..., Path], form: tuple[int, ...]
) -> None:
    """The first and the last of each have moved: the atoms are those of the middle one."""
    model = build_tiny_model(channels=3)
    still, moved = np.load(movie)
    np.save(tmp_path / "triplets.npy", np.stack([moved, still, moved] * 2).reshape(*form, 90, 96))
    pictures = ("--overlay", tmp_path / "overlay.png", "--overlay-frame", 1)
    arguments = ("--sampling", 0.12, "--output", tmp_path / "atoms.csv", *pictures)
    assert detect(model, tmp_path / "triplets.npy", *arguments) == 0
    rows = read(tmp_path / "atoms.csv")
    assert [row["frame"] for row in rows] == ["0"] * 3 + ["1"] * 3
    for frame in "01":
        np.testing.assert_allclose(positions([row for row in rows if row["frame"] == frame]), WHERE, atol=0.3)
    assert (tmp_path / "overlay.png").exists()


def test_frames_that_are_no_triplets_are_told(
    movie: Path, build_tiny_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert detect(build_tiny_model(channels=3), movie, "--sampling", 0.12) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "got 2 frames, which three does not divide" in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--sampling", "0.12", "--max-drift", "-1"], "--max-drift: expected a number of A from 0 to 1e9, got -1"),
        (["--sampling", "3"], "expects a sampling"),  # no frame of the file can be processed
        ([], "state it with --sampling"),
        (["--sampling", "-1"], "--sampling: expected a number over 0"),
        (
            ["--sampling", "0.12", "--overlay", "a.png", "--overlay-frame", "2"],
            "--overlay-frame: expected 0 to 1, got 2",
        ),
        (["--sampling", "0.12", "--overlay-frame", "1"], "--overlay-frame: expected a picture to draw it in"),
        (["--sampling", "0.12", "--overlay", "none/a.png"], "got none/a.png in a folder that is not there"),
        (["--sampling", "0.12", "--overlay", "a.txt"], "such as atoms.png, got a.txt"),
        (["--sampling", "0.12", "--overlay", "movie.npy"], "got the recording movie.npy"),
        (["--sampling", "0.12", "--output", "movie.npy"], "expected a name in .csv, .parquet"),
        (["--sampling", "0.12", "--precision", "int4"], "got 'int4'"),
        (["--sampling", "0.12", "--model", "grafene"], "got 'grafene'"),
        (["nothing.npy", "--sampling", "0.12"], "No such file"),
        (["--sampling", "0.12", "--output", "none/atoms.csv"], "expected a file to write to"),
        (["--sampling", "0.12", "--colour", "red"], "'--colour'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    movie: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(movie.parent)
    assert detect(tiny_model, movie, *arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("atomstream: ")
    assert expected in lines[0]


class TestPicture:
    def test_rings_are_drawn_where_atoms_are(self, tmp_path: Path, movie: Path, tiny_model: Path) -> None:
        arguments = ("--sampling", 0.12, "--output", tmp_path / "atoms.csv", "--overlay", tmp_path / "overlay.png")
        assert detect(tiny_model, movie, *arguments, "--overlay-frame", 1) == 0
        picture = np.asarray(Image.open(tmp_path / "overlay.png").convert("RGB")).astype(int)
        zoom = 8  # 96 px become 768
        assert picture.shape == (90 * zoom, 96 * zoom, 3)
        coloured = np.argwhere(np.ptp(picture, axis=-1) > 60)
        distance = np.linalg.norm((coloured[:, None] + 0.5) / zoom - 0.5 - WHERE - np.array((4, -3)), axis=-1).min(
            axis=1
        )
        assert np.abs(distance * 0.12 - 0.45).max() < 0.1  # a ring's radius
        assert (picture.max(axis=-1) == 255).sum() > 200  # the scale bar

    @pytest.mark.parametrize(("shape", "sampling_A"), [((8, 8), 0.7), ((300, 20), 0.05), ((3000, 40), 0.3)])
    def test_frames_of_any_shape(self, shape: tuple[int, int], sampling_A: float) -> None:
        picture = draw_atoms(Frame(np.zeros(shape, np.uint16), sampling_A), Atoms.none())
        assert picture.shape[0] % shape[0] == picture.shape[1] % shape[1] == 0
        assert max(picture.shape) <= 4096

    def test_the_colour_is_the_score(self) -> None:
        none = np.zeros(2, np.float32)
        atoms = Atoms(none + 32, np.float32([16, 48]), np.zeros(2, np.uint8), np.float32([0.5, 1]), none, none, none)  # type: ignore[arg-type]
        picture = draw_atoms(Frame(np.zeros((64, 64), np.uint16), 0.1), atoms).astype(int)
        half = picture.shape[1] // 2
        blue_green_red = [
            part.reshape(-1, 3)[np.ptp(part, axis=-1).argmax()] for part in (picture[:, :half], picture[:, half:])
        ]
        assert blue_green_red[0].argmax() == 2
        assert blue_green_red[1].argmax() == 1

    def test_a_name_that_is_no_picture(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match=r"expected a picture to write.*'\.csv'"):
            write_picture(tmp_path / "a.csv", np.zeros((4, 4, 3), np.uint8))
        with pytest.raises(FileError, match="No such file"):
            write_picture(tmp_path / "none" / "a.png", np.zeros((4, 4, 3), np.uint8))
