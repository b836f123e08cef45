"""Atoms moved within a stored specimen: the wave is the one that a simulation of the moved atoms gives."""

from __future__ import annotations

import numpy as np
import pytest

from training.displacements import displaced
from training.exit_waves import SAMPLING_A, Specimen, exit_wave
from training.optics import frequencies
from training.structures.structure import Sites

CELL_A = 24.0


def simulated(positions_A: np.ndarray) -> Specimen:
    atoms = np.column_stack([np.zeros(len(positions_A)), positions_A])
    return Specimen(exit_wave(atoms, (CELL_A, CELL_A), 80.0), Sites.of_carbon(positions_A))


def phase(specimen: Specimen) -> np.ndarray:
    """As fine as an image can hold it: focal spread leaves nothing beyond 1.4 cycles an angstrom."""
    angle = np.angle(specimen.wave * np.conj(specimen.wave.mean()))
    ky, kx = frequencies(angle.shape, SAMPLING_A)
    return np.fft.ifft2(np.fft.fft2(angle) * (np.hypot(ky, kx) < 1.4)).real


@pytest.fixture(scope="module")
def still() -> Specimen:
    rows, columns = np.mgrid[2:CELL_A:3.0, 2:CELL_A:3.0]
    return simulated(np.stack([rows.ravel(), columns.ravel()], axis=1))


def test_the_wave_follows_the_atoms(still: Specimen) -> None:
    moved = displaced(still, 0.15, 80.0, np.random.default_rng(0))
    want = phase(simulated(moved.positions_A))
    left = np.std(phase(moved) - want)
    assert left < 0.15 * np.std(phase(still) - want)


def test_atoms_move_as_far_as_asked(still: Specimen) -> None:
    moves = displaced(still, 0.1, 80.0, np.random.default_rng(1)).positions_A - still.positions_A
    assert np.std(moves) == pytest.approx(0.1, rel=0.15)


def test_nothing_moves_without_displacement(still: Specimen) -> None:
    same = displaced(still, 0.0, 80.0, np.random.default_rng(2))
    np.testing.assert_array_equal(same.positions_A, still.positions_A)
    np.testing.assert_allclose(same.wave, still.wave, atol=1e-6)
