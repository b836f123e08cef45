"""Three images of one place in, one array of three that lie on each other out: corrected, filled, drift taken out."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.drift import move, register
from engine.prepare import fill
from stream.references import References

_FINEST_A = 0.8  # an image of a microscope holds nothing finer
_COARSE_A = 0.25  # drift is measured on pixels of up to this size, larger ones as they are
_MOST_PX = 512  # of these along an axis: of 2048 it takes seconds
_SMOOTH_PX = 1.5  # sigma; contrast beyond the noise of a pixel
_CONTRADICTION_A = 0.12  # three right shifts disagree by more once in 60; wrong ones may by 0.2
_AS_WELL = 0.95  # a rival that fits so well: seldom where the drift is what was found, nearly always where it is not
_MIDDLE = 1
_NOWHERE = ((0.0, 0.0),) * 3
_CONTRADICTS = "Drift expects three shifts that agree, got two that contradict the third"
_AMBIGUOUS = "Drift expects one shift that fits best, got another one that fits as well, a lattice vector away"
_REMEDY = "take the three images in less time, or where the specimen has an edge"

Shift = tuple[float, float]
Places = tuple[int, ...]
_UNKNOWN: Places = (0, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One image, corrected and filled.

    Attributes
    ----------
    pixels : (H, W) float32
    mask : (H, W) bool or None
        True where there is no measurement.
    lost : (H, W) bool or None
        True where a float was no number: the engine refuses a frame that has too many.
    """

    pixels: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    lost: NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """Three images as one.

    Attributes
    ----------
    pixels : (3, H, W) float32
    mask : (H, W) bool or None
        True where one of them holds no measurement.
    drift_px : tuple of (y, x)
        The shift that was taken out of each, in pixels.
    doubt : str or None
        Why one of them may be off by a lattice vector.
    """

    pixels: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    drift_px: tuple[Shift, ...]
    doubt: str | None


def read_image(pixels: NDArray[Any], mask: NDArray[np.bool_] | None, references: References) -> Image:
    """An image (H, W) of any real dtype, corrected, its holes filled. FrameError where the references don't fit."""
    lost = ~np.isfinite(pixels) if pixels.dtype.kind == "f" else None
    filled = fill(references.apply(pixels), mask)
    return Image(filled, mask, lost if lost is not None and lost.any() else None)


class Aligner:
    """Follows the drift of one specimen from triplet to triplet. For one thread.

    Parameters
    ----------
    max_drift_A : float
        Further than this from where it was in the triplet before no drift is looked for; 0: nothing is moved.
    """

    def __init__(self, max_drift_A: float) -> None:
        self._max_drift_A = max_drift_A
        self._before: tuple[float, Sequence[Shift], Places] = (0.0, _NOWHERE, _UNKNOWN)
        self._series: Hashable = None
        self._count = 0  # triplets of this series

    def align(self, images: Sequence[Image], sampling_A: float, series: Hashable, places: Places = _UNKNOWN) -> Aligned:
        """Bring the first and the last of three images onto the middle one.

        Parameters
        ----------
        series : hashable
            Drift is followed as long as it and the sampling stay the same, and from one series of a single triplet
            to the next.
        places : tuple of int
            When each was taken, counted in frames; three that are alike where that is not known. Of another order than
            before a steady drift is expected.
        """
        drift_px, doubt = self._measure([image.pixels for image in images], sampling_A, series, places)
        moved = [_move(image, shift) for image, shift in zip(images, drift_px, strict=True)]
        masks = [image.mask for image in moved if image.mask is not None]
        pixels = np.stack([image.pixels for image in moved])  # COPY: three images become one array
        return Aligned(pixels, np.any(masks, axis=0) if masks else None, drift_px, doubt)

    def _measure(
        self, images: Sequence[NDArray[np.float32]], sampling_A: float, series: Hashable, places: Places
    ) -> tuple[tuple[Shift, ...], str | None]:
        """The shift that brings each image onto the middle one, and whether that can be doubted."""
        if not self._max_drift_A:
            return _NOWHERE, None
        known_A, before, places_before = self._before
        goes_on = series == self._series or self._count == 1
        self._count = self._count + 1 if series == self._series else 1
        self._series = series
        expected = _expected(before, places_before, places) if goes_on and known_A == sampling_A else _NOWHERE
        factor = max(1, math.floor(_COARSE_A / sampling_A))
        reduced = [_reduce(image, factor) for image in images]
        part = _richest(reduced[_MIDDLE])
        coarse = [image[part] for image in reduced]
        rivals: list[float] = []

        def between(reference: int, moved: int, expected_px: NDArray[np.float64]) -> NDArray[np.float64]:
            around = expected_px / factor
            found = register(
                coarse[reference],
                coarse[moved],
                finest_px=_FINEST_A / sampling_A / factor,
                around=(float(around[0]), float(around[1])),
                within_px=self._max_drift_A / sampling_A / factor,
            )
            rivals.append(found.rival)
            return factor * np.asarray(found.shift)

        first, last = (between(_MIDDLE, one, np.asarray(expected[one])) for one in (0, 2))
        across = between(0, 2, last - first)  # may be twice as far: anywhere else it could be off by a period itself
        excess = across - (last - first)
        doubt = None
        if math.hypot(*excess) * sampling_A >= _CONTRADICTION_A:
            doubt = f"{_CONTRADICTS}: {_REMEDY}"
        elif max(rivals[:2]) >= _AS_WELL:  # of the two that are taken out
            doubt = f"{_AMBIGUOUS}: {_REMEDY}"
        else:  # least squares: each of the three errs alike
            first, last = first - excess / 3, last + excess / 3
        drift_px = (_as_shift(first), (0.0, 0.0), _as_shift(last))
        if doubt is None:  # what may be wrong is nothing to follow
            self._before = (sampling_A, drift_px, places)
        elif not goes_on:
            self._before = (0.0, _NOWHERE, _UNKNOWN)
        return drift_px, doubt


def _expected(before: Sequence[Shift], places_before: Places, places: Places) -> Sequence[Shift]:
    """The shifts of before; where the images were taken in another order than then, those of a steady drift."""
    steps_before, steps = ([place - one[_MIDDLE] for place in one] for one in (places_before, places))
    if steps == steps_before or not any(steps_before):
        return before
    rate = np.dot(steps_before, np.asarray(before)) / np.dot(steps_before, steps_before)
    return [_as_shift(step * rate) for step in steps]


def _move(image: Image, shift: Shift) -> Image:
    pixels, outside = move(image.pixels, shift)
    if outside is None and image.lost is None:
        return image
    lost = None if image.lost is None else _move_mask(image.lost, shift)
    if lost is not None:
        pixels = np.where(lost, np.float32(np.nan), pixels)
    masks = [
        mask for mask in (outside, None if image.mask is None else _move_mask(image.mask, shift)) if mask is not None
    ]
    return Image(pixels, np.any(masks, axis=0) if masks else None, lost)


def _move_mask(mask: NDArray[np.bool_], shift: Shift) -> NDArray[np.bool_]:
    """Every pixel that a masked one has part in."""
    moved, _ = move(mask.astype(np.float32), shift)
    return np.asarray(np.abs(moved) > 1e-3)


def _reduce(image: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    if factor == 1:
        return image
    height, width = (size // factor for size in image.shape)
    if min(height, width) == 0:
        return image
    whole = image[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.float32)


def _richest(image: NDArray[np.float32]) -> tuple[slice, slice]:
    """The part of a large image that shows most: a hole in the specimen tells no drift."""
    height, width = (min(size, _MOST_PX) for size in image.shape)
    if (height, width) == image.shape:
        return slice(None), slice(None)
    smooth = cv2.GaussianBlur(image - image.mean(), (0, 0), _SMOOTH_PX)
    mean, squares = (
        cv2.boxFilter(one, cv2.CV_32F, (width, height), anchor=(0, 0), borderType=cv2.BORDER_REPLICATE)
        for one in (smooth, smooth * smooth)
    )
    variance = (squares - mean * mean)[: image.shape[0] - height + 1, : image.shape[1] - width + 1]
    top, left = np.unravel_index(int(np.argmax(variance)), variance.shape)
    return slice(int(top), int(top) + height), slice(int(left), int(left) + width)


def _as_shift(shift: NDArray[np.float64]) -> Shift:
    return float(shift[0]), float(shift[1])
