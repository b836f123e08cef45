"""What kernels/peaks.cu found, in any order, to Atoms: thin close rivals, leave out what is outside or too many, sort.

The two structures here are those of peaks.cu, field by field.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.atoms import EDGE, Atoms
from engine.bonds import allowed
from engine.peaks import thin
from engine.refine import EDGE_A, LOG_SIGMA, around_cells, flagged
from engine.spec import ModelSpec

CROWDED, RIVAL, OUTSIDE = 32, 64, 128  # flags of the kernel that no atom keeps
_AT_HOME = 1.0  # cells from its own that a position may lie, along an axis, for the kernel to count its neighbours

CANDIDATE = np.dtype(
    [
        ("cell", "<i4"),
        ("y", "<f4"),
        ("x", "<f4"),
        ("score", "<f4"),
        ("sigma_pm", "<f4"),
        ("class_id", "<i4"),
        ("flags", "<i4"),
        ("peak", "<f4"),
        ("covered", "<f4"),
    ]
)
_PEAKS_OF = np.dtype(
    [
        *((name, "<i4") for name in ("height", "width", "pitch", "plane", "classes", "stride", "reach", "capacity")),
        *((name, "<f4") for name in ("frame_height", "frame_width", "scale_y", "scale_x")),
        *((name, "<f4") for name in ("sampling_A", "sigma_pm", "edge_A")),
        *((name, "<f8") for name in ("radius2", "agree2")),
        ("log_sigma_limit", "<f4"),
        ("around", "<i4"),
        ("bonds", "<i4"),
        ("bond2", "<f4"),
        ("at_home", "<f4"),
        ("near", "<i4"),
    ],
    align=True,
)


def peak_radius(spec: ModelSpec) -> float:
    """Least distance of two atoms, in cells."""
    return spec.separation_A / (spec.sampling_A * spec.stride)


def parameters(
    spec: ModelSpec,
    *,
    cells: tuple[int, int],
    padded: tuple[int, int],
    frame_shape: tuple[int, int],
    scale: tuple[float, float],
    sampling_A: float,
    capacity: int,
) -> NDArray[np.uint8]:
    """The kernel's parameters as bytes.

    Parameters
    ----------
    cells, padded : (int, int)
        Cells that hold some of the frame; cells of the maps.
    scale : (float, float)
        Frame pixels per network pixel.
    sampling_A : float
        Of the frame.
    capacity : int
        Candidates there is room for.
    """
    radius, cell_A = peak_radius(spec), spec.sampling_A * spec.stride
    bonds, bond_A = spec.bonds or (-1, 0.0)
    values = {
        "height": cells[0],
        "width": cells[1],
        "pitch": padded[1],
        "plane": padded[0] * padded[1],
        "classes": len(spec.classes) if len(spec.classes) > 1 else 0,
        "stride": spec.stride,
        "reach": math.floor(radius),
        "capacity": capacity,
        "frame_height": frame_shape[0],
        "frame_width": frame_shape[1],
        "scale_y": scale[0],
        "scale_x": scale[1],
        "sampling_A": sampling_A,
        "sigma_pm": spec.sampling_A * 100,
        "edge_A": EDGE_A,
        "radius2": radius * radius,
        "agree2": np.square(spec.separation_A / spec.sampling_A / 2),
        "log_sigma_limit": LOG_SIGMA,
        "around": around_cells(spec),
        "bonds": bonds,
        "bond2": np.square(bond_A),
        "at_home": _AT_HOME * spec.stride,
        "near": math.floor(bond_A / cell_A + 2 * _AT_HOME),
    }
    packed = np.zeros((), _PEAKS_OF)
    for name, value in values.items():
        packed[name] = value
    return np.frombuffer(packed.tobytes(), np.uint8)


def to_atoms(found: NDArray[Any], shape: tuple[int, int], sampling_A: float, spec: ModelSpec) -> Atoms:
    """Atoms of a frame, sorted by y, then x: those of engine.peaks, engine.refine and engine.bonds.

    Parameters
    ----------
    found : (N,) array of CANDIDATE
    shape : (int, int)
        Cells that hold some of the frame.
    sampling_A : float
        Of the frame.
    """
    columns = {name: np.ascontiguousarray(found[name]) for name in CANDIDATE.names or ()}
    flags = columns["flags"]
    order = _by_position(columns["y"], columns["x"], columns["cell"])
    stays = winners(found, shape, peak_radius(spec)) & ((flags & OUTSIDE) == 0)
    rows = order if stays.all() else order[stays[order]]
    atoms = Atoms(
        **{name: columns[name].take(rows) for name in ("y", "x", "sigma_pm")},
        score=spec.chance_of(columns["score"].take(rows)),
        class_id=columns["class_id"].take(rows).astype(np.uint8),
        agreement=np.ones(len(rows), np.float32),
        flags=(flags.take(rows) & EDGE).astype(np.uint8),
    )
    atoms = flagged(atoms, columns["covered"].take(rows), sampling_A, spec)
    # Counted by the kernel, as nearly all frames have none: looking for neighbours takes longer than all else here.
    return allowed(atoms, sampling_A, spec) if (flags & CROWDED).any() else atoms


def winners(found: NDArray[Any], shape: tuple[int, int], radius: float) -> NDArray[np.bool_]:
    """True for each candidate that stays where others lie within so many cells: those of engine.peaks.find_peaks."""
    stays = np.ones(len(found), np.bool_)
    rivals = np.flatnonzero(found["flags"] & RIVAL)
    if len(rivals):
        rivals = rivals[np.argsort(found["cell"][rivals])]
        peaks = np.stack(np.divmod(found["cell"][rivals].astype(np.intp), shape[1]), axis=1)
        stays[rivals] = thin(peaks, found["peak"][rivals], shape, radius)
    return stays


def _by_position(y: NDArray[np.float32], x: NDArray[np.float32], cell: NDArray[np.int32]) -> NDArray[np.intp]:
    """The order by y, then x, then cell. Few have one y in common: three keys for all take several times as long."""
    order = np.argsort(y)
    sorted_y = y.take(order)
    tied = np.flatnonzero(sorted_y[1:] == sorted_y[:-1])
    if len(tied):
        at = np.union1d(tied, tied + 1)
        those = order[at]
        order[at] = those[np.lexsort((cell[those], x[those], y[those]))]
    return order
