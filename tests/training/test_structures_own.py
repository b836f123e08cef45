"""Specimens of one's own: columns where the lattice projects, slabs that fill their cell, particles of their size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from engine import ConfigError
from training.exit_waves import SAMPLING_A
from training.structures.own import OwnRanges, nearest_A
from training.structures.structure import Structure

LATTICE_A = 3.905
STO = OwnRanges(  # strontium titanate, at rest
    atoms_A=np.array([[0, 0, 0], [1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) * LATTICE_A / 2,
    numbers=np.array([38, 22, 8, 8, 8], np.uint8),
    cell_A=np.eye(3) * LATTICE_A,
    elements=(38, 22, 8),
    zone=(0, 0, 1),
    thickness_A=(20.0, 20.0),
    tilt_degrees=0.0,
    disorder_A=(0.0, 0.0),
    vacancies=0.0,
    hole_chance=0.0,
    edge_chance=0.0,
    carbon_chance=0.0,
)
PARTICLE = replace(STO, shape="particle", thickness_A=None, diameter_A=(40.0, 40.0))
# Hexagonal, a and c of zinc oxide: no zone axis but c is along a Cartesian one, and (z, y, x) must not mirror it.
HEXAGONAL = replace(
    STO,
    atoms_A=np.array([[0.0, 0.0, 0.0], [0.5, 1 / 3, 2 / 3]]) * [5.2, 3.25 * np.sqrt(3) / 2, 3.25],
    numbers=np.array([30, 30], np.uint8),
    cell_A=np.array([[0, 0, 3.25], [0, 3.25 * np.sqrt(3) / 2, -3.25 / 2], [5.2, 0, 0]]),
    elements=(30,),
)


def drawn(ranges: OwnRanges, seed: int = 0) -> Structure:
    return ranges.draw(np.random.default_rng(seed))


def spacing_A(structure: Structure) -> float:
    """From a column well inside to its nearest."""
    positions = structure.sites.positions_A
    inside = np.all(np.abs(positions - structure.cell_A / 2) < 10, axis=1)
    return float(np.median(cKDTree(positions).query(positions[inside], k=2)[0][:, 1]))


@pytest.mark.parametrize(
    ("zone", "expected_A"),
    [((0, 0, 1), 1 / 2), ((1, 1, 0), np.sqrt(2) / 4), ((1, 1, 1), np.sqrt(6) / 6), ((0, -2, 0), 1 / 2)],
)
def test_columns_lie_where_the_lattice_projects(zone: tuple[int, int, int], expected_A: float) -> None:
    ranges = replace(STO, zone=zone)
    assert spacing_A(drawn(ranges)) == pytest.approx(expected_A * LATTICE_A)
    assert nearest_A(ranges) == pytest.approx(expected_A * LATTICE_A)


@pytest.mark.parametrize(("zone", "repeat"), [((0, 0, 1), 5.2), ((1, 0, 0), 3.25), ((1, -1, 0), 3.25 * np.sqrt(3))])
def test_the_zone_axis_is_along_the_beam(zone: tuple[int, int, int], repeat: float) -> None:
    atoms = drawn(replace(HEXAGONAL, zone=zone)).atoms_A
    inside = atoms[np.all(np.abs(atoms[:, 1:] - 48) < 20, axis=1) & (np.abs(atoms[:, 0]) < 2)]
    assert cKDTree(atoms).query(inside + np.array([repeat, 0, 0]))[0].max() < 1e-6


def test_a_column_is_of_the_heaviest_element_it_holds() -> None:
    sites = drawn(STO).sites
    strontium, titanium, oxygen = (sites.content[sites.class_id == k].max(axis=0) for k in range(3))
    assert sites.elements == (38, 22, 8)
    assert [list(held > 0) for held in (strontium, titanium, oxygen)] == [
        [True, False, False],
        [False, True, True],
        [False, False, True],
    ]
    share = np.bincount(sites.class_id) / len(sites.class_id)
    np.testing.assert_allclose(share, [0.25, 0.25, 0.5], atol=0.02)


def test_elements_that_are_not_looked_for_are_there_all_the_same() -> None:
    structure = drawn(replace(STO, elements=(22,)))
    assert set(structure.numbers.tolist()) == {8, 22, 38}
    assert set(structure.sites.class_id.tolist()) == {0}
    assert structure.sites.content.sum() == (structure.numbers == 22).sum()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("degrees", [0.0, 2.0])
def test_a_slab_fills_its_cell(seed: int, degrees: float) -> None:
    structure = drawn(replace(STO, thickness_A=(30.0, 60.0), tilt_degrees=degrees), seed)
    cell_A = structure.cell_A
    assert structure.atoms_A[:, 1:].min() >= 0
    assert structure.atoms_A[:, 1:].max() < cell_A
    grid = np.stack(np.mgrid[3 * (slice(0, 1, 0.1),)], axis=-1).reshape(-1, 3)
    low = structure.atoms_A.min(axis=0) + 4
    points = low + grid * (np.array([20, cell_A, cell_A]) - [0, 8, 8])
    assert cKDTree(structure.atoms_A).query(points)[0].max() < LATTICE_A


def test_thickness_is_drawn_in_its_range() -> None:
    deep = [np.ptp(drawn(replace(STO, thickness_A=(20.0, 60.0)), seed).atoms_A[:, 0]) for seed in range(12)]
    assert 16 < min(deep) < 35 < 45 < max(deep) <= 60


@pytest.mark.parametrize("degrees", [1.0, 3.0])
def test_a_tilt_keeps_the_columns_of_a_thick_particle_together(degrees: float) -> None:
    straight, tilted = (drawn(replace(PARTICLE, tilt_degrees=d), 3) for d in (0.0, degrees))
    np.testing.assert_array_equal(straight.sites.content, tilted.sites.content)
    assert not np.allclose(straight.sites.positions_A, tilted.sites.positions_A)


def test_long_repeats_are_one_column() -> None:
    cell_A = np.array([[0, 0, LATTICE_A], [0, LATTICE_A, 0], [30.0, 0, 0]])
    sites = drawn(replace(STO, cell_A=cell_A, thickness_A=(61.0, 61.0), elements=(22,))).sites
    assert set(sites.content[:, 0].tolist()) <= {2, 3}


def test_a_particle_is_a_piece_of_the_crystal_of_its_size() -> None:
    structure = drawn(PARTICLE)
    assert 25 < np.ptp(structure.atoms_A, axis=0).max() <= 40
    assert cKDTree(structure.atoms_A).query(structure.atoms_A, k=2)[0][:, 1].min() == pytest.approx(LATTICE_A / 2)
    assert structure.label == "particle on vacuum"


def test_a_particle_on_carbon_is_found_alone() -> None:
    structure = drawn(replace(PARTICLE, carbon_chance=1.0))
    bare = drawn(PARTICLE)
    assert (structure.numbers == 6).sum() > 1000
    assert structure.label == "particle on carbon"
    np.testing.assert_array_equal(structure.sites.content, bare.sites.content)


def test_atoms_as_given_stay_as_they_are_but_for_a_turn() -> None:
    given = np.array([[0.0, 0, 0], [4.0, 0, 0], [0, 6.0, 0], [0, 0, 9.0]])
    ranges = replace(STO, atoms_A=given, numbers=np.array([79, 79, 47, 47], np.uint8), elements=(79, 47))
    ranges = replace(ranges, shape="as-given", cell_A=None, zone=None, thickness_A=None)
    structure = drawn(ranges)
    apart = [np.linalg.norm(atoms[:, None] - atoms[None], axis=2) for atoms in (given, structure.atoms_A)]
    np.testing.assert_allclose(*apart, atol=1e-9)
    np.testing.assert_allclose(np.diff(structure.atoms_A[:2, 0]), 4)  # the beam is along z still
    assert structure.sites.content.tolist() == [[2, 0], [0, 1], [0, 1]]
    assert np.abs(structure.atoms_A[:, 1:] - structure.cell_A / 2).max() < 12
    assert nearest_A(ranges) == pytest.approx(6.0, abs=0.5)


def test_a_specimen_that_is_wide_has_room() -> None:
    wide = np.array([[0.0, 0, 0], [0, 0, 150.0]])
    ranges = replace(STO, atoms_A=wide, numbers=np.full(2, 79, np.uint8), elements=(79,), shape="as-given")
    assert drawn(ranges).cell_A >= 150 + 20
    assert drawn(ranges).cell_A % SAMPLING_A == 0


def test_defects_are_drawn() -> None:
    whole = len(drawn(replace(STO, zone=(0, 0, 1))).atoms_A)
    assert len(drawn(replace(STO, vacancies=0.2)).atoms_A) < whole
    assert len(drawn(replace(STO, hole_chance=0.9)).atoms_A) < whole
    assert len(drawn(replace(STO, edge_chance=1.0)).atoms_A) < 0.9 * whole
    warm = drawn(replace(STO, disorder_A=(0.08, 0.08)))
    inside = np.all(np.abs(warm.atoms_A[:, 1:] - 48) < 40, axis=1)
    away = cKDTree(drawn(STO).atoms_A).query(warm.atoms_A[inside])[0]
    assert np.sqrt(np.mean(away**2) / 3) == pytest.approx(0.08, rel=0.05)


def test_a_cut_that_holds_nothing_is_drawn_again() -> None:
    open_ = replace(STO, cell_A=np.array([[0, 0, 30.0], [0, 30.0, 0], [30.0, 0, 0]]), thickness_A=(2.0, 2.0))
    assert all(len(drawn(open_, seed).sites.positions_A) for seed in range(5))


def test_an_axis_along_which_columns_run_into_each_other_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"got some that run into each other along 3,5,8: choose an axis of lower"):
        nearest_A(replace(STO, zone=(3, 5, 8)))


def test_atoms_as_given_that_form_no_columns_are_refused() -> None:
    blob = np.random.default_rng(0).uniform(0, 30, (3000, 3))
    ranges = replace(STO, atoms_A=blob, numbers=np.full(3000, 6, np.uint8), elements=(6,), shape="as-given")
    with pytest.raises(ConfigError, match="got some that run into each other along the file's z"):
        nearest_A(replace(ranges, cell_A=None, zone=None, thickness_A=None))


def test_more_atoms_than_a_column_s_count_holds() -> None:
    line = np.column_stack([np.arange(300) * 0.65, np.zeros((300, 2))])
    ranges = replace(STO, atoms_A=line, numbers=np.full(300, 6, np.uint8), elements=(6,), shape="as-given", zone=None)
    with pytest.raises(ConfigError, match="run into each other"):
        nearest_A(ranges)
    assert nearest_A(replace(ranges, atoms_A=line[:255], numbers=ranges.numbers[:255])) == np.inf


def test_a_cell_too_skewed_to_fill_with() -> None:
    skewed = replace(STO, cell_A=np.array([[0, 0, 1.0], [0, 1.0, 3000.0], [1.0, 3000.0, 0]]))
    with pytest.raises(ConfigError, match="got one too flat or too skewed"):
        drawn(skewed)


def test_what_is_never_there_is_not_searched_for_ever() -> None:
    with pytest.raises(ConfigError, match="got none in 300"):
        drawn(replace(PARTICLE, elements=(79,), diameter_A=(8.0, 8.0)))
