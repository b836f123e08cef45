"""How good are found atoms against known ones: one-to-one pairs within 0.5 A, F1, position errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

TOLERANCE_A = 0.5
BORDER_A = 2.0  # atoms closer to the frame's edge are left out on both sides


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """One frame. error_pm is (K, 2), found minus true (y, x) of each pair; row gives the found atom's index."""

    precision: float
    recall: float
    f1: float
    error_pm: NDArray[np.float64]
    row: NDArray[np.intp]
    truth_row: NDArray[np.intp]

    @property
    def rmse_pm(self) -> float:
        """Per axis; NaN where nothing was matched."""
        return float(np.sqrt(np.mean(self.error_pm**2))) if len(self.error_pm) else float("nan")

    @property
    def scatter_pm(self) -> NDArray[np.float64]:
        """error_pm without the mean of the frame: where a whole frame lies, its image does not tell."""
        return self.error_pm - self.error_pm.mean(axis=0) if len(self.error_pm) else self.error_pm


def match(truth: NDArray[np.float64], found: NDArray[np.float64], tolerance: float) -> NDArray[np.intp]:
    """(K, 2) pairs of rows (truth, found), nearest first, each row at most once."""
    if len(truth) == 0 or len(found) == 0:
        return np.empty((0, 2), np.intp)
    near = cKDTree(truth).sparse_distance_matrix(cKDTree(found), tolerance, output_type="coo_matrix")
    free_truth, free_found = np.ones(len(truth), bool), np.ones(len(found), bool)
    pairs = []
    for k in np.argsort(near.data, kind="stable"):
        i, j = int(near.row[k]), int(near.col[k])
        if free_truth[i] and free_found[j]:
            free_truth[i] = free_found[j] = False
            pairs.append((i, j))
    return np.array(pairs, np.intp).reshape(-1, 2)


def score(truth: NDArray[np.float64], found: NDArray[np.float64], sampling_A: float, shape: tuple[int, int]) -> Score:
    """Compare (N, 2) and (M, 2) positions (y, x) in pixels of a frame of `shape`."""
    pairs = match(truth, found, TOLERANCE_A / sampling_A)
    in_truth, in_found = (_inner(rows, BORDER_A / sampling_A, shape) for rows in (truth, found))
    hit_truth, hit_found = np.zeros(len(truth), bool), np.zeros(len(found), bool)
    hit_truth[pairs[:, 0]], hit_found[pairs[:, 1]] = True, True
    precision = float(hit_found[in_found].mean()) if in_found.any() else 1.0
    recall = float(hit_truth[in_truth].mean()) if in_truth.any() else 1.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    kept = pairs[in_truth[pairs[:, 0]]]
    error_pm = (found[kept[:, 1]] - truth[kept[:, 0]]) * sampling_A * 100
    return Score(precision, recall, f1, error_pm, kept[:, 1], kept[:, 0])


def _inner(rows: NDArray[np.float64], edge: float, shape: tuple[int, int]) -> NDArray[np.bool_]:
    size = np.asarray(shape) - 1
    return np.asarray(np.all((rows >= edge) & (rows <= size - edge), axis=1))
