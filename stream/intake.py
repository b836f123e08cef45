"""A message in, an exposure out: decoded, put in its series, booked, completed with what the header leaves out.

Belongs to the receive thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from engine.errors import FrameError
from engine.frame import Frame
from stream.accounting import Accounting
from stream.clock import ClockDifference, FrameInterval
from stream.config import ServeConfig
from stream.dialects import find_dialect
from stream.exposure import Exposure
from stream.header import Message, NamedFrameError, Part, Rules, SeriesEnd, SeriesStart
from stream.metrics import Metrics
from stream.references import References, mean_dose
from stream.series import Place, SeriesTracker
from stream.stacker import Stacker

_MEMBERS = 3
_SLACK = 3  # how far the members of a triplet may be out of order


class Intake:
    """What is known of one source's frames so far."""

    def __init__(
        self,
        config: ServeConfig,
        references: References,
        accounting: Accounting,
        metrics: Metrics,
        now: Callable[[], float] = time.perf_counter,
        stacker: Stacker | None = None,
    ) -> None:
        """`stacker` where the model takes three images."""
        self._config = config
        self._references = references
        self._accounting = accounting
        self._metrics = metrics
        self._now = now
        self._dialect = find_dialect(config.dialect)
        self._start: SeriesStart | None = None
        self._ended = False
        self._members_begun = False
        # Three frames of one `series` come in any order, and so do the members of a triplet by any rule.
        self._one_series = stacker if config.triplets == "series" else None
        self._tracker = SeriesTracker(
            slack=_SLACK if stacker is not None and config.triplets != "rolling" else 0,
            shortest=1 if stacker is None else _MEMBERS,
        )
        self._interval = FrameInterval(config.frame_interval)
        self._clock = ClockDifference()
        self.rules = Rules(
            round(config.max_frame_MB * 1e6),
            config.max_frame_pixels,
            config.axis_order,
            config.saturated_counts,
            config.channel,
        )
        self.interval_s: float | None = None
        self.clock_difference_s: float | None = None

    def split(self, parts: Sequence[Part]) -> list[Sequence[Part]]:
        """The messages that came at once."""
        return self._dialect.split(parts)

    def expose(self, parts: Sequence[Part], arrival_s: float, arrival_since_1970_s: float) -> Exposure | None:
        """Read and book one message; None where it holds no frame but tells of a series.

        FrameError with its reason where it is nothing that can be used.
        """
        try:
            decoded = self._dialect.decode(parts, self.rules, self._start)
        except NamedFrameError as error:
            self._tracker.came(error.series, error.number)
            raise
        match decoded:
            case SeriesStart():
                self._begin(decoded)
                return None
            case SeriesEnd():
                self._tracker.end(decoded.series)
                self._ended = True
                return None
        return self._expose(decoded, arrival_s, arrival_since_1970_s)

    def _begin(self, start: SeriesStart) -> None:
        """A series begins, or more is said of the one that has begun."""
        before = self._start
        if before is not None and not self._ended and start.series in (None, before.series):
            start = SeriesStart(before.series, before.keys | start.keys)
        self._start, self._ended = start, False
        if start.series is not None:
            self._tracker.begin(start.series)

    def _expose(self, message: Message, arrival_s: float, arrival_since_1970_s: float) -> Exposure:
        timestamp_s = message.timestamp_s
        place = self._place(message)
        if place.step is None or place.step > 0:
            self.interval_s = self._interval.add(place.step, message.frame_interval_s, timestamp_s, arrival_s)
        self.clock_difference_s = self._clock.add(timestamp_s, arrival_since_1970_s)
        sampling_A = message.sampling_A or self._config.sampling
        dose_e_A2 = self._dose(message, sampling_A)
        dose_total_e_A2 = self._accounting.exposed(place.missing, dose_e_A2)
        self._metrics.exposed(place.missing, dose_e_A2, self.interval_s)
        if sampling_A is None:
            raise FrameError("no_sampling", "Expected a sampling in A/px, got none: send it, or set sampling")
        voltage_kV = None if message.voltage_V is None else message.voltage_V / 1e3
        transport_s = None
        if timestamp_s is not None and self.clock_difference_s is not None:
            transport_s = arrival_since_1970_s - timestamp_s - self.clock_difference_s
        return Exposure(
            message=message,
            frame=Frame(message.pixels, sampling_A, message.mask, dose_e_A2, message.defocus_A, voltage_kV),
            epoch=place.epoch,
            arrival_s=arrival_s,
            decoded_s=self._now(),
            transport_s=transport_s,
            interval_s=self.interval_s,
            clock_difference_s=self.clock_difference_s,
            dose_total_e_A2=dose_total_e_A2,
        )

    def _place(self, message: Message) -> Place:
        if self._one_series is not None and message.pixels.ndim == 2:  # `series` names the triplet
            self._one_series.check_repeated(message.series, message.number)
            begun, self._members_begun = self._members_begun, True
            return Place(1, 0, 1 if begun else None)
        return self._tracker.place(message.series, message.number)

    def _dose(self, message: Message, sampling_A: float | None) -> float | None:
        """As the sender says, else as configured, else from the counts."""
        config = self._config
        stated = config.dose if message.dose_e_A2 is None else message.dose_e_A2
        gain = message.gain or config.gain
        if stated is not None or gain is None or sampling_A is None:
            return stated
        offsets = (self._references.dark_mean(message.mask), message.offset, config.offset, 0.0)
        offset = next(one for one in offsets if one is not None)
        return mean_dose(message.pixels, message.mask, sampling_A, gain, offset)
