"""Specimens of a user's own structure: a crystal slab, a particle cut from the crystal, or the atoms as given.

A slab fills the cell, turned by any angle; its seam lies outside of what the camera sees. Columns are told in the
crystal before it is tilted, so that those of a thick specimen stay together.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, gcd

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from engine import ConfigError
from training.pairs import Pair, check_pairs
from training.structures.openings import in_openings
from training.structures.structure import Points, Structure
from training.structures.support import support
from training.structures.zone_axis import APART_A, along, column_sites, columns, tilt, turn

SHAPES = {"slab": ("zone", "thickness_A"), "particle": ("zone", "diameter_A"), "as-given": ()}  # and what each needs
_SLAB_CELL_A = 96.0  # the field that is trained on, turned by any angle, stays clear of its edges
_LEAST_CELL_A, _ROOM_A = 80.0, 30.0  # of what does not fill its cell
_LONGEST_COLUMN = 255  # atoms, counted in a byte
_WIDEST_COLUMN_A = 1.2  # of a column that zigzags; a wider one is several that run into each other
_FEW = 0.05  # share of the columns as given that may run into each other
_DRAWS = 300
_MOST_FILLED = 20_000_000  # atoms of the cells that a cut is taken from
_LOOKED_AT_A = 40.0  # to both sides, of the crystal whose columns are checked

Numbers = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class OwnRanges:
    """A structure, and what specimens of it are drawn from.

    Attributes
    ----------
    atoms_A : (M, 3) float64
        (z, y, x); of a crystal those of one cell.
    numbers : (M,) uint8
        Atomic number of each.
    cell_A : (3, 3) float64, or None
        The vectors a, b, c as rows (z, y, x).
    elements : tuple of int
        Atomic numbers of those whose columns are found, the heaviest first: a class each.
    shape : str
        One of SHAPES.
    zone : (u, v, w) or None
        What lies along the beam, in a, b, c. As given, the beam goes along z.
    thickness_A, diameter_A : (low, high) or None
        Of a slab, along the beam; of a particle.
    """

    atoms_A: Points
    numbers: Numbers
    cell_A: Points | None
    elements: tuple[int, ...]
    shape: str = "slab"
    zone: tuple[int, ...] | None = None
    thickness_A: Pair | None = None
    diameter_A: Pair | None = None
    tilt_degrees: float = 1.5
    disorder_A: Pair = (0.04, 0.1)  # sigma of thermal displacements
    vacancies: float = 0.01  # largest share of atoms that are missing
    hole_chance: float = 0.25  # of a slab, as its edge
    hole_radius_A: Pair = (4.0, 15.0)
    edge_chance: float = 0.25
    carbon_chance: float = 0.5  # that a particle lies on amorphous carbon, or beside it
    carbon_A: Pair = (15.0, 40.0)
    edge_on_chance: float = 0.5

    def __post_init__(self) -> None:
        check_pairs(self)

    def draw(self, rng: np.random.Generator) -> Structure:
        """One specimen."""
        for _ in range(_DRAWS):  # a thin cut through an open structure can miss every atom that is to be found
            structure = specimen(self, rng)
            if len(structure.sites.positions_A):
                return structure
        raise ConfigError(
            f"Expected specimens that hold what is to be found, got none in {_DRAWS}: choose a larger one, or more "
            "--elements"
        )


def specimen(ranges: OwnRanges, rng: np.random.Generator) -> Structure:
    """The structure turned, cut, tilted and at one moment of its motion, in the middle of the cell."""
    atoms, numbers = _cut(ranges, rng)
    column = _columns(ranges, atoms, numbers)
    atoms = atoms @ tilt(ranges.tilt_degrees, rng).T
    atoms += rng.normal(0, rng.uniform(*ranges.disorder_A), atoms.shape)
    cell_A, kind = _edge_A(ranges), ranges.shape
    kept = rng.random(len(atoms)) >= rng.uniform(0, ranges.vacancies)
    if ranges.shape == "slab":
        atoms[:, 1:] += cell_A / 2
        kept &= np.all((atoms[:, 1:] >= 0) & (atoms[:, 1:] < cell_A), axis=1)
        kept &= ~in_openings(atoms[:, 1:], cell_A, ranges, rng)
    else:
        atoms[:, 1:] += cell_A / 2 + rng.uniform(-4, 4, 2)
    atoms, numbers, column = atoms[kept], numbers[kept], column[kept]
    sought = column >= 0
    sites = column_sites(atoms[sought], numbers[sought], column[sought], ranges.elements)
    if ranges.shape == "particle" and len(atoms):
        kind = "carbon" if rng.random() < ranges.carbon_chance else "vacuum"
        under, under_numbers = support(kind, atoms, cell_A, ranges.carbon_A, ranges.edge_on_chance, rng)
        atoms, numbers = np.concatenate([atoms, under]), np.concatenate([numbers, under_numbers])
        kind = f"particle on {kind}"
    return Structure(atoms, numbers, cell_A, sites, kind)


def nearest_A(ranges: OwnRanges) -> float:
    """How near the nearest two columns lie; infinity of a single one.

    ConfigError where columns run into each other along the beam, those of atoms as given in more than a few places; the
    nearest of these are left aside.
    """
    given = ranges.shape == "as-given"
    if given:
        atoms, numbers = ranges.atoms_A, ranges.numbers
    else:
        half_A = np.array([_repeat_A(ranges) / 2 + 0.5, _LOOKED_AT_A, _LOOKED_AT_A])
        atoms, numbers = _filled(ranges, along(_direction(ranges)), half_A, np.zeros(3))
    column = _columns(ranges, atoms, numbers)
    sought = column >= 0
    flat, column = atoms[sought, 1:], column[sought]
    if len(column) == 0:
        return np.inf
    at, held = np.unique(column, return_inverse=True, return_counts=True)[1:]
    low, high = (np.full((len(held), 2), fill) for fill in (np.inf, -np.inf))
    np.minimum.at(low, at, flat)
    np.maximum.at(high, at, flat)
    joined = ((high - low).max(axis=1) > _WIDEST_COLUMN_A).mean()
    if held.max() > _LONGEST_COLUMN or joined > (_FEW if given else 0):
        raise _run_into_each_other(ranges)
    if len(held) == 1:
        return np.inf
    positions = column_sites(atoms[sought], numbers[sought], column, ranges.elements).positions_A
    nearest = cKDTree(positions).query(positions, k=2)[0][:, 1]
    if given:
        return float(np.quantile(nearest, _FEW))
    if nearest.min() < APART_A:
        raise _run_into_each_other(ranges)
    return float(nearest.min())


def _run_into_each_other(ranges: OwnRanges) -> ConfigError:
    axis = ",".join(map(str, ranges.zone)) if ranges.zone else "the file's z"
    return ConfigError(
        f"Expected columns at least {APART_A} A apart along the beam, got some that run into each other along {axis}: "
        "choose an axis of lower indices, or fewer --elements"
    )


def depth_A(ranges: OwnRanges) -> float:
    """How far the deepest specimen reaches along the beam."""
    drawn = ranges.thickness_A or ranges.diameter_A
    return drawn[1] if drawn else float(np.ptp(ranges.atoms_A[:, 0]))


def _cut(ranges: OwnRanges, rng: np.random.Generator) -> tuple[Points, Numbers]:
    """Atoms around the origin, turned at random about the beam, and their numbers."""
    if ranges.shape == "as-given":
        middle = (ranges.atoms_A.min(axis=0) + ranges.atoms_A.max(axis=0)) / 2
        return (ranges.atoms_A - middle) @ turn(rng).T, ranges.numbers
    rotation = turn(rng) @ along(_direction(ranges))
    origin = rng.uniform(0, 1, 3)
    if ranges.shape == "slab":
        half_A = rng.uniform(*ranges.thickness_A or (0, 0)) / 2
        lateral_A = _SLAB_CELL_A / 2 + half_A * np.tan(np.radians(ranges.tilt_degrees)) + 1
        return _filled(ranges, rotation, np.array([half_A, lateral_A, lateral_A]), origin)
    radius_A = rng.uniform(*ranges.diameter_A or (0, 0)) / 2
    atoms, numbers = _filled(ranges, rotation, np.full(3, radius_A), origin)
    facets = rng.normal(size=(14, 3))
    facets /= np.linalg.norm(facets, axis=1, keepdims=True)
    inside = (atoms @ facets.T < radius_A * rng.uniform(0.75, 1, len(facets))).all(axis=1)
    inside &= np.linalg.norm(atoms, axis=1) < radius_A
    return atoms[inside], numbers[inside]


def _filled(ranges: OwnRanges, rotation: Points, half_A: Points, origin: Points) -> tuple[Points, Numbers]:
    """The crystal, rotated, in a box that reaches half_A (3,) to both sides of `origin`, in cell vectors."""
    assert ranges.cell_A is not None
    cell = ranges.cell_A @ rotation.T
    basis = (ranges.atoms_A @ np.linalg.inv(ranges.cell_A) + origin) % 1
    corners = np.stack(np.mgrid[3 * (slice(-1, 2, 2),)], axis=-1).reshape(-1, 3) * half_A @ np.linalg.inv(cell)
    low, high = np.floor(corners.min(axis=0)).astype(int), np.floor(corners.max(axis=0)).astype(int)
    if np.prod(high - low + 1.0) * len(basis) > _MOST_FILLED:
        raise ConfigError(
            f"Expected a cell of which at most {_MOST_FILLED} atoms make a specimen, got one too flat or too skewed: "
            "write the crystal's conventional cell"
        )
    tiles = np.stack(np.mgrid[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))], axis=-1)
    atoms = (tiles.reshape(-1, 1, 3) + basis).reshape(-1, 3) @ cell
    inside = (np.abs(atoms) <= half_A).all(axis=1)
    return atoms[inside], np.tile(ranges.numbers, tiles[..., 0].size)[inside]


def _columns(ranges: OwnRanges, atoms: Points, numbers: Numbers) -> NDArray[np.intp]:
    """The column of each atom, -1 of elements that are not looked for."""
    sought = np.isin(numbers, ranges.elements)
    column = np.full(len(atoms), -1, np.intp)
    if sought.any():
        along_A = depth_A(ranges) if ranges.shape == "as-given" else _repeat_A(ranges)  # gaps in a column
        column[sought] = columns(atoms[sought], along_A=along_A + 1)
    return column


def _edge_A(ranges: OwnRanges) -> float:
    """Of the square cell, in whole pixels of an exit wave."""
    if ranges.shape == "slab":
        return _SLAB_CELL_A
    if ranges.shape == "particle":
        assert ranges.diameter_A is not None
        widest = ranges.diameter_A[1]
    else:
        plane = ranges.atoms_A[:, 1:]
        widest = 2 * float(np.hypot(*(plane - (plane.min(axis=0) + plane.max(axis=0)) / 2).T).max())
    return float(max(_LEAST_CELL_A, ceil(widest + _ROOM_A)))


def _direction(ranges: OwnRanges) -> Points:
    assert ranges.zone is not None
    assert ranges.cell_A is not None
    return np.array(ranges.zone, float) / gcd(*ranges.zone) @ ranges.cell_A


def _repeat_A(ranges: OwnRanges) -> float:
    """What the crystal repeats after along the zone axis."""
    return float(np.linalg.norm(_direction(ranges)))
