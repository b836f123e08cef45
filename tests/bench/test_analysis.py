"""The archive's command as the bench runs it: a movie, two workers, one table."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import analysis
from bench.report import rows
from bench.setting import Setting
from engine import ModelSpec

ROOT = Path(__file__).parents[2]


@pytest.fixture
def setting(tmp_path, tiny_model):
    made = Setting(str(tiny_model), "f32", ModelSpec.read(tiny_model), 1, tmp_path, rounds=1)
    return replace(made, analysed_frames=17)


def test_one_worker_and_two_give_the_same_table(setting, monkeypatch):
    monkeypatch.setattr(analysis, "_SHAPE", (96, 128))
    result = analysis.measure_analysis(setting)
    assert result["same"] is True
    assert result["two_over_one"]["median"] > 0


def test_the_movie_holds_so_many_frames(setting, monkeypatch):
    monkeypatch.setattr(analysis, "_SHAPE", (32, 48))
    movie = np.load(analysis.make_movie(setting.folder, 20))
    assert movie.shape == (20, 32, 48)
    assert (movie[8] == movie[0]).all()
    assert (movie[1] != movie[0]).any()


def test_what_fails_says_why(setting):
    with pytest.raises(RuntimeError, match=r"absent\.npy"):
        analysis.analyse(setting.folder / "absent.npy", setting.folder / "a.csv", 1, setting)


def test_the_command_measures_and_says_so(tmp_path, tiny_model):
    output = tmp_path / "a.json"
    options = ["--quick", "--only", "analyze", "--model", str(tiny_model), "--precision", "f32", "--output", output]
    done = subprocess.run([sys.executable, "-m", "bench", *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(output.read_text())["analysis"]["same"] is True
    assert "| - two workers |" in done.stdout


@pytest.mark.parametrize(("times", "same", "reached"), [(1.85, True, True), (1.7, True, False), (1.9, False, False)])
def test_rows_say_what_is_asked(times, same, reached):
    rate = {"fps": 50.0, "range": [49.0, 51.0]}
    quotient = {"median": times, "range": [times, times]}
    result = {"frames": 1000, "one": rate, "two": rate, "two_over_one": quotient, "same": same}
    assert [row[3] for row in rows({"analysis": result})] == [None, reached]
