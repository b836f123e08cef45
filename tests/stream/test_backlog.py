"""What waits for the recorder: bounded, in order, and kept until it is on the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable

from stream.backlog import Backlog
from tests.stream.fakes import PATIENCE_S, wait_until

KB = 1000
MANY = 10**9


def message(size: int = 488) -> Callable[[int], list[bytes]]:
    """With what every message is counted as besides, a thousand bytes."""
    return lambda number: [bytes(size)]


def taken(backlog: Backlog, window: int = MANY) -> list[int]:
    numbers = []
    while (entry := backlog.take(window)) is not None:
        numbers.append(entry.number)
    return numbers


def test_what_fits_is_taken_in_order_and_once() -> None:
    backlog = Backlog(10 * KB)
    assert [backlog.put(message()) for _ in range(3)] == [0, 0, 0]
    assert taken(backlog) == [1, 2, 3]
    assert taken(backlog) == []
    assert backlog.unwritten == (3, 3 * KB)
    backlog.written(2)
    assert backlog.unwritten == (1, KB)


def test_the_oldest_that_nobody_took_gives_way() -> None:
    backlog = Backlog(3 * KB)
    for _ in range(2):
        backlog.put(message())
    first = backlog.take(MANY)
    assert first is not None
    assert first.number == 1
    assert [backlog.put(message()) for _ in range(3)] == [0, 1, 1]
    assert taken(backlog) == [4, 5]
    assert backlog.put(message()) == 1  # all that is there is on its way
    assert backlog.number == 6


def test_one_that_can_never_fit_is_lost_alone() -> None:
    backlog = Backlog(3 * KB)
    backlog.put(message())
    assert backlog.put(message(4 * KB), hold=lambda: True) == 1
    assert taken(backlog) == [1]


def test_no_more_is_on_its_way_than_the_window_but_always_one() -> None:
    backlog = Backlog(10 * KB)
    for _ in range(5):
        backlog.put(message())
    assert taken(backlog, 2 * KB) == [1, 2]
    backlog.written(1)
    assert taken(backlog, 2 * KB) == [3]
    backlog.written(3)
    assert taken(backlog, 1) == [4]


def test_another_recorder_gets_what_the_one_before_did_not_write() -> None:
    backlog = Backlog(10 * KB)
    for _ in range(4):
        backlog.put(message())
    assert taken(backlog, 3 * KB) == [1, 2, 3]
    backlog.written(1)
    assert backlog.again() == 2
    assert taken(backlog) == [2, 3, 4]
    backlog.written(4)
    assert backlog.again() == 5


def test_held_back_until_there_is_room() -> None:
    backlog = Backlog(2 * KB)
    for _ in range(2):
        backlog.put(message())
    lost: list[int] = []
    thread = threading.Thread(target=lambda: lost.append(backlog.put(message(), hold=lambda: True)))
    thread.start()
    assert taken(backlog) == [1, 2]
    assert lost == []
    backlog.written(1)
    thread.join(PATIENCE_S)
    assert lost == [0]
    assert taken(backlog) == [3]


def test_one_that_is_held_back_can_be_let_go() -> None:
    backlog = Backlog(KB)
    backlog.put(message())
    held = [True]
    lost: list[int] = []
    thread = threading.Thread(target=lambda: lost.append(backlog.put(message(), hold=lambda: held[0])))
    thread.start()
    held[0] = False
    wait_until(lambda: lost == [1])
    thread.join(PATIENCE_S)


def test_given_up() -> None:
    backlog = Backlog(10 * KB)
    for _ in range(3):
        backlog.put(message())
    backlog.take(MANY)
    assert backlog.drain() == 3
    assert backlog.unwritten == (0, 0)
    assert backlog.again() == 4
