"""The recorder without a socket: what it takes, what it reports, and what it does when it cannot."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.errors import FileError
from stream.archived import Archived, Gap
from stream.recorder import SETTLE_S, Recorder
from stream.recording import Record, encode_record
from tests.stream.archives import BEGIN, found, record

ROOM = 10**9


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk with as much room as the test says."""
    state = SimpleNamespace(free=ROOM)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: state)
    return state


@pytest.fixture
def recorder(tmp_path: Path, disk: SimpleNamespace) -> Recorder:
    made = Recorder(tmp_path / "a.h5", "gzip", 1000, now=lambda: 0.0)
    made.take(encode_record("begin", "cam", BEGIN))
    return made


def parts(one: Record) -> list[Any]:
    columns = [{"name": name, "dtype": column.dtype.str} for name, column in one.columns.items()]
    return encode_record("atoms", "cam", one.header | {"columns": columns}, list(one.columns.values()), one.pixels)


def recorded(path: Path) -> tuple[list[int], list[tuple[int, int, str]]]:
    with Archived(path) as archived:
        gaps = [(gap.first, gap.count, gap.reason) for gap in archived.gaps()]
        return [frame.row["record"] for frame in archived], gaps


class TestTakes:
    def test_results_are_reported_once_they_are_in_the_file(self, recorder: Recorder, tmp_path: Path) -> None:
        recorder.take(parts(record(1)))
        recorder.take(parts(record(2)))
        report = recorder.settle()
        assert (report.run, report.written, report.lost, report.fault) == ("abc", 2, {}, None)
        summary = recorder.finish()
        assert (summary.frames, summary.atoms, summary.gaps) == (2, 6, {})
        assert recorded(tmp_path / "a.h5") == ([1, 2], [])

    def test_those_sent_again_are_not_recorded_again(self, recorder: Recorder, tmp_path: Path) -> None:
        for number in (1, 2, 2, 1, 3):
            recorder.take(parts(record(number)))
        recorder.finish()
        assert recorded(tmp_path / "a.h5") == ([1, 2, 3], [])

    def test_numbers_that_are_missing_are_a_gap(self, recorder: Recorder, tmp_path: Path) -> None:
        pixels = np.ones((2, 3), np.uint8)
        for number in (4, 5, 9):
            recorder.take(parts(record(number, pixels=pixels)))
        recorder.take(encode_record("end", "cam", {"last": 10}))
        assert recorder.ended == "serve has ended"
        assert recorder.settle().lost == {}  # serve knows of these
        assert recorder.finish().gaps == {"buffer_full": 6, "stopping": 1}
        gaps = [(1, 3, "buffer_full"), (6, 3, "buffer_full"), (10, 1, "stopping")]
        assert recorded(tmp_path / "a.h5") == ([4, 5, 9], gaps)
        with Archived(tmp_path / "a.h5") as archived:
            assert all(archived.image(frame) is not None for frame in archived)

    def test_a_later_recorder_misses_only_what_no_other_wrote(self, tmp_path: Path, disk: SimpleNamespace) -> None:
        later = Recorder(tmp_path / "a.h5", "gzip", 1000)
        later.take(encode_record("begin", "cam", BEGIN | {"first": 7}))
        later.take(parts(record(7)))
        later.finish()
        assert recorded(tmp_path / "a.h5") == ([7], [])

    @pytest.mark.parametrize(
        ("kind", "said"), [("begin", "serve was started anew"), ("replaced", "another recorder took its place")]
    )
    def test_it_ends_with_its_run(self, recorder: Recorder, kind: str, said: str) -> None:
        recorder.take(encode_record(kind, "cam", BEGIN | {"run": "other"}))
        assert recorder.ended == said

    def test_a_run_without_a_result_is_a_file_without_a_frame(self, recorder: Recorder, tmp_path: Path) -> None:
        recorder.take(encode_record("end", "cam", {"last": 0}))
        recorder.finish()
        assert recorded(tmp_path / "a.h5") == ([], [])

    def test_no_service_is_no_file(self, tmp_path: Path) -> None:
        assert Recorder(tmp_path / "a.h5", "gzip", 0).finish().frames == 0
        assert list(tmp_path.iterdir()) == []

    def test_due_by_time_or_by_size(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: SimpleNamespace
    ) -> None:
        clock = SimpleNamespace(now=0.0)
        made = Recorder(tmp_path / "a.h5", "gzip", 1000, now=lambda: float(clock.now))
        made.take(encode_record("begin", "cam", BEGIN))
        assert not made.due
        clock.now = SETTLE_S
        assert made.due
        made.settle()
        monkeypatch.setattr("stream.recorder._SETTLE_BYTES", 100)
        assert not made.due
        made.take(parts(record(1)))
        assert made.due


class TestFullDisk:
    def test_results_are_lost_counted_and_told_until_there_is_room(
        self, recorder: Recorder, disk: SimpleNamespace, tmp_path: Path
    ) -> None:
        recorder.take(parts(record(1)))
        disk.free = 1000
        recorder.settle()
        for number in (2, 3, 4):
            recorder.take(parts(record(number)))
        report = recorder.settle()
        assert (report.written, report.lost) == (4, {"disk_full": 3})
        assert report.fault is not None
        assert "to stay free on the disk, got less: results are lost until there is room; free some" in report.fault
        recorder.take(parts(record(5)))
        assert (report := recorder.settle()).lost == {"disk_full": 1}
        assert report.fault is None  # said once
        disk.free = ROOM
        assert "recording goes on" in str(recorder.settle().fault)
        recorder.take(parts(record(6)))
        recorder.finish()
        assert recorded(tmp_path / "a.h5") == ([1, 6], [(2, 4, "disk_full")])

    def test_a_little_room_is_not_enough_to_go_on(self, recorder: Recorder, disk: SimpleNamespace) -> None:
        recorder.take(parts(record(1)))
        disk.free = 1000
        recorder.settle()
        recorder.take(parts(record(2)))
        assert "less: results are lost" in str(recorder.settle().fault)
        disk.free = 1_000_000
        assert recorder.settle().fault is None
        recorder.take(parts(record(3)))
        assert recorder.settle().lost == {"disk_full": 1}

    def test_no_more_is_collected_than_there_is_room_for(self, recorder: Recorder, disk: SimpleNamespace) -> None:
        one = parts(record(1, 100))
        disk.free = 1000 + 3 * sum(memoryview(part).nbytes for part in one)
        recorder.settle()
        for number in range(1, 11):
            recorder.take(parts(record(number, 100)))
        assert 6 <= recorder.settle().lost["disk_full"] <= 8

    def test_a_report_of_a_failure_takes_nothing_back(self, recorder: Recorder) -> None:
        recorder.take(parts(record(1)))
        recorder.settle()
        recorder.take(parts(record(2)))
        report = recorder.failed(FileError("expected room, got none"))
        assert (report.written, report.fault) == (1, "expected room, got none")


class TestHostile:
    def test_what_cannot_be_read_is_a_gap_of_its_own(self, recorder: Recorder, tmp_path: Path) -> None:
        recorder.take(parts(record(1)))
        recorder.take([b"atoms/cam", b"?"])
        recorder.take(parts(record(5)))
        report = recorder.settle()
        assert report.lost == {"unreadable": 1}
        assert report.fault is not None
        recorder.finish()
        assert recorded(tmp_path / "a.h5") == ([1, 5], [(2, 1, "unreadable"), (3, 2, "buffer_full")])

    def test_so_are_atoms_of_other_columns(self, recorder: Recorder, tmp_path: Path) -> None:
        recorder.take(parts(record(1)))
        other = Record("atoms", record(2).header, {"y": found(3).y})
        recorder.take(parts(other))
        recorder.take(parts(record(3)))
        assert recorder.settle().lost == {"unreadable": 1}
        recorder.finish()
        assert recorded(tmp_path / "a.h5") == ([1, 3], [(2, 1, "unreadable")])

    def test_atoms_before_a_beginning_are_none(self, tmp_path: Path) -> None:
        made = Recorder(tmp_path / "a.h5", "gzip", 0)
        made.take(parts(record(1)))
        for change in ({"first": 0}, {"first": "x"}, {"run": None}):
            made.take(encode_record("begin", "cam", BEGIN | change))
            assert made.settle().fault is not None
        assert made.settle().run is None

    def test_frames_of_another_shape_are_told_once(self, recorder: Recorder) -> None:
        for number, shape in enumerate([(2, 3), (4, 4), (4, 4), (2, 3)], start=1):
            recorder.take(parts(record(number, pixels=np.ones(shape, np.uint8))))
            fault = recorder.settle().fault
            assert (fault is not None and "begin another recording" in fault) == (number == 2)
        assert recorder.finish().images_left_out == 2


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="expected a folder to record to, got No such file"):
        Recorder(tmp_path / "absent" / "a.h5", "gzip", 0)


def test_gaps_tell_when(recorder: Recorder, tmp_path: Path) -> None:
    recorder.take(parts(record(2)))
    recorder.finish()
    with Archived(tmp_path / "a.h5") as archived:
        (gap,) = archived.gaps()
    assert isinstance(gap, Gap)
    assert gap.time > 1.7e9
