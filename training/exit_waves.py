"""Atoms to exit waves by abTEM's multislice, on an NVIDIA GPU where CuPy can use one."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.gpu_probe import usable_gpus
from training.structures.structure import Sites

# Of stored waves: focal spread leaves nothing finer than 0.7 A, and squaring it nothing finer than 0.5 A that counts.
SAMPLING_A = 0.25
_THIN_A, _THIN_SLICE_A, _SLICE_A = 20.0, 1.0, 2.0  # slices of sheets, and of what is thicker
METHOD = {"sampling_A": SAMPLING_A, "slices_A": [_THIN_A, _THIN_SLICE_A, _SLICE_A]}  # what waves depend on besides


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
    on = device()
    potential = abtem.Potential(
        atoms, sampling=sampling_A / 2, slice_thickness=slice_A, projection="infinite", device=on
    )
    waves: Any = abtem.PlaneWave(energy=voltage_kV * 1e3, device=on).multislice(potential)
    # In this thread: a worker of a Dask cluster would deal the parts of one wave out to the cluster again.
    computed = waves.compute(progress_bar=False, scheduler="synchronous")
    fine = np.asarray(computed.to_cpu().array).T  # abTEM keeps [x, y]
    shape = [round(length / sampling_A) for length in cell_A]
    (top, left), (height, width) = (f // 2 - n // 2 for f, n in zip(fine.shape, shape, strict=True)), shape
    spectrum = np.fft.fftshift(np.fft.fft2(fine))[top : top + height, left : left + width]
    return np.fft.ifft2(np.fft.ifftshift(spectrum)).astype(np.complex64) * np.float32(height * width / fine.size)


def device() -> str:
    """What abTEM computes on: "gpu" where there is one that CuPy can use, else "cpu"."""
    return "gpu" if find_spec("cupy") and usable_gpus() else "cpu"
