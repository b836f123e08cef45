"""Faults are said at a bounded rate, and none is forgotten."""

from __future__ import annotations

import pytest

from engine.errors import FrameError
from stream.journal import Journal


class Told:
    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []
        self.now_s = 0.0
        self.journal = Journal(lambda reason, message: self.faults.append((reason, message)), lambda: self.now_s, "cam")


def test_one_line_a_second_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    for _ in range(50):
        told.journal.fault("not_json", FrameError("not_json", "Expected JSON"))
        told.journal.fault("too_large", "Expected less")
        told.now_s += 0.1
    said = [reason for reason, _ in told.faults]
    assert said.count("not_json") == said.count("too_large") == 5
    assert len(caplog.records) == 10


def test_what_was_kept_silent_is_counted() -> None:
    told = Told()
    for now_s in (0.0, 0.2, 0.4, 1.1):
        told.now_s = now_s
        told.journal.fault("not_json", "Expected JSON")
    assert told.faults == [("not_json", "Expected JSON"), ("not_json", "Expected JSON (2 more before)")]


def test_only_a_mistake_of_ours_shows_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    try:
        raise ZeroDivisionError("a mistake")
    except ZeroDivisionError as error:
        told.journal.fault("internal", error)
    told.journal.fault("not_json", FrameError("not_json", "Expected JSON"))
    assert caplog.text.count("Traceback") == 1
    assert "a mistake" in caplog.text
