"""Sheets of graphene with the defects real ones have. A seed in, atoms out: (N, 3) positions (z, y, x) in angstrom.

A sheet is the dual of a triangulation of its ring centres: every atom has three bonds by construction, grain boundaries
come out as pentagons and heptagons, and a bond rotation is one flipped edge. Springs then bring bonds to their length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Delaunay, cKDTree

from training.pairs import Pair, check_pairs
from training.structures.openings import in_openings
from training.structures.structure import Points, Sites, Structure

BOND_A = 1.42
LATTICE_A = BOND_A * np.sqrt(3)
Bonds = NDArray[np.intp]  # (M, 2) indices of atoms


@dataclass(frozen=True, slots=True)
class SheetRanges:
    """What sheets are drawn from; counts are means of Poisson draws per 1000 A^2."""

    cell_A: float = 96.0
    grains: tuple[float, ...] = (0.5, 0.25, 0.15, 0.1)  # probability of 1, 2, 3, 4 grains
    vacancies: float = 1.0
    double_vacancies: float = 0.5
    rotated_bonds: float = 0.6
    hole_chance: float = 0.3
    edge_chance: float = 0.2
    hole_radius_A: Pair = (3.0, 14.0)
    strain: float = 0.02
    ripple_A: float = 1.0
    disorder_A: Pair = (0.0, 0.09)
    perfect_chance: float = 0.1

    def __post_init__(self) -> None:
        check_pairs(self)

    def draw(self, rng: np.random.Generator) -> Structure:
        """One sheet, every atom to be found."""
        atoms, grains = _untangled(self, rng)
        label = "one grain" if grains == 1 else "grain boundaries"
        return Structure(atoms, np.full(len(atoms), 6, np.uint8), self.cell_A, Sites.of_carbon(atoms[:, 1:]), label)


def sheet(ranges: SheetRanges, rng: np.random.Generator) -> NDArray[np.float64]:
    """One sheet that covers the square cell, (N, 3) positions (z, y, x) in A."""
    return _untangled(ranges, rng)[0]


def _untangled(ranges: SheetRanges, rng: np.random.Generator) -> tuple[NDArray[np.float64], int]:
    """A sheet, and how many grains it has."""
    while True:  # two flipped edges side by side can tangle; such a sheet is drawn again
        atoms, grains = _draw(ranges, rng)
        if not cKDTree(atoms[:, 1:]).query_pairs(0.75 * BOND_A):
            return atoms, grains


def _draw(ranges: SheetRanges, rng: np.random.Generator) -> tuple[NDArray[np.float64], int]:
    perfect = rng.random() < ranges.perfect_chance
    count = 1 if perfect else 1 + int(rng.choice(len(ranges.grains), p=ranges.grains))
    centres = _ring_centres(ranges.cell_A, count, rng)
    triangles = Delaunay(centres).simplices
    area = ranges.cell_A**2 / 1000
    if not perfect:
        for _ in range(rng.poisson(ranges.rotated_bonds * area)):
            _rotate_bond(triangles, rng)
    atoms = centres[triangles].mean(axis=1)
    bonds = _bonds_of(triangles)
    if not perfect:
        atoms, bonds = _remove_atoms(atoms, bonds, ranges, area, rng)
    atoms = _relax(atoms, bonds)
    atoms = strain(atoms, ranges.strain, rng)
    return _thermal(atoms, ranges, rng), count


def _ring_centres(cell_A: float, grains: int, rng: np.random.Generator) -> Points:
    """Triangular lattices of the grains, each in its Voronoi cell, evened out along the boundaries."""
    low, high = -10.0, cell_A + 10.0
    seeds = rng.uniform(0, cell_A, (grains, 2))
    n = int((high - low) / LATTICE_A) + 2
    i, j = np.mgrid[-n : n + 1, -n : n + 1].reshape(2, -1)
    lattice = LATTICE_A * np.stack([i * np.sqrt(3) / 2, j + i / 2], axis=1)
    points = []
    for k in range(grains):
        angle = rng.uniform(0, np.pi / 3)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        grain = lattice @ turn.T + cell_A / 2 + rng.uniform(0, LATTICE_A, 2)
        inside = np.all((grain > low) & (grain < high), axis=1)
        nearest = np.argmin(((grain[:, None] - seeds[None]) ** 2).sum(2), axis=1)
        points.append(grain[inside & (nearest == k)])
    joined = np.concatenate(points)
    if grains == 1:
        return joined
    crowded = cKDTree(joined).query_pairs(0.62 * LATTICE_A, output_type="ndarray")
    joined = np.delete(joined, np.unique(crowded[:, 1]), axis=0)
    for _ in range(12):  # springs along the triangulation's edges: boundaries close without gaps
        edges = _edges(Delaunay(joined).simplices)
        joined = _pull(joined, edges, LATTICE_A, 0.12, within=1.6 * LATTICE_A)
    return joined


def _edges(triangles: NDArray[np.intp]) -> Bonds:
    pairs = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    return np.unique(pairs, axis=0)


def _bonds_of(triangles: NDArray[np.intp]) -> Bonds:
    """Atoms (triangles) that share an edge are bonded."""
    pairs = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    owner = np.repeat(np.arange(len(triangles)), 3)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs, owner = pairs[order], owner[order]
    same = np.all(pairs[1:] == pairs[:-1], axis=1)
    return np.stack([owner[:-1][same], owner[1:][same]], axis=1)


def _rotate_bond(triangles: NDArray[np.intp], rng: np.random.Generator) -> None:
    """Stone-Wales: flip the edge between two triangles, in place."""
    bonds = _bonds_of(triangles)
    first, second = bonds[rng.integers(len(bonds))]
    shared = np.intersect1d(triangles[first], triangles[second])
    far_1 = np.setdiff1d(triangles[first], shared)
    far_2 = np.setdiff1d(triangles[second], shared)
    if len(shared) == 2 and len(far_1) == 1 and len(far_2) == 1:
        triangles[first] = [far_1[0], far_2[0], shared[0]]
        triangles[second] = [far_1[0], far_2[0], shared[1]]


def _remove_atoms(
    atoms: Points, bonds: Bonds, ranges: SheetRanges, area: float, rng: np.random.Generator
) -> tuple[Points, Bonds]:
    """Vacancies, 5-8-5 double vacancies, holes and an edge."""
    gone = np.zeros(len(atoms), bool)
    added: list[tuple[int, int]] = []
    for _ in range(rng.poisson(ranges.double_vacancies * area)):
        pair = bonds[rng.integers(len(bonds))]
        if not gone[pair].any():
            gone[pair] = True
            for atom, other in (pair, pair[::-1]):
                rest = [n for n in _neighbours(bonds, atom) if n != other]
                if len(rest) == 2 and rng.random() < 0.8:  # the dangling pairs bond: 5-8-5
                    added.append((rest[0], rest[1]))
    for atom in rng.integers(len(atoms), size=rng.poisson(ranges.vacancies * area)):
        gone[atom] = True
        rest = _neighbours(bonds, atom)
        if len(rest) == 3 and rng.random() < 0.4:  # one pair bonds: 5-9
            added.append((rest[0], rest[1]))
    gone |= in_openings(atoms, ranges.cell_A, ranges, rng)
    bonds = np.concatenate([bonds, np.array(added, np.intp).reshape(-1, 2)])
    for _ in range(3):  # atoms left hanging on one bond do not survive the beam
        bonds = bonds[~gone[bonds].any(axis=1)]
        degree = np.bincount(bonds.ravel(), minlength=len(atoms))
        gone |= degree < 2
    index = np.cumsum(~gone) - 1
    bonds = bonds[~gone[bonds].any(axis=1)]
    return atoms[~gone], index[bonds]


def _neighbours(bonds: Bonds, atom: int) -> list[int]:
    return [int(n) for n in np.concatenate([bonds[bonds[:, 0] == atom, 1], bonds[bonds[:, 1] == atom, 0]])]


def _relax(atoms: Points, bonds: Bonds, steps: int = 150) -> Points:
    """Bond and angle springs (second neighbours), descended to rest."""
    second = _second_neighbours(bonds, len(atoms))
    for _ in range(steps):
        atoms = _pull(atoms, bonds, BOND_A, 0.25)
        atoms = _pull(atoms, second, LATTICE_A, 0.04, within=1.5 * LATTICE_A)
    return atoms


def _pull(points: Points, pairs: Bonds, length_A: float, stiffness: float, within: float = np.inf) -> Points:
    """Move both ends of each pair towards its length."""
    apart = points[pairs[:, 1]] - points[pairs[:, 0]]
    distance = np.hypot(apart[:, 0], apart[:, 1])
    move = stiffness * ((1 - length_A / np.maximum(distance, 0.3)) * (distance < within))[:, None] * apart
    out = points.copy()
    for axis in (0, 1):
        out[:, axis] += np.bincount(pairs[:, 0], move[:, axis], len(points))
        out[:, axis] -= np.bincount(pairs[:, 1], move[:, axis], len(points))
    return out


def _second_neighbours(bonds: Bonds, count: int) -> Bonds:
    both = np.concatenate([bonds, bonds[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    start = np.searchsorted(both[:, 0], np.arange(count + 1))
    pairs = []
    for k in (1, 2):
        degree = np.diff(start)
        for first in range(3):
            here = np.flatnonzero(degree > max(first, first + k))
            pairs.append(np.stack([both[start[here] + first, 1], both[start[here] + first + k, 1]], axis=1))
    return np.concatenate(pairs)


def strain(atoms: Points, largest: float, rng: np.random.Generator) -> Points:
    """A homogeneous strain and a smooth one of a third of its size."""
    matrix = np.eye(2) + rng.uniform(-largest, largest, (2, 2))
    centre = atoms.mean(axis=0)
    out = (atoms - centre) @ matrix.T + centre
    for _ in range(3):
        wave = rng.normal(size=2)
        wave *= 2 * np.pi / rng.uniform(25, 70) / np.linalg.norm(wave)
        amplitude = rng.uniform(-1, 1, 2) * largest / 3 / np.linalg.norm(wave)
        out = out + amplitude * np.sin(atoms @ wave + rng.uniform(0, 6))[:, None]
    return out


def _thermal(atoms: Points, ranges: SheetRanges, rng: np.random.Generator) -> NDArray[np.float64]:
    """Ripples, the displacements of one moment of motion, and the cut to the cell."""
    height = np.zeros(len(atoms))
    for _ in range(4):
        wave = rng.normal(size=2)
        wave *= 2 * np.pi / rng.uniform(15, 60) / np.linalg.norm(wave)
        height += rng.uniform(0, ranges.ripple_A) * np.sin(atoms @ wave + rng.uniform(0, 6)) / 2
    sigma = rng.uniform(*ranges.disorder_A)
    out = np.column_stack([height, atoms])
    out += rng.normal(0, sigma, out.shape) * np.array([1.5, 1, 1])
    inside = np.all((out[:, 1:] >= 0) & (out[:, 1:] < ranges.cell_A), axis=1)
    return out[inside]
