"""Maps in, one row an atom out: local maxima over the threshold, ties broken.

The network marks the local maxima; a plateau of equal scores (bf16, INT8) leaves several of them for one atom.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engine.network import Maps

Thresholds = float | tuple[float, ...]
Cells = NDArray[np.intp]


def find_peaks(maps: Maps, threshold: Thresholds, radius: float) -> Cells:
    """Cells that hold an atom.

    Where two peaks lie within the radius the higher one stays, of equal ones the first in reading order.

    Parameters
    ----------
    maps : Maps
        Output of the network.
    threshold : float, or one for each class
        Lowest score of an atom, over 0.
    radius : float
        Least distance of two atoms, in cells.

    Returns
    -------
    (N, 2) intp array
        Row and column, in reading order; (0, 2) where there is none.
    """
    # Over the flat array: np.nonzero of two axes takes many times as long.
    cells = np.flatnonzero(maps.peak >= (min(threshold) if isinstance(threshold, tuple) else threshold))
    rows, columns = np.divmod(cells, maps.peak.shape[1])
    if isinstance(threshold, tuple) and len(maps.classes):
        least = np.array(threshold, np.float32)[maps.classes[:, rows, columns].argmax(axis=0)]
        high = maps.peak[rows, columns] >= least
        rows, columns = rows[high], columns[high]
    peaks = np.stack([rows, columns], axis=1)
    return peaks[thin(peaks, maps.peak[rows, columns], maps.peak.shape, radius)]


def thin(peaks: Cells, score: NDArray[np.float32], shape: tuple[int, ...], radius: float) -> NDArray[np.bool_]:
    """True for each of the peaks, given in reading order, that stays."""
    pairs = close_pairs(peaks, shape, radius)
    return _winners(score, pairs) if len(pairs) else np.ones(len(peaks), np.bool_)


def close_pairs(peaks: Cells, shape: tuple[int, ...], radius: float) -> Cells:
    """(M, 2) indices of peaks at most `radius` cells apart."""
    reach = math.floor(radius)
    # Cells in one row of memory, with a margin below and between the rows, so that one look-up finds every neighbour.
    width = shape[1] + reach
    number = np.full((shape[0] + reach) * width + reach, -1, np.int32)
    cells = peaks[:, 0] * width + peaks[:, 1]
    number[cells] = np.arange(len(peaks))
    other = number.take(_later(radius, width) + cells).ravel()
    found = np.flatnonzero(other >= 0)
    return np.stack([found % max(1, len(peaks)), other.take(found)], axis=1)


@lru_cache(maxsize=16)
def _later(radius: float, width: int) -> Cells:
    """(K, 1) steps to all cells within the radius that come later in reading order; kept, not to be written to."""
    reach = math.floor(radius)
    dy, dx = np.mgrid[: reach + 1, -reach : reach + 1]
    later = ((dy > 0) | (dx > 0)) & (dy * dy + dx * dx <= radius * radius)
    return np.asarray((dy * width + dx)[later][:, None])


def _winners(score: NDArray[np.float32], pairs: Cells) -> NDArray[np.bool_]:
    """True for each peak that stays. Loops over the peaks of plateaus only."""
    rivals: dict[int, list[int]] = {}
    for first, second in pairs.tolist():
        rivals.setdefault(first, []).append(second)
        rivals.setdefault(second, []).append(first)
    stays = np.ones(len(score), np.bool_)
    for peak in sorted(rivals, key=lambda peak: (-score[peak], peak)):
        if stays[peak]:
            stays[rivals[peak]] = False
    return stays
