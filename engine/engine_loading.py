"""Engines on their way: each is loaded, or built, in a thread of its own, and none is built once the process ends.

TensorRT calls our logger and monitor, in Python, as it builds. What a signal raises there is lost, so who needs an
engine waits for another thread; and a process that ends meanwhile may crash. A build can be ended between two steps.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, Generic, TypeVar

from engine.errors import emptied

_POLL_S = 0.1
_SILENT_S = 1.0
_EXIT_S = 300.0  # one step may be the timing of all kernels, which takes as long as nearly the whole build
_INTERRUPTED = 130
_UNDER_WAY: set[Loading[Any]] = set()  # of the process, whoever wants them
_NONE_WANTED: set[object] = set()  # a mark of each block that is left, in which nothing is to be built any more
_LOG = logging.getLogger("atomstream")

_Engine = TypeVar("_Engine")


class Loading(Generic[_Engine]):
    """An engine on its way.

    Parameters
    ----------
    load : callable
        Gives the engine; is handed a function that says, at any time, whether it is wanted still.
    """

    def __init__(self, load: Callable[[Callable[[], bool]], _Engine]) -> None:
        self.engine: _Engine | None = None
        self.error: Exception | None = None
        self._wanted = True  # no Event: it is set by who handles a signal, who must not wait for a lock
        self._over = Event()  # of a thread whose join was interrupted Python 3.11 says that it is over
        _UNDER_WAY.add(self)
        if _NONE_WANTED:  # asked now: who cancels meanwhile finds this one under way
            self.cancel()
        Thread(target=self._run, args=(load,), name="engine", daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Whether there is an engine, or an error."""
        return self._over.is_set()

    def result(self) -> _Engine:
        """The engine; blocks until it is there.

        Raises
        ------
        KeyboardInterrupt
            Somebody cancelled it, or interrupts the wait, which cancels it.
        """
        try:
            while self._wanted and not self._over.wait(_POLL_S):
                pass
        except BaseException:
            self.cancel()
            raise
        if not self._wanted:  # whether or not it is over: its end is waited for at the end of the process
            raise KeyboardInterrupt
        if self.engine is None:
            raise self.error or RuntimeError("Expected an engine or an error, got neither: report it")
        return self.engine

    def join(self, seconds: float | None = None) -> None:
        """Block until it is over, but no longer than that."""
        self._over.wait(seconds)

    def cancel(self) -> None:
        """Let a build end at its next step; does not wait for that."""
        self._wanted = False

    def _run(self, load: Callable[[Callable[[], bool]], _Engine]) -> None:
        try:
            if self._wanted:
                self.engine = load(lambda: self._wanted)
        except Exception as error:  # whatever it is: it is told to who wants the engine
            self.error = emptied(error)  # else it holds on to what was made
        finally:
            self._over.set()
            _UNDER_WAY.discard(self)


def cancel_builds() -> None:
    """Let whatever is built end at its next step; from a signal handler, or any thread."""
    for loading in tuple(_UNDER_WAY):
        loading.cancel()


@contextmanager
def cancelling() -> Iterator[Callable[[], None]]:
    """What cancels the builds under way, and all that would begin later in this block; from a signal handler too.

    A signal may come at any time, also between two builds or before the first.
    """
    mark = object()

    def cancel() -> None:
        _NONE_WANTED.add(mark)
        cancel_builds()

    try:
        yield cancel
    finally:
        _NONE_WANTED.discard(mark)


@atexit.register
def _end_builds() -> None:
    """Wait for them, so long as somebody wants to: Ctrl-C ends the process at once, as no crash can any more."""
    cancel_builds()
    try:
        if not _are_over(_SILENT_S):
            _LOG.warning(
                "Waiting up to %.0f s for TensorRT, which ends the build of an engine between two steps only: Ctrl-C "
                "ends it at once",
                _EXIT_S,
            )
            _are_over(_EXIT_S)
    except KeyboardInterrupt:
        os._exit(_INTERRUPTED)


def _are_over(seconds: float) -> bool:
    """Whether all of them are; waits for that, but no longer than so many seconds, however many there are."""
    until_s, waited_for = time.monotonic() + seconds, tuple(_UNDER_WAY)
    for loading in waited_for:
        loading.join(max(0.0, until_s - time.monotonic()))
    return all(loading.is_over for loading in waited_for)
