"""The books: received = processed + dropped + waiting, at every moment and from any thread."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.accounting import REASONS, Accounting, Totals


def balanced(totals: Totals) -> bool:
    return totals.received == totals.processed + sum(totals.dropped.values()) + totals.waiting


@given(st.lists(st.sampled_from(["processed", *REASONS[:3]])))
def test_the_books_balance_after_every_entry(fates: list[str]) -> None:
    books = Accounting()
    for _ in fates:
        books.received(0.0)
    for number, fate in enumerate(fates):
        if fate == "processed":
            books.processed(1.0, 0.01, 0.01, True, 5)
        else:
            books.dropped(fate)
        totals = books.totals()
        assert balanced(totals)
        assert totals.waiting == len(fates) - number - 1
    assert books.totals().processed == fates.count("processed")
    assert books.totals().dropped == {reason: fates.count(reason) for reason in REASONS[:3] if reason in fates}


def test_the_books_balance_while_threads_write() -> None:
    books, seen = Accounting(), list[Totals]()

    def receive() -> None:
        for _ in range(500):
            books.received(0.0)
            books.dropped("superseded")

    threads = [threading.Thread(target=receive) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.append(books.totals())
    assert all(balanced(totals) and totals.waiting >= 0 for totals in seen)
    assert books.totals().dropped == {"superseded": 2000}


def test_figures_of_the_answers() -> None:
    books = Accounting()
    for _ in range(4):
        books.received(10.0)
    for latency_s, in_time in ((0.010, True), (0.020, True), (0.030, False)):
        books.processed(12.0, latency_s, latency_s / 2, in_time, 100)
    books.dropped("superseded")
    totals = books.totals()
    assert totals.latency_ms == {"p50": 20.0, "p99": pytest.approx(29.8)}
    assert totals.age_ms == {"p50": 10.0, "p99": pytest.approx(14.9)}
    assert totals.in_time == 0.5  # of the received, not of the answered
    assert totals.atoms_mean == 100
    assert totals.fps == 1.5


def test_nothing_is_claimed_before_it_is_known() -> None:
    totals = Accounting().totals()
    assert totals.latency_ms is totals.age_ms is totals.in_time is totals.atoms_mean is totals.dose_e_A2 is None
    assert totals.fps == 0


def test_in_time_is_unknown_without_a_frame_interval() -> None:
    books = Accounting()
    books.received(0.0)
    books.processed(1.0, 0.01, 0.01, None, 0)
    assert books.totals().in_time is None


def test_dose_of_every_frame_counts_dropped_or_not() -> None:
    books = Accounting()
    assert books.exposed(0, 100.0) == 100
    assert books.exposed(2, None) == 100
    assert books.exposed(0, 50.0) == 150
    assert (books.totals().dose_total_e_A2, books.totals().dose_e_A2, books.totals().missing) == (150, 50, 2)


def test_percentiles_forget_what_is_long_past() -> None:
    books = Accounting()
    for number in range(3000):
        books.received(0.0)
        books.processed(1.0, 1.0 if number < 1000 else 0.01, 0.01, True, 0)
    assert books.totals().latency_ms == {"p50": 10.0, "p99": 10.0}


def test_an_answer_for_three_frames() -> None:
    books = Accounting()
    for _ in range(9):
        books.received(0.0)
    books.processed(1.0, 0.01, 0.01, True, 100, frames=3)
    books.processed(1.0, 0.01, 0.01, False, 200, frames=3)
    books.dropped("superseded", 3)
    totals = books.totals()
    assert balanced(totals)
    assert (totals.processed, totals.dropped, totals.waiting) == (6, {"superseded": 3}, 0)
    assert (totals.atoms_mean, totals.in_time) == (150, round(3 / 9, 4))
