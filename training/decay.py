"""Periodic sheets that lose atoms under the beam. A generator in, the cell and the atoms of each stage out.

For the simulated camera, which tiles them: they are stretched by parts in a thousand to a whole number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from training.structures.graphene import BOND_A
from training.structures.graphene import LATTICE_A as GRAPHENE_A
from training.structures.mos2 import LATTICE_A as MOS2_A
from training.structures.mos2 import S_HEIGHT_A, SIDE_A
from training.structures.structure import Points

SAMPLING_A = 0.2
STAGES = 16
_GRAPHENE_CELLS = (12, 20)  # of four atoms, along y (armchair) and x: 51.1 A x 49.2 A
_GRAPHENE_LOST = 0.1  # share of its atoms that the last stage loses, earlier ones less
_MOS2_CELLS = (9, 16)  # of two Mo and four S, along y (armchair) and x: 49.3 A x 50.6 A
_MOS2_LOST = 0.0625  # share gone in the last stage: about 25 columns of S that lost one, 8 that lost both, 12 Mo
_MOS2_DISORDER_A = 0.05
_LONE_S, _MO = 12.0, 0.55  # how much easier than one of two S the beam takes the one that is left, and a Mo

Stage = tuple[Points, NDArray[np.uint8]]  # (N, 3) positions (z, y, x) in A, and the atomic number of each
Cell = tuple[float, float]  # height and width in A


@dataclass(frozen=True, slots=True, eq=False)
class Decay:
    """The period of a sheet, and what is left of it in each of STAGES."""

    cell_A: Cell
    stages: Iterator[Stage]


def graphene_decay(rng: np.random.Generator) -> Decay:
    """Graphene whose holes grow."""
    atoms, cell_A = graphene_sheet()
    return Decay(cell_A, _graphene_stages(atoms, cell_A, rng))


def mos2_decay(rng: np.random.Generator) -> Decay:
    """MoS2 that loses one S of a column, both, or a Mo."""
    atoms, numbers, column, cell_A = mos2_sheet()
    return Decay(cell_A, _mos2_stages(atoms, numbers, column, cell_A, rng))


DECAYS: dict[str, Callable[[np.random.Generator], Decay]] = {"graphene": graphene_decay, "mos2": mos2_decay}


def graphene_sheet() -> tuple[Points, Cell]:
    """(N, 2) atoms and their cell."""
    basis = np.array([[0, 0], [0.5, 1.5], [1.5, 1.5], [2, 0]]) * [BOND_A, GRAPHENE_A / 3]
    return _tiled(basis, (3 * BOND_A, GRAPHENE_A), _GRAPHENE_CELLS)


def mos2_sheet() -> tuple[Points, NDArray[np.uint8], NDArray[np.intp], Cell]:
    """(N, 3) atoms, the number of each, the site that it belongs to, and the cell."""
    mo = np.array([[0, 0], [1.5 * SIDE_A, MOS2_A / 2]])
    s = mo + np.array([SIDE_A / 2, MOS2_A / 2])
    sites, cell_A = _tiled(np.concatenate([mo, s]), (3 * SIDE_A, MOS2_A), _MOS2_CELLS)
    is_mo = np.arange(len(sites)) % 4 < 2
    column = np.repeat(np.arange(len(sites)), np.where(is_mo, 1, 2))
    second = np.r_[False, column[1:] == column[:-1]]
    height_A = np.where(is_mo[column], 0, np.where(second, 1, -1)) * S_HEIGHT_A
    numbers = np.where(is_mo[column], 42, 16).astype(np.uint8)
    return np.column_stack([height_A, sites[column]]), numbers, column, cell_A


def _tiled(basis: Points, cell: Cell, repeats: tuple[int, int]) -> tuple[Points, Cell]:
    whole = np.rint(np.multiply(cell, repeats) / SAMPLING_A) * SAMPLING_A
    corners = np.stack([*np.mgrid[: repeats[0], : repeats[1]]], axis=-1).reshape(-1, 1, 2) * cell
    sites = (corners + basis).reshape(-1, 2) * whole / np.multiply(cell, repeats)
    return sites, (float(whole[0]), float(whole[1]))


def _graphene_stages(atoms: Points, cell_A: Cell, rng: np.random.Generator) -> Iterator[Stage]:
    atoms = atoms + rng.normal(0, 0.03, atoms.shape)
    for stage in range(STAGES):
        left = len(atoms) - round(_GRAPHENE_LOST * len(atoms) * (stage / (STAGES - 1)) ** 1.5)
        while len(atoms) > left:
            atoms = np.delete(atoms, _next_carbon(atoms, cell_A, rng), axis=0)
        yield np.column_stack([np.zeros(len(atoms)), atoms % cell_A]), np.full(len(atoms), 6, np.uint8)


def _next_carbon(atoms: Points, cell_A: Cell, rng: np.random.Generator) -> int:
    """The beam takes atoms at edges first, so holes grow."""
    wrapped = atoms % cell_A
    bonds = cKDTree(wrapped, boxsize=cell_A).query_ball_point(wrapped, 1.3 * BOND_A, return_length=True) - 1
    weight = np.choose(np.clip(bonds, 0, 3), [300.0, 200.0, 60.0, 0.3])
    return int(rng.choice(len(atoms), p=weight / weight.sum()))


def _mos2_stages(
    atoms: Points, numbers: NDArray[np.uint8], column: NDArray[np.intp], cell_A: Cell, rng: np.random.Generator
) -> Iterator[Stage]:
    """Each site is a place of its own: no holes grow, so that every stage shows single vacancies of every kind."""
    atoms = atoms + rng.normal(0, _MOS2_DISORDER_A, atoms.shape)
    atoms[:, 1:] %= cell_A
    present = np.ones(len(atoms), bool)
    for stage in range(STAGES):
        left = len(atoms) - round(_MOS2_LOST * len(atoms) * stage / (STAGES - 1))
        while present.sum() > left:
            present[_next_of_mos2(numbers, column, present, rng)] = False
        yield atoms[present], numbers[present]


def _next_of_mos2(
    numbers: NDArray[np.uint8], column: NDArray[np.intp], present: NDArray[np.bool_], rng: np.random.Generator
) -> int:
    lone = np.bincount(column, present)[column] == 1
    weight = np.where(numbers == 42, _MO, np.where(lone, _LONE_S, 1.0)) * present
    return int(rng.choice(len(numbers), p=weight / weight.sum()))
