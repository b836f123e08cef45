"""Who is next to whom among the atoms of a frame: distances, bonds, and the places where an atom is missing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 256  # atoms whose distances are taken at once
_FURTHEST_A = 10.0  # an atom further off is no neighbour
_BOND = 1.35  # bonds are shorter than so many times the usual distance; the second neighbours begin at 1.4 or more
_SAME = 0.6  # of that distance: two guesses at a missing atom that mean one
_FEWEST = 12  # atoms of a lattice


def nearest_A(positions_A: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of every atom to its nearest neighbour.

    Parameters
    ----------
    positions_A : (N, 2) float64
        Sorted by y, as `Atoms` are.

    Returns
    -------
    (N,) float64
        NaN where there is none within 10 A.
    """
    nearest = np.full(len(positions_A), np.nan)
    for rows, _, squares in _distances(positions_A, _FURTHEST_A):
        least = np.sqrt(squares.min(axis=1, initial=np.inf))
        nearest[rows] = np.where(least <= _FURTHEST_A, least, np.nan)
    return nearest


def find_vacancies(positions_A: NDArray[np.float64], field_A: tuple[float, float]) -> NDArray[np.float64]:
    """Places where a lattice lacks one atom: at least two atoms with one neighbour too few point to each.

    The bonds of a complete atom add up to nothing, so those that are left of an incomplete one point away from the
    vacancy. In a larger hole only the places at its rim are found; an atom that was overlooked counts as missing.

    Parameters
    ----------
    positions_A : (N, 2) float64
        (y, x), sorted by y.
    field_A : (float, float)
        Height and width of the frame; within a bond of its edge nothing is said to be missing.

    Returns
    -------
    (M, 2) float64
    """
    none = np.empty((0, 2))
    if len(positions_A) < _FEWEST:
        return none
    distances = nearest_A(positions_A)
    if not np.isfinite(distances).any():
        return none
    usual = float(np.nanmedian(distances))
    one, other = _bonds(positions_A, _BOND * usual)
    coordination = np.bincount(one, minlength=len(positions_A))
    inside = _inside(positions_A, field_A, _BOND * usual)
    if not inside.any():
        return none
    complete = int(np.bincount(coordination[inside]).argmax())
    bonds_A = positions_A[other] - positions_A[one]
    total = np.stack([np.bincount(one, bonds_A[:, k], len(positions_A)) for k in (0, 1)], axis=1)
    lacking = inside & (coordination == complete - 1)
    length_A = float(np.hypot(*bonds_A.T).mean())
    # The sum says where to, better than how far: that is a bond.
    guesses = positions_A[lacking] - length_A * total[lacking] / np.hypot(*total[lacking].T)[:, None].clip(1e-9)
    return _agreed(guesses[_inside(guesses, field_A, usual)], _SAME * usual)


def _distances(positions_A: NDArray[np.float64], reach_A: float) -> list[tuple[slice, slice, NDArray[np.float64]]]:
    """Squared distances of blocks of rows to the atoms that can be within reach; infinite to oneself."""
    blocks = []
    y = positions_A[:, 0]
    for start in range(0, len(y), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(y)))
        first = int(np.searchsorted(y, y[rows][0] - reach_A))
        window = slice(first, int(np.searchsorted(y, y[rows][-1] + reach_A, "right")))
        away = positions_A[rows, None] - positions_A[None, window]
        squares = (away**2).sum(axis=-1)
        own = np.arange(rows.start, rows.stop)
        squares[own - start, own - first] = np.inf
        blocks.append((rows, window, squares))
    return blocks


def _bonds(positions_A: NDArray[np.float64], reach_A: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Both ends of every bond, each bond in both directions."""
    ends = [
        (np.stack(np.nonzero(squares <= reach_A**2)) + np.array([[rows.start], [window.start]]))
        for rows, window, squares in _distances(positions_A, reach_A)
    ]
    one, other = np.concatenate(ends, axis=1)
    return one, other


def _inside(positions_A: NDArray[np.float64], field_A: tuple[float, float], margin_A: float) -> NDArray[np.bool_]:
    within = (positions_A >= margin_A) & (positions_A <= np.array(field_A) - margin_A)
    return np.asarray(within.all(axis=1))


def _agreed(guesses: NDArray[np.float64], reach_A: float) -> NDArray[np.float64]:
    """Means of the guesses that at least two atoms share."""
    found = []
    left = guesses[np.argsort(guesses[:, 0], kind="stable")]
    while len(left):
        same = ((left - left[0]) ** 2).sum(axis=1) <= reach_A**2
        if same.sum() >= 2:
            found.append(left[same].mean(axis=0))
        left = left[~same]
    return np.array(found).reshape(-1, 2)
