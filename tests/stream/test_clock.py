"""Time: the frame interval and the clock difference, with every clock an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.clock import ClockDifference, FrameInterval


class TestFrameInterval:
    def test_unknown_at_first(self) -> None:
        assert FrameInterval().add(None, None, 5.0, 100.0) is None

    def test_configured_before_header_before_timestamps_before_arrivals(self) -> None:
        both = [(None, 0.0, 0.0), (1, 0.04, 0.05)]  # step, timestamp, arrival
        for fixed, header, stamped, expected in [
            (0.01, 0.02, True, 0.01),
            (None, 0.02, True, 0.02),
            (None, None, True, 0.04),
            (None, None, False, 0.05),
        ]:
            interval = FrameInterval(fixed)
            last = [interval.add(step, header, stamp if stamped else None, at) for step, stamp, at in both][-1]
            assert last == pytest.approx(expected)

    @given(st.lists(st.integers(1, 5), min_size=1, max_size=40))
    def test_missing_frames_do_not_make_it_longer(self, steps: list[int]) -> None:
        interval, time_s = FrameInterval(), 0.0
        interval.add(None, None, 0.0, 0.0)
        for step in steps:
            time_s += 0.04 * step
            estimate = interval.add(step, None, time_s, time_s)
            assert estimate == pytest.approx(0.04)

    def test_one_pause_does_not_move_the_median(self) -> None:
        interval = FrameInterval()
        for number, time_s in enumerate((0.0, 0.04, 0.08, 3.0, 3.04)):
            estimate = interval.add(None if number == 0 else 1, None, time_s, 0.0)
        assert estimate == pytest.approx(0.04)

    def test_it_follows_within_twenty_frames(self) -> None:
        interval, time_s = FrameInterval(), 0.0
        for number in range(60):
            time_s += 0.04 if number < 40 else 0.01
            estimate = interval.add(None if number == 0 else 1, None, time_s, time_s)
        assert estimate == pytest.approx(0.01)

    def test_a_new_series_begins_anew(self) -> None:
        interval = FrameInterval()
        interval.add(None, None, 0.0, 0.0)
        interval.add(1, None, 0.04, 0.04)
        assert interval.add(None, None, 9.0, 9.0) is None

    @pytest.mark.parametrize("tick_s", [0.1, 1.0])
    def test_a_clock_that_ticks_more_slowly_than_frames_come_does_not_tell(self, tick_s: float) -> None:
        interval = FrameInterval()
        for number in range(100):
            time_s = 0.04 * number
            estimate = interval.add(None if number == 0 else 1, None, time_s // tick_s * tick_s, time_s)
        assert estimate == pytest.approx(0.04)

    def test_timestamps_that_stand_still_are_not_used(self) -> None:
        interval = FrameInterval()
        interval.add(None, None, 1.0, 0.0)
        assert interval.add(1, None, 1.0, 0.05) == pytest.approx(0.05)


class TestClockDifference:
    def test_unknown_without_timestamps(self) -> None:
        assert ClockDifference().add(None, 10.0) is None

    def test_the_quickest_frame_tells(self) -> None:
        clock = ClockDifference()
        took = [0.030, 0.010, 0.050, 0.020]
        for number, one in enumerate(took):
            difference = clock.add(100.0 + number, 100.0 + number + 3600 + one)
        assert difference == pytest.approx(3600.010, abs=1e-3)

    def test_a_queue_that_builds_up_is_latency_and_not_a_difference(self) -> None:
        clock = ClockDifference()
        for number in range(1000):
            difference = clock.add(0.1 * number, 0.1 * number + 0.002 * number)
        assert difference is not None
        assert difference < 0.02  # the queue has grown to two seconds

    def test_clocks_that_drift_are_followed(self) -> None:
        clock = ClockDifference()
        for number in range(10_000):
            arrival_s = 0.1 * number * (1 + 5e-5)
            difference = clock.add(0.1 * number, arrival_s)
        assert difference == pytest.approx(0.05, rel=0.01)

    def test_after_a_pause_it_begins_afresh(self) -> None:
        clock = ClockDifference()
        clock.add(0.0, 0.0)
        clock.add(1.0, 1.0)
        assert clock.add(15.0, 20.0) == pytest.approx(5.0)

    def test_our_own_clock_set_back_begins_afresh(self) -> None:
        clock = ClockDifference()
        clock.add(1000.0, 1000.0)
        assert clock.add(1001.0, 901.0) == pytest.approx(-100.0)

    def test_the_senders_clock_set_back_is_no_latency(self) -> None:
        clock = ClockDifference()
        clock.add(1000.0, 1000.01)
        assert clock.add(995.0, 1000.05) == pytest.approx(5.05)

    def test_one_timestamp_in_the_future_does_not_last(self) -> None:
        clock = ClockDifference()
        for number, timestamp_s in enumerate((1000.0, 1e12, 1000.08)):
            difference = clock.add(timestamp_s, 1000.01 + 0.04 * number)
        assert difference == pytest.approx(0.01)
