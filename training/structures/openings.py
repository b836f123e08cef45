"""Holes in a sheet or slab, and its edge."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.structures.structure import Points


class Openings(Protocol):
    """What they are drawn from."""

    @property
    def hole_chance(self) -> float:
        """Of one, and of another after each."""

    @property
    def hole_radius_A(self) -> tuple[float, float]:
        """Before its outline waves."""

    @property
    def edge_chance(self) -> float:
        """That the specimen ends within the cell."""


def in_openings(atoms: Points, cell_A: float, ranges: Openings, rng: np.random.Generator) -> NDArray[np.bool_]:
    """True of atoms (N, 2), (y, x), in a hole or beyond the edge."""
    gone = np.zeros(len(atoms), np.bool_)
    while rng.random() < ranges.hole_chance:
        gone |= _in_hole(atoms, rng.uniform(0, cell_A, 2), rng.uniform(*ranges.hole_radius_A), rng)
    if rng.random() < ranges.edge_chance:
        gone |= _beyond_edge(atoms, cell_A, rng)
    return gone


def _beyond_edge(atoms: Points, cell_A: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """True beyond a rough line across the cell."""
    angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(-0.15, 0.3) * cell_A
    along = (atoms - cell_A / 2) @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rough = 3 * np.sin(along[:, 1] / rng.uniform(4, 10) + rng.uniform(0, 6))
    return np.asarray(along[:, 0] > depth + rough)


def _in_hole(atoms: Points, centre: Points, radius_A: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """True in a hole with a wavy outline."""
    away = atoms - centre
    angle = np.arctan2(away[:, 0], away[:, 1])
    wavy = 1 + 0.25 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.15 * np.sin(3 * angle + rng.uniform(0, 6))
    return np.hypot(away[:, 0], away[:, 1]) < radius_A * wavy
