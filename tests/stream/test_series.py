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


def test_a_number_far_ahead_is_answered_and_not_counted_on() -> None:
    tracker = SeriesTracker()
    places = [tracker.place(None, number) for number in (0, 1, 2**52, 2, 3)]
    assert places == [Place(1, 0, None), Place(1, 0, 1), Place(1, 0, None), Place(1, 0, 1), Place(1, 0, 1)]


def test_a_sender_that_goes_on_from_there_is_followed() -> None:
    tracker = SeriesTracker()
    places = [tracker.place(None, number) for number in (0, 9_000_000, 9_000_003, 9_000_004)]
    assert places == [Place(1, 0, None), Place(1, 0, None), Place(1, 2, 3), Place(1, 0, 1)]


def test_a_sender_that_numbers_frames_by_nanoseconds_loses_none() -> None:
    tracker = SeriesTracker()
    places = [tracker.place(None, 40_000_000 * k) for k in range(50)]
    assert [place.missing for place in places] == [0] * 50


class TestUnreadable:
    def test_they_are_not_missing(self) -> None:
        tracker = SeriesTracker()
        tracker.place("a", 1)
        for number in (2, 3, 5, 1001, 2**52):
            tracker.came("a", number)
        assert [tracker.place("a", number).missing for number in (6, 1002, 1003)] == [1, 994, 0]

    def test_what_they_say_costs_no_other_frame(self) -> None:
        tracker = SeriesTracker()
        tracker.came("b", 7)
        tracker.place("a", 1)
        for series, number in (("a", 900), ("b", 0), ("a", 0)):
            tracker.came(series, number)
        assert [tracker.place("a", number) for number in (2, 3)] == [Place(1, 0, 1)] * 2

    def test_a_flood_of_them_is_not_kept(self) -> None:
        tracker = SeriesTracker()
        tracker.place(None, 5000)
        for number in range(100_000):
            tracker.came(None, number)
        assert len(tracker._seen) <= 1001


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


@pytest.mark.parametrize("number", [0, 1])
def test_a_sender_that_does_not_count_sends_one_series(number: int) -> None:
    tracker = SeriesTracker()
    places = [tracker.place(None, number) for _ in range(3)]
    assert places == [Place(1, 0, None), Place(1, 0, 1), Place(1, 0, 1)]


def test_after_it_has_counted_frame_0_begins_a_series_once() -> None:
    assert follow((None, 0), (None, 0), (None, 1), (None, 0), (None, 0)) == [1, 1, 1, 2, 2]


def test_a_new_name_begins_a_new_series_whatever_its_number() -> None:
    assert follow(("a", 5), ("b", 3), ("b", 4), (7, 4)) == [1, 2, 2, 3]


def test_leftovers_of_an_ended_series_are_refused() -> None:
    assert follow(("a", 5), ("b", 0), ("a", 6), ("a", 7), ("b", 1)) == [1, 2, None, None, 2]


def test_an_ended_series_may_be_recorded_again() -> None:
    assert follow(("a", 5), ("b", 0), ("a", 0), ("a", 1), ("b", 1)) == [1, 2, 3, 3, 4]


def test_a_series_goes_on_after_a_frame_0_of_another_one_strayed() -> None:
    assert follow(("a", 5), ("b", 0), ("b", 4), ("a", 0), ("b", 5), ("b", 6)) == [1, 2, 2, 3, 4, 4]


def test_a_repeated_frame_1_is_refused() -> None:
    assert follow((None, 0), (None, 1), (None, 1), (None, 2)) == [1, 1, None, 1]


def test_a_sender_that_counts_up_from_an_earlier_number_began_anew() -> None:
    again = [(None, number) for number in range(50, 70)]
    assert follow((None, 1000), *again) == [1, *[None] * 9, *[2] * 11]


def test_one_absurd_number_does_not_silence_a_sender() -> None:
    frames = [(None, number) for number in (10, 2**50, *range(11, 31))]
    assert follow(*frames) == [1] * 22


def test_a_sender_that_sends_each_frame_twice_never_begins_anew() -> None:
    frames = [(None, number // 2) for number in range(4, 60)]
    assert follow(*frames) == [1, None] * 28


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 30)), max_size=60))
def test_numbers_only_rise_within_an_epoch(frames: list[tuple[str | None, int]]) -> None:
    epochs = follow(*frames)
    kept = [(epoch, *frame) for epoch, frame in zip(epochs, frames, strict=True) if epoch is not None]
    for (epoch, series, number), (after, next_series, next_number) in pairwise(kept):
        assert after in (epoch, epoch + 1)
        counts_up = next_number > number or next_number == number <= 1  # a sender that does not count
        assert after > epoch or (next_series == series and counts_up)


class TestAnnounced:
    """Detectors that tell of start and end."""

    def test_whatever_the_first_number(self) -> None:
        tracker = SeriesTracker()
        tracker.place(7, 5)
        tracker.begin(3)
        assert tracker.place(3, 40) == Place(2, 0, None)
        assert tracker.place(3, 42) == Place(2, 1, 2)

    def test_twice_is_once(self) -> None:
        tracker = SeriesTracker()
        tracker.begin(3)
        tracker.place(3, 4)
        tracker.begin(3)
        assert tracker.place(3, 5) == Place(1, 0, 1)
        for _ in range(2):
            tracker.end(3)
        assert tracker.place(3, 6) == Place(1, 0, 1)

    def test_the_same_series_again_after_its_end(self) -> None:
        tracker = SeriesTracker()
        tracker.begin(1)
        tracker.place(1, 9)
        tracker.end(1)
        tracker.begin(1)
        assert tracker.place(1, 5) == Place(2, 0, None)

    def test_leftovers_of_the_series_before_are_refused(self) -> None:
        tracker = SeriesTracker()
        tracker.place(7, 5)
        tracker.begin(8)
        with pytest.raises(FrameError, match="after number -1 of series 8, got 6 of 7"):
            tracker.place(7, 6)
        assert tracker.place(8, 0) == Place(2, 0, None)

    @pytest.mark.parametrize("number", [0, 1])
    def test_so_is_the_first_frame_of_one_that_has_ended(self, number: int) -> None:
        tracker = SeriesTracker()
        for series in (1, 2):
            tracker.begin(series)
            tracker.place(series, 4)
        with pytest.raises(FrameError):
            tracker.place(1, number)
        assert tracker.place(2, 5) == Place(2, 0, 1)

    def test_a_detector_that_restarted_counts_its_series_from_1(self) -> None:
        tracker = SeriesTracker()
        for series in (1, 2, 3):
            tracker.begin(series)
            tracker.place(series, 5)
        tracker.begin(1)
        assert tracker.place(1, 5).epoch == 4
        with pytest.raises(FrameError):
            tracker.place(3, 6)

    def test_an_end_of_another_series_or_of_none_is_nothing(self) -> None:
        tracker = SeriesTracker()
        tracker.end(4)
        tracker.place(5, 0)
        tracker.end(4)
        tracker.begin(5)
        assert tracker.place(5, 1) == Place(1, 0, 1)


class TestSlack:
    def places(self, *numbers: int, shortest: int = 1) -> list[int | None]:
        """What is missing before each; None for one that was refused."""
        tracker, missing = SeriesTracker(3, shortest), list[int | None]()
        for number in numbers:
            try:
                missing.append(tracker.place("a", number).missing)
            except FrameError:
                missing.append(None)
        return missing

    def test_out_of_order_within_it_is_in_time_and_not_missing(self) -> None:
        assert self.places(0, 2, 1, 5, 4, 3, 6, 7, 8, 9) == [0] * 10

    def test_what_does_not_come_is_counted_once_it_cannot(self) -> None:
        assert self.places(0, 1, 3, 4, 5, 6) == [0, 0, 0, 0, 1, 0]
        assert self.places(0, 1000) == [0, 997]

    def test_repeated_and_later_ones_are_refused(self) -> None:
        assert self.places(4, 5, 7, 6, 6, 5, 7, 4, 8) == [0, 0, 0, 0, None, None, None, None, 0]

    def test_a_late_one_has_a_negative_step(self) -> None:
        tracker = SeriesTracker(slack=3)
        tracker.place("a", 0)
        tracker.place("a", 2)
        assert tracker.place("a", 1) == Place(1, 0, -1)
        assert tracker.place("a", 3) == Place(1, 0, 1)

    @pytest.mark.parametrize("numbers", [(0, 1, 0, 2, 3), (1, 2, 1, 3, 4), (0, 1, 1, 2, 3)])
    def test_a_series_that_lasts_does_not_begin_again_by_a_repeated_frame(self, numbers: tuple[int, ...]) -> None:
        assert self.places(*numbers, shortest=3) == [0, 0, None, 0, 0]

    def test_it_may_begin_again_after_its_shortest_length(self) -> None:
        tracker = SeriesTracker(3, 3)
        assert [tracker.place(None, number).epoch for number in (0, 1, 2, 0, 1, 2)] == [1, 1, 1, 2, 2, 2]
