"""Ctrl-C and SIGTERM as a wish to stop, for commands whose end has to be a clean one."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stop:
    """Whether to stop.

    No threading.Event: a signal is handled between any two steps of the main thread, also those in which it holds the
    event's lock, which whoever handles the signal would then wait for, for ever.
    """

    def __init__(self) -> None:
        self._told = False

    def set(self) -> None:
        """Tell it; from a signal handler, any thread, and as often as you like."""
        self._told = True

    def is_set(self) -> bool:
        """Whether somebody did."""
        return self._told

    def wait(self, seconds: float) -> bool:
        """Whether somebody did, so many seconds from now."""
        if not self._told:
            time.sleep(seconds)
        return self._told


@contextmanager
def stop_on_signals(also: Callable[[], None] = lambda: None) -> Iterator[Stop]:
    """What Ctrl-C and SIGTERM set: however often they come, the end stays a clean one. `also` is called then."""
    stop = Stop()

    def tell(*_: object) -> None:
        stop.set()
        also()

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
