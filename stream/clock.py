"""Time: how long from frame to frame, and how far the sender's clock is from ours. Pure, times are arguments."""

from __future__ import annotations

from collections import deque
from statistics import median

_DIFFERENCES = 20
_DRIFT = 1e-4  # seconds a second: more than the clocks of two computers drift apart
_PAUSE_S = 10.0


class FrameInterval:
    """Seconds from frame to frame: as configured, else as the header says, else measured.

    Measured is the median of the last 20 differences of timestamps, else of arrivals, each divided by the step of the
    frame number, so that missing frames don't count as slow ones. Where one of the 20 is 0, the sender's clock ticks
    more slowly than frames come, and its differences would be those of its ticks: then arrivals tell.
    """

    def __init__(self, fixed_s: float | None = None) -> None:
        self._fixed_s = fixed_s
        self._last: tuple[float | None, float] = (None, 0.0)
        self._timestamps: deque[float] = deque(maxlen=_DIFFERENCES)
        self._arrivals: deque[float] = deque(maxlen=_DIFFERENCES)

    def add(
        self, step: int | None, header_s: float | None, timestamp_s: float | None, arrival_s: float
    ) -> float | None:
        """The interval after one more frame; None while it is unknown. `step` is None for the first of a series."""
        before, before_arrival = self._last
        self._last = (timestamp_s, arrival_s)
        if step is None:
            self._timestamps.clear()
            self._arrivals.clear()
        else:
            self._arrivals.append((arrival_s - before_arrival) / step)
            if timestamp_s is not None and before is not None and timestamp_s >= before:
                self._timestamps.append((timestamp_s - before) / step)
        if self._fixed_s is not None:
            return self._fixed_s
        if header_s is not None:
            return header_s
        measured = self._timestamps if self._timestamps and min(self._timestamps) > 0 else self._arrivals
        return median(measured) if measured else None


class ClockDifference:
    """How much later our clock says it is than the sender's: the least that any frame took to come.

    The least may rise by as much as clocks drift apart, but not with a queue that builds up: its delay is latency.
    After a pause nothing can be queued, and the estimate begins afresh. So it does where the sender's clock goes back:
    after it was set, or after a single timestamp that lay in the future. A clock that stands says nothing of latency.
    """

    def __init__(self) -> None:
        self._least_s: float | None = None
        self._last_s = 0.0
        self._last_timestamp_s = 0.0

    def add(self, timestamp_s: float | None, arrival_s: float) -> float | None:
        """The difference in seconds after one more frame; None while no frame had a timestamp.

        Parameters
        ----------
        timestamp_s, arrival_s : float
            Seconds since 1970 by the sender's clock and by ours.
        """
        if timestamp_s is None:
            return self._least_s
        took, passed = arrival_s - timestamp_s, arrival_s - self._last_s
        went_back = timestamp_s <= self._last_timestamp_s
        if self._least_s is None or went_back or not 0 <= passed < _PAUSE_S:
            self._least_s = took
        else:
            self._least_s = min(took, self._least_s + _DRIFT * passed)
        self._last_s, self._last_timestamp_s = arrival_s, timestamp_s
        return self._least_s
