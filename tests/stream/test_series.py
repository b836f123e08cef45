"""The order of frames: gaps, late frames, restarts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import FrameError
from stream.series import Place, SeriesTracker


def follow(*frames: tuple[str | int | None, int]) -> list[int | None]:
    """The epoch of each frame; None for one that was refused."""
    tracker = SeriesTracker()
    epochs: list[int | None] = []
    for series, number in frames:
        try:
            epochs.append(tracker.place(series, number).epoch)
        except FrameError:
            epochs.append(None)
    return epochs


def test_gaps_are_counted_from_the_second_frame_on() -> None:
    tracker = SeriesTracker()
    places = [tracker.place(None, number) for number in (100, 101, 105)]
    assert places == [Place(1, 0, None), Place(1, 0, 1), Place(1, 3, 4)]


def test_late_and_repeated_frames_are_refused() -> None:
    assert follow(("a", 5), ("a", 6), ("a", 6), ("a", 4), ("a", 7)) == [1, 1, None, None, 1]


def test_the_error_says_what_was_expected() -> None:
    tracker = SeriesTracker()
    tracker.place("a", 9)
    with pytest.raises(FrameError, match="Expected a frame after number 9 of series 'a', got 3 of 'a': ") as caught:
        tracker.place("a", 3)
    assert caught.value.reason == "frame_jumped_back"


@pytest.mark.parametrize("first", [0, 1])
def test_frame_0_or_1_begins_a_new_series(first: int) -> None:
    assert follow((None, 5), (None, first), (None, first + 1)) == [1, 2, 2]


def test_frames_0_and_1_in_order_are_one_series() -> None:
    assert follow((None, 0), (None, 1), (None, 2)) == [1, 1, 1]


def test_single_shots_that_are_all_frame_0_are_series_each() -> None:
    assert follow((None, 0), (None, 0), (None, 0)) == [1, 2, 3]


def test_a_new_name_begins_a_new_series_whatever_its_number() -> None:
    assert follow(("a", 5), ("b", 3), ("b", 4), (7, 4)) == [1, 2, 2, 3]


def test_leftovers_of_an_ended_series_are_refused() -> None:
    assert follow(("a", 5), ("b", 0), ("a", 6), ("a", 7), ("b", 1)) == [1, 2, None, None, 2]


def test_an_ended_series_may_be_recorded_again() -> None:
    assert follow(("a", 5), ("b", 0), ("a", 0), ("a", 1), ("b", 1)) == [1, 2, 3, 3, 4]


def test_a_sender_that_counts_up_from_an_earlier_number_began_anew() -> None:
    again = [(None, number) for number in range(50, 70)]
    assert follow((None, 1000), *again) == [1, *[None] * 9, *[2] * 11]


def test_one_absurd_number_does_not_silence_a_sender() -> None:
    frames = [(None, number) for number in (10, 2**50, *range(11, 31))]
    assert follow(*frames) == [1, 1, *[None] * 9, *[2] * 11]


def test_a_sender_that_sends_each_frame_twice_never_begins_anew() -> None:
    frames = [(None, number // 2) for number in range(4, 60)]
    assert follow(*frames) == [1, None] * 28


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 30)), max_size=60))
def test_numbers_only_rise_within_an_epoch(frames: list[tuple[str | None, int]]) -> None:
    epochs = follow(*frames)
    kept = [(epoch, *frame) for epoch, frame in zip(epochs, frames, strict=True) if epoch is not None]
    for (epoch, series, number), (after, next_series, next_number) in pairwise(kept):
        assert after in (epoch, epoch + 1)
        assert after > epoch or (next_series == series and next_number > number)
