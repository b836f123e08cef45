"""serve's side of a recording: lossless while its buffer holds, counted where it does not, and never in the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import zmq

from engine.errors import ConfigError
from stream import channel
from stream.config import ServeConfig
from stream.recording import Record, Report, decode_record, encode_report
from tests.stream.fakes import ANY_PORT, PATIENCE_S, Bench, bench, wait_until

MANY = 10**9


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a test waits for no recorder; those of the end wait as long as it takes."""
    monkeypatch.setattr(channel, "_FINISH_S", 0.1)


class Peer:
    """A recorder without a file: says what it is told to say."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, name: str = "me") -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger, self.socket.rcvtimeo = 0, round(PATIENCE_S * 1000)
        self.socket.connect(endpoint)
        self.name = name
        self.run: str | None = None

    def report(self, written: int = 0, window: int = MANY, **more: Any) -> None:
        self.socket.send(encode_report(Report(self.name, self.run, written, window, **more)))

    def next(self) -> Record:
        return decode_record(self.socket.recv_multipart())

    def begin(self, window: int = MANY) -> Record:
        """Say hello, take up the run, and ask for its results."""
        self.report()
        begun = self.next()
        assert begun.kind == "begin"
        self.run = begun.header["run"]
        self.report(window=window)
        return begun

    def numbers(self, count: int) -> list[int]:
        return [self.next().header["record"] for _ in range(count)]


@contextmanager
def recorded(**options: Any) -> Iterator[tuple[Bench, Peer]]:
    with zmq.Context() as context, bench(policy="lossless", preview_rate=0, record=ANY_PORT, **options) as peers:
        assert peers.source.record_endpoint is not None
        peer = Peer(context, peers.source.record_endpoint)
        with peer.socket:
            yield peers, peer


def send(peers: Bench, *numbers: int) -> None:
    for number in numbers:
        peers.send(number)


def gaps(peers: Bench) -> dict[str, int]:
    status = peers.source._outlet.figures(time.perf_counter())
    counted: dict[str, int] = status["recording"]["gaps"]
    for reason, results in counted.items():
        labels = {"source": "camera", "reason": reason}
        assert peers.source.metrics.registry.get_sample_value("atomstream_record_gaps_total", labels) == results
    return counted


class TestLossless:
    def test_every_result_as_it_was_published(self) -> None:
        with recorded() as (peers, peer):
            begun = peer.begin()
            send(peers, 1, 2, 3)
            published = [peers.next("atoms") for _ in range(3)]
            records = [peer.next() for _ in range(3)]
        assert begun.header["first"] == 1
        assert (begun.header["model"]["name"], begun.header["configuration"]["policy"]) == ("fake", "lossless")
        assert begun.header["spec"]["classes"] == ["C"]
        for number, (record, atoms) in enumerate(zip(records, published, strict=True), start=1):
            assert record.header["record"] == number
            assert record.header["answered"] == pytest.approx(time.time(), abs=60)
            assert {key: record.header[key] for key in atoms.header if key != "htype"} == {
                key: value for key, value in atoms.header.items() if key != "htype"
            }
            assert {name: column.tolist() for name, column in record.columns.items()} == {
                name: column.tolist() for name, column in atoms.arrays.items()
            }
            assert record.pixels is None

    def test_what_came_before_the_recorder_waits_for_it(self) -> None:
        with recorded() as (peers, peer):
            send(peers, 1, 2, 3)
            peers.until_settled(3)
            peer.begin()
            assert peer.numbers(3) == [1, 2, 3]
            assert gaps(peers) == {}

    def test_pixels_as_the_sender_sent_them(self) -> None:
        pixels = np.arange(20, dtype=np.int16).reshape(4, 5)
        with recorded(record_frames=True) as (peers, peer):
            peer.begin()
            peers.send(1, pixels)
            record = peer.next()
        assert record.pixels is not None
        assert (record.pixels.dtype, record.pixels.tolist()) == (np.dtype("<i2"), pixels.tolist())

    def test_what_was_not_written_comes_again_to_the_next_recorder(self) -> None:
        with recorded() as (peers, peer):
            peer.begin()
            send(peers, 1, 2, 3)
            assert peer.numbers(3) == [1, 2, 3]
            peer.report(written=1)
            wait_until(lambda: peers.source._outlet.figures(0.0)["recording"]["waiting"] == 2)
            with zmq.Context() as context:
                other = Peer(context, str(peers.source.record_endpoint), "other")
                with other.socket:
                    assert other.begin().header["first"] == 2
                    assert other.numbers(2) == [2, 3]
                    assert peer.next().kind == "replaced"
                    peer.report(written=3)  # says it still records: it no longer does
                    assert peer.next().kind == "replaced"
                    assert peers.source._outlet.figures(0.0)["recording"]["waiting"] == 2

    def test_a_connection_that_was_lost_goes_on(self) -> None:
        with recorded() as (peers, peer), zmq.Context() as context:
            peer.begin()
            send(peers, 1, 2)
            assert peer.numbers(2) == [1, 2]
            again = Peer(context, str(peers.source.record_endpoint))
            with again.socket:
                again.run = peer.run
                again.report(written=1)
                assert again.numbers(1) == [2]

    def test_no_more_is_on_its_way_than_asked_for(self) -> None:
        with recorded() as (peers, peer):
            peer.begin(window=1)
            send(peers, 1, 2)
            assert peer.numbers(1) == [1]
            peers.until_settled(2)
            assert not peer.socket.poll(200)
            peer.report(written=1, window=1)
            assert peer.numbers(1) == [2]

    def test_the_recorder_of_another_run_is_told_of_this_one(self) -> None:
        with recorded() as (_, peer):
            peer.run = "earlier"
            peer.report(written=7)
            told = peer.next()
        assert told.kind == "begin"
        assert told.header["run"] != "earlier"


class TestGaps:
    def test_an_absent_recorder_slows_nothing_and_what_does_not_fit_is_counted(self) -> None:
        with recorded(record_buffer_MB=0.01) as (peers, peer):
            send(peers, *range(100))
            assert peers.until_settled(100) == {}
            lost = gaps(peers)["buffer_full"]
            assert 80 < lost < 100
            begun = peer.begin()
            assert begun.header["first"] == lost + 1
            assert peer.numbers(100 - lost) == list(range(lost + 1, 101))

    def test_so_does_one_that_writes_nothing(self) -> None:
        with recorded(record_buffer_MB=0.01) as (peers, peer):
            peer.begin()
            send(peers, *range(100))
            assert peers.until_settled(100) == {}
            assert 80 < gaps(peers)["buffer_full"] < 100

    def test_what_the_recorder_lost_is_booked_and_told(self) -> None:
        with recorded() as (peers, peer):
            peer.begin()
            peer.report(lost={"disk_full": 5}, fault="Expected room, got none: free some")
            fault = peers.next("event").header
            assert (fault["event"], fault["reason"]) == ("fault", "record")
            assert fault["message"] == "Expected room, got none: free some"
            wait_until(lambda: gaps(peers) == {"disk_full": 5})

    def test_held_back_where_told_so_until_the_recorder_has_room(self) -> None:
        with recorded(record_buffer_MB=0.01, record_hold=True) as (peers, peer):
            thread = threading.Thread(target=send, args=(peers, *range(100)))
            thread.start()
            time.sleep(0.3)
            assert peers.source.accounting.totals().processed < 20
            peer.begin()
            for number in range(1, 101):
                assert peer.numbers(1) == [number]
                peer.report(written=number)
            thread.join(PATIENCE_S)
            assert gaps(peers) == {}

    def test_only_lossless_can_hold(self) -> None:
        with pytest.raises(ConfigError, match="record_hold: expected policy 'lossless'"):
            ServeConfig(record=ANY_PORT, record_hold=True)
        with pytest.raises(ConfigError, match="record_hold: expected policy 'lossless'"):
            ServeConfig(record_hold=True, policy="lossless", socket="pull")


class TestEnd:
    def test_a_recorder_that_is_there_gets_the_rest_and_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(channel, "_FINISH_S", PATIENCE_S)
        with recorded() as (peers, peer):
            peer.begin(window=1)
            send(peers, 1, 2)
            peers.until_settled(2)
            ending = threading.Thread(target=peers.stop)
            ending.start()
            assert peer.numbers(1) == [1]
            peer.report(written=1)
            assert peer.numbers(1) == [2]
            peer.report(written=2)
            end = peer.next()
            ending.join(PATIENCE_S)
        assert (end.kind, end.header["last"], end.header["gaps"]) == ("end", 2, {})

    def test_without_a_recorder_it_ends_at_once_and_counts_what_waited(self) -> None:
        with recorded(record_buffer_MB=0.001, record_hold=True) as (peers, _):
            peers.send(1)
            peers.until_settled(1)
            peers.stop()
            assert sum(gaps(peers).values()) == 1


class TestHostile:
    def test_what_is_no_report_is_a_fault_and_changes_nothing(self) -> None:
        with recorded() as (peers, peer):
            for parts in ([b"?"], [b"{}", b"{}"], [b"x" * 4000]):
                peer.socket.send_multipart(parts)
            assert peers.next("event").header["event"] == "fault"
            peer.begin()
            peer.report(written=10**6)
            send(peers, 1)
            assert peer.numbers(1) == [1]

    def test_a_port_in_use(self) -> None:
        with recorded() as (peers, _):
            taken = str(peers.source.record_endpoint)
            with pytest.raises(ConfigError, match="record: expected an endpoint that is free"), bench(record=taken):
                pass

    def test_off_unless_configured(self) -> None:
        with bench() as peers:
            assert peers.source.record_endpoint is None
            assert peers.next("status").header["recording"] is None
