"""The lenses and the pixels of the simulated camera, against theory and against abTEM."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream.optics import Optics, intensity, record, shot_noise, tile, transfer, wave_spectrum, wavelength_A

SAMPLING_A = 0.2


def band_limited(shape: tuple[int, int] = (48, 32)) -> NDArray[np.float32]:
    """A periodic picture of a few harmonics, and a mean."""
    y, x = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    waves = 1 + 0.3 * np.cos(2 * np.pi * (3 * y - 2 * x)) + 0.2 * np.sin(2 * np.pi * (5 * x + y))
    return waves.astype(np.float32)


def atom(shape: tuple[int, int] = (64, 64)) -> NDArray[np.complex64]:
    """Exit wave of one weak atom in the middle."""
    y, x = (np.mgrid[: shape[0], : shape[1]] - np.array(shape)[:, None, None] // 2) * SAMPLING_A
    return np.exp(0.1j * np.exp(-(y**2 + x**2) / 2 / 0.3**2)).astype(np.complex64)


def test_wavelength_is_relativistic() -> None:
    assert wavelength_A(80) == pytest.approx(0.041757, rel=1e-4)
    assert wavelength_A(300) == pytest.approx(0.019687, rel=1e-4)


def test_transfer_agrees_with_abtem() -> None:
    abtem_transfer = pytest.importorskip("abtem.transfer")
    ky, kx = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 11), indexing="ij")
    ours = transfer(
        ky.astype(np.float32),
        kx.astype(np.float32),
        Optics(80, defocus_A=60, cs_um=-12, astigmatism_A=25, astigmatism_deg=35, focal_spread_A=30),
    )
    k, angle = np.hypot(ky, kx), np.arctan2(ky, kx)
    theirs = abtem_transfer.CTF(
        energy=80e3, defocus=60, Cs=-12e4, astigmatism=25, astigmatism_angle=math.radians(35), focal_spread=30
    )._evaluate_from_angular_grid(k * wavelength_A(80), angle)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_contrast_inverts_with_the_sign_of_defocus() -> None:
    wave = wave_spectrum(atom(), SAMPLING_A)
    under, over = (intensity(wave, Optics(80, defocus_A=defocus))[32, 32] for defocus in (60, -60))
    assert under < 0.97  # atoms are dark under focus
    assert over > 1.03


def test_astigmatism_along_x_acts_on_x() -> None:
    far = np.float32([1.0]), np.float32([0.0])
    along_x, along_y = (np.angle(transfer(ky, kx, Optics(80, astigmatism_A=20))) for ky, kx in (far[::-1], far))
    assert along_x == pytest.approx(-along_y, abs=1e-6)
    assert along_x == pytest.approx(-math.pi * wavelength_A(80) * 20, abs=1e-5)


def test_focal_spread_damps_to_one_over_e_where_it_should() -> None:
    spread_A = 40.0
    k = math.sqrt(2 / (math.pi * wavelength_A(80) * spread_A))
    damped = abs(transfer(np.float32([0]), np.float32([k]), Optics(80, focal_spread_A=spread_A)))
    assert damped == pytest.approx(math.exp(-1), rel=1e-4)


def test_an_image_keeps_the_electrons_that_pass_the_aperture() -> None:
    wave = wave_spectrum(atom(), SAMPLING_A)
    image = intensity(wave, Optics(80, defocus_A=90, cs_um=10, astigmatism_A=20))
    inside = float((np.abs(wave.coefficients) ** 2).sum()) / image.size**2
    assert image.mean() == pytest.approx(inside, rel=1e-5)  # Parseval
    assert image.mean() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("pixels", [(48, 32), (96, 64), (100, 70), (20, 13)])
def test_recording_is_exact_on_band_limited_images(pixels: tuple[int, int]) -> None:
    image = band_limited()
    y, x = np.mgrid[: pixels[0], : pixels[1]] / np.array(pixels)[:, None, None]
    sinc = [np.sinc(np.array(harmonics) / pixels).prod() for harmonics in ((3, 2), (1, 5))]
    expected = 1 + 0.3 * sinc[0] * np.cos(2 * np.pi * (3 * y - 2 * x)) + 0.2 * sinc[1] * np.sin(2 * np.pi * (5 * x + y))
    np.testing.assert_allclose(record(image, SAMPLING_A, pixels), expected, atol=1e-5)


def test_recording_integrates_over_the_pixel() -> None:
    """Pixels four times as large hold the means of 4 x 4 small ones (of a far finer grid)."""
    image = band_limited()
    fine = record(image, SAMPLING_A, (48 * 32, 32 * 32))
    means = fine.reshape(12, 128, 8, 128).mean(axis=(1, 3))
    # A coarse pixel is centred at a multiple of 128 fine ones; the block of means is centred 63.5 later.
    shift_A = -63.5 / 32 * SAMPLING_A
    np.testing.assert_allclose(record(image, SAMPLING_A, (12, 8), shift_A=(shift_A, shift_A)), means, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(rows=st.integers(-60, 60), columns=st.integers(-60, 60))
def test_the_image_moves_with_the_specimen(rows: int, columns: int) -> None:
    image = band_limited()
    moved = record(image, SAMPLING_A, (48, 32), shift_A=(rows * SAMPLING_A, columns * SAMPLING_A))
    still = record(image, SAMPLING_A, (48, 32))
    np.testing.assert_allclose(moved, np.roll(still, (rows, columns), axis=(0, 1)), atol=1e-5)


def test_blur_keeps_the_mean_and_takes_contrast() -> None:
    image = band_limited()
    blurred = record(image, SAMPLING_A, (48, 32), blur_A=0.5)
    assert blurred.mean() == pytest.approx(image.mean(), abs=1e-5)
    assert blurred.std() < 0.9 * image.std()


def test_a_field_beyond_the_cell_repeats_it() -> None:
    image = band_limited()
    field = tile(image, (100, 20))
    assert field.shape == (100, 20)
    np.testing.assert_array_equal(field[48:96], image[:, :20])
    np.testing.assert_array_equal(field[96:], image[:4, :20])


@pytest.mark.parametrize("mean", [0.0, 3.0, 31.0, 100.0])
def test_shot_noise_is_poisson(mean: float) -> None:
    drawn = shot_noise(np.full((500, 500), mean, np.float32), np.random.Generator(np.random.SFC64(1)))
    assert (drawn == np.rint(drawn)).all()
    counts = np.arange(400)
    log = counts * math.log(mean or 1) - mean - np.array([math.lgamma(n + 1) for n in counts])
    exact = np.exp(log) if mean else (counts == 0).astype(float)
    observed = np.bincount(drawn.astype(int).ravel(), minlength=400)[:400] / drawn.size
    # Half the summed difference; a perfect sampler has about 0.006 with so many draws.
    assert np.abs(observed - exact).sum() / 2 < 0.012
