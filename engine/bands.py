"""What preparing does to an image along one axis, as a banded matrix that a kernel can apply.

Each output is a weighted sum of a few neighbouring inputs. The weights are read off what a CPU runs, OpenCV and
engine/level.py, so that both paths agree whatever a version does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.level import fit_lines

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Bands:
    """Output k is `weight[k] @ input[start[k] : start[k] + taps]`.

    Attributes
    ----------
    start : (n,) int32
    weight : (n, taps) float32
    """

    start: NDArray[np.int32]
    weight: NDArray[np.float32]

    @property
    def taps(self) -> int:
        """Inputs of one output."""
        return int(self.weight.shape[1])

    def __len__(self) -> int:
        return len(self.start)

    def apply(self, rows: Rows) -> Rows:
        """(m, n) result of (m, k) rows, each alone."""
        picked = rows[:, self.start[:, None] + np.arange(self.taps)]
        return np.asarray((picked * self.weight).sum(axis=-1), np.float32)


def resize_bands(size: int, to: int, interpolation: int) -> Bands:
    """cv2.resize of `size` pixels to `to`."""
    if size == to:
        return Bands(np.arange(size, dtype=np.int32), np.ones((size, 1), np.float32))
    reach = math.ceil(size / to) + 4  # an area has one more input than the scale, a cubic spline four

    def resize(rows: Rows) -> Rows:
        return np.asarray(cv2.resize(rows, (to, len(rows)), interpolation=interpolation), np.float32)

    return _read_off(size, to, reach, resize)


def blur_bands(size: int, sigma: float) -> Bands:
    """cv2.GaussianBlur of `size` pixels, reflected at the ends."""

    def blur(rows: Rows) -> Rows:
        # One row at a time: across a single row the blur does nothing.
        blurred = [cv2.GaussianBlur(row[None], (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101) for row in rows]
        return np.asarray(np.concatenate(blurred), np.float32)

    return _read_off(size, size, _window(sigma), blur)


def line_bands(size: int, sigma: float) -> Bands:
    """engine.level.fit_lines of `size` pixels."""
    return _read_off(
        size, size, _window(sigma), lambda rows: fit_lines(rows.astype(np.float64), sigma, axis=1).astype(np.float32)
    )


def _window(sigma: float) -> int:
    """Pixels that a Gaussian window of OpenCV's, or of engine.level, spans at most."""
    return 2 * math.ceil(4 * sigma) + 3


def _read_off(size: int, to: int, reach: int, operation: Callable[[Rows], Rows]) -> Bands:
    """The bands of an operation of which no output has inputs further apart than `reach`.

    Combs go in, each with a tooth every `reach` pixels: of one comb, an output sees a single tooth.
    """
    reach = min(reach, size)
    combs = (np.arange(size) % reach == np.arange(reach)[:, None]).astype(np.float32)
    seen = np.asarray(operation(combs), np.float32)
    middle = (np.arange(to) + 0.5) * size / to
    start = np.clip(np.round(middle - reach / 2), 0, size - reach).astype(np.int32)
    teeth = (start[:, None] + np.arange(reach)) % reach
    return Bands(start, np.ascontiguousarray(np.take_along_axis(seen.T, teeth, axis=1)))
