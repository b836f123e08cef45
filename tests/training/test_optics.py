"""The microscope between exit wave and image, against theory and against abTEM."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.registration import phase_cross_correlation

from tests.training.specimens import CELL_A, SheetRanges, sheet_specimen, thin
from training.exit_waves import SAMPLING_A, Specimen
from training.optics import Optics, aberration_phase, envelope, frequencies, image_spectrum, wavelength_A

SHAPE = (48, 64)


def image(wave: NDArray[np.complex64], optics: Optics) -> NDArray[np.float64]:
    return np.fft.ifft2(image_spectrum(wave, SAMPLING_A, optics)[0]).real


@pytest.fixture(scope="module")
def atom() -> Specimen:
    """One atom in the middle of 10 A x 10 A."""
    return thin(np.array([[5.0, 5.0]]), 10.0)


@pytest.fixture(scope="module")
def torn() -> Specimen:
    """Graphene with vacancies and holes: no shift but the true one brings it onto itself."""
    return sheet_specimen(2, SheetRanges(cell_A=CELL_A, perfect_chance=0.0, grains=(1.0,), hole_chance=0.8))


@pytest.mark.parametrize(("voltage_kV", "expected_A"), [(80, 0.041757), (200, 0.025079), (300, 0.019687)])
def test_wavelength_is_relativistic(voltage_kV: float, expected_A: float) -> None:
    assert wavelength_A(voltage_kV) == pytest.approx(expected_A, rel=1e-4)


def test_frequencies_broadcast_to_the_image() -> None:
    ky, kx = frequencies((4, 6), 0.5)
    assert (ky.shape, kx.shape) == ((4, 1), (1, 6))
    np.testing.assert_allclose(ky.ravel(), [0, 0.5, -1, -0.5])
    assert ky.dtype == kx.dtype == np.float32


class TestAgainstAbtem:
    @pytest.mark.parametrize(
        "optics",
        [
            Optics(defocus_A=60, Cs_A=-12e4, focal_spread_A=30),
            Optics(defocus_A=-90, astigmatism_A=25, astigmatism_angle=0.6, focal_spread_A=20),
            Optics(defocus_A=50, coma_A=350, coma_angle=2.1, threefold_A=250, threefold_angle=-0.4),
            Optics(voltage_kV=300, defocus_A=100, Cs_A=2e5, focal_spread_A=40, convergence_mrad=0.3),
        ],
        ids=["defocus and Cs", "astigmatism", "coma and threefold", "convergence"],
    )
    def test_image(self, optics: Optics) -> None:
        import abtem

        rng = np.random.default_rng(3)
        ky, kx = frequencies(SHAPE, SAMPLING_A)
        spectrum = np.fft.fft2(rng.normal(size=SHAPE)) * np.exp(-2 * (ky**2 + kx**2))
        wave = np.exp(0.3j * np.fft.ifft2(spectrum).real).astype(np.complex64)
        transfer = abtem.CTF(
            defocus=optics.defocus_A,
            Cs=optics.Cs_A,
            C12=optics.astigmatism_A,
            phi12=optics.astigmatism_angle,
            C21=optics.coma_A,
            phi21=optics.coma_angle,
            C23=optics.threefold_A,
            phi23=optics.threefold_angle,
            focal_spread=optics.focal_spread_A,
            angular_spread=optics.convergence_mrad,
        )
        with abtem.config.set({"diagnostics.progress_bar": False, "local_diagnostics.progress_bar": False}):
            waves = abtem.Waves(wave.T, energy=optics.voltage_kV * 1e3, sampling=SAMPLING_A)
            theirs = np.abs(waves.apply_ctf(transfer).compute().array.T) ** 2
        ours = image(wave, optics)
        assert np.ptp(ours) > 0.2
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


class TestContrast:
    def test_it_inverts_with_the_sign_of_defocus(self, atom: Specimen) -> None:
        under, over = (image(atom.wave, Optics(defocus_A=defocus))[20, 20] for defocus in (60, -60))
        assert under < 0.97  # atoms are dark under focus
        assert over > 1.03

    def test_positive_Cs_acts_as_overfocus(self, atom: Specimen) -> None:
        assert image(atom.wave, Optics(Cs_A=2e5))[20, 20] > 1 > image(atom.wave, Optics(Cs_A=-2e5))[20, 20]

    def test_astigmatism_stretches_along_its_axis(self) -> None:
        line = np.float32([[1.0]]), np.float32([[0.0]])
        along_y, along_x = (
            aberration_phase(Optics(astigmatism_A=20, defocus_A=20), *k).item() for k in (line, line[::-1])
        )
        assert along_x == pytest.approx(0, abs=1e-5)  # at angle 0 astigmatism and defocus cancel along x
        assert along_y == pytest.approx(-2 * np.pi * wavelength_A(80) * 20, rel=1e-4)

    @pytest.mark.parametrize("optics", [Optics(), Optics(defocus_A=100, Cs_A=1e5, coma_A=300, tilt_mrad=(0.5, -0.3))])
    def test_the_intensity_is_one_where_nothing_is(self, optics: Optics) -> None:
        spectrum, shift_A = image_spectrum(np.ones(SHAPE, np.complex64), SAMPLING_A, replace(optics, blur_A=0.4))
        np.testing.assert_allclose(np.fft.ifft2(spectrum).real, 1, rtol=1e-5)
        assert shift_A == (0.0, 0.0)

    def test_a_thin_specimen_moves_electrons_and_hardly_loses_any(self, torn: Specimen) -> None:
        assert image(torn.wave, Optics(defocus_A=40)).mean() == pytest.approx(1, abs=0.02)


class TestEnvelope:
    def test_focal_spread(self) -> None:
        ky, kx = np.float32([[0.0, 0.9]]), np.float32([[0.0, 0.0]])
        damping = envelope(Optics(focal_spread_A=35), ky, kx)
        chi = np.pi * wavelength_A(80) * 0.9**2  # of 1 A of defocus; its 1/e half width is half the spread
        np.testing.assert_allclose(damping, [[1, np.exp(-((chi * 35 / 2) ** 2))]], rtol=1e-5)

    def test_convergence_damps_out_of_focus_only(self) -> None:
        ky, kx = np.float32([[0.7]]), np.float32([[0.0]])
        sharp = envelope(Optics(focal_spread_A=0, convergence_mrad=0.3), ky, kx)
        far = envelope(Optics(focal_spread_A=0, convergence_mrad=0.3, defocus_A=500), ky, kx)
        assert sharp == pytest.approx(1)
        assert far == pytest.approx(np.exp(-((np.pi * 0.3e-3 * 500 * 0.7) ** 2)), rel=1e-5)

    def test_blur_is_a_gaussian_over_the_image(self, atom: Specimen) -> None:
        sharp, soft = (image_spectrum(atom.wave, SAMPLING_A, Optics(defocus_A=60, blur_A=s))[0] for s in (0.0, 0.4))
        ky, kx = frequencies(atom.wave.shape, SAMPLING_A)
        gauss = np.exp(-2 * (np.pi * 0.4) ** 2 * (ky**2 + kx**2))
        np.testing.assert_allclose(soft, sharp * gauss, atol=1e-3)


class TestShift:
    @pytest.mark.parametrize(
        "odd",
        [
            {"coma_A": 400.0, "coma_angle": 0.3},
            {"coma_A": 400.0, "coma_angle": 2.0, "tilt_mrad": (-0.6, 0.5)},
            {"tilt_mrad": (0.9, 0.2), "defocus_A": 100.0},
            {"tilt_mrad": (-0.4, 0.8), "Cs_A": -2e5},
        ],
        ids=["coma", "coma and tilt", "tilt and defocus", "tilt and Cs"],
    )
    def test_the_image_lies_where_it_says(self, torn: Specimen, odd: dict[str, float]) -> None:
        optics = Optics(**{"defocus_A": 60.0, "focal_spread_A": 30.0, **odd})
        upright = replace(optics, coma_A=0.0, tilt_mrad=(0.0, 0.0))
        spectrum, shift_A = image_spectrum(torn.wave, SAMPLING_A, optics)
        moved, still = np.fft.ifft2(spectrum).real, image(torn.wave, upright)
        measured, *_ = phase_cross_correlation(moved, still, upsample_factor=200, normalization=None)
        assert np.hypot(*shift_A) > 0.05
        np.testing.assert_allclose(measured * SAMPLING_A, shift_A, atol=0.03)

    def test_what_has_its_detail_in_one_direction_moves_in_both(self) -> None:
        # A row of atoms along a diagonal: its spectrum ties y to x.
        row = thin(np.stack([np.arange(2, 18, 1.3), 0.5 * np.arange(2, 18, 1.3) + 5], axis=1), 20.0)
        optics = Optics(defocus_A=60, coma_A=400, coma_angle=2.5)
        spectrum, shift_A = image_spectrum(row.wave, SAMPLING_A, optics)
        moved, still = np.fft.ifft2(spectrum).real, image(row.wave, replace(optics, coma_A=0.0))
        measured, *_ = phase_cross_correlation(moved, still, upsample_factor=200, normalization=None)
        np.testing.assert_allclose(measured * SAMPLING_A, shift_A, atol=0.05)

    def test_even_aberrations_do_not_shift(self, torn: Specimen) -> None:
        optics = Optics(defocus_A=80, Cs_A=1e5, astigmatism_A=25, convergence_mrad=0.2)
        assert image_spectrum(torn.wave, SAMPLING_A, optics)[1] == pytest.approx((0, 0), abs=1e-6)

    def test_it_turns_with_the_coma(self, atom: Specimen) -> None:
        y, x = image_spectrum(atom.wave, SAMPLING_A, Optics(defocus_A=60, coma_A=300, coma_angle=0.0))[1]
        turned = image_spectrum(atom.wave, SAMPLING_A, Optics(defocus_A=60, coma_A=300, coma_angle=np.pi / 2))[1]
        assert y == pytest.approx(0, abs=1e-6)
        assert turned == pytest.approx((x, 0), abs=1e-5)
