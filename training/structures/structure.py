"""Structure: the atoms of one specimen, and what is to be found in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (N, 2) positions (y, x) or (N, 3) positions (z, y, x), in A


@dataclass(frozen=True, slots=True, eq=False)
class Sites:
    """What is to be found: atoms, columns of atoms, or places where one is missing.

    Attributes
    ----------
    positions_A : (N, 2) float64
        (y, x): the mean of the site's atoms where it has some.
    class_id : (N,) uint8
        Index into the recipe's classes.
    elements : tuple of int
        Atomic numbers.
    content : (N, E) uint8
        Atoms of each element that the site holds.
    lean_A : (N,) float32 or None
        How far the ends of a column lie apart as projected; None where sites are no columns.
    """

    positions_A: NDArray[np.float64]
    class_id: NDArray[np.uint8]
    elements: tuple[int, ...]
    content: NDArray[np.uint8]
    lean_A: NDArray[np.float32] | None = None

    @classmethod
    def of_carbon(cls, positions_A: NDArray[np.float64]) -> Sites:
        """One carbon atom at each position."""
        count = len(positions_A)
        return cls(positions_A, np.zeros(count, np.uint8), (6,), np.ones((count, 1), np.uint8))


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """Atoms in a square cell, periodic along y and x.

    Attributes
    ----------
    atoms_A : (M, 3) float64
        (z, y, x); the beam goes towards larger z.
    numbers : (M,) uint8
        Atomic number of each.
    cell_A : float
    sites : Sites
    label : str
        What reports tell such specimens apart by, for example "[110] on CeO2".
    """

    atoms_A: NDArray[np.float64]
    numbers: NDArray[np.uint8]
    cell_A: float
    sites: Sites
    label: str = field(default="")


class Structures(Protocol):
    """A family of specimens: the ranges that its structures are drawn from."""

    def draw(self, rng: np.random.Generator) -> Structure:
        """One structure."""
