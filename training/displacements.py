"""A stored specimen at another moment of its atoms' motion: a sheet is thin, so phases move with their atoms.

Every sample so has displacements of its own; a network that knew the stored ones would not have to measure any.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from training.exit_waves import SAMPLING_A, Specimen
from training.scattering import atom_phase

# Impulses between pixels are Gaussians on the grid, made sharp again in its spectrum.
_REACH_PX = 4
_SIGMA_PX = 1.1  # what it folds over is 1e-3 at the finest detail that an image holds


def displaced(specimen: Specimen, sigma_A: float, voltage_kV: float, rng: np.random.Generator) -> Specimen:
    """The specimen with every site moved at random, sigma an axis; places without an atom stay."""
    sites, shape = specimen.sites, specimen.wave.shape
    moves_A = rng.normal(0, sigma_A, sites.positions_A.shape)
    moved = replace(sites, positions_A=sites.positions_A + moves_A * (sites.content.any(axis=1))[:, None])
    change = sum(
        scipy.fft.rfft2(_density(moved.positions_A, shape, atoms) - _density(sites.positions_A, shape, atoms))
        * _sharpened_phase(number, shape, voltage_kV)
        for number, atoms in zip(sites.elements, sites.content.T, strict=True)
    )
    phase = scipy.fft.irfft2(change, shape) / SAMPLING_A**2
    return replace(specimen, wave=(specimen.wave * np.exp(1j * phase)).astype(np.complex64), sites=moved)


def _density(positions_A: NDArray[np.float64], shape: tuple[int, ...], atoms: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Sites of so many atoms as Gaussians on the periodic grid, whose sample k lies at k * SAMPLING_A."""
    middle = np.rint(positions_A / SAMPLING_A).astype(np.intp)
    around = np.arange(-_REACH_PX, _REACH_PX + 1)
    at = middle[:, :, None] + around  # (N, 2, reach)
    weight = np.exp(-0.5 * ((at - positions_A[:, :, None] / SAMPLING_A) / _SIGMA_PX) ** 2)
    weight /= np.sqrt(2 * np.pi) * _SIGMA_PX
    cells = at[:, 0, :, None] % shape[0] * shape[1] + at[:, 1, None, :] % shape[1]
    values = atoms[:, None, None] * weight[:, 0, :, None] * weight[:, 1, None, :]
    return np.bincount(cells.ravel(), values.ravel(), shape[0] * shape[1]).reshape(shape).astype(np.float32)


@lru_cache(maxsize=16)
def _sharpened_phase(number: int, shape: tuple[int, ...], voltage_kV: float) -> NDArray[np.float32]:
    """Transform of one atom's phase over that of the Gaussian, for rfft2; kept, not to be written to."""
    ky, kx = scipy.fft.fftfreq(shape[0])[:, None], scipy.fft.rfftfreq(shape[1])[None, :]
    blur = np.exp(-2 * (np.pi * _SIGMA_PX) ** 2 * (ky * ky + kx * kx))
    phase = atom_phase(number, (shape[0], shape[1]), SAMPLING_A, voltage_kV)[:, : shape[1] // 2 + 1]
    return np.asarray(phase / blur, np.float32)
