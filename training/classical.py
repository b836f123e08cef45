"""The classical way, for comparison: a filtered frame, its local maxima, a Gaussian fitted to each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.feature import peak_local_max
from skimage.filters import difference_of_gaussians

from engine.frame import Frame
from engine.prepare import fill

_SMOOTH_A, _BACKGROUND_A = 0.25, 2.5  # sigma of the filter that lets atoms pass; wider, it loses more than noise
_LEAST = 0.3  # standard deviations of the filtered frame that a maximum must reach
_APART_A = 0.4  # maxima; of 0.2 to 0.8 the best or nearly, for every family and dose, on specimens of the training
_FIT_A = 0.7  # the Gaussian is fitted to what lies this near
_ROUNDS = 8  # of the fit

Points = NDArray[np.float64]


def classical_atoms(frame: Frame) -> tuple[Points, Points]:
    """Positions (N, 2) in pixels if atoms are bright, and if they are dark: nothing in the frame says which.

    Of three images the middle one.
    """
    pixels = frame.pixels if frame.pixels.ndim == 2 else frame.pixels[len(frame.pixels) // 2]
    image = fill(pixels, frame.mask)
    scale = 1 / frame.sampling_A
    filtered = difference_of_gaussians(image, _SMOOTH_A * scale, _BACKGROUND_A * scale, mode="nearest")
    bright, dark = (_maxima(sign * filtered, _APART_A * scale, _FIT_A * scale) for sign in (1, -1))
    return bright, dark


def _maxima(image: NDArray[np.float64], apart_px: float, fit_px: float) -> Points:
    least, apart = _LEAST * float(image.std()), max(1, round(apart_px))
    peaks = peak_local_max(image, min_distance=apart, threshold_abs=least, exclude_border=False)
    return _fitted(image, peaks, max(1.5, fit_px))


def _fitted(image: NDArray[np.float64], peaks: NDArray[np.intp], reach_px: float) -> Points:
    """Peaks moved to the centre of a Gaussian on a constant, by least squares; where that strays, the peak's pixel."""
    reach = int(reach_px)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1, 1)
    near = np.hypot(dy, dx)[:, 0] <= reach_px
    dy, dx = dy[near], dx[near]
    padded = np.pad(image, reach, mode="edge")
    values = padded[peaks[:, 0] + reach + dy, peaks[:, 1] + reach + dx].T  # (N, K)
    low, high = values.min(axis=1), values.max(axis=1)
    model = np.stack([low, high - low, np.zeros(len(peaks)), np.zeros(len(peaks)), np.full(len(peaks), reach_px / 2)])
    for _ in range(_ROUNDS):
        offset, height, y, x, width = model[:, :, None]
        to_y, to_x = dy.T - y, dx.T - x
        shape = np.exp(-(to_y**2 + to_x**2) / (2 * width**2))
        slopes = height * shape * np.stack([to_y, to_x, (to_y**2 + to_x**2) / width]) / width**2
        design = np.stack([np.ones_like(shape), shape, *slopes], axis=-1)
        left = values - offset - height * shape
        # A little damping: where there is no Gaussian its width and centre are anybody's guess.
        normal = design.swapaxes(1, 2) @ design
        normal += 1e-3 * np.eye(5) * np.trace(normal, axis1=1, axis2=2)[:, None, None] / 5
        step = np.linalg.solve(normal, design.swapaxes(1, 2) @ left[..., None])[..., 0].T
        step[2:] = np.clip(step[2:], -0.3 * reach_px, 0.3 * reach_px)
        model += step
        model[4] = np.clip(model[4], 0.2 * reach_px, 3 * reach_px)
    moved = model[2:4].T
    strayed = ~(np.hypot(*moved.T) <= reach_px)
    moved[strayed] = 0
    return peaks + moved
