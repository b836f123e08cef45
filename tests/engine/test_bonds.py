"""Neighbours an atom may have: which of too many are left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine import Atoms, ModelSpec
from engine.bonds import allowed
from engine.shipped import find_spec

BOND_A, REACH_A = 1.42, 1.8
CARBON = replace(ModelSpec.read(find_spec("graphene")), bonds=(3, REACH_A))


def atoms_at(positions_A: np.ndarray, score: np.ndarray, sampling_A: float = 0.1) -> Atoms:
    y, x = (positions_A / sampling_A).astype(np.float32).T
    like = np.ones(len(y), np.float32)
    kind = np.zeros(len(y), np.uint8)
    return Atoms(y=y, x=x, class_id=kind, score=score.astype(np.float32), sigma_pm=like, agreement=like, flags=kind)


def sites(rings: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) positions in A of a triangular lattice whose every third site is the middle of a ring, and which are."""
    i, j = np.mgrid[: 3 * rings, : 3 * rings].reshape(2, -1)
    positions_A = BOND_A * np.stack([i * np.sqrt(3) / 2, j + i / 2], axis=1)
    return positions_A, (i - j) % 3 == 0


def neighbours(atoms: Atoms, sampling_A: float = 0.1) -> np.ndarray:
    apart = np.linalg.norm(atoms.positions[:, None] - atoms.positions[None], axis=2) * sampling_A
    return ((apart > 0) & (apart < REACH_A)).sum(axis=1)


def test_the_middles_of_rings_go() -> None:
    positions_A, middle = sites()
    score = np.where(middle, 0.5, 0.8) + np.random.default_rng(0).uniform(-0.1, 0.1, len(middle))
    left = allowed(atoms_at(positions_A, score), 0.1, CARBON)
    # At the border a middle has fewer neighbours than one would notice.
    inside = (left.positions * 0.1 > 3).all(axis=1) & (left.positions * 0.1 < positions_A.max(axis=0) - 3).all(axis=1)
    assert inside.sum() > 100
    assert left.score[inside].min() > 0.65
    assert len(left) > 0.6 * len(middle)


def test_a_sheet_stays_whole() -> None:
    positions_A, middle = sites()
    atoms = atoms_at(positions_A[~middle], np.linspace(0.1, 1, (~middle).sum()))
    assert allowed(atoms, 0.1, CARBON) is atoms


def test_without_bonds_everything_stays() -> None:
    positions_A, middle = sites()
    atoms = atoms_at(positions_A, np.ones(len(middle)))
    assert allowed(atoms, 0.1, replace(CARBON, bonds=None)) is atoms


def test_no_atoms() -> None:
    assert len(allowed(Atoms.none(), 0.1, CARBON)) == 0


@given(seed=st.integers(0, 10**6), count=st.integers(1, 60), equal=st.booleans())
def test_nobody_has_too_many_and_nobody_goes_for_nothing(seed: int, count: int, equal: bool) -> None:
    rng = np.random.default_rng(seed)
    positions_A = rng.uniform(0, 6, (count, 2))
    far = np.linalg.norm(positions_A[:, None] - positions_A[None], axis=2) + 9 * np.tri(count)
    positions_A = positions_A[far.min(axis=1) > 0.8]
    atoms = atoms_at(positions_A, np.ones(len(positions_A)) if equal else rng.random(len(positions_A)))
    assert neighbours(allowed(atoms, 0.1, CARBON)).max(initial=0) <= 3
    np.testing.assert_array_equal(allowed(atoms, 0.1, CARBON).positions, one_by_one(atoms).positions)


def one_by_one(atoms: Atoms) -> Atoms:
    """The rule as it is told: the worst of all that have too many goes, then look again."""
    while (over := np.flatnonzero(neighbours(atoms) > 3)).size:
        worst = over[np.lexsort((-over, atoms.score[over]))[0]]
        atoms = atoms.select(np.arange(len(atoms)) != worst)
    return atoms
