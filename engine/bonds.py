"""What chemistry allows: an atom has only so many neighbours. Of atoms that cannot all be there the least sure go.

Where a frame cannot tell an atom from the middle of a ring, a network answers both: no carbon has six neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.atoms import Atoms
from engine.peaks import close_pairs
from engine.spec import ModelSpec

_CELL_A = 0.5  # of the grid that neighbours are looked up in: no two atoms in one cell at separations over 0.71 A


def allowed(atoms: Atoms, sampling_A: float, spec: ModelSpec) -> Atoms:
    """The atoms that can all be there.

    Among those with too many neighbours the one with the lowest score is left out, again and again; of equal ones the
    last in order.

    Parameters
    ----------
    atoms : Atoms
    sampling_A : float
        Of the frame that their positions count in.
    spec : ModelSpec
        Its `bonds`; None allows everything.
    """
    if spec.bonds is None or len(atoms) == 0:
        return atoms
    most, reach_A = spec.bonds
    y_A, x_A = (axis * np.float32(sampling_A) for axis in (atoms.y, atoms.x))
    stays = _within(_neighbours(y_A, x_A, reach_A), atoms.score, most)
    return atoms if stays.all() else atoms.select(stays)


def _neighbours(y_A: NDArray[np.float32], x_A: NDArray[np.float32], reach_A: float) -> NDArray[np.intp]:
    """(M, 2) indices of atoms at most `reach_A` apart."""
    rows, columns = (np.floor(axis / _CELL_A).astype(np.intp) for axis in (y_A, x_A))
    rows -= rows.min()
    columns -= columns.min()
    shape = (rows.max() + 1, columns.max() + 1)
    pairs = close_pairs(np.stack([rows, columns], axis=1), shape, reach_A / _CELL_A + np.sqrt(2))
    # Axis by axis: arrays of (M, 2) take three times as long.
    first, second = pairs[:, 0], pairs[:, 1]
    dy, dx = (axis.take(first) - axis.take(second) for axis in (y_A, x_A))
    return pairs.take(np.flatnonzero(dy * dy + dx * dx <= reach_A * reach_A), axis=0)


def _within(pairs: NDArray[np.intp], score: NDArray[np.float32], most: int) -> NDArray[np.bool_]:
    """True for each atom that stays."""
    stays = np.ones(len(score), np.bool_)
    rank = np.empty(len(score), np.intp)
    rank[np.argsort(-score, kind="stable")] = np.arange(len(score))
    while (over := np.bincount(pairs.ravel(), minlength=len(score)) > most).any():
        # All at once that are the worst of their neighbourhood: what one's leaving changes, no other of them looks at.
        both = pairs[over[pairs].all(axis=1)]
        better = np.where(rank[both[:, 0]] < rank[both[:, 1]], both[:, 0], both[:, 1])
        over[better] = False
        stays &= ~over
        pairs = pairs[~over[pairs].any(axis=1)]
    return stays
