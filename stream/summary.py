"""What an analysis found, in figures: counts, classes, distances and vacancies, over all frames and in time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.blocks import Rows

_POINTS = 500  # in time, however many frames there are
_EDGES_A = np.arange(0.5, 5.0001, 0.05)  # of the histogram of distances


class Tally:
    """Takes the rows of block after block; memory grows with the frames, not with the atoms."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)
        self._frames: list[NDArray[np.float64]] = []
        self._by_class: list[NDArray[np.int64]] = []
        self._times_s: list[float | None] = []
        self._refused: Counter[str] = Counter()
        self._warned = 0
        self._distances = np.zeros(len(_EDGES_A) - 1, np.int64)
        self._sums = np.zeros(3)  # of the distances: number, sum, sum of squares

    def add(
        self,
        rows: Rows,
        counts: NDArray[np.int64],
        notes: Sequence[tuple[str | None, list[str]]],
        times_s: Sequence[float | None],
    ) -> None:
        """One block; `counts` is (frames, classes)."""
        self._times_s += times_s
        self._frames.append(np.stack([rows["frame_count"], rows["frame_vacancies"]], axis=1).astype(np.float64))
        self._by_class.append(counts)
        self._refused.update(refused.partition(":")[0] for refused, _ in notes if refused is not None)
        self._warned += sum(bool(warnings) for _, warnings in notes)
        nearest = rows["nearest_A"][np.isfinite(rows["nearest_A"])]
        self._distances += np.histogram(nearest, _EDGES_A)[0]
        self._sums += (len(nearest), nearest.sum(), (nearest**2).sum())

    def summary(self) -> dict[str, Any]:
        """For the file of JSON."""
        frames = np.concatenate(self._frames) if self._frames else np.empty((0, 2))
        by_class = np.concatenate(self._by_class) if self._by_class else np.empty((0, len(self._classes)), np.int64)
        refused = sum(self._refused.values())
        atoms = int(frames[:, 0].sum())
        return {
            "frames": len(frames),
            "frames_refused": dict(self._refused),
            "frames_with_warnings": self._warned,
            "atoms": atoms,
            "atoms_a_frame": round(atoms / max(1, len(frames) - refused), 3),
            "classes": {
                name: _rounded(total / atoms) if atoms else None
                for name, total in zip(self._classes, by_class.sum(axis=0).tolist(), strict=True)
            },
            "vacancies": int(frames[:, 1].sum()),
            "nearest_A": self._nearest(),
            "in_time": self._in_time(frames, by_class),
        }

    def _nearest(self) -> dict[str, Any]:
        number, total, squares = self._sums.tolist()
        mean = total / number if number else None
        std = None if mean is None else float(np.sqrt(max(0.0, squares / number - mean**2)))
        return {
            "mean": _rounded(mean),
            "std": _rounded(std),
            "histogram": {"edges_A": np.round(_EDGES_A, 3).tolist(), "atoms": self._distances.tolist()},
        }

    def _in_time(self, frames: NDArray[np.float64], by_class: NDArray[np.int64]) -> dict[str, Any]:
        """Means over stretches of frames; frames count through all files."""
        step = max(1, -(-len(frames) // _POINTS))
        starts = np.arange(0, len(frames), step)
        sizes = np.diff(np.append(starts, len(frames)))

        times_s = [self._times_s[start] for start in starts.tolist()]

        def means(values: NDArray[Any]) -> list[float]:
            return np.round(np.add.reduceat(values, starts) / sizes, 4).tolist() if len(starts) else []

        return {
            "frame": starts.tolist(),
            "time_s": None if None in self._times_s else np.round(np.array(times_s, np.float64), 6).tolist(),
            "count": means(frames[:, 0]),
            "vacancies": means(frames[:, 1]),
            "count_by_class": {name: means(by_class[:, k]) for k, name in enumerate(self._classes)},
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
