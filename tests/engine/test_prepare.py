from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Frame
from engine.prepare import fill, network_shape, normalise, prepare, resample
from tests.conftest import TINY


def noise(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(100, 10, shape).astype(dtype)


def centroid(image):
    """Position of a single blob on a flat background."""
    weight = np.maximum(image - 0.2 * image.max(), 0)
    y, x = np.indices(image.shape)
    return np.array([(weight * y).sum(), (weight * x).sum()]) / weight.sum()


class TestFill:
    def test_without_a_mask_the_values_stay(self):
        pixels = np.arange(12, dtype=">u2").reshape(3, 4)
        image = fill(pixels, None)
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, pixels)

    def test_a_masked_pixel_takes_the_mean_of_its_neighbours(self):
        pixels = np.array([[1, 2, 3], [4, 65535, 6], [7, 8, 9]], np.uint16)
        image = fill(pixels, pixels == 65535)
        assert image[1, 1] == pytest.approx(5)
        np.testing.assert_array_equal(image[pixels != 65535], pixels[pixels != 65535])

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
    def test_what_is_no_count_is_filled_too(self, value):
        pixels = np.full((5, 5), 7.0)
        pixels[2, 2], pixels[0, 0] = value, 1e6
        mask = np.zeros((5, 5), bool)
        mask[0, 0] = True
        np.testing.assert_allclose(fill(pixels, mask), 7)
        assert not mask[2, 2]  # the caller's mask is not changed

    def test_the_largest_value_of_64_bits_is_no_count(self):
        pixels = np.full((4, 4), 3, np.uint64)
        pixels[1, 1] = np.iinfo(np.uint64).max
        np.testing.assert_allclose(fill(pixels, None), 3)

    @pytest.mark.parametrize("width", [1, 4, 30, 50])
    def test_gaps_of_any_width_are_filled_from_around_them(self, width):
        pixels = np.full((64, 64), 5.0)
        mask = np.zeros(pixels.shape, bool)
        mask[7 : 7 + width, 7 : 7 + width] = True
        pixels[mask] = 1e6
        np.testing.assert_allclose(fill(pixels, mask), 5, rtol=1e-6)

    def test_nothing_valid_gives_zeros(self):
        assert not fill(np.full((4, 4), np.nan), None).any()
        assert not fill(np.ones((4, 4)), np.ones((4, 4), bool)).any()


class TestResample:
    def test_the_same_shape_is_the_same_image(self):
        image = noise((8, 8))
        assert resample(image, (8, 8)) is image

    @given(sampling_A=st.floats(0.05, 0.7), y_A=st.floats(8, 16), x_A=st.floats(8, 16))
    def test_positions_stay(self, tiny_spec, draw_frame, sampling_A, y_A, x_A):
        size = round(24 / sampling_A)
        at = np.array([y_A, x_A]) / sampling_A
        frame = draw_frame((size, size), [at], sampling_A)
        shape = network_shape(frame, tiny_spec)
        scale = size / shape[0]
        found = (centroid(resample(frame.pixels - 100, shape)) + 0.5) * scale - 0.5
        # A blob of 0.4 A is hardly sampled by pixels of 0.7 A.
        within_pm = 1 if sampling_A < 0.45 else 15
        np.testing.assert_allclose((found - at) * sampling_A * 100, 0, atol=within_pm)


class TestNormalise:
    @given(gain=st.floats(1e-3, 1e3), offset=st.floats(-1e3, 1e3))
    def test_gain_and_offset_do_not_matter(self, gain, offset):
        image = noise((64, 80))
        changed = (image * gain + offset * gain).astype(np.float32)
        np.testing.assert_allclose(normalise(changed, TINY), normalise(image, TINY), atol=2e-3)

    def test_inverted_contrast_gives_the_negative(self):
        image = noise((64, 80))
        np.testing.assert_allclose(normalise(-image, TINY), -normalise(image, TINY), atol=1e-5)

    def test_the_rms_is_one_everywhere(self):
        image = noise((256, 256))
        image[:, 128:] = 20 + 5 * image[:, 128:]  # brighter and of stronger contrast on the right
        flat = normalise(image, replace(TINY, level_A=4.0, normalise_A=4.0))
        for part in (flat[:, :64], flat[:, -64:]):
            assert abs(part.mean()) < 0.05
            assert part.std() == pytest.approx(1, abs=0.1)

    @given(value=st.floats(-1e9, 1e9, width=32), height=st.integers(1, 300), width=st.integers(1, 300))
    def test_a_constant_image_becomes_zero(self, value, height, width):
        assert not normalise(np.full((height, width), value, np.float32), TINY).any()

    @given(height=st.integers(1, 70), width=st.integers(1, 70), power=st.integers(-5, 15))
    def test_any_shape_and_brightness_stays_finite(self, height, width, power):
        image = noise((height, width)) * np.float32(10.0**power / 200)
        flat = normalise(image, TINY)
        assert flat.shape == image.shape
        assert np.isfinite(flat).all()

    @pytest.mark.parametrize("light", ["plane", "bulge"])
    def test_uneven_light_does_not_rule_weak_contrast(self, light):
        y, x = (np.mgrid[:240, :240] + 0.5) / 240 - 0.5
        detail = noise((240, 240)) - 100
        uneven = {"plane": 1 + 0.2 * (x - y), "bulge": 1 + 0.1 * (x**2 + y**2 - x * y)}[light].astype(np.float32)
        close = replace(TINY, level_A=4.0)
        even = normalise(1000 + detail, close)
        assert (normalise((1000 + detail) * uneven, close) - even).std() < 0.1


class TestPrepare:
    def test_shape_is_padded_to_the_multiple_with_zeros(self, tiny_spec):
        prepared = prepare(Frame(noise((100, 130)), 0.1), tiny_spec)
        assert prepared.shape == (50, 65)
        assert prepared.scale == (2.0, 2.0)
        assert prepared.pixels.shape == (1, 1, 64, 80)
        assert prepared.pixels.dtype == np.float32
        assert prepared.pixels.flags.c_contiguous
        assert prepared.pixels[0, 0, :50, :65].all()
        assert not prepared.pixels[0, 0, 50:].any()
        assert not prepared.pixels[0, 0, :, 65:].any()

    def test_each_image_of_a_series_is_prepared_alone(self, tiny_spec):
        pixels = noise((3, 64, 64)) * np.array([1, 5, -2], np.float32)[:, None, None]
        prepared = prepare(Frame(pixels, 0.2), replace(tiny_spec, channels=3))
        for channel in range(3):
            alone = prepare(Frame(pixels[channel], 0.2), tiny_spec)
            np.testing.assert_array_equal(prepared.pixels[:, channel], alone.pixels[:, 0])

    @pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<i4", ">i4", "<u8", "<f2", "<f4", ">f8", "?"])
    def test_every_real_dtype_is_taken_and_left_as_it_was(self, tiny_spec, dtype):
        pixels = noise((40, 40)).astype(dtype)
        before = pixels.copy()
        reference = prepare(Frame(pixels.astype(np.float64), 0.2), tiny_spec).pixels
        np.testing.assert_allclose(prepare(Frame(pixels, 0.2), tiny_spec).pixels, reference, atol=1e-6)
        np.testing.assert_array_equal(pixels, before)

    def test_a_read_only_or_transposed_view_is_taken(self, tiny_spec):
        pixels = noise((40, 60))
        pixels.flags.writeable = False
        upright = prepare(Frame(pixels, 0.2), tiny_spec)
        turned = prepare(Frame(pixels.T, 0.2), tiny_spec)
        assert turned.shape == upright.shape[::-1]
        np.testing.assert_allclose(turned.pixels[0, 0, :60, :40], upright.pixels[0, 0, :40, :60].T, atol=1e-4)

    @pytest.mark.parametrize("dtype", [np.uint16, np.float32])
    def test_without_hot_pixels_none_is_touched(self, tiny_spec, dtype):
        for electrons in (0.01, 1, 100):
            pixels = np.random.default_rng(0).poisson(electrons, (256, 320)).astype(dtype)
            image = normalise(resample(fill(pixels, None), (128, 160)), tiny_spec)
            np.testing.assert_array_equal(prepare(Frame(pixels, 0.1), tiny_spec).pixels[0, 0], image)

    @pytest.mark.parametrize("times", [100, 1000])
    def test_hot_pixels_do_not_spoil_what_is_around_them(self, tiny_spec, times):
        pixels = noise((256, 256))
        hot = np.zeros(pixels.shape, bool)
        hot[60, 60] = hot[100:102, 101] = hot[200, 30] = hot[7, 250] = True
        clean = prepare(Frame(pixels, 0.2), tiny_spec).pixels[0, 0]
        spoiled = np.where(hot, np.float32(times * 100), pixels)
        before = spoiled.copy()
        cut = prepare(Frame(spoiled, 0.2), tiny_spec).pixels[0, 0]
        np.testing.assert_array_equal(spoiled, before)
        change = np.abs(cut - clean)[~hot]
        assert change.max() < 1  # in local RMS; it was 4 or more, and 0.8 on average, as the noise faded away
        assert np.sqrt(np.mean(change**2)) < 0.1

    def test_a_masked_pixel_does_not_take_the_mean_of_hot_neighbours(self, tiny_spec):
        pixels = noise((128, 128))
        mask = np.zeros(pixels.shape, bool)
        mask[60, 60] = True
        clean = prepare(Frame(pixels, 0.2, mask=mask), tiny_spec).pixels[0, 0]
        pixels[61, 60] = 1e6
        cut = prepare(Frame(pixels, 0.2, mask=mask), tiny_spec).pixels[0, 0]
        assert abs(cut - clean)[60, 60] < 10  # 40 deviations of one neighbour in eight

    def test_saturated_pixels_do_not_spoil_what_is_around_them(self, tiny_spec):
        pixels = noise((128, 128))
        dead = np.zeros(pixels.shape, bool)
        dead[60, 60] = dead[10:12, 100] = True
        clean = prepare(Frame(pixels, 0.2), tiny_spec).pixels[0, 0]
        spoiled = np.where(dead, np.float32(65535), pixels)
        masked = prepare(Frame(spoiled, 0.2, mask=dead), tiny_spec).pixels[0, 0]
        np.testing.assert_allclose(masked[~dead], clean[~dead], atol=0.02)
        assert abs(masked[dead]).max() < 1.5
