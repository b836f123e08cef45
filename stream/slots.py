"""What waits between two threads: `LatestSlot`, where the newest wins, and `BoundedQueue`, which holds the putter back.

Whatever `put` returns will never be got: the one that was replaced, or the item itself once the slot is closed.
`Turns` keeps the order of what several threads take from a slot.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Slot(ABC, Generic[T]):
    """Items on their way from one thread to the next."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._changed = Condition()
        self._closed = False

    @abstractmethod
    def put(self, item: T) -> T | None:
        """Add an item; returns the one that is lost by it."""

    def get(self, timeout_s: float | None = None) -> T | None:
        """The oldest item; None once `timeout_s` has passed, or when the slot is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout_s)
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Take no more; what waits can still be got."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def drain(self) -> list[T]:
        """Take everything that waits."""
        with self._changed:
            items = list(self._items)
            self._items.clear()
            self._changed.notify_all()
            return items

    @property
    def finished(self) -> bool:
        """Closed and empty: nothing will come any more."""
        with self._changed:
            return self._closed and not self._items

    def __len__(self) -> int:
        return len(self._items)


class LatestSlot(Slot[T]):
    """Holds one item. A newer one replaces it."""

    def put(self, item: T) -> T | None:
        """Never blocks."""
        with self._changed:
            if self._closed:
                return item
            replaced = self._items.popleft() if self._items else None
            self._items.append(item)
            self._changed.notify_all()
            return replaced


class BoundedQueue(Slot[T]):
    """Holds up to `length` items. Loses none while it is open."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def put(self, item: T) -> T | None:
        """Blocks while the queue is full."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self._length or self._closed)
            if self._closed:
                return item
            self._items.append(item)
            self._changed.notify_all()
            return None


class Turns:
    """Work that several threads do side by side is handed on in the order in which it was taken up."""

    def __init__(self) -> None:
        self._taking = Lock()
        self._changed = Condition()
        self._taken = 0
        self._next = 0

    def take(self, get: Callable[[], T | None]) -> tuple[int, T] | None:
        """What `get` gives, with its number; None once it gives nothing. One thread at a time gets."""
        with self._taking:
            item = get()
            if item is None:
                return None
            self._taken += 1
            return self._taken - 1, item

    @contextmanager
    def turn(self, number: int) -> Iterator[None]:
        """Blocks until the work of all earlier numbers is handed on; every number that was taken needs its turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._next == number)
        try:
            yield
        finally:
            with self._changed:
                self._next += 1
                self._changed.notify_all()
