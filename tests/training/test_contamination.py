"""Amorphous carbon over a specimen: how strong, how much, and where it is said to be."""

from __future__ import annotations

import numpy as np
import pytest

from training.contamination import contaminate
from training.exit_waves import SAMPLING_A
from training.optics import frequencies
from training.ranges import ImageRanges
from training.scattering import atom_phase

SHAPE = (160, 160)
EMPTY = np.ones(SHAPE, np.complex64)
RANGES = ImageRanges()


def test_the_phase_of_an_atom_falls_with_its_scattering() -> None:
    phase = atom_phase(6, (16, 16), 0.25, 80.0)
    ky, kx = frequencies((16, 16), 0.25)
    order = np.argsort(np.hypot(ky, kx), axis=None)
    assert (np.diff(phase.ravel()[order]) <= 0).all()
    # REF: f(0) of carbon is 2.51 A; times gamma (1.157) and the wavelength
    assert phase[0, 0] == pytest.approx(2.51 * 1.1566 * 0.041757, rel=0.01)


def test_faster_electrons_are_turned_less() -> None:
    assert atom_phase(6, (4, 4), 0.25, 300.0)[0, 0] < atom_phase(6, (4, 4), 0.25, 80.0)[0, 0]


@pytest.mark.parametrize("seed", range(4))
class TestContaminate:
    def test_part_of_the_field_is_covered(self, seed: int) -> None:
        wave, covered = contaminate(EMPTY, SAMPLING_A, RANGES, np.random.default_rng(seed))
        assert wave.dtype == np.complex64
        assert covered.dtype == np.float32
        assert covered.min() == 0
        assert 0.3 < covered.max() <= 1
        assert 0.05 < (covered > 0).mean() < 0.65

    def test_it_turns_phases_only_where_it_says(self, seed: int) -> None:
        wave, covered = contaminate(EMPTY, SAMPLING_A, RANGES, np.random.default_rng(seed))
        np.testing.assert_allclose(np.abs(wave), 1, rtol=1e-5)
        phase = np.angle(wave)
        assert phase[covered > 0.5].mean() > 10 * max(1e-3, float(phase[covered == 0].mean()))
        assert phase[covered > 0.5].std() > 3 * phase[covered == 0].std()

    def test_a_film_turns_phases_by_its_thickness(self, seed: int) -> None:
        wave, covered = contaminate(EMPTY, SAMPLING_A, RANGES, np.random.default_rng(seed))
        thin = (covered > 0.1) & (covered < 0.95)
        # Covered is the thickness over 15 A; each A holds 0.09 atoms an A^2, of carbon or up to twice as heavy.
        carbon = 15 * 0.09 * atom_phase(6, SHAPE, SAMPLING_A, 80.0)[0, 0] * covered[thin].mean()
        assert 0.7 * 0.8 < np.angle(wave)[thin].mean() / carbon < 2 * 1.2

    def test_the_same_seed_draws_the_same(self, seed: int) -> None:
        one, again = (contaminate(EMPTY, SAMPLING_A, RANGES, np.random.default_rng(seed))[0] for _ in range(2))
        np.testing.assert_array_equal(one, again)


def test_what_lies_under_it_is_still_in_the_wave() -> None:
    rng = np.random.default_rng(1)
    specimen = np.exp(0.2j * rng.normal(size=SHAPE)).astype(np.complex64)
    over_specimen, over_nothing = (
        contaminate(wave, SAMPLING_A, RANGES, np.random.default_rng(0))[0] for wave in (specimen, EMPTY)
    )
    np.testing.assert_allclose(over_specimen, specimen * over_nothing, atol=1e-5)
