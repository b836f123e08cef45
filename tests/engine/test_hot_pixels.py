import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.hot_pixels import GROUPS, hot_limit, sampling


def poisson(electrons, shape=(300, 400), seed=0):
    return np.random.default_rng(seed).poisson(electrons, shape).astype(np.float32)


def with_hot(image, share, times, seed=0):
    """The image with hot pixels, and where they are."""
    hot = np.random.default_rng(seed).random(image.shape) < share
    return np.where(hot, np.float32(times * image.mean()), image), hot


@given(
    power=st.floats(-4, 5),
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    gain=st.sampled_from([1, 0.03, 50]),
    offset=st.sampled_from([0, 100]),
    seed=st.integers(0, 1000),
)
def test_no_poisson_frame_however_sparse_is_touched(power, height, width, gain, offset, seed):
    image = poisson(10**power, (height, width), seed) * np.float32(gain) + np.float32(offset)
    assert image.max() < hot_limit(image, None)


@pytest.mark.parametrize("share", [1e-5, 1e-4, 1e-3, 3e-3])
@pytest.mark.parametrize("times", [30, 1000, 1e6])
def test_what_hot_pixels_hold_does_not_matter(share, times):
    image = poisson(100)
    hot, where = with_hot(image, share, times)
    assert image[~where].max() < hot_limit(hot, None) <= 1.05 * hot_limit(image, None) < 10 * image.mean()


def test_a_hot_line_of_a_camera_neither():
    image = poisson(100, (512, 512))
    for column in range(0, 512, 37):
        hot = image.copy()
        hot[:, column] = 1e5
        assert hot_limit(hot, None) <= 1.05 * hot_limit(image, None)
        assert hot_limit(np.ascontiguousarray(hot.T), None) <= 1.05 * hot_limit(image, None)


def test_features_of_a_frame_without_noise_stay():
    image = np.full((512, 512), 10, np.float32)
    image[100:103, 200:203] = 50
    assert hot_limit(image, None) > 50
    image += np.linspace(0, 1e-3, 512, dtype=np.float32)
    assert hot_limit(image, None) > 50


def test_uneven_light_is_what_the_frame_holds():
    image = poisson(10)
    image[:, 360:] = poisson(1000, (300, 40))
    assert hot_limit(image, None) > 2 * image.max()


@given(gain=st.floats(1e-3, 1e3))
def test_the_gain_does_not_matter(gain):
    image = poisson(20)
    assert hot_limit(image * np.float32(gain), None) == pytest.approx(gain * hot_limit(image, None), rel=1e-4)


def test_what_is_masked_does_not_count():
    image = poisson(100)
    mask = np.random.default_rng(1).random(image.shape) < 0.6
    without = hot_limit(np.where(mask, np.float32(np.nan), image), mask)
    assert without == hot_limit(np.where(mask, np.float32(1e30), image), mask)
    assert without == pytest.approx(hot_limit(image, None), rel=0.05)


@pytest.mark.parametrize("value", [0, 0.1, -7.3, 1e14])
def test_where_pixels_do_not_say_there_is_no_limit(value):
    image = np.full((90, 200), value, np.float32)
    mask = np.zeros(image.shape, bool)
    assert hot_limit(image, None) == hot_limit(image, mask) == hot_limit(image, ~mask) == np.inf
    assert hot_limit(poisson(100, (1, GROUPS - 1)), None) == np.inf


@given(count=st.integers(1, 10**9))
def test_samples_lie_within_the_image(count):
    step, size = sampling(count)
    assert step % 2 == 1
    assert step * size * GROUPS <= count
    assert size >= min(count // GROUPS, 85)
