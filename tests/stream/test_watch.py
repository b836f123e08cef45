"""The command `watch`: a subscriber that prints."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest

from stream import watch
from stream.cli import main
from stream.messages import Result
from tests.stream.fakes import PATIENCE_S, Bench, bench

HEADER: dict[str, Any] = {"frame": 3, "count": 2, "latency_ms": 12.34, "in_time": True, "warnings": []}


def run(peers: Bench, *flags: str) -> None:
    """Watch a service while it is sent frames until the watcher has seen enough."""
    enough = threading.Event()

    def send() -> None:
        number = 0
        while not enough.wait(0.02):
            peers.send(number := number + 1)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        assert main(["watch", "--endpoint", peers.endpoints[1], *flags]) == 0
    finally:
        enough.set()
        thread.join(PATIENCE_S)


def test_a_line_a_frame(capsys: pytest.CaptureFixture[str]) -> None:
    with bench() as peers:
        run(peers, "--count", "3")
    lines = [line for line in capsys.readouterr().out.splitlines() if "frame" in line]
    assert len(lines) == 3
    assert all(line.startswith("camera  frame ") and "  1 atoms  " in line for line in lines)


def test_a_line_of_json_a_frame(capsys: pytest.CaptureFixture[str]) -> None:
    with bench() as peers:
        run(peers, "--count", "2", "--json")
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["columns"]["x"] == [first["frame"]]
    assert (first["source"], first["count"], second["series"]) == ("camera", 1, None)


def test_a_result_that_lacks_a_key_is_told_and_passed_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    came = [Result("atoms", "cam", {"frame": 2}, {}), Result("atoms", "cam", HEADER, {})]
    monkeypatch.setattr(watch, "results", lambda endpoint, source: came)
    assert main(["watch", "--count", "1"]) == 0
    assert capsys.readouterr().out == "cam  frame 3  2 atoms  12.3 ms  in time\n"
    assert "got one without 'in_time': update both ends" in caplog.text


def test_a_port_that_cannot_be_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "--endpoint", "tcp://127.0.0.1:99999"]) == 2
    assert "endpoint: expected tcp://HOST:PORT, a port up to 65535, got 'tcp" in capsys.readouterr().err


def test_only_the_source_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with bench(source_name="cam") as peers, bench(source_name="camera2") as other:
        other.send(1)
        run(peers, "--count", "1", "--source", "cam")
    assert "camera2" not in capsys.readouterr().out


class TestLines:
    @pytest.mark.parametrize(("in_time", "said"), [(True, "in time"), (False, "late"), (None, "")])
    def test_in_time(self, in_time: bool | None, said: str) -> None:
        line = watch.text_line(Result("atoms", "cam", HEADER | {"in_time": in_time}, {}))
        assert line == f"cam  frame 3  2 atoms  12.3 ms  {said}".rstrip()

    def test_warnings_and_events(self) -> None:
        warned = Result("atoms", "cam", HEADER | {"warnings": ["too coarse"]}, {})
        assert watch.text_line(warned).endswith("  in time  (too coarse)")
        event = Result("event", "cam", {"event": "fault", "message": "Expected 2 parts"}, {})
        assert watch.text_line(event) == "cam  fault: Expected 2 parts"
        assert watch.json_line(event) is None

    @pytest.mark.parametrize(
        ("raw", "said"),
        [("\x1b[2Jgone", r"\x1b[2Jgone"), ("a\nb\r", r"a\nb\r"), ("\x9b\u202e", r"\x9b\u202e"), ("1 Å", "1 Å")],
    )
    def test_what_a_terminal_would_obey_is_escaped(self, raw: str, said: str) -> None:
        assert watch.text_line(Result("atoms", "cam", HEADER | {"warnings": [raw]}, {})).endswith(f"({said})")
        event = Result("event", "cam", {"event": "fault", "message": raw}, {})
        assert watch.text_line(event) == f"cam  fault: {said}"

    def test_json_says_what_was_measured_and_no_more(self) -> None:
        result = Result(
            "atoms", "cam", {"frame": 3}, {"y": np.array([1.1], np.float32), "flags": np.array([2], np.uint8)}
        )
        assert watch.json_line(result) == '{"frame": 3, "columns": {"y": [1.1], "flags": [2.0]}}'
