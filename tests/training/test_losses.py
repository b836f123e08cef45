"""The log of losses: what is whole in it stays, what is not is dropped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine import FileError
from training.losses import forget_after, log_losses, read_losses


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "losses.jsonl"
    for step in (20, 40, 60):
        log_losses(path, step, {"heat": 1 / step})
    return path


@pytest.mark.parametrize("torn", ['{"step": 80, "he', "[80]", '{"heat": 1.0}', "\x80", "3", "null"])
def test_a_torn_line_is_dropped(log: Path, torn: str) -> None:
    with log.open("a", encoding="latin-1") as lines:
        lines.write(torn)
    assert [row["step"] for row in read_losses(log)] == [20, 40, 60]
    forget_after(40, log)
    assert [json.loads(line) for line in log.read_text().splitlines()] == [
        {"step": 20, "heat": 0.05},
        {"step": 40, "heat": 0.025},
    ]
    assert [path.name for path in log.parent.iterdir()] == ["losses.jsonl"]


def test_a_full_disk_is_one_line() -> None:
    with pytest.raises(FileError, match="/dev/full: expected room, got No space left on device: free some, and run"):
        log_losses(Path("/dev/full"), 20, {"heat": 1.0})
