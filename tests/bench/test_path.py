"""The live path, for real: three processes and a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.path import Answered, LivePath, Run
from bench.recording import record

ROOT = Path(__file__).parents[2]


def answered(frame, received_s):
    return Answered(frame, received_s, 10.0 + frame, 9.0, 8.0, 3)


def test_a_rate_leaves_the_edges_out():
    answers = [answered(k, time_s) for k, time_s in enumerate((0.0, 7.0, 8.0, 9.0, 9.1))]
    assert Run(5, answers).fps((1, 1)) == 1.0


def test_frames_are_answered_in_order_and_booked(tmp_path, tiny_model):
    recording = record(tmp_path, (96, 128), 0.2)
    with LivePath(str(tiny_model), "f32", threads=1) as path:
        first, second = path.run(recording, 9), path.run(recording, 3, rate_Hz=20)
        books = path.books()
        assert path.resident_MB > 10
    assert [answer.frame for answer in first.answers] == list(range(9))
    assert [answer.frame for answer in second.answers] == list(range(3))
    assert first.sent == 9
    assert all(0 < answer.processing_ms <= answer.age_ms <= answer.latency_ms for answer in second.answers)
    assert (books["received"], books["processed"], books["dropped"]) == (12, 12, {})


def test_a_model_that_is_none_ends_with_what_serve_said(tmp_path):
    with pytest.raises(RuntimeError, match=r"nowhere\.json"), LivePath(str(tmp_path / "nowhere.json"), "f32", 1):
        pass


def test_the_command_measures_and_writes(tmp_path, build_tiny_model):
    output, page = tmp_path / "results" / "latest.json", tmp_path / "page.md"
    options = ["--quick", "--only", "freshness", "--model", str(build_tiny_model()), "--precision", "f32"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *options, "--output", output, "--page", page],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(output.read_text())
    assert results["freshness"]["lossless"]["lost"] == 0
    assert results["freshness"]["latest"]["accounted"] is True
    assert results["machine"]["cores"] == 2
    assert "| - every frame accounted for |" in done.stdout
    assert not page.exists()
