"""Keys of a terminal that hold a replay: space pauses and goes on, n sends one frame. Threads: sender and keys."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Event, Thread
from typing import TextIO

_TICK_S = 0.1
KEYS = "space pauses and goes on, n sends one frame"


class Pause:
    """Whether the next frame may leave."""

    def __init__(self, paused: bool = False) -> None:
        self._paused = paused
        self._steps = 0
        self._changed = Condition()

    def press(self, key: str) -> None:
        """Space pauses or goes on; n lets one frame through and pauses."""
        with self._changed:
            if key == " ":
                self._paused, self._steps = not self._paused, 0
            elif key == "n":
                self._steps += self._paused
                self._paused = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Blocks until the next frame may leave."""
        with self._changed:
            self._changed.wait_for(lambda: not self._paused or self._steps > 0)
            self._steps = max(0, self._steps - 1)


@contextmanager
def listen(pause: Pause, keyboard: TextIO = sys.stdin) -> Iterator[bool]:
    """Press what is typed in the terminal, while inside; gives whether there is one."""
    if not keyboard.isatty():
        yield False
        return
    import termios  # of terminals only, and not of every system
    import tty

    done = Event()
    number = keyboard.fileno()
    before = termios.tcgetattr(number)
    thread = Thread(target=_read_keys, args=(pause, number, done), name="keys", daemon=True)
    try:
        tty.setcbreak(number)
        thread.start()
        yield True
    finally:
        done.set()
        thread.join()
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _read_keys(pause: Pause, number: int, done: Event) -> None:
    while not done.is_set():
        if select.select([number], [], [], _TICK_S)[0]:
            # Not through the file: its buffer would keep all but the first key until the next one is typed.
            keys = os.read(number, 64).decode(errors="replace")
            if not keys:
                return
            for key in keys:
                pause.press(key)
