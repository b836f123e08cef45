"""What no electron of the beam made, X-rays and faults of a camera: the limit beyond which pixels are cut off.

A regular part of the frame is dealt into groups; each says a limit, and the median holds. Few groups have hot pixels,
so what those say does not matter, and one pass is enough. The kernels `limits_*` and `median` compute the very same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUPS = 127  # odd: the median is one of them; prime, so that a group has pixels of every column
# A hot pixel lies so many standard deviations, and so many times the mean, over the mean. Of a Poisson frame, however
# sparse, not one pixel in 10^9 does; nor do those that the models were trained with, of up to six times the mean.
DEVIATIONS = np.float32(40)
MEANS = np.float32(5)
STEADY = np.float32(1e-4)  # a deviation below this share of the mean says nothing: rounding may have made it
_SIZE = 128  # pixels of a group, about


def sampling(count: int) -> tuple[int, int]:
    """Of so many pixels each how many-th is taken, and how many make a group. Odd, as widths of frames seldom are."""
    step = max(1, count // (GROUPS * _SIZE)) | 1
    return step, count // step // GROUPS


def hot_limit(image: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> np.float32:
    """What a pixel of this image can hold; infinity where its pixels do not say.

    That is so where half of the groups are of one value each: constant frames, nearly empty ones.

    Parameters
    ----------
    image : (H, W) float32
    mask : (H, W) bool or None
        True where there is no measurement; what is there, NaN too, does not count.
    """
    step, size = sampling(image.size)
    if size == 0:
        return np.float32(np.inf)
    samples = _dealt(image, step, size)
    with np.errstate(invalid="ignore", divide="ignore"):  # a group without a measurement
        if mask is None:
            # Down the columns: the order of these sums is that of the kernel, so their last bits are its too.
            mean = samples.sum(axis=0) / np.float32(size)
            away = samples - mean
            deviation = np.sqrt(np.square(away, out=away).sum(axis=0) / np.float32(size))
        else:
            valid = ~_dealt(mask, step, size)
            number = valid.sum(axis=0, dtype=np.float32)
            mean = np.where(valid, samples, np.float32(0)).sum(axis=0) / number
            away = np.where(valid, samples - mean, np.float32(0))
            deviation = np.sqrt(np.square(away, out=away).sum(axis=0) / number)
        limits = mean + np.maximum(DEVIATIONS * deviation, MEANS * mean)
        limits[~(deviation > STEADY * np.abs(mean))] = np.inf
    return np.float32(np.partition(limits, GROUPS // 2)[GROUPS // 2])


def _dealt(pixels: NDArray[Any], step: int, size: int) -> NDArray[Any]:
    """(size, GROUPS): a group a column, its pixels from all over the image."""
    # COPY: one pixel in sixteen, as sums over what lies far apart take longer than that.
    return np.ascontiguousarray(pixels.reshape(-1)[: step * size * GROUPS : step]).reshape(size, GROUPS)
