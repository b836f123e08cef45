"""What waits for the recorder: numbered messages, kept until they are on its disk, bounded in bytes.

One thread puts, another takes: what was taken stays until it is said to be written, since a recorder can die any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition
from typing import Any

_OVERHEAD_BYTES = 512  # of a message, however small
_LOOK_S = 0.1  # how often one that is held back looks whether it should still wait


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One message on its way; numbers count from 1 over all that were ever put."""

    number: int
    parts: Sequence[Any]
    size: int


class Backlog:
    """Holds up to so many bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._changed = Condition()
        self._waiting: deque[Entry] = deque()
        self._taken: deque[Entry] = deque()
        self._waiting_bytes = self._taken_bytes = 0
        self._number = 0

    def put(self, make: Callable[[int], Sequence[Any]], hold: Callable[[], bool] = lambda: False) -> int:
        """Add the message that `make` builds for its number; how many messages were lost by it.

        The oldest that nobody took gives way. While `hold` says so, the caller waits for room instead.
        """
        parts = make(self._number + 1)
        size = _OVERHEAD_BYTES + sum(map(_nbytes, parts))
        with self._changed:
            self._number += 1
            while self._waiting_bytes + self._taken_bytes + size > self._most >= size and hold():
                self._changed.wait(_LOOK_S)
            if self._taken_bytes + size > self._most:
                return 1
            lost = 0
            while self._waiting_bytes + self._taken_bytes + size > self._most:
                self._waiting_bytes -= self._waiting.popleft().size
                lost += 1
            self._waiting.append(Entry(self._number, parts, size))
            self._waiting_bytes += size
            self._changed.notify_all()
            return lost

    def take(self, window: int) -> Entry | None:
        """The oldest that nobody took, unless that makes more than `window` bytes taken and not written."""
        with self._changed:
            if not self._waiting or (self._taken and self._taken_bytes + self._waiting[0].size > window):
                return None
            entry = self._waiting.popleft()
            self._taken.append(entry)
            self._waiting_bytes -= entry.size
            self._taken_bytes += entry.size
            return entry

    def written(self, number: int) -> None:
        """What was taken up to this one is on the disk."""
        with self._changed:
            while self._taken and self._taken[0].number <= number:
                self._taken_bytes -= self._taken.popleft().size
            self._changed.notify_all()

    def again(self) -> int:
        """Nobody took anything: another recorder begins. The number it begins with, were nothing lost."""
        with self._changed:
            self._waiting.extendleft(reversed(self._taken))
            self._waiting_bytes += self._taken_bytes
            self._taken.clear()
            self._taken_bytes = 0
            return self._waiting[0].number if self._waiting else self._number + 1

    def wait(self, timeout_s: float) -> None:
        """Until something waits to be taken, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting, timeout_s)

    def drain(self) -> int:
        """Give up what is not written; how many messages that were."""
        with self._changed:
            count = len(self._waiting) + len(self._taken)
            self._waiting.clear()
            self._taken.clear()
            self._waiting_bytes = self._taken_bytes = 0
            self._changed.notify_all()
            return count

    @property
    def waits(self) -> bool:
        """Something can be taken."""
        return bool(self._waiting)

    @property
    def number(self) -> int:
        """Of the last message that was put."""
        return self._number

    @property
    def unwritten(self) -> tuple[int, int]:
        """Messages and bytes that are not known to be on the disk."""
        with self._changed:
            return len(self._waiting) + len(self._taken), self._waiting_bytes + self._taken_bytes


def _nbytes(part: Any) -> int:
    size: int = part.nbytes if hasattr(part, "nbytes") else len(part)
    return size
