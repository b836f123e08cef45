"""Suspicion counts near to where the network is sure, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from engine.contamination import PATCH_A, SURE, contaminated

LEAST = 0.2


def along_a_row(covered: list[float], apart_A: float, sampling_A: float = 0.25) -> list[bool]:
    """Of atoms that far apart which are taken to be covered."""
    x = np.arange(len(covered), dtype=np.float32) * np.float32(apart_A / sampling_A)
    y = np.full_like(x, 3.0)
    return contaminated(y, x, np.array(covered, np.float32), sampling_A, LEAST).tolist()


def test_suspicion_alone_is_none() -> None:
    assert along_a_row([0.3, 0.5, 0.6, 0.1], 2.0) == [False] * 4


@pytest.mark.parametrize("sampling_A", [0.05, 0.25, 0.8])
def test_a_sure_place_makes_suspicion_believed_as_far_as_a_patch_reaches(sampling_A: float) -> None:
    covered = [0.9, *[0.3] * 4, 0.1, *[0.3] * 6]
    found = along_a_row(covered, 3.0, sampling_A)
    assert found == [k * 3.0 <= PATCH_A and value > LEAST for k, value in enumerate(covered)]


def test_what_is_no_suspicion_is_clear_beside_any_patch() -> None:
    assert along_a_row([0.9, LEAST, 0.0, float("nan")], 1.5) == [True, False, False, False]


def test_a_model_that_suspects_late_is_sure_then() -> None:
    x = np.zeros(2, np.float32)
    assert contaminated(x, x, np.array([0.75, 0.85], np.float32), 0.2, 0.8).tolist() == [False, True]


def test_no_atoms() -> None:
    none = np.empty(0, np.float32)
    assert contaminated(none, none, none, 0.2, LEAST).shape == (0,)


@given(st.integers(0, 10**6), st.floats(0.05, 0.8), st.integers(1, 200))
def test_as_distances_say_but_for_the_grid(seed: int, sampling_A: float, count: int) -> None:
    rng = np.random.default_rng(seed)
    y, x = rng.uniform(-0.5, 90 / sampling_A, (2, count)).astype(np.float32)
    covered = rng.uniform(0, 0.7, count).astype(np.float32)
    found = contaminated(y, x, covered, sampling_A, LEAST)
    at_A = np.stack([y, x], axis=1) * sampling_A
    sure, suspects = covered > SURE, covered > LEAST
    assert found[sure].all()
    assert not found[~suspects].any()
    if sure.any():
        away_A = cKDTree(at_A[sure]).query(at_A[suspects])[0]
        np.testing.assert_array_equal(found[suspects][away_A < PATCH_A - 3], True)
        np.testing.assert_array_equal(found[suspects][away_A > PATCH_A + 3], False)
