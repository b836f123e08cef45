"""Several sources in one service: each with its own input, model and books; what stops one does not stop the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from engine.errors import ConfigError, FileError
from stream.config import ServeConfig, join_sources
from stream.messages import Result, decode_result, encode
from stream.recording import Report, decode_record, encode_report
from stream.service import Service
from tests.stream.fakes import ANY_PORT, PATIENCE_S, SPEC, TRIPLETS, FakeDetector, Gate, wait_until

OTHER = replace(SPEC, name="other", classes=("Mo", "S"))


@dataclass
class Bench:
    """A running service, a sender to each source by its name, and a subscriber to all."""

    service: Service
    senders: dict[str, zmq.Socket[bytes]]
    results: zmq.Socket[bytes]
    stop: Callable[[], None]  # ends the service; what it published can still be read

    def send(self, source: str, number: int, **keys: Any) -> None:
        pixels = np.full((4, 5), number, np.uint16)
        self.senders[source].send_multipart(encode(pixels, frame=number, **({"sampling": 0.2} | keys)))

    def collect(self, kind: str, count: int) -> dict[str, list[Result]]:
        """So many results of a kind, by source."""
        found: dict[str, list[Result]] = {}
        while sum(map(len, found.values())) < count:
            result = decode_result(self.results.recv_multipart())
            if result.kind == kind:
                found.setdefault(result.source, []).append(result)
        return found


@contextmanager
def bench(sources: dict[str, dict[str, Any]], detectors: list[FakeDetector]) -> Iterator[Bench]:
    common = {"input": ANY_PORT, "input_role": "bind", "output": ANY_PORT, "socket": "pull", "metrics_port": 0}
    common |= {"status_interval": 0.05, "preview_rate": 0}
    configs = join_sources([ServeConfig(**(common | {"source_name": name} | sources[name])) for name in sources])
    with zmq.Context() as context, ExitStack() as sending, context.socket(zmq.SUB) as results:
        results.linger, results.rcvtimeo, results.rcvhwm = 0, round(PATIENCE_S * 1000), 100_000
        results.subscribe(b"")
        with ExitStack() as running:
            service = running.enter_context(Service(configs, detectors))  # type: ignore[arg-type]
            results.connect(service.endpoint)
            senders = {}
            for source in service.sources:
                sender = senders[source.name] = sending.enter_context(context.socket(zmq.PUSH))
                sender.linger, sender.sndtimeo = 0, round(PATIENCE_S * 1000)
                sender.connect(source.endpoint)
            made = Bench(service, senders, results, running.close)
            made.collect("status", 1)  # the subscription has arrived
            yield made


def two(left: FakeDetector | None = None, right: FakeDetector | None = None, **options: Any) -> Any:
    lossless = {"policy": "lossless"} | options
    return bench({"left": dict(lossless), "right": dict(lossless)}, [left or FakeDetector(), right or FakeDetector()])


class TestTogether:
    def test_each_is_answered_under_its_own_name_by_its_own_model(self) -> None:
        sources = {"left": {"sampling": 0.3}, "right": {"policy": "lossless", "dose": 7.0}}
        with bench(sources, [FakeDetector(), FakeDetector(OTHER)]) as peers:
            peers.send("left", 1, sampling=None)
            for number in (5, 6):
                peers.send("right", number)
            answers = peers.collect("atoms", 3)
        assert [answer.header["frame"] for answer in answers["right"]] == [5, 6]
        (left,) = answers["left"]
        right = answers["right"][-1]
        assert (left.header["sampling_A"], right.header["sampling_A"]) == (0.3, 0.2)
        assert (left.header["model"]["name"], right.header["model"]["name"]) == ("fake", "other")
        assert (left.header["dose_total_e_A2"], right.header["dose_total_e_A2"]) == (0, 14)
        assert (left.arrays["x"].tolist(), right.arrays["x"].tolist()) == ([1], [6])

    def test_one_with_triplets_beside_one_without(self) -> None:
        sources = {"left": {"policy": "lossless", "triplets": "count"}, "right": {"policy": "lossless"}}
        with bench(sources, [FakeDetector(TRIPLETS), FakeDetector()]) as peers:
            for number in range(3):
                peers.send("left", number)
                peers.send("right", number)
            answers = peers.collect("atoms", 4)
        assert [answer.header.get("members") for answer in answers["left"]] == [[0, 1, 2]]
        assert len(answers["right"]) == 3

    def test_books_and_metrics_are_each_ones_own(self) -> None:
        with two() as peers:
            peers.send("left", 1)
            peers.senders["right"].send_multipart([b"?"])
            left, right = peers.service.sources
            wait_until(lambda: left.accounting.totals().processed == 1)
            wait_until(lambda: right.accounting.totals().dropped == {"wrong_parts": 1})
            wait_until(lambda: left.status["processed"] == 1 and right.status["received"] == 1)
            registry = peers.service.instruments.registry
        assert (left.status["dropped"], right.status["dropped"]) == ({}, {"wrong_parts": 1})
        for source, processed, dropped in (("left", 1, 0), ("right", 0, 1)):
            value = {"source": source}
            assert registry.get_sample_value("atomstream_frames_processed_total", value) == processed
            assert registry.get_sample_value("atomstream_frames_received_total", value) == 1
            reason = value | {"reason": "wrong_parts"}
            assert registry.get_sample_value("atomstream_frames_dropped_total", reason) == dropped

    def test_each_has_a_recorder_of_its_own(self) -> None:
        with zmq.Context() as context, two(record=ANY_PORT) as peers:
            for source in peers.service.sources:
                with context.socket(zmq.DEALER) as recorder:
                    recorder.linger, recorder.rcvtimeo = 0, round(PATIENCE_S * 1000)
                    recorder.connect(source.record_endpoint)
                    recorder.send(encode_report(Report("me")))
                    begun = decode_record(recorder.recv_multipart()).header
                    assert (begun["source"], begun["configuration"]["source_name"]) == (source.name,) * 2
                    recorder.send(encode_report(Report("me", begun["run"], 0, 10**9)))
                    peers.send(source.name, 1)
                    assert decode_record(recorder.recv_multipart()).header["source"] == source.name


class TestApart:
    def test_an_engine_that_hangs_does_not_hold_the_other_up(self) -> None:
        gate = Gate()
        with two(FakeDetector(before_infer=gate), frames_at_once=1) as peers:
            peers.send("left", 1)
            assert gate.reached.wait(PATIENCE_S)
            for number in range(20):
                peers.send("right", number)
            assert len(peers.collect("atoms", 20)["right"]) == 20
            gate.open.set()
            assert peers.collect("atoms", 1).keys() == {"left"}

    def test_mistakes_of_one_are_its_own(self, caplog: pytest.LogCaptureFixture) -> None:
        def fail(_: object) -> None:
            raise MemoryError("not today")

        with two(FakeDetector(before_infer=fail)) as peers:
            for number in range(3):
                peers.send("left", number)
                peers.send("right", number)
            left, right = peers.service.sources
            wait_until(lambda: right.accounting.totals().processed == 3)
            wait_until(lambda: left.accounting.totals().dropped == {"internal": 3})
        assert right.accounting.totals().dropped == {}
        assert "left: internal: not today" in caplog.text

    def test_a_recorder_that_holds_one_back_leaves_the_other(self) -> None:
        """Nobody reads: the publish thread of the one waits in its full buffer."""
        with two(record=ANY_PORT, record_hold=True, record_buffer_MB=0.004) as peers:
            for number in range(10):
                peers.send("left", number)
            left, right = peers.service.sources
            wait_until(lambda: left.accounting.totals().received == 10)
            peers.send("right", 1)
            wait_until(lambda: right.accounting.totals().processed == 1)
            assert left.accounting.totals().processed < 10


class TestEnd:
    def test_both_say_that_they_stop_and_every_frame_is_accounted_for(self) -> None:
        with two() as peers:
            for number in range(50):
                peers.send("left", number)
                peers.send("right", number)
            left, right = peers.service.sources
            wait_until(lambda: left.accounting.totals().received > 10 and right.accounting.totals().received > 10)
            peers.stop()
            told: dict[str, list[Result]] = {}
            while sum(event.header["event"] == "stopping" for events in told.values() for event in events) < 2:
                for source, events in peers.collect("event", 1).items():
                    told.setdefault(source, []).extend(events)
            assert told.keys() == {"left", "right"}
            for source in (left, right):
                assert source.accounting.totals().waiting == 0

    def test_the_time_to_finish_is_not_added_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("stream.source._FINISH_S", 0.5)
        with two() as peers:
            for source in peers.service.sources:
                source.stop()
            now_s = time.monotonic()
            assert all(source._until_s - now_s <= 0.5 for source in peers.service.sources)


class TestBegin:
    def test_an_endpoint_in_use_says_whose_and_leaves_nothing_behind(self) -> None:
        with two() as peers:
            taken = peers.service.sources[0].endpoint
            before = threading.active_count()
            with (
                pytest.raises(ConfigError, match="right: input: expected an endpoint that is free"),
                bench({"left": {}, "right": {"input": taken}}, [FakeDetector(), FakeDetector()]),
            ):
                pass
            wait_until(lambda: threading.active_count() == before)

    def test_a_reference_that_is_not_there_says_whose(self, tmp_path: Path) -> None:
        with (
            pytest.raises(FileError, match="left: .*expected a .npy reference"),  # noqa: RUF043
            bench({"left": {"dark_reference": str(tmp_path / "a.npy")}, "right": {}}, [FakeDetector()] * 2),
        ):
            pass
