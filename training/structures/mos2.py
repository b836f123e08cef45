"""Single sheets of MoS2 (1H) with the defects real ones have, seen along the beam.

Mo lies on one half of a honeycomb, columns of two S on the other. Places where Mo, one S or both are missing are sites
too, with positions of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from training.pairs import Pair, check_pairs
from training.structures.graphene import strain
from training.structures.openings import in_openings
from training.structures.structure import Points, Sites, Structure

CLASSES = ("Mo", "S", "vacancy_Mo", "vacancy_S")
MO, S, VACANCY_MO, VACANCY_S = range(4)
LATTICE_A = 3.16
SIDE_A = LATTICE_A / np.sqrt(3)  # from a Mo to the nearest columns of S, projected
S_HEIGHT_A = 1.56  # of each S over or under the plane of Mo
_NUMBERS = (42, 16)


@dataclass(frozen=True, slots=True)
class Mos2Ranges:
    """What sheets are drawn from; counts are means of Poisson draws per 1000 A^2, that hold 115 Mo."""

    cell_A: float = 96.0
    vacancies_Mo: float = 2.5
    vacancies_S: float = 5.0  # one of the two is missing
    vacancies_S2: float = 3.0  # both
    defects: Pair = (0.2, 2.0)  # factor to the three, log-uniform
    perfect_chance: float = 0.1
    hole_chance: float = 0.25
    hole_radius_A: Pair = (3.0, 14.0)
    edge_chance: float = 0.25
    strain: float = 0.02
    relaxation_A: float = 0.12  # largest move of a vacancy's neighbours
    ripple_A: float = 0.6
    disorder_A: Pair = (0.0, 0.08)  # sigma of thermal displacements

    def __post_init__(self) -> None:
        check_pairs(self)

    def draw(self, rng: np.random.Generator) -> Structure:
        """One sheet."""
        return sheet(self, rng)


def sheet(ranges: Mos2Ranges, rng: np.random.Generator) -> Structure:
    """A sheet that covers the square cell."""
    points, is_mo = _lattice(ranges.cell_A, rng)
    points, is_mo = _torn(points, is_mo, ranges, rng)
    left = np.where(is_mo, 1, 2)
    if rng.random() >= ranges.perfect_chance:
        left = _with_vacancies(points, is_mo, left, ranges, rng)
        points = _relaxed(points, is_mo, left, ranges.relaxation_A, rng)
    points = strain(points, ranges.strain, rng)
    inside = np.all((points >= 0) & (points < ranges.cell_A), axis=1)
    return _built(points[inside], is_mo[inside], left[inside], ranges, rng)


def _lattice(cell_A: float, rng: np.random.Generator) -> tuple[Points, NDArray[np.bool_]]:
    """Sites over the cell and 8 A around it, and which of them are of Mo."""
    count = int(cell_A / LATTICE_A) + 8
    i, j = np.mgrid[-count : count + 1, -count : count + 1].reshape(2, -1)
    corners = LATTICE_A * np.stack([i * np.sqrt(3) / 2, j + i / 2], axis=1)
    angle = rng.uniform(0, 2 * np.pi)  # turned by half a turn it is its own mirror image
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    to_s = SIDE_A * np.array([0.5, np.sqrt(3) / 2])  # a third of the cell's long diagonal
    origin = cell_A / 2 + rng.uniform(0, LATTICE_A, 2)
    points = np.concatenate([corners, corners + to_s]) @ turn.T + origin
    near = np.all((points > -8) & (points < cell_A + 8), axis=1)
    return points[near], np.repeat([True, False], len(corners))[near]


def _torn(
    points: Points, is_mo: NDArray[np.bool_], ranges: Mos2Ranges, rng: np.random.Generator
) -> tuple[Points, NDArray[np.bool_]]:
    """Holes and an edge; what is left hanging on one neighbour does not survive the beam."""
    gone = in_openings(points, ranges.cell_A, ranges, rng)
    outer = ~np.all((points > -5) & (points < ranges.cell_A + 5), axis=1)
    for _ in range(4):
        gone |= (_neighbours(points, ~gone) < 2) & ~outer
    return points[~gone], is_mo[~gone]


def _neighbours(points: Points, present: NDArray[np.bool_]) -> NDArray[np.intp]:
    """How many of its three neighbours each site has."""
    tree = cKDTree(points[present])
    around = tree.query_ball_point(points, 1.2 * SIDE_A, return_length=True)
    return np.asarray(around - present, np.intp)


def _with_vacancies(
    points: Points, is_mo: NDArray[np.bool_], left: NDArray[np.intp], ranges: Mos2Ranges, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Atoms left in each site, where some are missing; not at an edge, which has no sites beyond it."""
    left = left.copy()
    whole = _neighbours(points, np.ones(len(points), bool)) == 3
    factor = np.exp(rng.uniform(*np.log(ranges.defects))) * (ranges.cell_A + 16) ** 2 / 1000
    for density, of_mo, stay in (
        (ranges.vacancies_Mo, True, 0),
        (ranges.vacancies_S, False, 1),
        (ranges.vacancies_S2, False, 0),
    ):
        candidates = np.flatnonzero(whole & (is_mo == of_mo))
        count = min(len(candidates), rng.poisson(density * factor))
        left[rng.choice(candidates, count, replace=False)] = stay
    return left


def _relaxed(
    points: Points, is_mo: NDArray[np.bool_], left: NDArray[np.intp], largest_A: float, rng: np.random.Generator
) -> Points:
    """The neighbours of each vacancy moved towards it or away from it."""
    out, tree = points.copy(), cKDTree(points)
    for vacancy in np.flatnonzero(left < np.where(is_mo, 1, 2)):
        move_A = rng.uniform(-largest_A, largest_A) * (1.0 if left[vacancy] == 0 else 0.5)
        around = [n for n in tree.query_ball_point(points[vacancy], 1.2 * SIDE_A) if n != vacancy]
        out[around] += move_A * (points[around] - points[vacancy]) / SIDE_A
    return out


def _built(
    points: Points, is_mo: NDArray[np.bool_], left: NDArray[np.intp], ranges: Mos2Ranges, rng: np.random.Generator
) -> Structure:
    """Atoms of the sites on a sheet that waves, at one moment of their motion."""
    height, slope = _waves(points, ranges.ripple_A, rng)
    upper = rng.random(len(points)) < 0.5  # where one S is left, which one
    sigma_A = rng.uniform(*ranges.disorder_A)
    rows = np.repeat(np.arange(len(points)), left)
    second = np.r_[False, rows[1:] == rows[:-1]]
    side = np.where(is_mo[rows], 0, np.where(second | ((left[rows] == 1) & upper[rows]), 1, -1)) * S_HEIGHT_A
    atoms = np.column_stack([height[rows] + side, points[rows] - side[:, None] * slope[rows]])
    atoms += rng.normal(0, sigma_A, atoms.shape) * np.array([1.5, 1, 1])
    positions = points.copy()
    for axis in (0, 1):
        total = np.bincount(rows, atoms[:, 1 + axis], len(points))
        positions[:, axis] = np.where(left > 0, total / np.maximum(left, 1), points[:, axis])
    class_id = np.where(is_mo, np.where(left == 1, MO, VACANCY_MO), np.where(left == 2, S, VACANCY_S))
    content = np.stack([np.where(is_mo, left, 0), np.where(is_mo, 0, left)], axis=1)
    sites = Sites(positions, class_id.astype(np.uint8), _NUMBERS, content.astype(np.uint8))
    return Structure(atoms, np.where(is_mo[rows], *_NUMBERS).astype(np.uint8), ranges.cell_A, sites)


def _waves(points: Points, largest_A: float, rng: np.random.Generator) -> tuple[NDArray[np.float64], Points]:
    """Heights (N,) of a sheet that waves, and its slopes (N, 2) along y and x: columns of S lean with it."""
    height, slope = np.zeros(len(points)), np.zeros_like(points)
    for _ in range(3):
        wave = rng.normal(size=2)
        wave *= 2 * np.pi / rng.uniform(20, 80) / np.linalg.norm(wave)
        phase, amplitude_A = points @ wave + rng.uniform(0, 6), rng.uniform(0, largest_A) / 2
        height += amplitude_A * np.sin(phase)
        slope += amplitude_A * np.cos(phase)[:, None] * wave
    return height, slope
