"""The Cramer-Rao bound: what maximum likelihood reaches, and how it goes with dose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.training.specimens import ROUND, thin
from training.bound import position_bound_pm
from training.exit_waves import SAMPLING_A, Specimen
from training.imaging import Shot, shoot
from training.optics import image_spectrum
from training.ranges import ImageRanges
from training.view import project

CELL_A = 20.0
FIELD_A = (14.0, 14.0)
DOSE_E_A2 = 1e5
HALF_A, STEPS = 0.15, 21  # the positions tried


def alone(at_A: tuple[float, float] = (10.3, 9.8)) -> Specimen:
    return thin(np.array([at_A]), CELL_A)


def shot(specimen: Specimen, ranges: ImageRanges, seed: int = 1) -> Shot:
    (one,) = shoot(specimen, ranges, FIELD_A, np.random.default_rng(seed), DOSE_E_A2, undecidable=True)
    return one


@pytest.mark.parametrize("sampling_A", [0.1, 0.3])
@pytest.mark.parametrize("axis", [0, 1])
def test_it_is_what_maximum_likelihood_reaches(sampling_A: float, axis: int) -> None:
    frame = shot(alone(), replace(ROUND, sampling_A=(sampling_A, sampling_A)))
    bound = position_bound_pm(alone(), frame, DOSE_E_A2)
    tried = np.linspace(-HALF_A, HALF_A, STEPS)
    places = [np.array([10.3, 9.8]) + d * np.eye(2)[axis] for d in tried]
    images = [
        project(image_spectrum(alone((at[0], at[1])).wave, SAMPLING_A, frame.optics)[0], frame.view, frame.mtf_fall)
        for at in places
    ]
    electrons = np.stack(images).reshape(STEPS, -1).astype(np.float64) * DOSE_E_A2 * frame.view.sampling_A**2
    counts = np.random.default_rng(0).poisson(electrons[STEPS // 2], (400, electrons.shape[1]))
    likelihood = counts @ np.log(electrons).T - electrons.sum(axis=1)
    # Near its top the likelihood is a parabola.
    curvature, slope, _ = np.polyfit(tried, likelihood.T, 2)
    found_pm = -slope / (2 * curvature) * 100
    assert found_pm.std() == pytest.approx(bound, rel=0.15)
    assert abs(found_pm.mean()) < 0.2 * bound


@pytest.mark.parametrize("factor", [4, 100])
def test_it_goes_with_the_root_of_the_dose(factor: float) -> None:
    frame = shot(alone(), ROUND)
    once, more = (position_bound_pm(alone(), frame, dose) for dose in (1e4, 1e4 * factor))
    assert once / more == pytest.approx(np.sqrt(factor))


def test_blur_and_a_falling_mtf_make_it_worse() -> None:
    ranges = replace(ROUND, sampling_A=(0.2, 0.2), blur_A=(0.0, 0.0), mtf=(0.0, 0.0))
    sharp = position_bound_pm(alone(), shot(alone(), ranges), DOSE_E_A2)
    for worse in ({"blur_A": (0.4, 0.4)}, {"mtf": (1.5, 1.5)}, {"defocus_A": (-5.0, -5.0)}):
        assert position_bound_pm(alone(), shot(alone(), replace(ranges, **worse)), DOSE_E_A2) > 1.1 * sharp


def test_graphene(specimens: list[Specimen]) -> None:
    # REF: about 8.5 pm per axis at 1e4 e/A^2 of typical optics, 80 kV
    frames = [shoot(specimens[0], ImageRanges(), (24.0, 26.0), np.random.default_rng(k))[0] for k in range(3)]
    bounds = [position_bound_pm(specimens[0], frame, 1e4) for frame in frames]
    assert 4 < np.median(bounds) < 17


def test_it_takes_the_atoms_in_the_middle() -> None:
    # An atom at the frame's edge shows half of itself; with the one in the middle there it does not count.
    pair = thin(np.array([[10.3, 9.8], [10.3, 2.9]]), CELL_A)
    frame = shot(pair, replace(ROUND, sampling_A=(0.2, 0.2)))
    only = shot(alone(), replace(ROUND, sampling_A=(0.2, 0.2)))
    assert position_bound_pm(pair, frame, 1e4) == pytest.approx(position_bound_pm(alone(), only, 1e4), rel=0.1)
