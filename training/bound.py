"""The Cramer-Rao bound of an atom's position: the least error an unbiased method can reach at this dose."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from training.contamination import carbon_phase
from training.exit_waves import SAMPLING_A, Specimen
from training.imaging import Shot, project
from training.optics import frequencies, image_spectrum

STEP_A = 0.05
_INSIDE_A = 6.0  # atoms this far from the frame's edge


def position_bound_pm(specimen: Specimen, shot: Shot, dose_e_A2: float, atoms: int = 3) -> float:
    """Bound per axis in pm, root mean square over the atoms nearest to the frame's middle.

    sigma = 1 / sqrt(dose area sum (dI/dx)^2 / I): Poisson noise, the atom shifted by +-STEP_A, all else known.
    """
    half = np.array(shot.view.shape) / 2
    away = np.hypot(*(shot.positions_px - half).T)
    inside = away * shot.view.sampling_A < half.min() * shot.view.sampling_A - _INSIDE_A
    nearest = np.argsort(away)[: max(1, min(atoms, int(inside.sum())))]
    still = _intensity(specimen.wave, shot)
    electrons = dose_e_A2 * shot.view.sampling_A**2
    variance = []
    for atom in nearest:
        for axis in (0, 1):
            forth, back = (_intensity(_moved(specimen, shot, atom, axis, step), shot) for step in (STEP_A, -STEP_A))
            slope = (forth - back) / (2 * STEP_A)
            variance.append(1 / (electrons * float((slope**2 / np.maximum(still, 1e-3)).sum())))
    return float(np.sqrt(np.mean(variance)) * 100)


def _moved(specimen: Specimen, shot: Shot, atom: int, axis: int, step_A: float) -> NDArray[np.complex64]:
    """The exit wave with one atom moved: a sheet is thin, so its phases add."""
    ky, kx = frequencies(specimen.wave.shape, SAMPLING_A)
    y, x = specimen.positions_A[atom]
    here = carbon_phase(specimen.wave.shape, SAMPLING_A, shot.optics.voltage_kV) * np.exp(
        -2j * np.pi * (ky * y + kx * x)
    )
    there = here * np.exp(-2j * np.pi * (kx if axis else ky) * step_A)
    change = scipy.fft.ifft2(there - here).real / SAMPLING_A**2
    return (specimen.wave * np.exp(1j * change)).astype(np.complex64)


def _intensity(wave: NDArray[np.complex64], shot: Shot) -> NDArray[np.float32]:
    return project(image_spectrum(wave, SAMPLING_A, shot.optics)[0], shot.view, shot.mtf_fall)
