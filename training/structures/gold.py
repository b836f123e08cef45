"""Gold nanoparticles on a support, seen along a zone axis or a little off it.

Truncated octahedra, single twins and decahedra, with steps and adatoms; CeO2 or amorphous carbon under the particle or
beside it (edge-on). What is to be found are columns: the mean of each one's atoms as projected under the tilt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from training.pairs import Pair, check_pairs
from training.structures.structure import Points, Structure
from training.structures.support import support
from training.structures.zone_axis import along, column_sites, columns, tilt, turn

LATTICE_A = 4.078
BOND_A = LATTICE_A / np.sqrt(2)
ZONES = ((1, 1, 0), (1, 0, 0), (1, 1, 1), (2, 1, 1))


@dataclass(frozen=True, slots=True)
class GoldRanges:
    """What particles and their supports are drawn from."""

    cell_A: float = 80.0
    diameter_A: Pair = (10.0, 50.0)
    zones: tuple[float, ...] = (0.4, 0.25, 0.2, 0.15)  # probability of each of ZONES
    twin_chance: float = 0.25  # of particles along [110]: one twin plane, or five of a decahedron
    tilt_degrees: float = 2.5
    supports: tuple[float, ...] = (0.45, 0.45, 0.1)  # probability of carbon, CeO2, none
    edge_on_chance: float = 0.5
    thickness_A: Pair = (15.0, 40.0)  # of the support along the beam
    step_chance: float = 0.5  # of an outermost layer that is half gone
    adatoms: float = 3.0  # mean of a Poisson draw
    disorder_A: Pair = (0.04, 0.1)  # sigma of thermal displacements

    def __post_init__(self) -> None:
        check_pairs(self)

    def draw(self, rng: np.random.Generator) -> Structure:
        """One particle on its support."""
        return particle(self, rng)


def particle(ranges: GoldRanges, rng: np.random.Generator) -> Structure:
    """A particle near the middle of the cell."""
    zone = ZONES[rng.choice(len(ZONES), p=ranges.zones)]
    radius_A = rng.uniform(*ranges.diameter_A) / 2
    gold = _crystal(zone, radius_A, rng)
    if zone == (1, 1, 0) and rng.random() < ranges.twin_chance:
        gold = _twinned(radius_A, rng)
    gold = _surface(gold, ranges, rng)
    gold = gold @ tilt(ranges.tilt_degrees, rng).T @ turn(rng).T
    gold -= gold.mean(axis=0)
    column = columns(gold)
    gold += rng.normal(0, rng.uniform(*ranges.disorder_A), gold.shape)
    gold[:, 1:] += ranges.cell_A / 2 + rng.uniform(-4, 4, 2)
    kind = ("carbon", "CeO2", "vacuum")[rng.choice(3, p=ranges.supports)]
    under, under_numbers = support(kind, gold, ranges.cell_A, ranges.thickness_A, ranges.edge_on_chance, rng)
    atoms = np.concatenate([gold, under])
    numbers = np.full(len(gold), 79, np.uint8)
    sites = column_sites(gold, numbers, column, (79,))
    numbers = np.concatenate([numbers, under_numbers])
    return Structure(atoms, numbers, ranges.cell_A, sites, f"[{''.join(map(str, zone))}] on {kind}")


def _crystal(zone: tuple[int, int, int], radius_A: float, rng: np.random.Generator) -> Points:
    """A truncated octahedron, its zone axis along z."""
    reach = int(radius_A * 1.4 / LATTICE_A) + 2
    corners = np.stack(np.mgrid[3 * (slice(-reach, reach + 1),)], axis=-1).reshape(-1, 1, 3)
    basis = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    atoms = ((corners + basis).reshape(-1, 3) + rng.uniform(0, 1, 3)) * LATTICE_A
    depth_111 = np.abs(atoms).sum(axis=1) / np.sqrt(3)
    depth_100 = np.abs(atoms).max(axis=1)
    flatter = rng.uniform(0.85, 1.1, 3)  # along the cube's axes: no two particles are of one shape
    inside = (depth_111 < radius_A) & (depth_100 < radius_A * rng.uniform(1.0, 1.25))
    inside &= (np.abs(atoms) < radius_A * 1.2 * flatter).all(axis=1)
    return atoms[inside] @ along(zone).T


def _twinned(radius_A: float, rng: np.random.Generator) -> Points:
    """Wedges of a crystal along [110], mirrored at (111): two, or the five of a decahedron, opened to a circle."""
    rows = np.stack(np.mgrid[-30:31, -30:31], axis=-1).reshape(-1, 2)
    # Columns of [110]: along a (111) plane every 2.50 A, planes every 2.355 A, each a third of two columns further.
    apart, between = LATTICE_A * np.sqrt(6) / 4, LATTICE_A / np.sqrt(3)
    plane = np.stack([(rows[:, 0] - rows[:, 1] / 3) * 2 * apart, rows[:, 1] * between], axis=1)
    height = np.repeat([0, BOND_A / 2], len(plane))  # every other column of a row lies half a bond higher
    plane = np.concatenate([plane, plane + np.array([apart, 0])])
    parts = []
    if rng.random() < 0.5:
        kept = plane[:, 1] > -1e-6
        for sign in (1, -1):
            half = kept & ((plane[:, 1] > 1e-6) | (sign > 0))
            parts.append(np.column_stack([height[half], plane[half] * [1, sign]]))
    else:
        # Two (111) planes enclose 70.53 degrees; the five wedges are stretched to 72 each.
        open_ = np.tan(np.radians(36)) / np.tan(np.radians(35.264))
        angle = np.degrees(np.arctan2(plane[:, 1], plane[:, 0]))
        wedge = (angle > -1e-6) & (angle < 70.528 - 1.0)
        part, level = _rotated(plane[wedge], -35.264) * [1, open_], height[wedge]
        for k in range(5):
            own = (
                np.hypot(*part.T) > 0.1 if k else np.ones(len(part), bool)
            )  # the axis belongs to all, and is there once
            parts.append(np.column_stack([level, _rotated(part, 72.0 * k)])[own])
    flat = np.concatenate(parts)
    flat[:, 1:] += rng.uniform(-0.3, 0.3, 2) * radius_A
    layers = int(2 * radius_A / BOND_A) + 1
    heights = (np.arange(layers + 1) - layers / 2) * BOND_A
    atoms = np.concatenate([flat + np.array([height, 0, 0]) for height in heights])
    inside = np.hypot(atoms[:, 1], atoms[:, 2]) + 0.35 * np.abs(atoms[:, 0]) < radius_A
    return atoms[inside & (np.abs(atoms[:, 0]) < radius_A)]


def _rotated(plane: Points, degrees: float) -> Points:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return plane @ np.array([[c, s], [-s, c]])


def _surface(atoms: Points, ranges: GoldRanges, rng: np.random.Generator) -> Points:
    """Half of an outermost layer gone, and atoms in hollows of the surface."""
    if rng.random() < ranges.step_chance:
        side, across = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
        out = atoms @ side
        atoms = atoms[~((out > out.max() - 2.4) & (atoms @ across > 0))]
    for _ in range(rng.poisson(ranges.adatoms)):
        tree = cKDTree(atoms)
        bonds = tree.query_ball_point(atoms, 1.1 * BOND_A, return_length=True) - 1
        near = rng.choice(np.flatnonzero(bonds < 10))
        # A lattice site next to it: a bond of an atom in the bulk, if it is free.
        source = int(np.argmax(bonds))
        steps = atoms[tree.query_ball_point(atoms[source], 1.1 * BOND_A)] - atoms[source]
        spots = atoms[near] + steps[np.linalg.norm(steps, axis=1) > 0.1]
        held = tree.query_ball_point(spots, 1.1 * BOND_A, return_length=True)
        free = spots[(tree.query(spots)[0] > 0.9 * BOND_A) & (held >= 3)]
        if len(free):
            atoms = np.concatenate([atoms, free[rng.integers(len(free))][None]])
    return atoms
