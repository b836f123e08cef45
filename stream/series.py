"""The order of frames: what is missing between two, what comes late, and where one series ends and the next begins.

A new value of `series` begins a series; so does frame 0 or 1 after a later one, and a sender that keeps counting up
from an earlier number. A single frame with an earlier number, or left over from a series that has ended, is refused.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from engine.errors import FrameError

_RESTARTED = 10  # frames in a row that count up from an earlier number: the sender began anew, nothing is late
_REMEMBERED = 16  # ended series whose late frames are still recognised


@dataclass(frozen=True, slots=True)
class Place:
    """Where a frame stands: its series counted from 1, the frames missing before it, the step from the last number."""

    epoch: int
    missing: int
    step: int | None  # None for the first of a series


class SeriesTracker:
    """Follows the frame numbers of one source. For one thread."""

    def __init__(self) -> None:
        self._series: str | int | None = None
        self._last: int | None = None
        self._epoch = 0
        self._ended: deque[str | int | None] = deque(maxlen=_REMEMBERED)
        self._behind: tuple[str | int | None, int, int] = (None, 0, 0)  # series, number, how many in a row

    def place(self, series: str | int | None, number: int) -> Place:
        """Where the frame stands; FrameError "frame_jumped_back" for a late one."""
        if self._last is None:
            return self._begin(series, number)
        same = series == self._series
        late = number <= self._last if same else series in self._ended
        if late and number > 1 and not self._restarted(series, number):
            raise FrameError(
                "frame_jumped_back",
                f"Expected a frame after number {self._last} of series {self._series!r:.80}, "
                f"got {number} of {series!r:.80}: begin a new series, or count up",
            )
        if late or not same:
            return self._begin(series, number)
        step, self._last = number - self._last, number
        self._behind = (None, 0, 0)
        return Place(self._epoch, step - 1, step)

    def _begin(self, series: str | int | None, number: int) -> Place:
        if self._last is not None and series != self._series:
            self._ended.append(self._series)
            if series in self._ended:
                self._ended.remove(series)
        self._series, self._last, self._behind = series, number, (None, 0, 0)
        self._epoch += 1
        return Place(self._epoch, 0, None)

    def _restarted(self, series: str | int | None, number: int) -> bool:
        before, last, count = self._behind
        follows = count > 0 and before == series and number > last
        self._behind = (series, number, count + 1 if follows else 1)
        return self._behind[2] >= _RESTARTED
