"""Peaks in, Atoms out: sub-pixel positions and their expected error, in coordinates of the frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.atoms import CONTAMINATED, EDGE, Atoms
from engine.frame import Frame
from engine.network import Maps
from engine.peaks import Cells
from engine.prepare import Prepared
from engine.spec import ModelSpec

EDGE_A = 2.0  # closer to the frame's edge atoms were not scored
COVERED = 0.5  # contamination from which an atom is flagged
CALIBRATION = 1.0  # true error over the predicted one
LOG_SIGMA = 6.0  # predictions beyond this are no measurement; keeps the weights finite

_AROUND = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij")).reshape(2, 9, 1)  # the peak's cell is the fifth

Column = NDArray[np.float32]


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
    rows, columns = peaks[:, 0], peaks[:, 1]
    # Network pixel to frame pixel: the outer edges of both coincide, pixel centres are integers.
    scale = np.array(prepared.scale, np.float32)[:, None]
    y, x = (positions(peaks, maps, spec) + np.float32(0.5)) * scale - np.float32(0.5)
    sigma = np.exp(np.clip(maps.log_sigma[rows, columns], -LOG_SIGMA, LOG_SIGMA))
    atoms = Atoms(
        y=y,
        x=x,
        class_id=_class_id(maps, peaks),
        score=maps.score[rows, columns],
        sigma_pm=sigma * np.float32(CALIBRATION * spec.sampling_A * 100),
        agreement=np.ones(len(peaks), np.float32),
        flags=np.where(maps.contamination[rows, columns] > COVERED, CONTAMINATED, 0).astype(np.uint8),
    )
    to_edge = _distance_to_edge(atoms, frame.shape)
    atoms.flags[to_edge * frame.sampling_A < EDGE_A] |= EDGE
    inside = np.flatnonzero(to_edge >= 0)
    return atoms.select(inside[np.lexsort((x[inside], y[inside]))])


def positions(peaks: Cells, maps: Maps, spec: ModelSpec) -> NDArray[np.float32]:
    """(2, N) positions in network pixels.

    The peak's cell and the eight around it each predict one; those that agree with the peak's own to within half a
    separation are averaged, weighted with the inverse of their predicted variance.
    """
    height, width = maps.score.shape
    cells = peaks.T[:, None, :] + _AROUND
    last = np.array([[[height - 1]], [[width - 1]]])
    exists = ((cells >= 0) & (cells <= last)).all(axis=0)
    rows, columns = np.clip(cells, 0, last)

    # From the peak's own cell, where float32 is fine enough for any frame.
    values = maps.values[2:5].reshape(3, -1).take(rows * width + columns, axis=1)
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


def _distance_to_edge(atoms: Atoms, shape: tuple[int, int]) -> Column:
    """Frame pixels to the nearest outer edge of the frame; negative outside, -inf where there is no position."""
    height, width = shape
    sides = [atoms.y + 0.5, height - 0.5 - atoms.y, atoms.x + 0.5, width - 0.5 - atoms.x]
    return np.asarray(np.nan_to_num(np.min(sides, axis=0), nan=-np.inf))
