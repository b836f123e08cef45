"""The microscope between exit wave and image: aberrations, partial coherence, and the shift that odd aberrations cause.

Lengths in angstrom, angles in radian unless the name says mrad. Signs as in abTEM: defocus = -C10, positive is
underfocus.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Optics:
    """One setting of the microscope."""

    voltage_kV: float = 80.0
    defocus_A: float = 0.0
    Cs_A: float = 0.0
    astigmatism_A: float = 0.0  # two-fold, C12
    astigmatism_angle: float = 0.0
    coma_A: float = 0.0  # C21
    coma_angle: float = 0.0
    threefold_A: float = 0.0  # C23
    threefold_angle: float = 0.0
    tilt_mrad: tuple[float, float] = (0.0, 0.0)  # of the beam, (y, x)
    focal_spread_A: float = 30.0  # 1/e width
    convergence_mrad: float = 0.0
    blur_A: float = 0.0  # vibration, sigma


def wavelength_A(voltage_kV: float) -> float:
    """Relativistic electron wavelength."""
    volt = voltage_kV * 1e3
    return float(12.2643 / np.sqrt(volt * (1 + 0.978476e-6 * volt)))


def frequencies(shape: tuple[int, int], sampling_A: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Spatial frequencies (ky, kx) in 1/A, shaped to broadcast to `shape`."""
    ky = scipy.fft.fftfreq(shape[0], sampling_A).astype(np.float32)[:, None]
    kx = scipy.fft.fftfreq(shape[1], sampling_A).astype(np.float32)[None, :]
    return ky, kx


def aberration_phase(optics: Optics, ky: NDArray[np.float32], kx: NDArray[np.float32]) -> NDArray[np.float32]:
    """chi in radian.

    REF: Kirkland, Advanced Computing in Electron Microscopy, 3rd ed., eq. 2.22.
    """
    wavelength = wavelength_A(optics.voltage_kV)
    ay, ax = wavelength * ky, wavelength * kx
    alpha2 = ay * ay + ax * ax
    # cos(m (phi - phi0)) alpha^m as polynomials in ay, ax: no arctan, no division at the origin
    c, s = np.cos, np.sin
    two, three = 2 * optics.astigmatism_angle, 3 * optics.threefold_angle
    second = (ax * ax - ay * ay) * c(two) + 2 * ax * ay * s(two)
    first = ax * c(optics.coma_angle) + ay * s(optics.coma_angle)
    third = (ax**3 - 3 * ax * ay * ay) * c(three) + (3 * ax * ax * ay - ay**3) * s(three)
    lengths = (
        (alpha2 * -optics.defocus_A + second * optics.astigmatism_A) / 2
        + (alpha2 * first * optics.coma_A + third * optics.threefold_A) / 3
        + alpha2 * alpha2 * optics.Cs_A / 4
    )
    return (2 * np.pi / wavelength * lengths).astype(np.float32)


def odd_and_even(
    optics: Optics, ky: NDArray[np.float32], kx: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """chi of a tilted beam, split: the even part makes contrast, the odd part moves it."""
    wavelength = wavelength_A(optics.voltage_kV)
    ty, tx = (np.float32(t * 1e-3 / wavelength) for t in optics.tilt_mrad)
    plus = aberration_phase(optics, ky + ty, kx + tx)
    minus = aberration_phase(optics, -ky + ty, -kx + tx)
    centre = aberration_phase(optics, np.full((1, 1), ty, np.float32), np.full((1, 1), tx, np.float32))
    two = np.float32(2)
    return (plus - minus) / two, (plus + minus) / two - centre


def envelope(optics: Optics, ky: NDArray[np.float32], kx: NDArray[np.float32]) -> NDArray[np.float32]:
    """Damping of the wave by focal spread and convergence (quasi-coherent)."""
    wavelength = wavelength_A(optics.voltage_kV)
    k2 = ky * ky + kx * kx
    temporal = (np.pi * wavelength * optics.focal_spread_A * k2 / 2) ** 2
    slope = k2 * wavelength**2 * optics.Cs_A - optics.defocus_A
    spatial = (np.pi * optics.convergence_mrad * 1e-3 * slope) ** 2 * k2
    return np.exp(-temporal - spatial).astype(np.float32)


def image_spectrum(
    wave: NDArray[np.complex64], sampling_A: float, optics: Optics
) -> tuple[NDArray[np.complex64], tuple[float, float]]:
    """Noise-free image of an exit wave, as its spectrum, and the shift (y, x) in A by which the optics moved it.

    The intensity is 1 where the specimen is empty. The spectrum is damped by the vibration blur.
    """
    ky, kx = frequencies(wave.shape, sampling_A)
    odd, even = odd_and_even(optics, ky, kx)
    damping = envelope(optics, ky, kx)
    spectrum = scipy.fft.fft2(wave)
    chi = odd + even
    transfer = np.empty(wave.shape, np.complex64)
    transfer.real, transfer.imag = damping * np.cos(chi), -damping * np.sin(chi)
    moved = scipy.fft.ifft2(spectrum * transfer)
    intensity = (moved.real**2 + moved.imag**2).astype(np.float32)
    blur = np.exp(-2 * (np.pi * optics.blur_A) ** 2 * (ky * ky + kx * kx))
    weight = (spectrum.real**2 + spectrum.imag**2) * (np.sin(even) * damping) ** 2 * blur
    return (scipy.fft.fft2(intensity) * blur).astype(np.complex64), _shift(weight, odd, ky, kx)


def _shift(
    weight: NDArray[np.float32], odd: NDArray[np.float32], ky: NDArray[np.float32], kx: NDArray[np.float32]
) -> tuple[float, float]:
    """Least-squares slope of the odd phase over what the image holds: a weak phase object's spectrum goes as
    2 sin(even) exp(-i odd), so the slope is the shift of the whole frame."""
    yy, xx, yx = float((weight * ky * ky).sum()), float((weight * kx * kx).sum()), float((weight * ky * kx).sum())
    by, bx = float((weight * ky * odd).sum()), float((weight * kx * odd).sum())
    det = yy * xx - yx * yx
    if det <= 0:
        return 0.0, 0.0
    return (xx * by - yx * bx) / det / (2 * np.pi), (yy * bx - yx * by) / det / (2 * np.pi)
