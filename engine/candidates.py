"""What kernels/peaks.cu found, in any order, to Atoms: sort, thin close rivals, leave out what is outside.

The two structures here are those of peaks.cu, field by field.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.atoms import CONTAMINATED, EDGE, Atoms
from engine.peaks import thin
from engine.refine import CALIBRATION, EDGE_A, LOG_SIGMA, around_cells
from engine.spec import ModelSpec

RIVAL, OUTSIDE = 64, 128  # flags of the kernel that no atom keeps

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
    ]
)
_PEAKS_OF = np.dtype(
    [
        *((name, "<i4") for name in ("height", "width", "pitch", "plane", "classes", "stride", "reach", "capacity")),
        *((name, "<f4") for name in ("frame_height", "frame_width", "scale_y", "scale_x")),
        *((name, "<f4") for name in ("sampling_A", "sigma_pm", "edge_A", "covered")),
        *((name, "<f8") for name in ("radius2", "agree2")),
        ("log_sigma_limit", "<f4"),
        ("around", "<i4"),
    ]
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
    radius = peak_radius(spec)
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
        "sigma_pm": CALIBRATION * spec.sampling_A * 100,
        "edge_A": EDGE_A,
        "covered": spec.covered,
        "radius2": radius * radius,
        "agree2": np.square(spec.separation_A / spec.sampling_A / 2),
        "log_sigma_limit": LOG_SIGMA,
        "around": around_cells(spec),
    }
    packed = np.zeros((), _PEAKS_OF)
    for name, value in values.items():
        packed[name] = value
    return np.frombuffer(packed.tobytes(), np.uint8)


def in_reading_order(found: NDArray[Any], shape: tuple[int, int], radius: float) -> NDArray[Any]:
    """The candidates that are atoms, in reading order: those of engine.peaks.find_peaks.

    Parameters
    ----------
    found : (N,) array of CANDIDATE
    shape : (int, int)
        Cells that hold some of the frame.
    radius : float
        Least distance of two atoms, in cells.
    """
    ordered = found[np.argsort(found["cell"])]
    rivals = np.flatnonzero(ordered["flags"] & RIVAL)
    if len(rivals) == 0:
        return ordered
    stays = np.ones(len(ordered), np.bool_)
    peaks = np.stack(np.divmod(ordered["cell"][rivals].astype(np.intp), shape[1]), axis=1)
    stays[rivals] = thin(peaks, ordered["peak"][rivals], shape, radius)
    return ordered[stays]


def to_atoms(found: NDArray[Any], shape: tuple[int, int], radius: float) -> Atoms:
    """Atoms of a frame, sorted by y, then x; parameters as those of `in_reading_order`."""
    rows = in_reading_order(found, shape, radius)
    rows = rows[(rows["flags"] & OUTSIDE) == 0]
    rows = rows[np.lexsort((rows["x"], rows["y"]))]
    floats = {name: np.ascontiguousarray(rows[name]) for name in ("y", "x", "score", "sigma_pm")}
    return Atoms(
        **floats,
        class_id=rows["class_id"].astype(np.uint8),
        agreement=np.ones(len(rows), np.float32),
        flags=(rows["flags"] & (CONTAMINATED | EDGE)).astype(np.uint8),
    )
