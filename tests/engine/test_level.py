from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from engine.level import fit_lines, level

sizes, sigmas = st.integers(1, 60), st.floats(0.05, 12)


@given(height=sizes, width=sizes, sigma=sigmas, tilt=st.tuples(st.floats(-5, 5), st.floats(-5, 5)))
def test_light_that_falls_evenly_is_its_own_level(height, width, sigma, tilt):
    y, x = np.indices((height, width))
    plane = (100 + tilt[0] * y + tilt[1] * x).astype(np.float32)
    np.testing.assert_allclose(level(plane, (sigma, sigma)), plane, rtol=1e-5, atol=1e-4)


@given(height=sizes, width=sizes, sigma=sigmas)
def test_turned_as_the_image_is(height, width, sigma):
    image = np.random.default_rng(0).normal(100, 10, (height, width)).astype(np.float32)
    np.testing.assert_allclose(
        level(image.T, (2 * sigma, sigma)), level(image, (sigma, 2 * sigma)).T, rtol=1e-6, atol=1e-5
    )


def test_well_inside_it_is_the_gaussian_mean():
    image = np.random.default_rng(0).normal(100, 10, (60, 70)).astype(np.float32)
    inside = np.s_[16:-16, 16:-16]
    np.testing.assert_allclose(
        level(image, (4.0, 4.0))[inside], gaussian_filter(image, 4.0, truncate=4)[inside], atol=0.01
    )


@pytest.mark.parametrize("at", [0, 3, 30, 59])
def test_each_value_is_that_of_the_line_fitted_under_the_window(at):
    values = np.random.default_rng(1).normal(100, 10, 60)
    weight = np.exp(-0.25 * ((np.arange(60) - at) / 5.0) ** 2)  # numpy squares it
    far = np.abs(np.arange(60) - at) > 20
    line = np.polynomial.Polynomial.fit(np.arange(60)[~far], values[~far], 1, w=weight[~far])
    assert fit_lines(values[None], 5.0, axis=1)[0, at] == pytest.approx(line(at), abs=1e-3)
