"""What every part of the bench is told: which model, how many threads, how long."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from engine import ModelSpec


@dataclass(frozen=True, slots=True)
class Setting:
    """One run of the bench.

    Attributes
    ----------
    model, precision : str
        As `serve` takes them; the precision is a definite one, not "auto".
    threads : int
        Of every network, ours or not.
    folder : Path
        For frames and networks that are made for the bench alone.
    rounds, seconds : int, float
        Rounds of the comparisons, and how long one measurement takes in each.
    latency_s : float
        How long frames are sent at a steady rate.
    lossless_frames, memory_frames : int
    overload_s : float
        How long frames come faster than they can be processed.
    drifts, triplets : int
        Settings of the microscope that drift is measured in, and F1 with drift and without.
    analysed_frames : int
        Of the movie that is analysed.
    """

    model: str
    precision: str
    spec: ModelSpec
    threads: int
    folder: Path
    rounds: int = 5
    seconds: float = 2.0
    latency_s: float = 12.0
    lossless_frames: int = 5_000
    memory_frames: int = 10_000
    overload_s: float = 15.0
    triplets: int = 100
    drifts: int = 400
    analysed_frames: int = 1_000

    def say(self, text: str) -> None:
        """Progress, for who waits."""
        print(text, file=sys.stderr, flush=True)
