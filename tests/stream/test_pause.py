"""A replay that is held: by its keys, in a terminal."""

from __future__ import annotations

import io
import os
import pty
import termios
import threading
from collections.abc import Iterator

import pytest

from stream.pause import Pause, listen
from tests.stream.fakes import PATIENCE_S, wait_until


class Sending:
    """A thread that asks before every frame."""

    def __init__(self, pause: Pause, frames: int) -> None:
        self.sent = 0
        self._pause = pause
        self.thread = threading.Thread(target=self._send, args=(frames,), daemon=True)
        self.thread.start()

    def _send(self, frames: int) -> None:
        for _ in range(frames):
            self._pause.wait()
            self.sent += 1

    def stays_at(self, frames: int) -> bool:
        wait_until(lambda: self.sent >= frames)
        self.thread.join(0.05)
        return self.sent == frames


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """The end that a person types at, and the end that a program reads."""
    person, program = pty.openpty()
    yield person, program
    for one in (person, program):
        os.close(one)


class TestPause:
    def test_nothing_is_held_unless_asked_for(self) -> None:
        sending = Sending(Pause(), 100)
        sending.thread.join(PATIENCE_S)
        assert sending.sent == 100

    def test_space_goes_on(self) -> None:
        pause = Pause(paused=True)
        sending = Sending(pause, 5)
        assert sending.stays_at(0)
        pause.press(" ")
        sending.thread.join(PATIENCE_S)
        assert sending.sent == 5

    def test_one_frame_at_a_time(self) -> None:
        pause = Pause(paused=True)
        sending = Sending(pause, 5)
        for frames in (1, 2):
            pause.press("n")
            assert sending.stays_at(frames)
        for _ in range(2):
            pause.press("n")
        assert sending.stays_at(4)
        pause.press(" ")
        sending.thread.join(PATIENCE_S)

    def test_a_step_while_it_runs_pauses(self) -> None:
        pause = Pause()
        pause.press("n")
        sending = Sending(pause, 5)
        assert sending.stays_at(0)
        pause.press(" ")
        sending.thread.join(PATIENCE_S)

    def test_other_keys_are_nothing(self) -> None:
        pause = Pause()
        for key in "abc\n":
            pause.press(key)
        pause.wait()


class TestKeys:
    def test_of_a_terminal_each_as_it_is_typed(self, terminal: tuple[int, int]) -> None:
        person, program = terminal
        before = termios.tcgetattr(program)
        pause = Pause(paused=True)
        with open(program, closefd=False) as keyboard, listen(pause, keyboard) as keys:
            assert keys
            sending = Sending(pause, 5)
            os.write(person, b"n")
            assert sending.stays_at(1)
            os.write(person, b" ")
            sending.thread.join(PATIENCE_S)
        assert sending.sent == 5
        assert termios.tcgetattr(program) == before

    def test_what_is_typed_at_once_is_read_at_once(self, terminal: tuple[int, int]) -> None:
        person, program = terminal
        pause = Pause(paused=True)
        with open(program, closefd=False) as keyboard, listen(pause, keyboard):
            os.write(person, b"nnn")
            assert Sending(pause, 3).stays_at(3)

    def test_without_a_terminal_there_are_none(self) -> None:
        with listen(Pause(), io.StringIO("   ")) as keys:
            assert not keys
