"""What an image holds at positions between its pixels: that of the nearest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nearest(positions_px: NDArray[np.floating], shape: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The pixels (M, 2) nearest to (N, 2) positions, of those that lie in the image; which of the N these are."""
    at = np.floor(positions_px + 0.5).astype(np.intp)
    inside = np.all((at >= 0) & (at < shape), axis=1)
    return at[inside], inside


def value_at(image: NDArray[np.floating], positions_px: NDArray[np.floating]) -> NDArray[np.float32]:
    """(N,) values at (N, 2) positions, NaN out of the image."""
    at, inside = nearest(positions_px, image.shape)
    values = np.full(len(positions_px), np.nan, np.float32)
    values[inside] = image[at[:, 0], at[:, 1]]
    return values
