"""Atoms to exit waves by abTEM's multislice, each computed once and stored.

One .npz a specimen, so an interrupted run resumes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import FileError

# Of stored waves: focal spread leaves nothing finer than 0.7 A, and squaring it nothing finer than 0.5 A that counts.
SAMPLING_A = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class Specimen:
    """An exit wave and the atoms that made it.

    Attributes
    ----------
    wave : (H, W) complex64
        At SAMPLING_A, periodic.
    positions_A : (N, 2) float64
        (y, x) of every atom in the cell.
    """

    wave: NDArray[np.complex64]
    positions_A: NDArray[np.float64]

    @property
    def cell_A(self) -> float:
        """Edge of the square cell."""
        return self.wave.shape[0] * SAMPLING_A


def exit_wave(
    positions_A: NDArray[np.float64],
    cell_A: tuple[float, float],
    voltage_kV: float,
    element: str = "C",
    sampling_A: float = SAMPLING_A,
) -> NDArray[np.complex64]:
    """Exit wave of atoms (N, 3) at (z, y, x) in a periodic cell (height, width), as an (H, W) array, rows along y."""
    import abtem
    from ase import Atoms

    z = positions_A[:, 0] - positions_A[:, 0].min() + 2
    atoms = Atoms([element] * len(z), np.column_stack([positions_A[:, 2], positions_A[:, 1], z]))
    atoms.set_cell([cell_A[1], cell_A[0], float(z.max()) + 2])
    with abtem.config.set({"diagnostics.progress_bar": False, "local_diagnostics.progress_bar": False}):
        potential = abtem.Potential(atoms, sampling=sampling_A / 2, slice_thickness=1, projection="infinite")
        waves: Any = abtem.PlaneWave(energy=voltage_kV * 1e3).multislice(potential)
        fine = np.asarray(waves.compute().array).T  # abTEM keeps [x, y]
    shape = [round(length / sampling_A) for length in cell_A]
    (top, left), (height, width) = (f // 2 - n // 2 for f, n in zip(fine.shape, shape, strict=True)), shape
    spectrum = np.fft.fftshift(np.fft.fft2(fine))[top : top + height, left : left + width]
    return np.fft.ifft2(np.fft.ifftshift(spectrum)).astype(np.complex64) * np.float32(height * width / fine.size)


def simulate(
    folder: Path,
    count: int,
    seed: int,
    structure: Callable[[np.random.Generator], NDArray[np.float64]],
    cell_A: float,
    voltage_kV: float,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Fill a folder with `count` specimens; those already there are kept.

    Specimen k comes from seed (seed, k) alone, so any part of the set can be made again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        path = folder / f"{k:05d}.npz"
        if not path.exists():
            atoms = structure(np.random.default_rng((seed, k)))
            partial = path.with_suffix(".part.npz")
            np.savez(partial, wave=exit_wave(atoms, (cell_A, cell_A), voltage_kV), positions_A=atoms[:, 1:])
            partial.rename(path)
        progress(k + 1)


def read_specimens(folder: Path) -> list[Specimen]:
    """Every stored specimen, in order."""
    found = []
    for path in sorted(folder.glob("[0-9]*.npz")):
        if ".part" not in path.name:
            with np.load(path, allow_pickle=False) as stored:
                found.append(Specimen(stored["wave"], stored["positions_A"]))
    if not found:
        raise FileError(f"{folder}: expected exit waves, found none: run `atomstream-train simulate` first")
    return found
