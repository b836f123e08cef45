"""Truth of a frame to what the network should answer: heat, offsets, contamination, and where each of them counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

HEAT_A = 0.35  # sigma of an atom's blob in the heat map
REACH_A = 0.65  # cells this near to an atom learn its position
SEEN = 0.2  # cover that counts as contamination as much as any: 3 A of carbon, through which atoms still show


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Maps of (h, w) cells.

    heat : 0 to 1; offset : (2, h, w) in network px, cell centre to nearest site; near : 1 where offset and class count;
    covered : 0 to 1, how surely contaminated; weight : 1 where heat counts (0 under contamination); class_id : of the
    nearest site, 0 elsewhere.
    """

    heat: NDArray[np.float32]
    offset: NDArray[np.float32]
    near: NDArray[np.float32]
    covered: NDArray[np.float32]
    weight: NDArray[np.float32]
    class_id: NDArray[np.float32]


def targets(
    positions_px: NDArray[np.float64],
    class_id: NDArray[np.uint8],
    covered: NDArray[np.float32],
    stride: int,
    sampling_A: float,
) -> Targets:
    """Targets of a sample.

    Parameters
    ----------
    positions_px : (N, 2)
        True (y, x) in network pixels.
    class_id : (N,)
        What is there.
    covered : (H, W)
        Contamination at network pixels, 0 to 1.
    """
    h, w = covered.shape[0] // stride, covered.shape[1] // stride
    rows, cols = np.mgrid[:h, :w]
    centres = np.stack([rows, cols], axis=-1).reshape(-1, 2) * stride + (stride - 1) / 2
    hidden = covered[: h * stride, : w * stride].reshape(h, stride, w, stride).mean(axis=(1, 3))
    reach_px = 4 * HEAT_A / sampling_A
    inside = np.all((positions_px > -reach_px) & (positions_px < np.array(covered.shape) + reach_px), axis=1)
    padded = np.append(
        positions_px[inside], [[np.inf, np.inf]], axis=0
    )  # the index a query gives where nothing is near
    distance, nearest = cKDTree(padded[:-1]).query(centres, distance_upper_bound=reach_px)
    distance_A = distance * sampling_A
    offset = np.where(np.isfinite(distance)[:, None], padded[nearest] - centres, 0)
    heat = np.exp(-0.5 * (distance_A / HEAT_A) ** 2).reshape(h, w)
    near = (distance_A < REACH_A).reshape(h, w) & (hidden < 0.5)
    return Targets(
        heat.astype(np.float32),
        offset.T.reshape(2, h, w).astype(np.float32),
        near.astype(np.float32),
        np.minimum(hidden / SEEN, 1).astype(np.float32),
        (hidden < 0.5).astype(np.float32),
        np.append(class_id[inside], 0)[nearest].reshape(h, w).astype(np.float32),
    )
