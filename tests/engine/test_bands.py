import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.bands import blur_bands, line_bands, resize_bands
from engine.level import fit_lines

sizes = st.integers(1, 90)


def rows(size, seed=0):
    return np.random.default_rng(seed).normal(size=(3, size)).astype(np.float32)


@given(a=sizes, b=sizes)
@pytest.mark.parametrize("interpolation", [cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LINEAR])
def test_resizing_as_opencv_does(a, b, interpolation):
    # Averaging is for smaller, the splines are for larger, as in engine.prepare.
    size, to = (max(a, b), min(a, b)) if interpolation == cv2.INTER_AREA else (min(a, b), max(a, b))
    image = rows(size)
    expected = cv2.resize(image, (to, 3), interpolation=interpolation)
    # OpenCV's cubic weights differ by 1e-5 from one place in its vectors to another.
    np.testing.assert_allclose(resize_bands(size, to, interpolation).apply(image), expected, atol=1e-4)


@given(size=sizes, sigma=st.floats(0.3, 12))
def test_blurring_as_opencv_does(size, sigma):
    image = rows(size)
    expected = np.concatenate(
        [cv2.GaussianBlur(row[None], (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101) for row in image]
    )
    np.testing.assert_allclose(blur_bands(size, sigma).apply(image), expected, atol=1e-5)


@given(size=sizes, sigma=st.floats(0.3, 12))
def test_lines_as_they_are_fitted(size, sigma):
    image = rows(size)
    expected = fit_lines(image.astype(np.float64), sigma, axis=1)
    np.testing.assert_allclose(line_bands(size, sigma).apply(image), expected, atol=1e-5)


def test_the_same_size_is_the_same_image():
    bands = resize_bands(7, 7, cv2.INTER_AREA)
    assert bands.taps == 1
    np.testing.assert_array_equal(bands.apply(rows(7)), rows(7))


def test_few_taps_for_a_large_image():
    assert resize_bands(8192, 2048, cv2.INTER_AREA).taps == 8
    assert len(blur_bands(1092, 8.0)) == 1092
