"""Drift of simulated MoS2 triplets as `serve` measures it: whatever the three foci make of the contrast."""

from __future__ import annotations

import numpy as np
import pytest

from bench.drift import measure, triplets
from tests.training.specimens import thin_sites
from training.recipes.mos2 import mos2
from training.structures.mos2 import Mos2Ranges

CELL_A = 56.0


@pytest.fixture(scope="module")
def shifts() -> list[tuple[float, bool]]:
    """0.1 A/px, 3 x 10^4 e/A^2 an image, drift up to 8 px between the middle image and another."""
    structure = Mos2Ranges(cell_A=CELL_A).draw(np.random.default_rng(1))
    specimen = thin_sites(structure.sites, CELL_A)
    return [measure(one) for one in triplets([specimen], mos2().images, 12, seed=2)]


def test_taken_out_to_a_tenth_of_a_pixel(shifts) -> None:
    assert np.median([error for error, _ in shifts]) < 0.1


def test_none_slips_by_a_period(shifts) -> None:
    assert max(error for error, _ in shifts) < 2


def test_few_are_doubted(shifts) -> None:
    assert sum(doubted for _, doubted in shifts) <= 3
