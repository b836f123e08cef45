"""The exit waves that the simulated camera plays: a periodic sheet that loses atoms in stages, as int16 in one .npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from training.exit_waves import exit_wave
from training.structures.graphene import BOND_A, LATTICE_A

SAMPLING_A = 0.2
STAGES = 16
_REPEATS = (12, 20)  # of the four-atom cell along y (armchair) and x: 51.1 A x 49.2 A
_LOST = 0.1  # share of the atoms gone in the last stage


def write_playback(path: Path, voltage_kV: float, seed: int) -> None:
    """Write arrays real, imag (S, H, W) int16, scale, sampling_A, voltage_kV."""
    rng = np.random.default_rng(seed)
    atoms, cell_A = periodic_sheet()
    atoms += rng.normal(0, 0.03, atoms.shape)
    waves = []
    for stage in range(STAGES):
        left = len(atoms) - round(_LOST * len(atoms) * (stage / (STAGES - 1)) ** 1.5)
        while len(atoms) > left:
            atoms = np.delete(atoms, _next_to_go(atoms, cell_A, rng), axis=0)
        positions = np.column_stack([np.zeros(len(atoms)), atoms % cell_A])
        waves.append(exit_wave(positions, cell_A, voltage_kV, sampling_A=SAMPLING_A))
    stack = np.stack(waves)
    scale = float(max(np.abs(stack.real).max(), np.abs(stack.imag).max()) / 32767)
    real, imag = (np.rint(part / scale).astype(np.int16) for part in (stack.real, stack.imag))
    np.savez_compressed(path, real=real, imag=imag, scale=scale, sampling_A=SAMPLING_A, voltage_kV=voltage_kV)


def periodic_sheet() -> tuple[NDArray[np.float64], tuple[float, float]]:
    """(N, 2) atoms and their cell, stretched by parts in a thousand to a whole number of samples."""
    cell = np.array([3 * BOND_A, LATTICE_A])
    whole = np.rint(cell * _REPEATS / SAMPLING_A) * SAMPLING_A
    basis = np.array([[0, 0], [0.5, 1.5], [1.5, 1.5], [2, 0]]) * [BOND_A, LATTICE_A / 3]
    corners = np.stack([*np.mgrid[: _REPEATS[0], : _REPEATS[1]]], axis=-1).reshape(-1, 1, 2) * cell
    atoms = (corners + basis).reshape(-1, 2) * whole / (cell * _REPEATS)
    return atoms, (float(whole[0]), float(whole[1]))


def _next_to_go(atoms: NDArray[np.float64], cell_A: tuple[float, float], rng: np.random.Generator) -> int:
    """The beam takes atoms at edges first, so holes grow."""
    wrapped = atoms % cell_A
    bonds = cKDTree(wrapped, boxsize=cell_A).query_ball_point(wrapped, 1.3 * BOND_A, return_length=True) - 1
    weight = np.choose(np.clip(bonds, 0, 3), [300.0, 200.0, 60.0, 0.3])
    return int(rng.choice(len(atoms), p=weight / weight.sum()))
