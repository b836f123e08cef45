"""Sheets of MoS2: the lattice, what is missing from it, and that sites are where their atoms are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from training.structures.mos2 import (
    CLASSES,
    LATTICE_A,
    MO,
    S_HEIGHT_A,
    SIDE_A,
    VACANCY_MO,
    VACANCY_S,
    Mos2Ranges,
    S,
)
from training.structures.structure import Structure

CELL_A = 40.0
STILL = Mos2Ranges(
    cell_A=CELL_A,
    strain=0.0,
    ripple_A=0.0,
    disorder_A=(0.0, 0.0),
    relaxation_A=0.0,
    hole_chance=0.0,
    edge_chance=0.0,
    perfect_chance=0.0,
    defects=(1.0, 1.0),
)
PERFECT = replace(STILL, perfect_chance=1.0)


def drawn(ranges: Mos2Ranges, seed: int = 0) -> Structure:
    return ranges.draw(np.random.default_rng(seed))


def atoms_of(structure: Structure, site: int) -> np.ndarray:
    """Atoms on a site's spot, of a sheet that is still."""
    away = structure.atoms_A[:, 1:] - structure.sites.positions_A[site]
    return structure.atoms_A[np.hypot(*away.T) < 0.6]


class TestPerfectSheet:
    @pytest.mark.parametrize("seed", range(3))
    def test_every_Mo_has_three_columns_of_S_around_it(self, seed: int) -> None:
        sites = drawn(PERFECT, seed).sites
        assert set(sites.class_id.tolist()) == {MO, S}
        inner = np.all((sites.positions_A > 4) & (sites.positions_A < CELL_A - 4), axis=1)
        distance, row = cKDTree(sites.positions_A).query(sites.positions_A[inner], k=5)
        np.testing.assert_allclose(distance[:, 1:4], SIDE_A, rtol=1e-6)
        np.testing.assert_allclose(distance[:, 4], LATTICE_A, rtol=1e-6)
        assert (sites.class_id[row[:, 1:4]] != sites.class_id[inner][:, None]).all()
        assert (sites.class_id[row[:, 4]] == sites.class_id[inner]).all()

    def test_as_many_Mo_as_the_area_holds_and_twice_as_many_S(self) -> None:
        structure = drawn(PERFECT)
        mo, s = (int((structure.numbers == number).sum()) for number in (42, 16))
        assert mo == pytest.approx(CELL_A**2 / (LATTICE_A**2 * np.sqrt(3) / 2), rel=0.03)
        assert s == pytest.approx(2 * mo, rel=0.03)

    def test_a_column_of_S_lies_over_and_under_the_plane_of_Mo(self) -> None:
        structure = drawn(PERFECT)
        (column,) = np.flatnonzero(structure.sites.class_id == S)[:1]
        np.testing.assert_allclose(np.sort(atoms_of(structure, column)[:, 0]), [-S_HEIGHT_A, S_HEIGHT_A])

    def test_columns_lean_with_a_sheet_that_waves_and_stay_where_they_are(self) -> None:
        still, waving = drawn(PERFECT), drawn(replace(PERFECT, ripple_A=2.0))
        np.testing.assert_allclose(waving.sites.positions_A, still.sites.positions_A, atol=1e-9)
        assert np.abs(waving.atoms_A[:, 1:] - still.atoms_A[:, 1:]).max() > 0.02


class TestVacancies:
    @pytest.mark.parametrize(
        ("ranges", "class_id", "content"),
        [
            ({"vacancies_S": 0.0, "vacancies_S2": 0.0}, VACANCY_MO, [0, 0]),
            ({"vacancies_Mo": 0.0, "vacancies_S2": 0.0}, VACANCY_S, [0, 1]),
            ({"vacancies_Mo": 0.0, "vacancies_S": 0.0}, VACANCY_S, [0, 0]),
        ],
    )
    def test_what_is_missing_is_a_site_with_its_place(
        self, ranges: dict[str, float], class_id: int, content: list[int]
    ) -> None:
        torn, whole = drawn(replace(STILL, **ranges)), drawn(PERFECT)
        assert len(torn.sites.positions_A) == len(whole.sites.positions_A)
        missing = np.flatnonzero(torn.sites.class_id >= VACANCY_MO)
        assert 1 <= len(missing) < 30
        for site in missing:
            assert torn.sites.class_id[site] == class_id
            assert torn.sites.content[site].tolist() == content
            assert len(atoms_of(torn, site)) == sum(content)
        distance, _ = cKDTree(whole.sites.positions_A).query(torn.sites.positions_A)
        assert np.all(distance < 1e-6)

    def test_content_counts_the_atoms(self) -> None:
        structure = drawn(replace(STILL, defects=(3.0, 3.0)), 4)
        for element, number in enumerate(structure.sites.elements):
            assert structure.sites.content[:, element].sum() == (structure.numbers == number).sum()

    def test_sites_are_the_mean_of_their_atoms(self) -> None:
        structure = drawn(replace(STILL, disorder_A=(0.05, 0.05)), 1)
        for site in np.flatnonzero(structure.sites.content.any(axis=1))[:200]:
            mean = atoms_of(structure, site)[:, 1:].mean(axis=0)
            np.testing.assert_allclose(structure.sites.positions_A[site], mean, atol=1e-9)

    def test_neighbours_of_a_vacancy_move(self) -> None:
        ranges = replace(STILL, vacancies_S=0.0, vacancies_S2=0.0)
        still, relaxed = drawn(ranges, 2), drawn(replace(ranges, relaxation_A=0.2), 2)
        tree = cKDTree(still.sites.positions_A)
        at = relaxed.sites.positions_A
        moved = tree.query(at[np.all((at > 1) & (at < CELL_A - 1), axis=1)])[0]
        assert 0.02 < moved.max() < 0.7
        assert np.mean(moved > 1e-6) < 0.2

    def test_there_are_none_beyond_an_edge(self) -> None:
        torn = replace(STILL, edge_chance=1.0, hole_chance=0.5, defects=(4.0, 4.0))
        for seed in range(3):
            sites = drawn(torn, seed).sites
            inner = np.all((sites.positions_A > 3) & (sites.positions_A < CELL_A - 3), axis=1)
            missing = np.flatnonzero((sites.class_id >= VACANCY_MO) & inner)
            around = cKDTree(sites.positions_A).query_ball_point(
                sites.positions_A[missing], 1.2 * SIDE_A, return_length=True
            )
            assert (around == 4).all()


def test_the_same_seed_draws_the_same_sheet() -> None:
    one, again = drawn(Mos2Ranges(cell_A=CELL_A), 3), drawn(Mos2Ranges(cell_A=CELL_A), 3)
    np.testing.assert_array_equal(one.atoms_A, again.atoms_A)
    assert len(CLASSES) == 4
