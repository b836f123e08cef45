"""Exposures of one image in, exposures of three out: gathered as they come, then corrected and their drift taken out.

Which three belong together is decided in the receive thread and costs nothing. How they lie is measured in an engine
thread: a triplet that a newer one replaces costs nothing either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from engine.errors import FrameError
from stream.alignment import Aligner, Image, read_image
from stream.clock import FrameInterval
from stream.config import ServeConfig
from stream.exposure import Exposure, Triplet
from stream.references import References
from stream.triplets import Gathered, TripletAssembler, differ


class Stacker:
    """Makes triplets of the frames of one source: `stack` is for an engine thread, all else for the receive thread."""

    def __init__(
        self, config: ServeConfig, references: References, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._assembler = TripletAssembler(config.triplets, config.triplet_timeout, config.triplet_first)
        self._references = references
        self._aligner = Aligner(config.max_drift)
        self._rolling = config.triplets == "rolling"
        self._interval = FrameInterval(None if config.frame_interval is None else 3 * config.frame_interval)
        self._begun = False
        self._now = now

    def add(self, exposure: Exposure) -> tuple[Exposure | None, tuple[Exception, ...]]:
        """One more exposure: the triplet that is complete with it, and an error for each frame that is given up."""
        try:
            whole = exposure.message.pixels.ndim == 3
            gathered = Gathered((_rising(exposure),), 1) if whole else self._assembler.add(exposure)
        except FrameError as error:
            return None, (error,)
        if gathered.members is None:
            return None, gathered.refused
        try:
            return self._as_one(gathered.members, gathered.answers), gathered.refused
        except Exception as error:  # whatever comes, every frame is accounted for
            return None, (*gathered.refused, *(error,) * gathered.answers)

    def stack(self, exposure: Exposure) -> Exposure:
        """A triplet with its images on each other. In the order in which triplets came: their drift is followed.

        FrameError where the references do not fit.
        """
        members = exposure.members
        images = [image for one in members for image in self._images(one)]
        numbers = tuple(one.message.number for one in members)
        places = numbers if len(numbers) == len(images) else (0,) * len(images)  # of one message no order is known
        aligned = self._aligner.align(images, exposure.frame.sampling_A, exposure.epoch, places)
        frame = replace(exposure.frame, pixels=aligned.pixels, mask=aligned.mask)
        return replace(
            exposure,
            frame=frame,
            triplet=Triplet(numbers, aligned.drift_px, aligned.doubt, _doubt_focus(frame.defocus_A)),
        )

    def check_repeated(self, series: str | int | None, number: int) -> None:
        """FrameError for a frame of a triplet by `series` that came before, so that its dose is not booked again."""
        self._assembler.check_repeated(series, number)

    def expire(self, now_s: float) -> tuple[FrameError, ...]:
        """Give up what has waited for too long; one error for each frame."""
        return self._assembler.expire(now_s)

    @property
    def waiting(self) -> int:
        """Frames that wait for others."""
        return self._assembler.waiting

    def _images(self, exposure: Exposure) -> list[Image]:
        pixels, mask = exposure.frame.pixels, exposure.frame.mask
        return [read_image(one, mask, self._references) for one in (pixels if pixels.ndim == 3 else pixels[None])]

    def _as_one(self, members: Sequence[Exposure], answers: int) -> Exposure:
        """The exposure that the three are from now on: it came when the last of them did."""
        newest = max(members, key=lambda one: one.message.number)
        last = max(members, key=lambda one: one.arrival_s)
        doses = [one.frame.dose_e_A2 for one in members]
        defoci = [one.message.defocus_A for one in members]
        known = [dose for dose in doses if dose is not None]
        defocus_A = None if None in defoci else tuple(value for defocus in defoci for value in defocus or ())
        return replace(
            last,
            message=replace(newest.message, defocus_A=defocus_A),
            frame=replace(
                newest.frame, dose_e_A2=sum(known) if len(known) == len(doses) else None, defocus_A=defocus_A
            ),
            decoded_s=self._now(),
            interval_s=self._interval_s(members, newest, last),
            dose_total_e_A2=max(one.dose_total_e_A2 for one in members),
            frames=answers,
            members=tuple(members),
        )

    def _interval_s(self, members: Sequence[Exposure], newest: Exposure, last: Exposure) -> float | None:
        """From triplet to triplet; a rolling one is due with every frame, and so is a message of three images."""
        if self._rolling or len(members) == 1:
            return last.interval_s
        message = newest.message
        stated_s = None if message.frame_interval_s is None else 3 * message.frame_interval_s
        begun, self._begun = self._begun, True
        return self._interval.add(1 if begun else None, stated_s, message.timestamp_s, last.arrival_s)


def _rising(exposure: Exposure) -> Exposure:
    """A message of three images by rising defocus, as three messages are."""
    defocus_A = exposure.message.defocus_A
    if defocus_A is None or len(defocus_A) != len(exposure.message.pixels):
        return exposure
    order = np.argsort(defocus_A, kind="stable")
    if (order == np.arange(len(order))).all():
        return exposure
    defocus_A = tuple(sorted(defocus_A))
    pixels = exposure.message.pixels[order]  # COPY: seldom, a sender sends them as they were taken
    return replace(
        exposure,
        message=replace(exposure.message, pixels=pixels, defocus_A=defocus_A),
        frame=replace(exposure.frame, pixels=pixels, defocus_A=defocus_A),
    )


def _doubt_focus(defocus_A: tuple[float, ...] | None) -> str | None:
    if defocus_A is None or differ([(one,) for one in defocus_A]):
        return None
    said = ", ".join(f"{one:g}" for one in defocus_A)
    return f"A triplet expects three defoci, got {said} A: change the focus between the images, or send none"
