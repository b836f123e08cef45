"""Which atoms lie under contamination: where the network suspects some, near to where it is sure.

A patch has a middle that is plain to see. Suspicion with no such place near it is a lattice that looks strange, at
coarse pixels or with many vacancies side by side.
REF: thresholding with hysteresis, Canny, IEEE PAMI 8 (1986) 679.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SURE = 0.65  # mean contamination around an atom that is no mere suspicion
PATCH_A = 16.0  # from such a place on suspicion is believed
_CELL_A = 1.0  # of the grid that distances are taken on

Column = NDArray[np.float32]


def contaminated(y: Column, x: Column, covered: Column, sampling_A: float, suspected: float) -> NDArray[np.bool_]:
    """(N,) atoms that are taken to be covered.

    Parameters
    ----------
    y, x : (N,) float32
        Positions in the frame, in pixels.
    covered : (N,) float32
        Mean contamination around each.
    sampling_A : float
        Of the frame.
    suspected : float
        The model's own `covered`: what more is, is suspicion.
    """
    suspects = covered > suspected
    sure = suspects & (covered > SURE)
    if not sure.any():
        return sure
    rows, columns = (np.maximum(axis * np.float32(sampling_A / _CELL_A), 0).astype(np.intp) for axis in (y, x))
    near = np.zeros((rows.max() + 1, columns.max() + 1), np.uint8)
    near[rows[sure], columns[sure]] = 1
    size = 2 * int(PATCH_A / _CELL_A) + 1
    near = cv2.dilate(near, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    return np.asarray(suspects & (near[rows, columns] > 0))
