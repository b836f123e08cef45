"""Exposures of one image in, exposures of three out: gathered, corrected, drift taken out. For the receive thread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.drift import move, register
from engine.errors import FrameError
from engine.frame import Frame
from engine.prepare import fill
from stream.clock import FrameInterval
from stream.config import ServeConfig
from stream.exposure import Exposure, Triplet
from stream.references import References
from stream.triplets import Gathered, TripletAssembler

_FINEST_A = 0.8  # an image of a microscope holds nothing finer
_COARSE_A = 0.25  # drift is measured on pixels of up to this size
_CONTRADICTION_A = 0.5  # more than the errors of a measurement, less than a vector of any lattice
_MIDDLE = 1
_NOWHERE = ((0.0, 0.0),) * 3

Shift = tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
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


class Stacker:
    """Makes triplets of the frames of one source."""

    def __init__(
        self, config: ServeConfig, references: References, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._assembler = TripletAssembler(config.triplets, config.triplet_timeout)
        self._references = references
        self._max_drift_A = config.max_drift
        self._rolling = config.triplets == "rolling"
        self._interval = FrameInterval(None if config.frame_interval is None else 3 * config.frame_interval)
        self._begun = False
        self._now = now
        self._before: tuple[int, float, Sequence[Shift]] = (0, 0.0, _NOWHERE)  # epoch, sampling, drift last measured

    def add(self, exposure: Exposure) -> tuple[Exposure | None, tuple[Exception, ...]]:
        """One more exposure: the triplet that is complete with it, and an error for each frame that is given up."""
        try:
            whole = exposure.message.pixels.ndim == 3
            gathered = Gathered((exposure,), 1) if whole else self._assembler.add(exposure)
        except FrameError as error:
            return None, (error,)
        if gathered.members is None:
            return None, gathered.refused
        try:
            return self._stack(gathered.members, gathered.answers), gathered.refused
        except Exception as error:  # whatever comes, every frame is accounted for
            return None, (*gathered.refused, *(error,) * gathered.answers)

    def expire(self, now_s: float) -> tuple[FrameError, ...]:
        """Give up what has waited for too long; one error for each frame."""
        return self._assembler.expire(now_s)

    @property
    def waiting(self) -> int:
        """Frames that wait for others."""
        return self._assembler.waiting

    def _stack(self, members: Sequence[Exposure], answers: int) -> Exposure:
        images = [image for one in members for image in self._images(one)]
        newest = max(members, key=lambda one: one.message.number)
        drift_px, certain = self._measure(images, newest)
        moved = [_move(image, shift) for image, shift in zip(images, drift_px, strict=True)]
        masks = [image.mask for image in moved if image.mask is not None]
        pixels = np.stack([image.pixels for image in moved])  # COPY: three images become one array
        mask = np.any(masks, axis=0) if masks else None
        numbers = tuple(one.message.number for one in members)
        return self._as_one(members, newest, pixels, mask, Triplet(numbers, drift_px, certain), answers)

    def _images(self, exposure: Exposure) -> list[_Image]:
        pixels, mask = exposure.frame.pixels, exposure.frame.mask
        images = []
        for one in pixels if pixels.ndim == 3 else pixels[None]:
            lost = ~np.isfinite(one) if one.dtype.kind == "f" else None
            filled = fill(self._references.apply(one), mask)
            images.append(_Image(filled, mask, lost if lost is not None and lost.any() else None))
        return images

    def _measure(self, images: Sequence[_Image], newest: Exposure) -> tuple[tuple[Shift, ...], bool]:
        """The shift that brings each image onto the middle one, and whether the three between them agree."""
        if not self._max_drift_A:
            return _NOWHERE, True
        sampling_A = newest.frame.sampling_A
        epoch, before_A, before = self._before
        expected = before if (epoch, before_A) == (newest.epoch, sampling_A) else _NOWHERE
        factor = max(1, math.floor(_COARSE_A / sampling_A))
        coarse = [_reduce(image.pixels, factor) for image in images]

        def between(reference: int, moved: int) -> NDArray[np.float64]:
            around = np.subtract(expected[moved], expected[reference]) / factor
            shift = register(
                coarse[reference],
                coarse[moved],
                finest_px=_FINEST_A / sampling_A / factor,
                around=(float(around[0]), float(around[1])),
                within_px=self._max_drift_A / sampling_A / factor,
            )
            return factor * np.asarray(shift)

        first, last, across = between(_MIDDLE, 0), between(_MIDDLE, 2), between(0, 2)
        certain = math.hypot(*(across - (last - first))) * sampling_A < _CONTRADICTION_A
        drift_px = (_as_shift(first), (0.0, 0.0), _as_shift(last))
        if certain:  # what contradicts itself is nothing to follow
            self._before = (newest.epoch, sampling_A, drift_px)
        return drift_px, certain

    def _as_one(
        self,
        members: Sequence[Exposure],
        newest: Exposure,
        pixels: NDArray[np.float32],
        mask: NDArray[np.bool_] | None,
        triplet: Triplet,
        answers: int,
    ) -> Exposure:
        """The exposure that the three are from now on: it came when the last of them did."""
        last = max(members, key=lambda one: one.arrival_s)
        doses = [one.frame.dose_e_A2 for one in members]
        defoci = [one.message.defocus_A for one in members]
        known = [dose for dose in doses if dose is not None]
        frame = Frame(
            pixels=pixels,
            sampling_A=newest.frame.sampling_A,
            mask=mask,
            dose_e_A2=sum(known) if len(known) == len(doses) else None,
            defocus_A=None if None in defoci else tuple(value for defocus in defoci for value in defocus or ()),
            voltage_kV=newest.frame.voltage_kV,
        )
        return replace(
            last,
            message=replace(newest.message, pixels=pixels, mask=mask, defocus_A=frame.defocus_A),
            frame=frame,
            decoded_s=self._now(),
            interval_s=self._interval_s(members, newest, last),
            dose_total_e_A2=max(one.dose_total_e_A2 for one in members),
            frames=answers,
            triplet=triplet,
        )

    def _interval_s(self, members: Sequence[Exposure], newest: Exposure, last: Exposure) -> float | None:
        """From triplet to triplet; a rolling one is due with every frame, and so is a message of three images."""
        if self._rolling or len(members) == 1:
            return last.interval_s
        message = newest.message
        stated_s = None if message.frame_interval_s is None else 3 * message.frame_interval_s
        begun, self._begun = self._begun, True
        return self._interval.add(1 if begun else None, stated_s, message.timestamp_s, last.arrival_s)


def _move(image: _Image, shift: Shift) -> _Image:
    pixels, outside = move(image.pixels, shift)
    if outside is None and image.lost is None:
        return image
    lost = None if image.lost is None else _move_mask(image.lost, shift)
    if lost is not None:
        pixels = np.where(lost, np.float32(np.nan), pixels)
    masks = [
        mask for mask in (outside, None if image.mask is None else _move_mask(image.mask, shift)) if mask is not None
    ]
    return _Image(pixels, np.any(masks, axis=0) if masks else None, lost)


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


def _as_shift(shift: NDArray[np.float64]) -> Shift:
    return float(shift[0]), float(shift[1])
