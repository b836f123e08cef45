"""Peaks in, Atoms out: sub-pixel positions and their expected error, in coordinates of the frame."""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.atoms import CONTAMINATED, EDGE, Atoms
from engine.contamination import contaminated
from engine.frame import Frame
from engine.network import Maps
from engine.peaks import Cells
from engine.prepare import Prepared
from engine.spec import ModelSpec

EDGE_A = 2.0  # closer to the frame's edge atoms were not scored
AROUND_A = 5.0  # to each side: contamination is seen by regions, an atom of it shows through like any other
LOG_SIGMA = 6.0  # predictions beyond this are no measurement; keeps the weights finite

_BESIDE = np.array([[-1], [0], [1]])
_AROUND = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij")).reshape(2, 9, 1)  # the peak's cell is the fifth

Column = NDArray[np.float32]
T = TypeVar("T", bound=np.generic)


def refine(peaks: Cells, maps: Maps, frame: Frame, prepared: Prepared, spec: ModelSpec) -> Atoms:
    """Atoms of a frame from the peaks of its maps.

    Parameters
    ----------
    peaks : (N, 2) intp
        Cells that hold an atom.
    maps : Maps
        Cropped to the frame.
    frame, prepared, spec
        What the maps were made from.

    Returns
    -------
    Atoms
        Sorted by y, then x; those whose position lies outside the frame are left out.
    """
    cells = peaks[:, 0] * maps.score.shape[1] + peaks[:, 1]
    score, log_sigma = (channel.ravel().take(cells) for channel in (maps.score, maps.log_sigma))
    covered = around(maps.contamination, peaks, around_cells(spec))
    # Network pixel to frame pixel: the outer edges of both coincide, pixel centres are integers.
    scale = np.array(prepared.scale, np.float32)[:, None]
    y, x = (positions(peaks, maps, spec) + np.float32(0.5)) * scale - np.float32(0.5)
    to_edge = _distance_to_edge(y, x, frame.shape)
    flags = (to_edge * frame.sampling_A < EDGE_A) * np.uint8(EDGE)
    sigma = np.exp(np.clip(log_sigma, -LOG_SIGMA, LOG_SIGMA))
    atoms = Atoms(
        y=y,
        x=x,
        class_id=_class_id(maps, peaks),
        score=spec.chance_of(score),
        sigma_pm=sigma * np.float32(spec.sampling_A * 100),
        agreement=np.ones(len(peaks), np.float32),
        flags=flags,
    )
    inside = np.flatnonzero(to_edge >= 0)  # False where there is no position
    inside = inside[np.lexsort((x[inside], y[inside]))]
    return flagged(atoms.select(inside), covered[inside], frame.sampling_A, spec)


def flagged(atoms: Atoms, covered: NDArray[np.float32], sampling_A: float, spec: ModelSpec) -> Atoms:
    """The same atoms with CONTAMINATED where they are taken to be covered, see `engine.contamination`."""
    atoms.flags[contaminated(atoms.y, atoms.x, covered, sampling_A, spec.covered)] |= CONTAMINATED
    return atoms


def around_cells(spec: ModelSpec) -> int:
    """AROUND_A in whole cells."""
    return int(AROUND_A / (spec.sampling_A * spec.stride))


def around(contamination: NDArray[np.float32], peaks: Cells, cells: int) -> NDArray[np.float32]:
    """(N,) mean over the square about each peak that reaches so many cells to each side, or to the map's edge."""
    first = np.maximum(peaks - cells, 0)
    last = np.minimum(peaks + cells + 1, contamination.shape)
    (top, left), (bottom, right) = first.T, last.T
    before = cv2.integral(contamination)  # [y, x]: the sum above and to the left of it, in float64
    total = before[bottom, right] - before[top, right] - before[bottom, left] + before[top, left]
    return np.asarray(total / (last - first).prod(axis=1), np.float32)


def positions(peaks: Cells, maps: Maps, spec: ModelSpec) -> NDArray[np.float32]:
    """(2, N) positions in network pixels.

    The peak's cell and the eight around it each predict one; those that agree with the peak's own to within half a
    separation are averaged, weighted with the inverse of their predicted variance.
    """
    height, width = maps.score.shape
    rows, columns = peaks[:, 0] + _BESIDE, peaks[:, 1] + _BESIDE
    exists = _both((rows >= 0) & (rows < height), (columns >= 0) & (columns < width), np.logical_and)
    cells = _both(np.clip(rows, 0, height - 1) * width, np.clip(columns, 0, width - 1), np.add)

    # From the peak's own cell, where float32 is fine enough for any frame.
    values = maps.values[2:5].reshape(3, -1).take(cells, axis=1)
    predicted = np.float32(spec.stride) * _AROUND.astype(np.float32) + values[:2]
    apart = predicted - predicted[:, 4:5]
    agrees = exists & (np.square(apart).sum(axis=0) <= np.square(spec.separation_A / spec.sampling_A / 2))
    weight = agrees * np.exp(-2 * np.clip(values[2], -LOG_SIGMA, LOG_SIGMA))
    centre = spec.stride * peaks.T + (spec.stride - 1) / 2
    return np.asarray(centre + (predicted * weight).sum(axis=1) / weight.sum(axis=0), np.float32)


def _class_id(maps: Maps, peaks: Cells) -> NDArray[np.uint8]:
    if len(maps.classes) == 0:
        return np.zeros(len(peaks), np.uint8)
    return np.asarray(maps.classes[:, peaks[:, 0], peaks[:, 1]].argmax(axis=0), np.uint8)


def _both(of_rows: NDArray[T], of_columns: NDArray[T], combine: np.ufunc) -> NDArray[T]:
    """(9, N) from three rows (3, N) and three columns (3, N), in the order of _AROUND."""
    return np.asarray(combine(of_rows[:, None], of_columns[None])).reshape(9, -1)


def _distance_to_edge(y: Column, x: Column, shape: tuple[int, int]) -> Column:
    """Frame pixels to the nearest outer edge of the frame; negative outside, NaN where there is no position."""
    (height, width), half = shape, np.float32(0.5)
    nearest = np.minimum(y + half, np.float32(height) - half - y)
    return np.asarray(np.minimum(nearest, np.minimum(x + half, np.float32(width) - half - x)))
