"""Several things measured in turn, round after round, so that what disturbs the machine disturbs them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

Rate = Callable[[], float]  # runs for a while, gives frames a second


def interleave(measurements: Mapping[str, Rate], rounds: int) -> dict[str, list[float]]:
    """Every measurement once a round; their rates by name, in the order of the rounds."""
    rates: dict[str, list[float]] = {name: [] for name in measurements}
    for _ in range(rounds):
        for name, measure in measurements.items():
            rates[name].append(measure())
    return rates


def repeated(work: Callable[[], Any], seconds: float, clock: Callable[[], float] = time.perf_counter) -> Rate:
    """A measurement of how often a second `work` gets done, one after the other."""

    def rate() -> float:
        done, begun_s = 0, clock()
        while (passed_s := clock() - begun_s) < seconds or done == 0:
            work()
            done += 1
        return done / passed_s

    work()  # what is done only once (compiling, allocating) is not measured
    return rate


def summary(rates: list[float]) -> dict[str, Any]:
    """Median and range, for the report."""
    return {"fps": round(median(rates), 2), "range": [round(min(rates), 2), round(max(rates), 2)]}


def ratio(numerator: list[float], denominator: list[float]) -> dict[str, Any]:
    """Quotient round by round: its median and range."""
    quotients = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return {"median": round(median(quotients), 3), "range": [round(min(quotients), 3), round(max(quotients), 3)]}
