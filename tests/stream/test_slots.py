"""What waits between two threads: nothing is got twice, and what is lost is told to whoever puts."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.slots import BoundedQueue, LatestSlot, Slot, Turns

PATIENCE_S = 30.0


class TestLatest:
    def test_the_newest_wins_and_the_replaced_one_is_told(self) -> None:
        slot: LatestSlot[int] = LatestSlot()
        assert [slot.put(number) for number in (1, 2, 3)] == [None, 1, 2]
        assert len(slot) == 1
        assert slot.get(0) == 3
        assert slot.get(0) is None

    @given(st.lists(st.booleans()))
    def test_every_item_is_got_or_told_as_replaced(self, puts: list[bool]) -> None:
        slot: LatestSlot[int] = LatestSlot()
        told: list[int | None] = []
        for number, put in enumerate(puts):
            told.append(slot.put(number) if put else slot.get(0))
        put_in = [number for number, put in enumerate(puts) if put]
        assert [one for one in told if one is not None] + slot.drain() == put_in


class TestBounded:
    def test_first_in_first_out(self) -> None:
        queue: BoundedQueue[int] = BoundedQueue(3)
        assert [queue.put(number) for number in (1, 2, 3)] == [None, None, None]
        assert [queue.get(0) for _ in range(4)] == [1, 2, 3, None]

    def test_the_putter_is_held_back_while_it_is_full(self) -> None:
        queue: BoundedQueue[int] = BoundedQueue(1)
        queue.put(1)
        second = threading.Thread(target=queue.put, args=(2,))
        second.start()
        second.join(0.05)
        assert second.is_alive()
        assert queue.get(0) == 1
        second.join(PATIENCE_S)
        assert queue.get(0) == 2

    def test_close_frees_the_putter_and_gives_its_item_back(self) -> None:
        queue: BoundedQueue[int] = BoundedQueue(1)
        queue.put(1)
        lost: list[int | None] = []
        second = threading.Thread(target=lambda: lost.append(queue.put(2)))
        second.start()
        queue.close()
        second.join(PATIENCE_S)
        assert lost == [2]


@pytest.mark.parametrize("make", [LatestSlot, lambda: BoundedQueue(5)])
class TestEither:
    def test_closed_it_gives_what_waits_and_then_nothing(self, make: type[Slot[int]]) -> None:
        slot = make()
        slot.put(1)
        slot.close()
        assert not slot.finished
        assert slot.put(2) == 2
        assert slot.get() == 1
        assert slot.finished
        assert slot.get() is None

    def test_close_wakes_the_getter(self, make: type[Slot[int]]) -> None:
        slot = make()
        got: list[int | None] = []
        getter = threading.Thread(target=lambda: got.append(slot.get()))
        getter.start()
        slot.close()
        getter.join(PATIENCE_S)
        assert got == [None]

    def test_none_is_lost_between_threads(self, make: type[Slot[int]]) -> None:
        slot, got, told = make(), list[int](), list[int]()

        def take() -> None:
            while (item := slot.get()) is not None:
                got.append(item)

        taker = threading.Thread(target=take)
        taker.start()
        for number in range(1, 2001):
            replaced = slot.put(number)
            if replaced is not None:
                told.append(replaced)
        slot.close()
        taker.join(PATIENCE_S)
        assert sorted(got + told) == list(range(1, 2001))
        assert got == sorted(got)
        assert got[-1] == 2000


def test_turns_keep_the_order_in_which_work_was_taken() -> None:
    queue: BoundedQueue[int] = BoundedQueue(200)
    turns, handed_on = Turns(), list[int]()
    ready = threading.Barrier(3)

    def work(hold: threading.Event | None) -> None:
        ready.wait(PATIENCE_S)
        while (taken := turns.take(lambda: queue.get(0))) is not None:
            number, item = taken
            if hold is not None and item == 0:
                hold.wait(0.05)  # the others come back first
            with turns.turn(number):
                handed_on.append(item)

    for item in range(200):
        queue.put(item)
    never_set = threading.Event()
    workers = [threading.Thread(target=work, args=(never_set,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE_S)
    assert handed_on == list(range(200))


def test_a_turn_that_fails_lets_the_next_one_pass() -> None:
    turns = Turns()
    first, second = turns.take(lambda: "a"), turns.take(lambda: "b")
    assert (first, second) == ((0, "a"), (1, "b"))
    with pytest.raises(ValueError, match="lost"), turns.turn(0):
        raise ValueError("lost")
    with turns.turn(1):
        pass
    assert turns.take(lambda: None) is None
