"""Amorphous carbon over part of a specimen, put into the exit wave as the phase of many more atoms."""

from __future__ import annotations

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from training.ranges import ImageRanges, log_uniform
from training.scattering import atom_phase

_ATOMS_A3 = 0.09  # amorphous carbon of 1.8 g/cm^3


def contaminate(
    wave: NDArray[np.complex64], sampling_A: float, ranges: ImageRanges, rng: np.random.Generator
) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    """The wave behind patches of amorphous carbon, and a map (H, W) of 0 to 1: how far they hide the specimen.

    A film as thick as 15 A counts as hiding it wholly.
    """
    thickness_A = _patches(wave.shape, sampling_A, ranges, rng) * log_uniform(rng, ranges.contamination_A)
    atoms = rng.poisson(thickness_A * _ATOMS_A3 * sampling_A**2).astype(np.float32)
    spectrum = scipy.fft.fft2(atoms) * atom_phase(6, wave.shape, sampling_A, ranges.voltage_kV)
    phase = scipy.fft.ifft2(spectrum).real / sampling_A**2 * rng.uniform(*ranges.contamination_phase)
    covered = np.clip(thickness_A / 15, 0, 1).astype(np.float32)
    return (wave * np.exp(1j * phase)).astype(np.complex64), covered


def _patches(
    shape: tuple[int, ...], sampling_A: float, ranges: ImageRanges, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Smooth random patches, 0 to 1, over a share of the field."""
    coarse = rng.normal(size=(shape[0] // 8, shape[1] // 8)).astype(np.float32)
    sigma = rng.uniform(*ranges.contamination_grain_A) / sampling_A / 8
    smooth = cv2.GaussianBlur(coarse, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    smooth = cv2.resize(smooth, shape[::-1], interpolation=cv2.INTER_CUBIC)
    level = np.quantile(smooth, 1 - rng.uniform(*ranges.contamination_share))
    edge = 2 * rng.uniform(*ranges.contamination_edge) * smooth.std()
    return np.asarray(np.clip((smooth - level) / edge, 0, 1), np.float32)
