"""The shift between two images: as scikit-image measures it, to a tenth of a pixel in noise, and taken out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.registration import phase_cross_correlation

from engine.drift import Registration, move, register

SAMPLING_A = 0.1
BOND_A = 1.82  # of MoS2 in projection: its lattice vector is 3.16 A
FINEST_PX = 0.8 / SAMPLING_A


def textured(shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    """Random, smooth, and periodic at the borders."""
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None])
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=shape))
    return np.fft.ifft2(noise * np.exp(-((frequency / 0.08) ** 2))).real.astype(np.float32)


def shifted(image: NDArray[np.float32], shift: tuple[float, float]) -> NDArray[np.float32]:
    """Moved by a shift, exactly, around the borders."""
    phase = np.fft.fftfreq(image.shape[0])[:, None] * shift[0] + np.fft.fftfreq(image.shape[1])[None] * shift[1]
    return np.fft.ifft2(np.fft.fft2(image) * np.exp(-2j * np.pi * phase)).real.astype(np.float32)


def sheet(
    shift: tuple[float, float], contrast: tuple[float, float], seed: int | None, shape: tuple[int, int] = (512, 512)
) -> NDArray[np.float32]:
    """Counts of a sheet of two kinds of atoms at 3 x 10^4 e/A^2, 300 a pixel, moved by so many pixels."""
    bond = BOND_A / SAMPLING_A
    vectors = np.array([[0.0, np.sqrt(3) * bond], [1.5 * bond, np.sqrt(3) / 2 * bond]])
    turn = np.array([[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]])
    number = np.stack(np.meshgrid(np.arange(-40, 40), np.arange(-40, 40)), -1).reshape(-1, 2)
    at = number @ vectors @ turn + 256 + np.array(shift)
    y, x = np.arange(shape[0]), np.arange(shape[1])
    image = np.ones(shape)
    for kind, strength in enumerate(contrast):
        sites = at + kind * np.array([bond, 0.0]) @ turn
        for site_y, site_x in sites[np.all((sites > -30) & (sites < np.array(shape) + 30), axis=1)]:
            image += strength * np.outer(np.exp(-((y - site_y) ** 2) / 72), np.exp(-((x - site_x) ** 2) / 72))
    counts = 300 * image
    return (counts if seed is None else np.random.default_rng(seed).poisson(counts)).astype(np.float32)


class TestAsScikitImage:
    """Both give what brings the moved image back. Ours fades out at the borders, which these move around."""

    @pytest.mark.parametrize("shape", [(128, 128), (127, 160), (160, 115)])
    @pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, -5.0), (-2.3, 0.45), (10.75, 7.6)])
    def test_agrees(self, shape: tuple[int, int], shift: tuple[float, float]) -> None:
        reference = textured(shape)
        images = reference, shifted(reference, shift)
        theirs, _, _ = phase_cross_correlation(*images, upsample_factor=100, normalization=None)
        ours = register(*images, within_px=16).shift
        np.testing.assert_allclose(ours, theirs, atol=0.05)
        np.testing.assert_allclose(ours, np.negative(shift), atol=0.05)

    def test_in_noise_as_strong_as_the_contrast_ours_is_the_nearer(self) -> None:
        shift = (4.4, -1.7)
        reference, moved = textured((128, 128)), shifted(textured((128, 128)), shift)
        noise = np.random.default_rng(5).normal(0, reference.std(), (2, 128, 128)).astype(np.float32)
        images = reference + noise[0], moved + noise[1]
        theirs, _, _ = phase_cross_correlation(*images, upsample_factor=100, normalization=None)
        ours = register(*images, finest_px=8, within_px=16).shift
        np.testing.assert_allclose(ours, np.negative(shift), atol=0.06)
        assert np.hypot(*np.add(ours, shift)) < np.hypot(*np.add(theirs, shift))


class TestMeasured:
    def test_inverted_contrast_counts_like_the_other(self) -> None:
        reference = textured((128, 128))
        ours = register(reference, -shifted(reference, (2.5, -1.25)), within_px=6).shift
        np.testing.assert_allclose(ours, (-2.5, 1.25), atol=0.05)

    @pytest.mark.parametrize("shift", [(0.0, 0.0), (5.3, -3.2), (-7.9, 0.4), (1.15, 7.7)])
    def test_a_sheet_in_noise_to_a_tenth_of_a_pixel(self, shift: tuple[float, float]) -> None:
        """Contrast whose strength and sign differ from image to image; 0.1 A/px, 3 x 10^4 e/A^2."""
        reference = sheet((0, 0), (0.12, 0.08), 1)
        for seed, contrast in ((2, (0.12, 0.08)), (3, (0.09, 0.06)), (4, (-0.12, -0.08))):
            ours = register(reference, sheet(shift, contrast, seed), finest_px=FINEST_PX, within_px=9).shift
            np.testing.assert_allclose(ours, np.negative(shift), atol=0.1)

    @pytest.mark.parametrize(
        ("shift", "told"), [((0, 0), False), ((1.5, -2.5), False), ((5.3, -5.9), True), ((0, 12), True)]
    )
    def test_half_a_period_more_that_fits_as_well_is_told(self, shift: tuple[float, float], told: bool) -> None:
        """Looked for up to 10 pixels; those that moved further are found half a period of 31.6 off. No defect helps."""
        reference, moved = sheet((0, 0), (0.12, 0.08), 1), sheet(shift, (0.12, 0.08), 2)
        found = register(reference, moved, finest_px=FINEST_PX, within_px=10)
        assert (found.rival > 0.95) == told
        assert told or found.rival < 0.85

    def test_without_a_lattice_nothing_else_fits_as_well(self) -> None:
        reference = textured((128, 128))
        found = register(reference, shifted(reference, (5.0, -3.0)), within_px=10)
        np.testing.assert_allclose(found.shift, (-5, 3), atol=0.05)
        assert found.rival < 0.9

    def test_a_larger_drift_is_found_where_it_is_expected(self) -> None:
        """Without, the nearest lattice vector is taken: 40 pixels are more than one."""
        reference, moved = sheet((0, 0), (0.12, 0.08), 1), sheet((40.0, 3.0), (0.12, 0.08), 2)
        followed = register(reference, moved, finest_px=FINEST_PX, around=(-37.0, -1.0), within_px=8).shift
        np.testing.assert_allclose(followed, (-40, -3), atol=0.1)
        slipped = register(reference, moved, finest_px=FINEST_PX, within_px=8).shift
        assert np.hypot(slipped[0] + 40, slipped[1] + 3) > 20

    @given(st.floats(-20, 20), st.floats(-20, 20), st.floats(0, 5))
    def test_never_further_than_allowed(self, y: float, x: float, within_px: float) -> None:
        image = textured((32, 40))
        ours = register(image, shifted(image, (9.0, 9.0)), around=(y, x), within_px=within_px).shift
        assert np.hypot(ours[0] - y, ours[1] - x) <= max(1.0, within_px) + 2.2

    def test_constant_images_did_not_move_as_far_as_anybody_can_tell(self) -> None:
        flat = np.full((32, 32), 7, np.float32)
        assert register(flat, flat) == Registration((0, 0), 1)

    def test_two_shapes_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"one shape, got \(32, 32\) and \(32, 33\)"):
            register(textured((32, 32)), textured((32, 33)))


class TestMoved:
    @pytest.mark.parametrize("shift", [(3.0, -2.0), (0.5, 0.25), (-4.3, 7.8)])
    def test_back_onto_the_reference(self, shift: tuple[float, float]) -> None:
        reference = textured((64, 80))
        back, outside = move(shifted(reference, shift), (-shift[0], -shift[1]))
        assert outside is not None
        assert np.abs(back - reference)[~outside].max() < 0.05 * np.abs(reference).max()
        expected = np.ceil(np.abs(shift))
        assert outside.sum() == 64 * 80 - (64 - expected[0]) * (80 - expected[1])

    def test_further_than_the_image(self) -> None:
        _, outside = move(textured((16, 16)), (99.0, 0.0))
        assert outside is not None
        assert outside.all()

    def test_none_is_no_copy(self) -> None:
        image = textured((16, 16))
        assert move(image, (0.0, 0.005)) == (image, None)
