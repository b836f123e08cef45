"""A stored specimen at another moment of its atoms' motion: a sheet is thin, so phases move with their atoms.

Every sample so has displacements of its own; a network that knew the stored ones would not have to measure any.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from training.contamination import carbon_phase
from training.exit_waves import SAMPLING_A, Specimen

# Impulses between pixels are Gaussians on the grid, made sharp again in its spectrum.
_REACH_PX = 4
_SIGMA_PX = 1.1  # what it folds over is 1e-3 at the finest detail that an image holds


def displaced(specimen: Specimen, sigma_A: float, voltage_kV: float, rng: np.random.Generator) -> Specimen:
    """The specimen with every atom moved at random, sigma an axis."""
    positions_A = specimen.positions_A + rng.normal(0, sigma_A, specimen.positions_A.shape)
    shape = specimen.wave.shape
    change = _density(positions_A, shape) - _density(specimen.positions_A, shape)
    phase = scipy.fft.irfft2(scipy.fft.rfft2(change) * _sharpened_phase(shape, voltage_kV), shape) / SAMPLING_A**2
    return Specimen((specimen.wave * np.exp(1j * phase)).astype(np.complex64), positions_A)


def _density(positions_A: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Atoms as Gaussians of unit weight on the periodic grid, whose sample k lies at k * SAMPLING_A."""
    middle = np.rint(positions_A / SAMPLING_A).astype(np.intp)
    around = np.arange(-_REACH_PX, _REACH_PX + 1)
    at = middle[:, :, None] + around  # (N, 2, reach)
    weight = np.exp(-0.5 * ((at - positions_A[:, :, None] / SAMPLING_A) / _SIGMA_PX) ** 2)
    weight /= np.sqrt(2 * np.pi) * _SIGMA_PX
    cells = at[:, 0, :, None] % shape[0] * shape[1] + at[:, 1, None, :] % shape[1]
    values = weight[:, 0, :, None] * weight[:, 1, None, :]
    return np.bincount(cells.ravel(), values.ravel(), shape[0] * shape[1]).reshape(shape).astype(np.float32)


def _sharpened_phase(shape: tuple[int, ...], voltage_kV: float) -> NDArray[np.float32]:
    """Transform of one atom's phase over that of the Gaussian, for rfft2."""
    ky, kx = scipy.fft.fftfreq(shape[0])[:, None], scipy.fft.rfftfreq(shape[1])[None, :]
    blur = np.exp(-2 * (np.pi * _SIGMA_PX) ** 2 * (ky * ky + kx * kx))
    phase = carbon_phase((shape[0], shape[1]), SAMPLING_A, voltage_kV)[:, : shape[1] // 2 + 1]
    return np.asarray(phase / blur, np.float32)
