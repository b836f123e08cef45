"""A small contrast transfer in NumPy: exit wave in, image on the camera's pixels out.

The sign convention is abTEM's: defocus is positive under focus, where atoms look dark, and C10 = -defocus.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_APERTURE = 0.25  # cycles a pixel: half of Nyquist, so that the squared wave still fits its own grid
_EXACT_BELOW = 30.0  # electrons a pixel: under it Poisson noise is drawn by its definition


@dataclass(frozen=True, slots=True)
class Optics:
    """What the lenses do to the wave.

    Attributes
    ----------
    voltage_kV : float
    defocus_A : float
        Positive is under focus.
    cs_um : float
        Spherical aberration of third order, C30.
    astigmatism_A, astigmatism_deg : float
        Two-fold, C12, and the direction of its larger C10.
    focal_spread_A : float
        1/e half-width of the distribution of foci.
    blur_A : float
        Standard deviation of the vibration in the image.
    """

    voltage_kV: float = 80.0
    defocus_A: float = 0.0
    cs_um: float = 0.0
    astigmatism_A: float = 0.0
    astigmatism_deg: float = 0.0
    focal_spread_A: float = 0.0
    blur_A: float = 0.0


def wavelength_A(voltage_kV: float) -> float:
    """Relativistic wavelength of the electron; 0.04176 A at 80 kV."""
    rest_keV, hc_keV_A = 510.99895, 12.398419843
    return hc_keV_A / math.sqrt(voltage_kV * (2 * rest_keV + voltage_kV))


def transfer(ky: NDArray[np.float32], kx: NDArray[np.float32], optics: Optics) -> NDArray[np.complex64]:
    """Contrast transfer function exp(-i chi), damped by the focal spread.

    Parameters
    ----------
    ky, kx : broadcastable float32 arrays, cycles per angstrom

    References
    ----------
    abtem.transfer: chi = 2pi / lambda (alpha^2 / 2 (C10 + C12 cos 2(phi - phi12)) + C30 alpha^4 / 4), alpha = lambda k;
    temporal envelope exp(-(pi / 2 lambda spread k^2)^2). The angle phi runs from x to y.
    """
    length = wavelength_A(optics.voltage_kV)
    k2 = ky * ky + kx * kx
    angle = math.radians(2 * optics.astigmatism_deg)
    # k^2 cos 2(phi - phi12), written without the angle phi itself
    twofold = (kx * kx - ky * ky) * math.cos(angle) + 2 * kx * ky * math.sin(angle)
    chi = math.pi * length * (optics.astigmatism_A * twofold - optics.defocus_A * k2)
    chi += 0.5 * math.pi * length**3 * optics.cs_um * 1e4 * k2 * k2
    damping = np.exp(-((0.5 * math.pi * length * optics.focal_spread_A * k2) ** 2))
    return np.asarray(damping * np.exp(-1j * chi), np.complex64)


@dataclass(frozen=True, slots=True, eq=False)
class WaveSpectrum:
    """Fourier coefficients of a periodic exit wave inside the aperture, and where they belong on its grid."""

    coefficients: NDArray[np.complex64]
    ky: NDArray[np.float32]
    kx: NDArray[np.float32]
    inside: tuple[NDArray[np.intp], ...]
    shape: tuple[int, int]
    sampling_A: float


def wave_spectrum(wave: NDArray[np.complex64], sampling_A: float) -> WaveSpectrum:
    """Transform a periodic exit wave of shape (H, W) and keep what passes the aperture."""
    fy, fx = (np.fft.fftfreq(size) for size in wave.shape)
    inside = np.ix_(np.flatnonzero(np.abs(fy) < _APERTURE), np.flatnonzero(np.abs(fx) < _APERTURE))
    ky = (fy / sampling_A).astype(np.float32)[inside[0]]
    kx = (fx / sampling_A).astype(np.float32)[inside[1]]
    shape = (wave.shape[0], wave.shape[1])
    return WaveSpectrum(np.fft.fft2(wave)[inside].astype(np.complex64), ky, kx, inside, shape, sampling_A)


def intensity(wave: WaveSpectrum, optics: Optics) -> NDArray[np.float32]:
    """Image of the wave on its own grid, (H, W), in units of the incoming beam."""
    spectrum = np.zeros(wave.shape, np.complex64)
    spectrum[wave.inside] = wave.coefficients * transfer(wave.ky, wave.kx, optics)
    image = np.fft.ifft2(spectrum)
    return np.asarray(image.real**2 + image.imag**2, np.float32)


def record(
    image: NDArray[np.float32],
    sampling_A: float,
    cell_px: tuple[int, int],
    blur_A: float = 0.0,
    shift_A: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.float32]:
    """A periodic image as the camera's pixels see it: shifted, blurred, integrated over each pixel.

    Parameters
    ----------
    image : (H, W) float32, one period
    sampling_A : float
        Pixel size of `image`.
    cell_px : (int, int)
        Camera pixels in one period. Frequencies beyond what these hold fold back, as they do in a camera.
    blur_A : float
        Standard deviation of a Gaussian blur.
    shift_A : (float, float)
        The specimen moves by so much along y and x.

    Returns
    -------
    (cell_px) float32; pixel (0, 0) is centred where that of `image` is, and the mean is kept.
    """
    spectrum = np.fft.rfft2(image)
    blur, (down, right) = blur_A / sampling_A, (shift / sampling_A for shift in shift_A)
    spectrum *= _pixel(np.fft.fftfreq(image.shape[0]), image.shape[0] / cell_px[0], blur, down)[:, None]
    spectrum *= _pixel(np.fft.rfftfreq(image.shape[1]), image.shape[1] / cell_px[1], blur, right)
    # On a grid that holds every frequency, the camera's pixels are each n-th point: what folds back comes out exact.
    steps = [-(-size // pixels) for size, pixels in zip(image.shape, cell_px, strict=True)]
    fine = (cell_px[0] * steps[0], cell_px[1] * steps[1])
    padded = np.zeros((fine[0], fine[1] // 2 + 1), np.complex64)
    negative = image.shape[0] // 2
    padded[: image.shape[0] - negative, : spectrum.shape[1]] = spectrum[:-negative]
    padded[-negative:, : spectrum.shape[1]] = spectrum[-negative:]
    recorded = np.fft.irfft2(padded, s=fine)[:: steps[0], :: steps[1]]
    return np.asarray(recorded * (fine[0] * fine[1] / image.size), np.float32)


def _pixel(frequency: NDArray[np.floating[Any]], width: float, blur: float, shift: float) -> NDArray[np.complex64]:
    """Along one axis: sinc of the pixel, blur, and the phase ramp of the shift; lengths in pixels of the image."""
    factor = np.sinc(frequency * width) * np.exp(-2 * (math.pi * blur * frequency) ** 2)
    return np.asarray(factor * np.exp(-2j * math.pi * shift * frequency), np.complex64)


def tile(image: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Repeat a periodic image until it fills `shape`, starting with its pixel (0, 0)."""
    repeats = [-(-wanted // size) for wanted, size in zip(shape, image.shape, strict=True)]
    return np.tile(image, repeats)[: shape[0], : shape[1]] if max(repeats) > 1 else image[: shape[0], : shape[1]]


def shot_noise(mean: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Whole electrons counted where `mean` are expected.

    From 30 electrons a pixel the Poisson distribution is drawn as a normal one with its skewness put back (Cornish and
    Fisher's expansion), in a quarter of the time: the two distributions overlap to 99.9 %.
    """
    if mean.min(initial=np.inf) < _EXACT_BELOW:
        return rng.poisson(np.maximum(mean, 0)).astype(np.float32)
    z = rng.standard_normal(mean.shape, dtype=np.float32)
    return np.rint(mean + np.sqrt(mean) * z + (z * z - 1) / 6)
