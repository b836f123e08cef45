"""losses.jsonl, what a fit logs every few steps: a line of JSON with its step. Needs no torch."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from training.room import room


def log_losses(log: Path, step: int, losses: dict[str, float]) -> None:
    """One more line; FileError where there is no room."""
    with room(log), log.open("a") as lines:
        lines.write(json.dumps({"step": step, **losses}) + "\n")


def read_losses(log: Path) -> list[dict[str, Any]]:
    """The lines that are whole: a machine that stops leaves one in part."""
    rows = []
    for line in log.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


def forget_after(step: int, log: Path) -> None:
    """What an interrupted run logged beyond its checkpoint is run, and logged, again."""
    if not log.exists():
        return
    partial = log.with_suffix(".part")
    with room(log):
        kept = [json.dumps(row) + "\n" for row in read_losses(log) if row["step"] <= step]
        partial.write_text("".join(kept))
        partial.replace(log)
