"""Ctrl-C and SIGTERM, however fast they come."""

from __future__ import annotations

import os
import signal
from threading import Thread

from stream.signals import stop_on_signals


def test_signals_at_any_moment_leave_no_lock_behind() -> None:
    """Thousands of them into a loop that waits: each may come while the wait itself is half done."""

    def send() -> None:
        for _ in range(3000):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals() as stop:
        assert not stop.wait(0)
        sender = Thread(target=send)
        sender.start()
        while sender.is_alive():
            stop.wait(1e-6)
        assert stop.wait(10)
    assert signal.getsignal(signal.SIGINT) is before


def test_what_else_is_to_end_is_told_too() -> None:
    told = []
    with stop_on_signals(lambda: told.append(True)) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10)
    assert told == [True]
