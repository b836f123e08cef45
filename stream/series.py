"""The order of frames: what is missing between two, what comes late, and where one series ends and the next begins.

A new value of `series` begins a series; so does frame 0 or 1 after a later one, and a sender that keeps counting up
from an earlier number. Frames that are all number 0, or all 1, are of a sender that does not count, and follow each
other. A single frame with an earlier number, or left over from a series that has ended, is refused.
Detectors that tell of a start and an end may do so twice, or not to us. A series of a sender that tells of starts
does not begin again by a frame 0 or 1 that strayed; of another it may, and the one that was under way may go on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from engine.errors import FrameError

_RESTARTED = 10  # frames in a row that count up from an earlier number: the sender began anew, nothing is late
_FAR = 1_000_000  # a step of more is no gap: a number gone wrong, or of a sender that does not count frames
_NEAR = 1000  # so far ahead frames that could not be read are remembered
_REMEMBERED = 16  # ended series whose late frames are still recognised


@dataclass(frozen=True, slots=True)
class Place:
    """Where a frame stands: its series counted from 1, the frames missing before it, the step from the last number."""

    epoch: int
    missing: int
    step: int | None  # None for the first of a series or of a count; negative for one that came late, but in time


class SeriesTracker:
    """Follows the frame numbers of one source. For one thread.

    Parameters
    ----------
    slack : int
        A frame less than so many numbers behind the newest is in time. What is missing is counted so much later.
    shortest : int
        Frames of a series at least: a 0 or 1 that comes again sooner is repeated, and begins none.
    """

    def __init__(self, slack: int = 0, shortest: int = 1) -> None:
        self._slack = slack
        self._shortest = shortest
        self._announces = False  # the sender tells of starts
        self._series: str | int | None = None
        self._known = False  # whether there was any series
        self._over = False  # the sender said that it has ended
        self._last: int | None = None  # the newest number; None for a series that was announced and has no frame yet
        self._counts = False  # the series has frames of more than one number
        self._counted = 0  # up to here what is missing was counted
        self._seen: set[int] = set()  # numbers that the slack holds, and of frames that could not be read
        self._epoch = 0
        self._ended: deque[str | int | None] = deque(maxlen=_REMEMBERED)
        self._behind: tuple[str | int | None, int, int] = (None, 0, 0)  # series, number, how many in a row
        self._strayed: int | None = None  # the newest number, where it was far from the one before

    def begin(self, series: str | int) -> None:
        """The sender says that a series begins: whatever its first number, it is not late. Twice is as good as once."""
        self._announces = True
        if not self._known or series != self._series or self._over:
            self._change(series)

    def end(self, series: str | int | None) -> None:
        """The sender says that a series has ended. Frames of it that are still on their way are taken."""
        self._over = self._over or (self._known and series == self._series)

    def came(self, series: str | int | None, number: int) -> None:
        """A frame that cannot be read came: it will not be missing. Nothing else follows from what it says."""
        if series == self._series and self._last is not None and self._counted < number <= self._last + _NEAR:
            self._seen.add(number)

    def place(self, series: str | int | None, number: int) -> Place:
        """Where the frame stands; FrameError "frame_jumped_back" for a late one."""
        same = self._known and series == self._series
        if not self._known or (same and self._last is None):
            return self._first(series, number)
        last = -1 if self._last is None else self._last
        if same and number == last <= 1 and not self._counts:
            return Place(self._epoch, 0, 1)  # a sender that does not count; else each of its frames began a series
        if same and last - self._slack < number < last and number not in self._seen:
            self._seen.add(number)
            self._counts = True
            return Place(self._epoch, 0, number - last)
        late = number <= last if same else series in self._ended
        if late and not self._begins_again(series, number, last if same else None):
            raise FrameError(
                "frame_jumped_back",
                f"Expected a frame after number {last} of series {self._series!r:.80}, "
                f"got {number} of {series!r:.80}: begin a new series, or count up",
            )
        if late or not same:
            return self._first(series, number)
        return self._far(number) if number - last > _FAR else self._next(number, last)

    def _far(self, number: int) -> Place:
        """A frame that follows nothing: answered, but the count goes on from it only once the next one does."""
        before, self._strayed = self._strayed, number
        if before is None or not 0 < number - before <= _FAR:
            return Place(self._epoch, 0, None)
        self._last, self._counted, self._seen = before, before, {before}
        return self._next(number, before)

    def _next(self, number: int, last: int) -> Place:
        settled = max(self._counted, number - self._slack)
        self._seen.add(number)
        missing = settled - self._counted - sum(self._counted < one <= settled for one in self._seen)
        self._last, self._counted, self._counts = number, settled, True
        self._seen = {one for one in self._seen if one > number - self._slack}
        self._behind, self._strayed = (None, 0, 0), None
        return Place(self._epoch, missing, number - last)

    def _first(self, series: str | int | None, number: int) -> Place:
        self._change(series, announced=False)
        self._last = self._counted = number
        self._seen = {number}
        self._epoch += 1
        return Place(self._epoch, 0, None)

    def _change(self, series: str | int | None, announced: bool = True) -> None:
        strayed = series in self._ended and not announced  # perhaps: then the series under way goes on
        if self._known and series != self._series and not strayed:
            self._ended.append(self._series)
        if series in self._ended:
            self._ended.remove(series)
        self._series, self._known, self._over, self._last, self._counts = series, True, False, None, False
        self._behind, self._strayed = (None, 0, 0), None

    def _begins_again(self, series: str | int | None, number: int, last: int | None) -> bool:
        """Whether a series does with this frame; `last` is its newest number, None where it has ended."""
        first = number <= 1 and (not self._announces if last is None else last - number >= max(1, self._shortest - 1))
        return first or self._restarted(series, number)

    def _restarted(self, series: str | int | None, number: int) -> bool:
        before, last, count = self._behind
        follows = count > 0 and before == series and number > last
        self._behind = (series, number, count + 1 if follows else 1)
        return self._behind[2] >= _RESTARTED
