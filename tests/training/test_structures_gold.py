"""Gold particles: bonds, columns under a tilt, supports that leave room for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from training.structures.gold import BOND_A, ZONES, GoldRanges, _twinned
from training.structures.structure import Structure
from training.structures.support import carbon, ceria
from training.structures.zone_axis import columns

STILL = GoldRanges(
    diameter_A=(22.0, 22.0), tilt_degrees=0.0, disorder_A=(0.0, 0.0), step_chance=0.0, adatoms=0.0, twin_chance=0.0
)
BARE = replace(STILL, supports=(0.0, 0.0, 1.0))


def drawn(ranges: GoldRanges, seed: int = 0) -> Structure:
    return ranges.draw(np.random.default_rng(seed))


def only(zone: int) -> tuple[float, ...]:
    return tuple(float(k == zone) for k in range(len(ZONES)))


@pytest.mark.parametrize(("zone", "nearest_A"), [(0, 2.497), (1, 2.039), (2, 1.665), (3, 1.442)])
def test_columns_of_each_zone_axis_lie_where_the_lattice_projects(zone: int, nearest_A: float) -> None:
    structure = drawn(replace(BARE, zones=only(zone)))
    distance, _ = cKDTree(structure.sites.positions_A).query(structure.sites.positions_A, k=2)
    assert np.median(distance[:, 1]) == pytest.approx(nearest_A, abs=0.01)
    assert structure.sites.content.sum() == len(structure.atoms_A)
    assert structure.label == f"[{''.join(map(str, ZONES[zone]))}] on vacuum"


@pytest.mark.parametrize("zone", range(4))
@pytest.mark.parametrize("degrees", [1.0, 2.5])
def test_a_tilt_keeps_the_columns_and_moves_their_middles(zone: int, degrees: float) -> None:
    straight, tilted = (drawn(replace(BARE, zones=only(zone), tilt_degrees=d), 3) for d in (0.0, degrees))
    lengths = [np.sort(s.sites.content[:, 0]).tolist() for s in (straight, tilted)]
    assert lengths[0] == lengths[1]
    np.testing.assert_allclose(straight.sites.lean_A, 0, atol=1e-6)
    # The columns are straight: one of twice the layers leans about twice as far.
    layers, lean_A = tilted.sites.content[:, 0], tilted.sites.lean_A
    slope_A = lean_A[layers > 1] / (layers[layers > 1] - 1)
    np.testing.assert_allclose(slope_A, slope_A.mean(), rtol=1e-4)
    assert 0 < slope_A.mean() <= 7.07 * np.sin(np.radians(degrees))


def test_a_particle_is_a_crystal_of_its_size() -> None:
    atoms = drawn(BARE).atoms_A
    distance, _ = cKDTree(atoms).query(atoms, k=2)
    np.testing.assert_allclose(distance[:, 1], BOND_A, rtol=1e-6)
    assert 12 < np.ptp(atoms[:, 1]) < 32


@pytest.mark.parametrize("seed", range(6))
def test_twins_have_no_atoms_too_close(seed: int) -> None:
    atoms = _twinned(12.0, np.random.default_rng(seed))
    distance, _ = cKDTree(atoms).query(atoms, k=13)
    assert distance[:, 1].min() > 0.95 * BOND_A
    assert np.median(distance[:, 1]) == pytest.approx(BOND_A, rel=0.03)
    bonds = (distance[:, 1:] < 1.15 * BOND_A).sum(axis=1)
    assert (bonds == 12).sum() > 0.3 * len(atoms)  # across the twin planes too
    assert len(np.unique(columns(atoms))) < len(atoms) / 3


def test_steps_and_adatoms() -> None:
    whole, stepped = drawn(BARE, 1), drawn(replace(BARE, step_chance=1.0, adatoms=8.0), 1)
    assert len(whole.atoms_A) != len(stepped.atoms_A)
    assert cKDTree(stepped.atoms_A).query(stepped.atoms_A, k=2)[0][:, 1].min() > 0.85 * BOND_A


@pytest.mark.parametrize("edge_on", [0.0, 1.0])
@pytest.mark.parametrize("supports", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)])
def test_a_support_touches_and_does_not_overlap(edge_on: float, supports: tuple[float, ...]) -> None:
    structure = drawn(replace(STILL, supports=supports, edge_on_chance=edge_on))
    gold, under = structure.atoms_A[structure.numbers == 79], structure.atoms_A[structure.numbers != 79]
    nearest = cKDTree(gold).query(under)[0].min()
    assert 2.0 <= nearest < 5.0
    assert len(under) > 1000
    assert structure.sites.content.sum() == len(gold)


def test_supports_have_their_density() -> None:
    rng = np.random.default_rng(0)
    _, numbers = ceria(40.0, 20.0, rng)
    assert (numbers == 58).sum() == pytest.approx(4 * 40 * 40 * 20 / 5.411**3, rel=0.06)
    assert (numbers == 8).sum() == pytest.approx(2 * (numbers == 58).sum(), rel=0.06)
    assert len(carbon(40.0, 20.0, rng)[0]) == pytest.approx(0.09 * 40 * 40 * 20, rel=0.06)
