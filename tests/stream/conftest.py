"""A stand-in for the shipped specimen: a honeycomb of Gaussian phases, small and made in a moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

_RADIUS_A, _PHASE = 0.35, 0.25  # of one carbon atom, roughly


@pytest.fixture(scope="session")
def write_specimen() -> Callable[..., NDArray[np.float64]]:
    """A function that writes exit waves as shipped ones are; gives the first stage's atoms as (N, 2) of (y, x) in A."""
    return _write_specimen


@pytest.fixture(scope="session")
def specimen_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exit waves of a small cell, three stages."""
    path = tmp_path_factory.mktemp("specimen") / "graphene.npz"
    _write_specimen(path)
    return path


def _write_specimen(path: Path, shape: tuple[int, int] = (128, 128), stages: int = 3) -> NDArray[np.float64]:
    """Each stage has lost four atoms more than the one before."""
    sampling_A = 0.2
    atoms = honeycomb(shape[0] * sampling_A, shape[1] * sampling_A)
    order = np.random.default_rng(1).permutation(len(atoms))
    waves = np.stack([_exit_wave(atoms[order[4 * stage :]], shape, sampling_A) for stage in range(stages)])
    scale = float(np.abs(waves).max()) / 32767
    np.savez_compressed(
        path,
        real=np.rint(waves.real / scale).astype(np.int16),
        imag=np.rint(waves.imag / scale).astype(np.int16),
        scale=scale,
        sampling_A=sampling_A,
        voltage_kV=80.0,
    )
    return atoms


def honeycomb(height_A: float, width_A: float) -> NDArray[np.float64]:
    """Atoms of graphene, strained a little so that it fits the period."""
    rows, columns = round(height_A / 4.26), round(width_A / 2.46)
    basis = np.array([(0, 0), (1 / 3, 0), (1 / 2, 1 / 2), (5 / 6, 1 / 2)])
    cells = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 1, 2)
    return ((cells + basis).reshape(-1, 2) + 0.25) / (rows, columns) * (height_A, width_A)


def _exit_wave(atoms: NDArray[np.float64], shape: tuple[int, int], sampling_A: float) -> NDArray[np.complex128]:
    phase = np.zeros(shape)
    for row in atoms:
        factors = []
        for size, at in zip(shape, row, strict=True):
            period = size * sampling_A
            distance = (np.arange(size) * sampling_A - at + period / 2) % period - period / 2
            factors.append(np.exp(-(distance**2) / 2 / _RADIUS_A**2))
        phase += _PHASE * np.outer(*factors)
    return np.exp(1j * phase)
