"""Frame in, network input out: cut hot pixels off, fill, resample, normalise, pad.

Training and live frames pass through here alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.frame import Frame
from engine.hot_pixels import hot_limit
from engine.level import level
from engine.spec import ModelSpec

COARSE_A = 1.5  # the window of the normalisation is wide, so its averages are taken on a grid this coarse
FLAT = 4e-6  # a local RMS below this share of the brightest pixel is what float32 leaves of no contrast
_LARGEST = np.float32(1e15)  # beyond it no camera counts, and squares leave float32


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Network input and the way back to the frame.

    Attributes
    ----------
    pixels : (1, C, H, W) float32
        Normalised, H and W multiples of the model's.
    scale : (float, float)
        Frame pixels per network pixel, along y and x.
    shape : (int, int)
        Of the part that holds the frame; the rest is padding.
    """

    pixels: NDArray[np.float32]
    scale: tuple[float, float]
    shape: tuple[int, int]


def prepare(frame: Frame, spec: ModelSpec) -> Prepared:
    """Bring a frame to the model's sampling and contrast. Does not change the frame.

    Values that no camera counts (NaN, infinity, beyond 1e15) join the mask, masked pixels take the mean of their
    neighbours. What is far above all that the image holds is set to the limit of that: a few such pixels would rule the
    local RMS.
    """
    channels = frame.pixels[None] if frame.pixels.ndim == 2 else frame.pixels
    height, width = network_shape(frame, spec)
    padded = [-(-size // spec.multiple) * spec.multiple for size in (height, width)]
    out = np.zeros((1, len(channels), *padded), np.float32)
    for channel, pixels in enumerate(channels):
        image, mask = _measured(pixels, frame.mask)
        limit = float(hot_limit(image, mask))
        cv2.threshold(image, limit, 0, cv2.THRESH_TRUNC, dst=image)  # before the masked take their neighbours' mean
        image = resample(_filled(image, mask), (height, width))
        out[0, channel, :height, :width] = normalise(image, spec)
    scale = (frame.shape[0] / height, frame.shape[1] / width)
    return Prepared(out, scale, (height, width))


def network_shape(frame: Frame, spec: ModelSpec) -> tuple[int, int]:
    """Height and width of the frame at the model's sampling."""
    height, width = (max(1, round(size * frame.sampling_A / spec.sampling_A)) for size in frame.shape)
    return height, width


def fill(pixels: NDArray[np.generic], mask: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Pixels as float32, those that are masked or no count replaced by the mean of their valid neighbours.

    Parameters
    ----------
    pixels : (H, W) array of any real dtype
    mask : (H, W) bool array or None, True where there is no measurement
    """
    return _filled(*_measured(pixels, mask))


def _measured(
    pixels: NDArray[np.generic], mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """A copy of the pixels, and where they hold no measurement; None for nowhere."""
    with np.errstate(over="ignore"):
        image = pixels.astype(np.float32, order="C")
    if not all_counts(pixels.dtype):
        counts = counted(image)
        if not counts.all():
            mask = ~counts if mask is None else mask | ~counts
    return image, mask if mask is not None and mask.any() else None


def _filled(image: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    if mask is None:
        return image
    image[mask] = 0
    valid = (~mask).astype(np.float32)
    total = float(valid.sum())
    if total == 0:
        return image
    # Neighbourhoods grow until every masked pixel has a valid one; what is wider than 31 px takes the mean of all.
    missing = mask.copy()
    for size in (3, 5, 9, 17, 31):
        weight = cv2.boxFilter(valid, -1, (size, size), normalize=False, borderType=cv2.BORDER_CONSTANT)
        value = cv2.boxFilter(image * valid, -1, (size, size), normalize=False, borderType=cv2.BORDER_CONSTANT)
        here = missing & (weight > 0.5)
        image[here] = value[here] / weight[here]
        missing &= ~here
        if not missing.any():
            return image
    image[missing] = float((image * valid).sum(dtype=np.float64) / total)
    return image


def all_counts(dtype: np.dtype[Any]) -> bool:
    """Whether each value of a type may be a count: of integers of at most 32 bits."""
    return dtype.kind != "f" and dtype.itemsize <= 4


def counted(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """True where a value may be a count: False for NaN, infinity and what no camera counts."""
    return np.asarray(np.abs(pixels) < _LARGEST)


def resample(image: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Area average when it gets smaller, cubic when larger; outer edges of the image stay where they are."""
    if image.shape == shape:
        return image
    smaller = shape[0] <= image.shape[0]
    resized = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return np.asarray(resized, np.float32)


def normalise(image: NDArray[np.float32], spec: ModelSpec) -> NDArray[np.float32]:
    """Subtract the local level and divide by the local RMS under a Gaussian window.

    A constant neighbourhood becomes zero, never NaN.

    References
    ----------
    Madsen et al., Adv. Theory Simul. 1 (2018) 1800037: windows of 12 A, means for levels.
    """
    height, width = image.shape
    rows, columns = coarse_shape(image.shape, spec.sampling_A)
    down_A, across_A = spec.sampling_A * height / rows, spec.sampling_A * width / columns

    def average(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.resize(values, (columns, rows), interpolation=cv2.INTER_AREA), np.float32)

    def spread(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR))

    flat = image - spread(level(average(image), (spec.level_A / down_A, spec.level_A / across_A)))
    sigma = {"sigmaX": spec.normalise_A / across_A, "sigmaY": spec.normalise_A / down_A}
    rms = np.sqrt(cv2.GaussianBlur(average(flat * flat), (0, 0), **sigma, borderType=cv2.BORDER_REFLECT_101))
    largest = float(rms.max())
    if not largest > FLAT * max(1e-30, float(np.abs(image).max())):
        return np.zeros_like(image)
    return flat * spread(np.reciprocal(np.maximum(rms, 1e-3 * largest)))


def coarse_shape(shape: tuple[int, ...], sampling_A: float) -> tuple[int, int]:
    """The grid that local averages are taken on."""
    factor = max(1, round(COARSE_A / sampling_A))
    return max(1, round(shape[0] / factor)), max(1, round(shape[1] / factor))
