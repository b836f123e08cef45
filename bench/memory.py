"""Resident size of the serving process at 1024 x 1024, and whether it grows."""

from __future__ import annotations

from statistics import median
from typing import Any

from bench.path import Answered, LivePath
from bench.recording import record
from bench.setting import Setting

_SHAPE, _SAMPLING_A = (1024, 1024), 0.1
_EVERY = 20  # frames from one look at the memory to the next
_AROUND = 0.02  # share of all frames that a size is the median over


def measure_memory(setting: Setting) -> dict[str, Any]:
    """Sizes after a tenth of the frames (1,000 of 10,000) and at their end, and the largest in between."""
    recording = record(setting.folder, _SHAPE, _SAMPLING_A)
    count = setting.memory_frames
    sizes_MB: dict[int, float] = {}
    with LivePath(setting.model, setting.precision, setting.threads) as path:

        def look(answer: Answered) -> None:
            if answer.frame % _EVERY == 0:
                sizes_MB[answer.frame] = path.resident_MB

        path.run(recording, count, watch=look)
    result = {"frames": count, **growth(sizes_MB, count)}
    setting.say(f"memory: {result}")
    return result


def growth(sizes_MB: dict[int, float], count: int) -> dict[str, Any]:
    """Size after a tenth of the frames and at the end, as medians over a few looks; the largest of all looks."""
    width = max(_EVERY, round(_AROUND * count))
    early, late = (
        median(size for frame, size in sizes_MB.items() if begin <= frame < begin + width)
        for begin in (count // 10, count - width)
    )
    return {
        "early_MB": round(early, 1),
        "late_MB": round(late, 1),
        "largest_MB": round(max(sizes_MB.values()), 1),
        "growth": round(late / early - 1, 5),
    }
