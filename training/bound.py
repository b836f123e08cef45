"""The Cramer-Rao bound of an atom's position: the least error an unbiased method can reach at this dose."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from training.exit_waves import SAMPLING_A, Specimen
from training.imaging import Shot
from training.optics import frequencies, image_spectrum
from training.scattering import atom_phase
from training.view import project

STEP_A = 0.05
_INSIDE_A = 6.0  # atoms this far from the frame's edge


def position_bound_pm(specimen: Specimen, shot: Shot, dose_e_A2: float, atoms: int = 3) -> float:
    """Bound per axis in pm, root mean square over the sites with atoms nearest to the frame's middle.

    sigma = 1 / sqrt(dose area sum (dI/dx)^2 / I), over all images of the frame, each of this dose: Poisson noise, the
    atom shifted by +-STEP_A, all else known. For thin specimens.
    """
    half = np.array(shot.view.shape) / 2
    away = np.where(specimen.sites.content.any(axis=1), np.hypot(*(shot.positions_px - half).T), np.inf)
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


def _moved(specimen: Specimen, shot: Shot, site: int, axis: int, step_A: float) -> NDArray[np.complex64]:
    """The exit wave with one site's atoms moved: a sheet is thin, so its phases add."""
    sites, shape = specimen.sites, specimen.wave.shape
    ky, kx = frequencies(shape, SAMPLING_A)
    y, x = sites.positions_A[site]
    phase = sum(
        int(atoms) * atom_phase(number, shape, SAMPLING_A, shot.optics.voltage_kV)
        for number, atoms in zip(sites.elements, sites.content[site], strict=True)
        if atoms
    )
    here = phase * np.exp(-2j * np.pi * (ky * y + kx * x))
    there = here * np.exp(-2j * np.pi * (kx if axis else ky) * step_A)
    change = scipy.fft.ifft2(there - here).real / SAMPLING_A**2
    return (specimen.wave * np.exp(1j * change)).astype(np.complex64)


def _intensity(wave: NDArray[np.complex64], shot: Shot) -> NDArray[np.float32]:
    """(C, H, W) of every image."""
    return np.stack(
        [project(image_spectrum(wave, SAMPLING_A, one)[0], view, shot.mtf_fall) for one, view in shot.images]
    )
