"""Recordings without a service: what a recorder would have been sent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.atoms import Atoms
from stream.archive import Archive
from stream.recording import Record

STARTED = 1.7e9
BEGIN: dict[str, Any] = {
    "source": "cam",
    "run": "abc",
    "started": STARTED,
    "record_frames": True,
    "model": {"name": "fake", "version": "1", "sha256": None},
    "classes": ["C", "N"],
    "backend": "fake f32",
    "spec": {"name": "fake"},
    "configuration": {"policy": "latest"},
    "first": 1,
}


def found(count: int, number: int = 0) -> Atoms:
    """Some atoms that tell one frame from another."""
    column = (np.arange(count) + 1000 * number).astype(np.float32)
    ones = np.ones(count, np.float32)
    kind = (np.arange(count) % 2).astype(np.uint8)
    return Atoms(column, column / 2, kind, ones / 2, 10 * ones, ones, np.zeros(count, np.uint8))


def record(number: int, count: int = 3, pixels: NDArray[Any] | None = None, **header: Any) -> Record:
    """The answer to one frame."""
    first = {
        "record": number,
        "frame": number + 100,
        "series": "a",
        "timestamp": STARTED + number,
        "answered": STARTED + number + 0.5,
        "shape": [64, 48],
        "sampling_A": 0.2,
        "dose_e_A2": None,
        "stages_ms": {"network": 2.5},
        "latency_ms": 12.5,
        "in_time": True,
        "warnings": [],
        "header": {},
    }
    return Record("atoms", first | header, found(count, number).columns(), pixels)


def archive(path: Path, records: list[Record], **begin: Any) -> Path:
    """A complete recording."""
    made = Archive(path, BEGIN | begin, records[0] if records else None)
    for one in records:
        made.add(one)
    made.close()
    return path


def child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run this code in a process of its own, which can die without harm."""
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        check=False,
    )
