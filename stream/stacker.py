"""Exposures of one image in, exposures of three out: gathered, corrected, drift taken out. For the receive thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from engine.errors import FrameError
from engine.frame import Frame
from stream.alignment import Aligned, Aligner, Image, read_image
from stream.clock import FrameInterval
from stream.config import ServeConfig
from stream.exposure import Exposure, Triplet
from stream.references import References
from stream.triplets import Gathered, TripletAssembler


class Stacker:
    """Makes triplets of the frames of one source. For its receive thread."""

    def __init__(
        self, config: ServeConfig, references: References, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._assembler = TripletAssembler(config.triplets, config.triplet_timeout)
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
            gathered = Gathered((exposure,), 1) if whole else self._assembler.add(exposure)
        except FrameError as error:
            return None, (error,)
        if gathered.members is None:
            return None, gathered.refused
        try:
            return self._stack(gathered.members, gathered.answers), gathered.refused
        except Exception as error:  # whatever comes, every frame is accounted for
            return None, (*gathered.refused, *(error,) * gathered.answers)

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

    def _stack(self, members: Sequence[Exposure], answers: int) -> Exposure:
        images = [image for one in members for image in self._images(one)]
        newest = max(members, key=lambda one: one.message.number)
        numbers = tuple(one.message.number for one in members)
        places = numbers if len(numbers) == len(images) else (0,) * len(images)  # of one message no order is known
        aligned = self._aligner.align(images, newest.frame.sampling_A, newest.epoch, places)
        return self._as_one(members, newest, aligned, answers)

    def _images(self, exposure: Exposure) -> list[Image]:
        pixels, mask = exposure.frame.pixels, exposure.frame.mask
        return [read_image(one, mask, self._references) for one in (pixels if pixels.ndim == 3 else pixels[None])]

    def _as_one(
        self,
        members: Sequence[Exposure],
        newest: Exposure,
        aligned: Aligned,
        answers: int,
    ) -> Exposure:
        """The exposure that the three are from now on: it came when the last of them did."""
        last = max(members, key=lambda one: one.arrival_s)
        doses = [one.frame.dose_e_A2 for one in members]
        defoci = [one.message.defocus_A for one in members]
        known = [dose for dose in doses if dose is not None]
        frame = Frame(
            pixels=aligned.pixels,
            sampling_A=newest.frame.sampling_A,
            mask=aligned.mask,
            dose_e_A2=sum(known) if len(known) == len(doses) else None,
            defocus_A=None if None in defoci else tuple(value for defocus in defoci for value in defocus or ()),
            voltage_kV=newest.frame.voltage_kV,
        )
        return replace(
            last,
            message=replace(newest.message, pixels=frame.pixels, mask=frame.mask, defocus_A=frame.defocus_A),
            frame=frame,
            decoded_s=self._now(),
            interval_s=self._interval_s(members, newest, last),
            dose_total_e_A2=max(one.dose_total_e_A2 for one in members),
            frames=answers,
            triplet=Triplet(tuple(one.message.number for one in members), aligned.drift_px, aligned.doubt),
        )

    def _interval_s(self, members: Sequence[Exposure], newest: Exposure, last: Exposure) -> float | None:
        """From triplet to triplet; a rolling one is due with every frame, and so is a message of three images."""
        if self._rolling or len(members) == 1:
            return last.interval_s
        message = newest.message
        stated_s = None if message.frame_interval_s is None else 3 * message.frame_interval_s
        begun, self._begun = self._begun, True
        return self._interval.add(1 if begun else None, stated_s, message.timestamp_s, last.arrival_s)
