"""The level of an image: what light and thick dirt leave when detail is averaged away.

Lines fitted under a Gaussian window, down and then across. Well inside that is the Gaussian mean; at the borders, where
a mean looks to one side, light that falls towards them is followed.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

_REACH = 4.0  # sigmas
_LEAST_SIGMA_PX = 0.1  # beside it a window holds a single pixel


def level(image: NDArray[np.float32], sigma_px: tuple[float, float]) -> NDArray[np.float32]:
    """(H, W) values of the lines, each where its window stands; its sigma down and across.

    In float64: at a corner a line is the small difference of large sums.
    """
    rows = fit_lines(image.astype(np.float64), sigma_px[0], axis=0)
    return fit_lines(rows, sigma_px[1], axis=1).astype(np.float32)


def fit_lines(image: NDArray[np.float64], sigma_px: float, axis: int) -> NDArray[np.float64]:
    """The same along one axis alone.

    References
    ----------
    Local linear regression: Fan, J. Am. Stat. Assoc. 87 (1992) 998.
    """
    sigma_px = max(sigma_px, _LEAST_SIGMA_PX)
    mean, tilt = _kernels(sigma_px)
    of_mean, of_tilt = (np.expand_dims(share, 1 - axis) for share in _shares(image.shape[axis], sigma_px))
    return _correlate(image, mean, axis) * of_mean + _correlate(image, tilt, axis) * of_tilt


@lru_cache(maxsize=64)
def _kernels(sigma_px: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The window, and the window times the distance from its middle."""
    reach = max(1, math.ceil(_REACH * sigma_px))
    away = np.arange(-reach, reach + 1)
    window = np.exp(-0.5 * (away / sigma_px) ** 2)
    window /= window.sum()
    return window, window * away


@lru_cache(maxsize=64)
def _shares(size: int, sigma_px: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the values under either kernel add to the line, at each place of an axis: nothing lies beyond its ends."""
    window, tilt = _kernels(sigma_px)
    reach = len(window) // 2
    inside = np.pad(np.ones(size), reach)
    mass, first, second = (np.correlate(inside, k, "valid") for k in (window, tilt, tilt**2 / window))
    spread = mass * second - first**2
    line = spread > 1e-6 * mass**2  # there is none through a single pixel
    of_mean = np.divide(second, spread, out=1 / mass, where=line)
    of_tilt = np.divide(-first, spread, out=np.zeros(size), where=line)
    return of_mean, of_tilt


def _correlate(image: NDArray[np.float64], kernel: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    across, down = (np.ones(1), kernel) if axis == 0 else (kernel, np.ones(1))
    return np.asarray(cv2.sepFilter2D(image, -1, across, down, borderType=cv2.BORDER_CONSTANT), np.float64)
