"""Parts in, an exposure out: what the header leaves out is completed, and everything is booked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import FrameError
from stream.accounting import Accounting
from stream.config import ServeConfig
from stream.exposure import Exposure
from stream.intake import Intake
from stream.messages import encode
from stream.metrics import Metrics
from stream.references import References
from stream.stacker import Stacker
from tests.stream import test_dectris_v1 as v1
from tests.stream.test_dectris_v2 import END, IMAGE, START, START_OF_A_SIMULATOR


class Source:
    """An intake and its books; takes frames as they would come."""

    def __init__(self, references: References | None = None, triplet: bool = False, **options: Any) -> None:
        config = ServeConfig(**options)
        self.books = Accounting()
        self.metrics = Metrics(config.source_name, "fake", "fake f32", ("C",), lambda: 0)
        self.stacker = Stacker(config, references or References()) if triplet else None
        self.intake = Intake(
            config, references or References(), self.books, self.metrics, now=lambda: 0.5, stacker=self.stacker
        )

    def take(self, number: int = 1, arrival_s: float = 0.0, since_1970_s: float = 0.0, **keys: Any) -> Exposure:
        pixels = np.full((2, 2), 100, np.uint16)
        exposure = self.intake.expose(encode(pixels, frame=number, **keys), arrival_s, since_1970_s)
        assert exposure is not None
        return exposure


def test_sampling_of_the_header_before_that_of_the_configuration() -> None:
    source = Source(sampling=0.3)
    assert source.take(1, sampling=0.2).frame.sampling_A == 0.2
    assert source.take(2).frame.sampling_A == 0.3


def test_without_sampling_a_frame_is_refused_but_its_dose_counts() -> None:
    source = Source()
    with pytest.raises(FrameError, match="sampling") as caught:
        source.take(1, dose=70)
    assert caught.value.reason == "no_sampling"
    assert source.books.totals().dose_total_e_A2 == 70


def test_what_the_engine_needs_goes_along() -> None:
    frame = Source().take(sampling=0.2, voltage=80_000, defocus=-30, dose=5).frame
    assert (frame.voltage_kV, frame.defocus_A, frame.dose_e_A2, frame.mask) == (80, (-30,), 5, None)


class TestUnreadable:
    """Frames that are refused but say which they are."""

    def send(self, source: Source, number: int, blob: bytes = b"short") -> None:
        header, _ = encode(np.full((2, 2), 100, np.uint16), frame=number, sampling=0.2)
        with pytest.raises(FrameError) as caught:
            source.intake.expose([header, blob], float(number), 0.0)
        assert caught.value.reason == "size_mismatch"

    def test_they_came_and_are_not_missing(self) -> None:
        source = Source()
        source.take(0, sampling=0.2)
        for number in (1, 2, 4):
            self.send(source, number)
        source.take(6, sampling=0.2)
        assert source.books.totals().missing == 2  # 3 and 5

    def test_they_take_their_time_too(self) -> None:
        source = Source()
        source.take(0, 0.0, sampling=0.2)
        for number in (1, 3, 5, 7):
            self.send(source, number)
            exposure = source.take(number + 1, number + 1.0, sampling=0.2)
        assert exposure.interval_s == 1.0

    def test_those_that_come_late_are_not_counted_back(self) -> None:
        source = Source()
        source.take(5, sampling=0.2)
        self.send(source, 3)
        source.take(6, sampling=0.2)
        assert source.books.totals().missing == 0


class TestDose:
    def test_stated_before_configured_before_counted(self) -> None:
        keys = {"sampling": 0.5}
        assert Source(dose=7, gain=1).take(dose=9, **keys).frame.dose_e_A2 == 9
        assert Source(dose=7, gain=1).take(**keys).frame.dose_e_A2 == 7
        assert Source(gain=2, offset=50).take(**keys).frame.dose_e_A2 == 100
        assert Source(gain=2, offset=50).take(gain=4, offset=60, **keys).frame.dose_e_A2 == 40
        assert Source().take(**keys).frame.dose_e_A2 is None

    def test_a_dark_reference_takes_the_place_of_the_offset(self) -> None:
        references = References(dark=np.full((2, 2), 80, np.float32))
        assert Source(references, gain=1, offset=50).take(sampling=1).frame.dose_e_A2 == 20

    def test_the_total_runs_on_over_series(self) -> None:
        source = Source(dose=10, sampling=1)
        totals = [
            source.take(number, series=series).dose_total_e_A2 for series, number in (("a", 1), ("a", 2), ("b", 1))
        ]
        assert totals == [10, 20, 30]


class TestTime:
    def test_transport_is_what_a_frame_took_longer_than_the_quickest(self) -> None:
        source = Source(sampling=1)
        source.take(1, since_1970_s=1000.0, timestamp=900.0)
        exposure = source.take(2, since_1970_s=1001.025, timestamp=901.0)
        assert exposure.transport_s == pytest.approx(0.025, abs=1e-3)
        assert exposure.clock_difference_s == pytest.approx(100, abs=1e-3)

    def test_without_timestamp_nothing_is_known_of_it(self) -> None:
        exposure = Source(sampling=1).take()
        assert exposure.transport_s is exposure.clock_difference_s is exposure.interval_s is None
        assert exposure.decoded_s == 0.5

    def test_frame_interval_of_the_configuration(self) -> None:
        assert Source(sampling=1, frame_interval=0.02).take(frame_interval=0.04).interval_s == 0.02

    def test_gaps_are_booked(self) -> None:
        source = Source(sampling=1)
        for number in (1, 4):
            source.take(number)
        assert source.books.totals().missing == 2


class TestDetector:
    """A source that tells of its series: the recorded messages of a detector, through the dialect it was configured."""

    def take(self, source: Source, message: bytes, number: int | None = None) -> Exposure | None:
        if number is not None:
            message = message.replace(b"image_id\3", b"image_id%c" % number)
        return source.intake.expose([message], 0.0, 0.0)

    def test_start_and_end_are_no_frames_and_may_come_twice(self) -> None:
        source = Source(dialect="dectris-v2", socket="pull")
        for message in (START, START):
            assert self.take(source, message) is None
        exposures = [self.take(source, IMAGE, number) for number in (3, 4)]
        for message in (END, END):
            assert self.take(source, message) is None
        exposures.append(self.take(source, IMAGE, 5))
        assert [one and (one.epoch, one.frame.sampling_A, one.frame.dose_e_A2) for one in exposures] == [
            (1, 0.1, 900)
        ] * 3
        assert source.books.totals().dose_total_e_A2 == 2700

    def test_a_late_receiver_takes_what_the_configuration_says(self) -> None:
        source = Source(dialect="dectris-v2", socket="pull", sampling=0.3)
        exposure = self.take(source, IMAGE)
        assert exposure is not None
        assert (exposure.frame.sampling_A, exposure.message.number) == (0.3, 3)

    def test_frames_of_the_series_before_are_dropped(self) -> None:
        source = Source(dialect="dectris-v2", socket="pull", sampling=1)
        self.take(source, IMAGE)
        self.take(source, START.replace(b"series_id\7", b"series_id\x08"))
        with pytest.raises(FrameError) as caught:
            self.take(source, IMAGE, 4)
        assert caught.value.reason == "frame_jumped_back"

    def test_what_an_ended_series_said_does_not_hold_for_one_of_the_same_number(self) -> None:
        source = Source(dialect="dectris-v2", socket="pull", sampling=1)
        for message in (START, END, START_OF_A_SIMULATOR):
            self.take(source, message)
        exposure = self.take(source, IMAGE)
        assert exposure is not None
        assert exposure.frame.sampling_A == 1

    def test_a_configuration_that_comes_as_a_message_of_its_own_belongs_to_the_series(self) -> None:
        source = Source(dialect="dectris-v1", socket="pull", sampling=1)
        for parts in ([v1.HEADER], [v1.CONFIG], v1.FLATFIELD):
            assert source.intake.expose(parts, 0.0, 0.0) is None
        source.intake.expose(v1.IMAGES[2], 0.0, 0.0)
        assert source.intake.interval_s == 0.04

    def test_a_clock_that_stands_still_is_no_latency(self) -> None:
        source = Source(dialect="dectris-v2", socket="pull", sampling=1)
        for number in (3, 4):
            exposure = source.intake.expose([IMAGE.replace(b"image_id\3", b"image_id%c" % number)], 0.0, 100.0 * number)
            assert exposure is not None
            assert exposure.transport_s == 0


def test_limits_and_saturation_of_the_configuration() -> None:
    source = Source(sampling=1, max_frame_pixels=3)
    with pytest.raises(FrameError) as caught:
        source.take()
    assert caught.value.reason == "too_large"
    mask = Source(sampling=1, saturated_counts=100).take().frame.mask
    assert mask is not None
    assert mask.all()


def test_a_late_frame_is_neither_dose_nor_time(tmp_path: Path) -> None:
    source = Source(sampling=1, dose=10)
    source.take(5)
    with pytest.raises(FrameError):
        source.take(3)
    assert source.books.totals().dose_total_e_A2 == 10


@pytest.mark.parametrize("numbers", [(0, 1, 0, 2, 3, 4, 5), (1, 2, 1, 3, 4, 5, 6), (0, 1, 1, 2, 3, 4, 5)])
@pytest.mark.parametrize("rule", ["count", "defocus", "rolling"])
def test_a_repeated_member_tears_no_triplet_apart(rule: str, numbers: tuple[int, ...]) -> None:
    source, made, refused = Source(triplet=True, sampling=1, dose=10, triplets=rule), list[int](), list[str]()
    assert source.stacker is not None
    for number in numbers:
        try:
            triplet, errors = source.stacker.add(source.take(number, defocus=20 * ((number - numbers[0]) % 3)))
        except FrameError as error:
            refused.append(error.reason)
            continue
        assert errors == ()
        if triplet is not None:
            made.append(triplet.message.number)
    last = numbers[-1]
    assert made == (list(range(last - 3, last + 1)) if rule == "rolling" else [last - 3, last])
    assert refused == ["frame_jumped_back"]
    assert source.books.totals().dose_total_e_A2 == 60
