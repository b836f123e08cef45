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
    """One frame. error_pm is (K, 2), found minus true (y, x) of each pair; row gives the found atom's index.

    wrong: indices of found atoms, away from the edge, that are none. missed: how many true ones there were not found.

    counts: of each class, right among found, found, right among true, true. Classes pair nothing: a pair of two classes
    is a right position and wrong in both classes.
    """

    precision: float
    recall: float
    f1: float
    error_pm: NDArray[np.float64]
    row: NDArray[np.intp]
    truth_row: NDArray[np.intp]
    wrong: NDArray[np.intp]
    counts: dict[int, NDArray[np.int64]]
    missed: int = 0

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


def score(
    truth: NDArray[np.float64],
    found: NDArray[np.float64],
    sampling_A: float,
    shape: tuple[int, int],
    truth_class: NDArray[np.uint8] | None = None,
    found_class: NDArray[np.uint8] | None = None,
) -> Score:
    """Compare (N, 2) and (M, 2) positions (y, x) in pixels of a frame of `shape`; classes, where given, are counted."""
    pairs = match(truth, found, TOLERANCE_A / sampling_A)
    in_truth, in_found = (inner(rows, BORDER_A / sampling_A, shape) for rows in (truth, found))
    hit_truth, hit_found = _hits(pairs, len(truth), len(found))
    precision = float(hit_found[in_found].mean()) if in_found.any() else 1.0
    recall = float(hit_truth[in_truth].mean()) if in_truth.any() else 1.0
    kept = pairs[in_truth[pairs[:, 0]]]
    error_pm = (found[kept[:, 1]] - truth[kept[:, 0]]) * sampling_A * 100
    counts = {}
    if truth_class is not None and found_class is not None:
        alike = pairs[truth_class[pairs[:, 0]] == found_class[pairs[:, 1]]]
        good_truth, good_found = _hits(alike, len(truth), len(found))
        for class_id in np.unique(np.concatenate([truth_class, found_class])).tolist():
            true, claimed = in_truth & (truth_class == class_id), in_found & (found_class == class_id)
            counts[class_id] = np.array([good_found[claimed].sum(), claimed.sum(), good_truth[true].sum(), true.sum()])
    wrong, missed = np.flatnonzero(in_found & ~hit_found), int((in_truth & ~hit_truth).sum())
    return Score(precision, recall, f1(precision, recall), error_pm, kept[:, 1], kept[:, 0], wrong, counts, missed)


def f1(precision: float, recall: float) -> float:
    """Their harmonic mean, 0 where both are."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def f1_of(judged: Score, true: NDArray[np.bool_], claimed: NDArray[np.bool_]) -> float:
    """F1 of a part of a scored frame: of these true atoms and these found ones, all away from the edge."""
    hit, right = np.zeros(len(true), bool), np.ones(len(claimed), bool)
    hit[judged.truth_row], right[judged.wrong] = True, False
    recall = float(hit[true].mean()) if true.any() else 1.0
    precision = float(right[claimed].mean()) if claimed.any() else 1.0
    return f1(precision, recall)


def _hits(pairs: NDArray[np.intp], truths: int, found: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    hit_truth, hit_found = np.zeros(truths, bool), np.zeros(found, bool)
    hit_truth[pairs[:, 0]], hit_found[pairs[:, 1]] = True, True
    return hit_truth, hit_found


def inner(rows: NDArray[np.float64], edge: float, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """True of positions at least `edge` pixels from each side of a frame of `shape`."""
    size = np.asarray(shape) - 1
    return np.asarray(np.all((rows >= edge) & (rows <= size - edge), axis=1))
