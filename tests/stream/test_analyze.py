"""Movies to tables and a summary: the same whatever runs it, and whenever it was killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from engine import Atoms, Frame
from stream import analyze, plots
from stream.blocks import Block, Job, analyse_block
from stream.cli import main
from stream.exposure import DRIFT_COLUMNS
from stream.parts import Parts
from tests.stream.conftest import honeycomb
from tests.stream.fakes import PATIENCE_S, SPEC, FakeDetector, wait_until

Draw = Callable[..., Frame]
ROOT = Path(__file__).parents[2]
SAMPLING_A = 0.12
BLOCKS_OF_4 = "import sys; from stream import analyze, cli; analyze._BLOCK_FRAMES = 4; sys.exit(cli.main(sys.argv[1:]))"
WHERE = np.array([(20.25, 30.5), (41.0, 55.75), (70.5, 20.0)])


def movie(folder: Path, draw_frame: Draw, frames: int, name: str = "movie.npy") -> Path:
    """Atoms that move a pixel a frame, in a frame of 90 x 96; the last frame is of NaN."""
    moved = [WHERE + np.array([k % 9, -(k % 5)]) for k in range(frames - 1)]
    shown = [draw_frame((90, 96), positions, SAMPLING_A).pixels for positions in moved]
    np.save(folder / name, np.stack([*shown, np.full((90, 96), np.nan, np.float32)]))
    return folder / name


def command(model: Path, output: Path, *more: object) -> list[str]:
    flags = ["--model", str(model), "--precision", "f32", "--sampling", str(SAMPLING_A)]
    return ["analyze", "--output", str(output), *flags, *map(str, more)]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analyze, "_BLOCK_FRAMES", 4)


class TestTables:
    def test_a_row_an_atom_and_a_row_a_frame(self, tmp_path: Path, draw_frame: Draw, tiny_model: Path) -> None:
        files = [movie(tmp_path, draw_frame, 6), movie(tmp_path, draw_frame, 3, "other.npy")]
        assert main(command(tiny_model, tmp_path / "a.csv", *files, "--rate", 10, "--workers", 1)) == 0
        atoms, frames = read(tmp_path / "a.csv"), read(tmp_path / "a.frames.csv")
        assert [(row["file"], row["frame"]) for row in frames] == [(str(files[0]), str(k)) for k in range(6)] + [
            (str(files[1]), str(k)) for k in range(3)
        ]
        assert [row["count"] for row in frames] == ["3"] * 5 + ["0"] + ["3"] * 2 + ["0"]
        assert [float(row["time_s"]) for row in frames] == [k / 10 for k in range(9)]
        for row in (frames[5], frames[8]):
            assert row["refused"].startswith("not_finite: Engine expects at most 10% of the pixels NaN")
        assert len(atoms) == 21
        second = [row for row in atoms if (row["file"], row["frame"]) == (str(files[0]), "1")]
        found = np.array([(float(row["y"]), float(row["x"])) for row in second])
        np.testing.assert_allclose(found, WHERE + np.array([1, -1]), atol=0.25)
        expected = np.hypot(*(WHERE[1] - WHERE[0])) * SAMPLING_A
        assert float(second[0]["nearest_A"]) == pytest.approx(expected, abs=0.05)
        assert second[0]["time_s"] == "0.1"
        assert not (tmp_path / "a.csv.parts").exists()

    @pytest.mark.parametrize(
        ("intervals_s", "rate", "expected"),
        [
            ([0.05, 0.05], [], [0, 0.05, 0.1, 0.15, 0.2, 0.25]),
            ([0.05, 0.2], [], [0, 0.05, 0.1, 0.15, 0.35, 0.55]),
            ([0.05, None], [], [0, 0.05, 0.1, None, None, None]),
            ([None, 0.05], [], [None] * 6),
            ([0.05, None], ["--rate", 10], [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        ],
    )
    def test_times_are_those_of_the_files_where_no_rate_is_given(
        self,
        tmp_path: Path,
        draw_frame: Draw,
        tiny_model: Path,
        intervals_s: list[float | None],
        rate: list[object],
        expected: list[float | None],
    ) -> None:
        """As if each file followed the last at once; after one that does not say it they are not known."""
        stack = np.load(movie(tmp_path, draw_frame, 3))
        files = [tmp_path / f"{number}.tif" for number in range(len(intervals_s))]
        for path, interval_s in zip(files, intervals_s, strict=True):
            said = {} if interval_s is None else {"finterval": interval_s}
            tifffile.imwrite(path, stack, imagej=True, metadata=said)
        assert main(command(tiny_model, tmp_path / "a.csv", *files, *rate, "--workers", 1)) == 0
        told = [row["time_s"] for row in read(tmp_path / "a.frames.csv")]
        assert [float(time_s) if time_s else None for time_s in told] == pytest.approx(expected)
        assert {row["time_s"] for row in read(tmp_path / "a.csv")} == {*told[:2], *told[3:5]}
        in_time = json.loads((tmp_path / "a.summary.json").read_text())["in_time"]
        assert in_time["time_s"] == (None if None in expected else pytest.approx(expected))

    def test_parquet_holds_the_same(self, tmp_path: Path, draw_frame: Draw, tiny_model: Path) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        path = movie(tmp_path, draw_frame, 3)
        for name in ("a.csv", "a.parquet"):
            assert main(command(tiny_model, tmp_path / name, path, "--workers", 1)) == 0
        for name in ("a", "a.frames"):
            table = parquet.read_table(tmp_path / f"{name}.parquet").to_pydict()
            rows = read(tmp_path / f"{name}.csv")
            assert list(table) == list(rows[0])
            for column, values in table.items():
                assert ["" if value is None else str(value) for value in values] == [row[column] for row in rows]

    def test_several_workers_give_the_same(self, tmp_path: Path, draw_frame: Draw, tiny_model: Path) -> None:
        path = movie(tmp_path, draw_frame, 20)
        for workers in (1, 2):
            assert main(command(tiny_model, tmp_path / f"{workers}.csv", path, "--workers", workers)) == 0
        for name in ("csv", "frames.csv", "summary.json"):
            assert (tmp_path / f"1.{name}").read_bytes() == (tmp_path / f"2.{name}").read_bytes()

    def test_triplets_are_the_same_from_several_workers(
        self, tmp_path: Path, draw_frame: Draw, build_tiny_model: Callable[..., Path]
    ) -> None:
        """Fifteen of them in blocks of four; the outer images of each have moved."""
        model = build_tiny_model(channels=3)
        drawn = [draw_frame((90, 96), WHERE + np.array(shift), SAMPLING_A).pixels for shift in ((3, -2), (0, 0))]
        np.save(tmp_path / "movie.npy", np.stack([drawn[0], drawn[1], drawn[0]] * 15))
        for workers in (1, 2):
            flags = (tmp_path / "movie.npy", "--workers", workers)
            assert main(command(model, tmp_path / f"{workers}.csv", *flags)) == 0
        for name in ("csv", "frames.csv", "summary.json"):
            assert (tmp_path / f"1.{name}").read_bytes() == (tmp_path / f"2.{name}").read_bytes()
        assert [row["count"] for row in read(tmp_path / "1.frames.csv")] == ["3"] * 15
        found = np.array([(float(row["y"]), float(row["x"])) for row in read(tmp_path / "1.csv")])
        np.testing.assert_allclose(found.reshape(15, 3, 2), np.broadcast_to(WHERE, (15, 3, 2)), atol=0.3)
        drift = [[float(row[name]) for name in DRIFT_COLUMNS] for row in read(tmp_path / "1.frames.csv")]
        np.testing.assert_allclose(drift, [(-3, 2, -3, 2)] * 15, atol=0.3)

    def test_places_where_an_atom_is_missing_are_vacancies(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Of a model that names them: they are no neighbours of atoms."""
        np.save(tmp_path / "a.npy", np.zeros((1, 16, 16), np.uint8))

        class Finds(FakeDetector):
            def settle(self, frame: Frame) -> None: ...

            def detect(self, frame: Frame) -> Atoms:
                y, kind, one = (np.array(row, np.float32) for row in ([2, 6, 7], [0, 0, 1], [1, 1, 1]))
                return Atoms(y, one, kind.astype(np.uint8), one, one, one, np.zeros(3, np.uint8))

        monkeypatch.setattr(
            "stream.blocks.load_detector", lambda *_, **__: Finds(replace(SPEC, classes=("Mo", "vacancy_S")))
        )
        rows = analyse_block(Job("finds", "f32", 0.5), Block(0, 0, str(tmp_path / "a.npy"), 0, 1))
        assert (rows["frame_vacancies"].tolist(), rows["frame_count"].tolist()) == ([1], [3])
        np.testing.assert_allclose(rows["nearest_A"], [2, 2, np.nan])

    def test_so_does_a_cluster(self, tmp_path: Path, draw_frame: Draw, tiny_model: Path) -> None:
        distributed = pytest.importorskip("distributed")
        path = movie(tmp_path, draw_frame, 12)
        with distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp"
        ) as cluster:
            flags = ("--scheduler", cluster.scheduler_address)
            assert main(command(tiny_model, tmp_path / "cluster.csv", path, *flags)) == 0
        assert main(command(tiny_model, tmp_path / "here.csv", path, "--workers", 1)) == 0
        for name in ("csv", "frames.csv"):
            assert (tmp_path / f"cluster.{name}").read_bytes() == (tmp_path / f"here.{name}").read_bytes()


class TestSummary:
    def test_figures(
        self, tmp_path: Path, draw_frame: Draw, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = movie(tmp_path, draw_frame, 6)
        assert main(command(tiny_model, tmp_path / "a.csv", path, "--rate", 10, "--workers", 1)) == 0
        summary = json.loads((tmp_path / "a.summary.json").read_text())
        assert (summary["frames"], summary["atoms"], summary["atoms_a_frame"]) == (6, 15, 3)
        assert (summary["frames_refused"], summary["files_left_out"]) == ({"not_finite": 1}, {})
        assert (summary["classes"], summary["vacancies"]) == ({"C": 1.0}, 0)
        assert summary["in_time"]["count"] == [3, 3, 3, 3, 3, 0]
        assert summary["in_time"]["time_s"] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
        assert summary["in_time"]["count_by_class"] == {"C": [3, 3, 3, 3, 3, 0]}
        assert sum(summary["nearest_A"]["histogram"]["atoms"]) == 10  # the third atom of a frame is too far off for it
        mean = summary["nearest_A"]["mean"]
        assert mean == pytest.approx(np.mean([float(row["nearest_A"]) for row in read(tmp_path / "a.csv")]), abs=1e-3)
        assert summary["model"]["name"] == "tiny"
        assert "15 atoms in 6 frames · refused not_finite 1 · files left out 0" in capsys.readouterr().err

    def test_vacancies_in_time(self, tmp_path: Path, draw_frame: Draw, tiny_model: Path) -> None:
        """A lattice wide enough for the tiny network, which loses an atom with every frame."""
        lattice = honeycomb(64, 60) * 2 / 0.25
        middle = np.argsort(np.abs(lattice - (256, 240)).max(axis=1))
        taken = [0, 40, 90, 160]
        left = [np.delete(lattice, middle[taken[:k]], axis=0) for k in range(len(taken))]
        np.save(tmp_path / "movie.npy", np.stack([draw_frame((512, 480), one, 0.25).pixels for one in left]))
        arguments = ["analyze", str(tmp_path / "movie.npy"), "--output", str(tmp_path / "a.csv"), "--workers", "1"]
        assert main([*arguments, "--model", str(tiny_model), "--precision", "f32", "--sampling", "0.25"]) == 0
        assert [row["vacancies"] for row in read(tmp_path / "a.frames.csv")] == ["0", "1", "2", "3"]

    def test_plots(self, tmp_path: Path, draw_frame: Draw, tiny_model: Path) -> None:
        pytest.importorskip("matplotlib")
        assert main(command(tiny_model, tmp_path / "a.csv", movie(tmp_path, draw_frame, 3), "--workers", 1)) == 0
        assert (tmp_path / "a.summary.png").read_bytes().startswith(b"\x89PNG")

    def test_without_matplotlib(
        self,
        tmp_path: Path,
        draw_frame: Draw,
        tiny_model: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        assert not plots.draw_summary({}, tmp_path / "a.png")
        assert main(command(tiny_model, tmp_path / "a.csv", movie(tmp_path, draw_frame, 3), "--workers", 1)) == 0
        assert "no plots: pip install matplotlib" in capsys.readouterr().err


class TestResumed:
    def test_killed_and_given_again_it_gives_the_same_tables(
        self, tmp_path: Path, draw_frame: Draw, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = movie(tmp_path, draw_frame, 240)
        arguments = command(tiny_model, tmp_path / "a.csv", path, "--workers", 2)
        parts = tmp_path / "a.csv.parts"
        started = [sys.executable, "-c", BLOCKS_OF_4, *arguments]
        with subprocess.Popen(started, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            wait_until(lambda: len(list(parts.glob("*.npz"))) >= 3)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            process.kill()
        assert children
        wait_until(lambda: not any(alive(int(child)) for child in children))  # none waits for work for ever
        assert not (tmp_path / "a.csv").exists()
        done = len(list(parts.glob("*.npz")))
        assert done < 60
        assert main([*arguments[:-1], "1"]) == 0
        assert f"{done} of 60 blocks were done before" in capsys.readouterr().err
        assert main(command(tiny_model, tmp_path / "b.csv", path, "--workers", 1)) == 0
        for name in ("csv", "frames.csv", "summary.json"):
            assert (tmp_path / f"a.{name}").read_bytes() == (tmp_path / f"b.{name}").read_bytes()

    def test_ctrl_c_ends_it_without_a_word_of_its_workers(
        self, tmp_path: Path, draw_frame: Draw, tiny_model: Path
    ) -> None:
        path = movie(tmp_path, draw_frame, 400)
        started = [sys.executable, "-c", BLOCKS_OF_4, *command(tiny_model, tmp_path / "a.csv", path, "--workers", 2)]
        with subprocess.Popen(started, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
            wait_until(lambda: len(list((tmp_path / "a.csv.parts").glob("*.npz"))) >= 2)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
            _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130
        assert "Traceback" not in err

    def test_what_is_done_is_not_done_again(
        self, tmp_path: Path, draw_frame: Draw, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = movie(tmp_path, draw_frame, 12)
        numbers: list[int] = []
        real = analyze.analyse_block

        def second_fails(job: analyze.Job, block: analyze.Block) -> analyze.Rows:
            numbers.append(block.number)
            if len(numbers) == 2:
                raise KeyboardInterrupt
            return real(job, block)

        monkeypatch.setattr(analyze, "analyse_block", second_fails)
        arguments = command(tiny_model, tmp_path / "a.csv", path, "--workers", 1)
        assert main(arguments) == 130
        assert main(arguments) == 0
        assert numbers == [0, 1, 1, 2]

    def test_another_analysis_is_not_mixed_in(
        self, tmp_path: Path, draw_frame: Draw, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = movie(tmp_path, draw_frame, 3)
        Parts(tmp_path / "a.csv.parts", {"other": 1}).save(0, {"y": np.zeros(1)})
        assert main(command(tiny_model, tmp_path / "a.csv", path)) == 2
        assert "expected the parts of this analysis, got those of other files" in capsys.readouterr().err

    def test_a_part_that_is_damaged(
        self, tmp_path: Path, draw_frame: Draw, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = movie(tmp_path, draw_frame, 3)
        (tmp_path / "a.csv.parts").mkdir()
        (tmp_path / "a.csv.parts/000000.npz").write_bytes(b"half")
        assert main(command(tiny_model, tmp_path / "a.csv", path)) == 2
        assert "000000.npz: expected a part, got " in capsys.readouterr().err

    def test_the_model_is_found_from_wherever_a_worker_runs(
        self, tmp_path: Path, draw_frame: Draw, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        models: list[str] = []
        real = analyze.analyse_block

        def note(job: analyze.Job, block: analyze.Block) -> analyze.Rows:
            models.append(job.model)
            return real(job, block)

        monkeypatch.setattr(analyze, "analyse_block", note)
        monkeypatch.chdir(tiny_model.parent)
        path = movie(tmp_path, draw_frame, 3)
        assert main(command(Path(tiny_model.name), tmp_path / "a.csv", path, "--workers", 1)) == 0
        assert models == [str(tiny_model)]


class TestMistakes:
    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            (["--output", "a.h5"], "a.h5: expected a name in .csv, .parquet, got '.h5'"),
            (["--output", "there.csv"], "there.csv: expected a new table, got one that is there"),
            (["--output", "a.csv", "--workers", "0"], "--workers: expected a number over 0, got 0"),
            (["--output", "a.csv", "--workers", "2", "--scheduler", "tcp://x:1"], "expected one of --workers and "),
            (["--output", "a.csv"], "movie.npy: expected a pixel size in the file, got none"),
            (["--output", "a.csv", "--sampling", "0.1", "absent.npy", "b.npy"], "expected movies, got none"),
        ],
    )
    def test_one_line(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        flags: list[str],
        expected: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        np.save("movie.npy", np.zeros((2, 90, 96), np.uint8))
        Path("there.csv").write_text("mine")
        files = [] if "absent.npy" in flags else ["movie.npy"]
        assert main(["analyze", *files, *flags]) == 2
        assert expected in capsys.readouterr().err.splitlines()[-1]
        assert Path("there.csv").read_text() == "mine"

    def test_a_movie_that_cannot_be_read_is_left_out_and_told(
        self, tmp_path: Path, draw_frame: Draw, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "half.npy").write_bytes(movie(tmp_path, draw_frame, 3).read_bytes()[:5000])
        files = (tmp_path / "half.npy", tmp_path / "movie.npy")
        assert main(command(tiny_model, tmp_path / "a.csv", *files, "--workers", 1)) == 0
        summary = json.loads((tmp_path / "a.summary.json").read_text())
        assert list(summary["files_left_out"]) == [str(files[0])]
        assert (summary["frames"], summary["atoms"]) == (3, 6)
        assert "files left out 1" in capsys.readouterr().err

    def test_no_scheduler_there(
        self, tmp_path: Path, draw_frame: Draw, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("distributed")
        path = movie(tmp_path, draw_frame, 3)
        assert main(command(tiny_model, tmp_path / "a.csv", path, "--scheduler", "nonsense://x")) == 2
        assert "--scheduler: expected a Dask scheduler, got 'nonsense://x'" in capsys.readouterr().err
        assert main(command(tiny_model, tmp_path / "a.csv", path, "--workers", 1, "--sampling", 0.11)) == 0

    def test_no_frame_that_can_be_processed(
        self, tmp_path: Path, draw_frame: Draw, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = movie(tmp_path, draw_frame, 3)
        assert main(command(tiny_model, tmp_path / "a.csv", path, "--workers", 1, "--sampling", 3)) == 2
        assert "a.csv: expected frames that can be processed, got none of 3" in capsys.readouterr().err
        assert len((tmp_path / "a.frames.csv").read_text().splitlines()) == 4

    def test_a_worker_that_dies(
        self, tmp_path: Path, draw_frame: Draw, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = movie(tmp_path, draw_frame, 400)
        arguments = command(tiny_model, tmp_path / "a.csv", path, "--workers", 2)
        with subprocess.Popen(
            [sys.executable, "-c", BLOCKS_OF_4, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
        ) as process:
            wait_until(lambda: len(list((tmp_path / "a.csv.parts").glob("*.npz"))) >= 2)
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(int(child), signal.SIGKILL)
                    break
            _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 2
        assert "expected the workers to live" in err.splitlines()[-1]


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    time.sleep(0.01)
    return state != "Z"
