"""Specimens that need no multislice, the phases of their atoms added up, and a microscope that shows them plainly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from training.exit_waves import SAMPLING_A, Specimen
from training.optics import frequencies
from training.ranges import ImageRanges
from training.scattering import atom_phase
from training.structures.graphene import SheetRanges, sheet
from training.structures.structure import Sites

VOLTAGE_KV = 80.0
CELL_A = 40.0
CALM = SheetRanges(cell_A=CELL_A, perfect_chance=1.0, strain=0.0, ripple_A=0.0, disorder_A=(0.03, 0.03))

# One microscope: atoms of one sign, round, nothing drawn but where it looks.
ROUND = ImageRanges(
    defocus_A=(-60.0, -60.0),
    Cs_A=(0.0, 0.0),
    astigmatism_A=(0.0, 0.0),
    coma_A=(0.0, 0.0),
    threefold_A=(0.0, 0.0),
    tilt_mrad=0.0,
    focal_spread_A=(30.0, 30.0),
    illumination=0.0,
    uneven_focus_chance=0.0,
    contamination_chance=0.0,
)
# Every atom of graphene a spot of its own.
SHARP = replace(
    ROUND,
    defocus_A=(-25.0, -25.0),
    focal_spread_A=(20.0, 20.0),
    blur_A=(0.0, 0.0),
    mtf=(0.0, 0.0),
    sampling_A=(0.12, 0.2),
)


def thin(positions_A: NDArray[np.float64], cell_A: float = CELL_A) -> Specimen:
    """A specimen of carbon atoms at the (N, 2) positions (y, x)."""
    return thin_sites(Sites.of_carbon(positions_A), cell_A)


def thin_sites(sites: Sites, cell_A: float) -> Specimen:
    """A specimen of these sites, their atoms in one plane."""
    size = round(cell_A / SAMPLING_A)
    ky, kx = frequencies((size, size), SAMPLING_A)
    along_y, along_x = (
        np.exp(-2j * np.pi * k.reshape(-1, 1) * at) for k, at in zip((ky, kx), sites.positions_A.T, strict=True)
    )
    spectrum = sum(
        (along_y * atoms @ along_x.T) * atom_phase(number, (size, size), SAMPLING_A, VOLTAGE_KV)
        for number, atoms in zip(sites.elements, sites.content.T, strict=True)
    )
    phase = np.fft.ifft2(spectrum).real / SAMPLING_A**2
    return Specimen(np.exp(1j * phase).astype(np.complex64), sites)


def sheet_specimen(seed: int, ranges: SheetRanges = CALM) -> Specimen:
    """A sheet of graphene that fills its cell."""
    return thin(sheet(ranges, np.random.default_rng(seed))[:, 1:], ranges.cell_A)
