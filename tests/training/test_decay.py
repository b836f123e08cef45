"""Sheets that lose atoms: whole across their borders at first, and what goes when."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.spatial import cKDTree

from training import decay
from training.decay import DECAYS, SAMPLING_A, STAGES, graphene_sheet, mos2_decay, mos2_sheet
from training.structures.graphene import BOND_A
from training.structures.mos2 import LATTICE_A, S_HEIGHT_A, SIDE_A


def test_the_sheet_is_graphene_across_its_borders() -> None:
    atoms, cell_A = graphene_sheet()
    np.testing.assert_allclose(np.array(cell_A) / SAMPLING_A, np.rint(np.array(cell_A) / SAMPLING_A))
    distance, _ = cKDTree(atoms % cell_A, boxsize=cell_A).query(atoms % cell_A, k=5)
    np.testing.assert_allclose(distance[:, 1:4], BOND_A, rtol=0.01)
    assert distance[:, 4].min() > 1.6 * BOND_A


def test_the_sheet_is_mos2_across_its_borders() -> None:
    atoms, numbers, column, cell_A = mos2_sheet()
    np.testing.assert_allclose(np.array(cell_A) / SAMPLING_A, np.rint(np.array(cell_A) / SAMPLING_A))
    assert (numbers == 16).sum() == 2 * (numbers == 42).sum()
    np.testing.assert_allclose(atoms[numbers == 42, 0], 0)
    np.testing.assert_allclose(np.abs(atoms[numbers == 16, 0]), S_HEIGHT_A)
    flat = atoms[:, 1:] % cell_A
    first = np.r_[True, column[1:] != column[:-1]]
    np.testing.assert_allclose(flat[~first], flat[np.flatnonzero(~first) - 1])  # one S over the other
    sites, of_mo = flat[first], numbers[first] == 42
    distance, near = cKDTree(sites, boxsize=cell_A).query(sites, k=5)
    np.testing.assert_allclose(distance[:, 1:4], SIDE_A, rtol=0.01)
    assert (of_mo[near[:, 1:4]] != of_mo[:, None]).all()
    np.testing.assert_allclose(distance[:, 4], LATTICE_A, rtol=0.01)


@pytest.mark.parametrize("family", sorted(DECAYS))
def test_atoms_go_stage_by_stage_and_stay_gone(family: str) -> None:
    played = DECAYS[family](np.random.default_rng(1))
    stages = list(played.stages)
    assert len(stages) == STAGES
    for (before, _), (atoms, numbers) in pairwise(stages):
        assert len(numbers) == len(atoms) <= len(before)
        assert cKDTree(before).query(atoms)[0].max() == 0
    assert 0.5 * len(stages[0][0]) < len(stages[-1][0]) < 0.95 * len(stages[0][0])


def test_the_seed_decides() -> None:
    def last(seed: int) -> list[float]:
        *_, (atoms, _) = mos2_decay(np.random.default_rng(seed)).stages
        return [round(value, 6) for value in atoms.ravel()]

    assert last(1) == last(1)
    assert last(1) != last(2)


def test_every_kind_of_vacancy_of_mos2_appears() -> None:
    played = mos2_decay(np.random.default_rng(1))
    whole, numbers, column, _ = mos2_sheet()
    sites = whole[np.r_[True, column[1:] != column[:-1]]][:, 1:] % played.cell_A
    of_mo = numbers[np.r_[True, column[1:] != column[:-1]]] == 42
    for stage, (atoms, _) in enumerate(played.stages):
        held = cKDTree(atoms[:, 1:], boxsize=played.cell_A).query_ball_point(sites, SIDE_A / 2, return_length=True)
        lost = (held[of_mo] == 0).sum(), (held[~of_mo] == 1).sum(), (held[~of_mo] == 0).sum()
        if stage == 0:
            assert lost == (0, 0, 0)
    assert min(lost) >= 5
    assert max(lost) <= 40


def test_the_beam_takes_atoms_with_fewer_bonds_first() -> None:
    atoms, cell_A = graphene_sheet()
    torn = np.delete(atoms, 100, axis=0)
    beside = set(cKDTree(torn % cell_A, boxsize=cell_A).query_ball_point(atoms[100] % cell_A, 1.3 * BOND_A))
    rng = np.random.default_rng(0)
    next_to_go = [decay._next_carbon(torn, cell_A, rng) for _ in range(60)]
    share = 3 * 60 / (3 * 60 + 0.3 * (len(torn) - 3))  # of the three with two bonds left
    assert np.mean([atom in beside for atom in next_to_go]) == pytest.approx(share, abs=0.2)
