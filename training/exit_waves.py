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
from training.structures.structure import Sites, Structure

# Of stored waves: focal spread leaves nothing finer than 0.7 A, and squaring it nothing finer than 0.5 A that counts.
SAMPLING_A = 0.25
_THIN_A, _THIN_SLICE_A, _SLICE_A = 20.0, 1.0, 2.0  # slices of sheets, and of what is thicker


@dataclass(frozen=True, slots=True, eq=False)
class Specimen:
    """An exit wave and what is to be found in it.

    Attributes
    ----------
    wave : (H, W) complex64
        At SAMPLING_A, periodic.
    sites : Sites
        Atoms or columns of the whole cell.
    label : str
        What reports tell specimens apart by.
    """

    wave: NDArray[np.complex64]
    sites: Sites
    label: str = ""

    @property
    def positions_A(self) -> NDArray[np.float64]:
        """(N, 2) positions (y, x) of the sites."""
        return self.sites.positions_A

    @property
    def cell_A(self) -> float:
        """Edge of the square cell."""
        return self.wave.shape[0] * SAMPLING_A


def exit_wave(
    atoms_A: NDArray[np.float64],
    cell_A: tuple[float, float],
    voltage_kV: float,
    numbers: NDArray[np.uint8] | int = 6,
    sampling_A: float = SAMPLING_A,
) -> NDArray[np.complex64]:
    """Exit wave of atoms (M, 3) at (z, y, x) in a periodic cell (height, width), as an (H, W) array, rows along y.

    `numbers` are their atomic numbers, one each or one for all.
    """
    import abtem
    from ase import Atoms

    z = atoms_A[:, 0] - atoms_A[:, 0].min() + 2
    atoms = Atoms(np.broadcast_to(numbers, len(z)), np.column_stack([atoms_A[:, 2], atoms_A[:, 1], z]))
    atoms.set_cell([cell_A[1], cell_A[0], float(z.max()) + 2])
    slice_A = _THIN_SLICE_A if np.ptp(z) < _THIN_A else _SLICE_A
    with abtem.config.set({"diagnostics.progress_bar": False, "local_diagnostics.progress_bar": False}):
        potential = abtem.Potential(atoms, sampling=sampling_A / 2, slice_thickness=slice_A, projection="infinite")
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
    draw: Callable[[np.random.Generator], Structure],
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
            structure = draw(np.random.default_rng((seed, k)))
            cell_A = (structure.cell_A, structure.cell_A)
            wave = exit_wave(structure.atoms_A, cell_A, voltage_kV, structure.numbers)
            _write(path, Specimen(wave, structure.sites, structure.label))
        progress(k + 1)


def _write(path: Path, specimen: Specimen) -> None:
    partial, sites = path.with_suffix(".part.npz"), specimen.sites
    np.savez(
        partial,
        wave=specimen.wave,
        positions_A=sites.positions_A,
        class_id=sites.class_id,
        elements=np.array(sites.elements),
        content=sites.content,
        label=specimen.label,
    )
    partial.rename(path)


def read_specimens(folder: Path) -> list[Specimen]:
    """Every stored specimen, in order."""
    paths = [path for path in sorted(folder.glob("[0-9]*.npz")) if ".part" not in path.name]
    if not paths:
        raise FileError(f"{folder}: expected exit waves, found none: run `atomstream-train simulate` first")
    return [_read(path) for path in paths]


def _read(path: Path) -> Specimen:
    with np.load(path, allow_pickle=False) as stored:
        if "class_id" not in stored:  # of version 0.1: carbon alone
            return Specimen(stored["wave"], Sites.of_carbon(stored["positions_A"]))
        sites = Sites(stored["positions_A"], stored["class_id"], tuple(stored["elements"].tolist()), stored["content"])
        return Specimen(stored["wave"], sites, str(stored["label"]))
