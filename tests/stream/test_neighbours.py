"""Neighbours and vacancies, on lattices whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from stream.neighbours import find_vacancies, nearest_A
from tests.stream.conftest import honeycomb

FIELD = (51.2, 51.2)
BOND_A = 1.42


def lattice(jitter_A: float = 0.0, seed: int = 1) -> NDArray[np.float64]:
    atoms = honeycomb(*FIELD)
    return ordered(atoms + np.random.default_rng(seed).normal(0, jitter_A, atoms.shape))


def square() -> NDArray[np.float64]:
    steps = np.arange(1.0, 50.0, 2.7)
    return ordered(np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2))


def ordered(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    return positions[np.argsort(positions[:, 0], kind="stable")]


def middle(positions: NDArray[np.float64], count: int, seed: int) -> NDArray[np.intp]:
    """Atoms well inside, none within 6 A of another."""
    order = np.random.default_rng(seed).permutation(len(positions))
    chosen: list[int] = []
    for k in order:
        inside = ((positions[k] > 8) & (positions[k] < 43)).all()
        if inside and all(np.hypot(*(positions[k] - positions[other])) > 6 for other in chosen):
            chosen.append(int(k))
    assert len(chosen) >= count
    return np.array(chosen[:count])


class TestNearest:
    def test_a_lattice(self) -> None:
        np.testing.assert_allclose(nearest_A(lattice()), BOND_A, atol=0.06)

    @given(hnp.arrays(np.int64, st.tuples(st.integers(0, 40), st.just(2)), elements=st.integers(0, 240)))
    def test_as_all_pairs_say(self, eighths: NDArray[np.int64]) -> None:
        positions = ordered(eighths / 8)
        every = np.hypot(*(positions[:, None] - positions[None]).transpose(2, 0, 1))
        np.fill_diagonal(every, np.inf)
        expected = every.min(axis=1, initial=np.inf)
        np.testing.assert_allclose(nearest_A(positions), np.where(expected <= 10, expected, np.nan))

    def test_more_than_one_block(self) -> None:
        positions = np.stack([np.arange(1000) * 0.5, np.zeros(1000)], 1)
        assert nearest_A(positions).tolist() == [0.5] * 1000


class TestVacancies:
    @pytest.mark.parametrize("atoms", [lattice(), lattice(0.08), square()])
    def test_none_in_a_whole_lattice(self, atoms: NDArray[np.float64]) -> None:
        assert find_vacancies(atoms, FIELD).shape == (0, 2)

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("kind", ["honeycomb", "with noise", "square"])
    def test_single_ones_are_where_they_were_made(self, kind: str, seed: int) -> None:
        atoms = {"honeycomb": lattice(), "with noise": lattice(0.06, seed), "square": square()}[kind]
        taken = middle(atoms, 8, seed)
        found = find_vacancies(np.delete(atoms, taken, axis=0), FIELD)
        assert len(found) == 8
        away = np.hypot(*(found[:, None] - atoms[taken][None]).transpose(2, 0, 1))
        assert away.min(axis=0).max() < 0.5

    def test_two_neighbours_are_two(self) -> None:
        atoms = lattice()
        (one,) = middle(atoms, 1, 3)
        other = int(np.argsort(np.hypot(*(atoms - atoms[one]).T))[1])
        assert len(find_vacancies(np.delete(atoms, [one, other], axis=0), FIELD)) == 2

    def test_the_edge_of_the_frame_is_none(self) -> None:
        atoms = lattice()
        half = atoms[atoms[:, 1] < 25]
        assert len(find_vacancies(half, (FIELD[0], 25.0))) == 0

    @pytest.mark.parametrize("count", [0, 1, 11])
    def test_too_few_for_a_lattice(self, count: int) -> None:
        assert find_vacancies(lattice()[:count], FIELD).shape == (0, 2)

    def test_atoms_without_neighbours(self) -> None:
        far = np.stack([np.arange(20) * 100.0, np.zeros(20)], 1)
        assert find_vacancies(far, (2000.0, 1.0)).shape == (0, 2)
