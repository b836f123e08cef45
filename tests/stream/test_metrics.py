"""What Prometheus reads: the names and labels that dashboards and alerts are built on."""

from __future__ import annotations

import socket
import urllib.request

import numpy as np
import pytest
from prometheus_client import generate_latest

from engine.errors import ConfigError
from stream.accounting import REASONS
from stream.metrics import STAGES, Instruments, Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("cam", "graphene", "openvino int8", ("C", "N"), lambda: 3)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"atomstream_{name}", {"source": "cam"} | labels)


def test_every_label_is_there_from_the_start(metrics: Metrics) -> None:
    for name in ("frames_received", "frames_processed", "frames_missing", "deadline_missed"):
        assert value(metrics, f"{name}_total") == 0
    assert value(metrics, "dose_electrons_per_square_angstrom_total") == 0
    assert [value(metrics, "frames_dropped_total", reason=reason) for reason in REASONS] == [0] * len(REASONS)
    assert [value(metrics, "stage_seconds_count", stage=stage) for stage in STAGES] == [0] * len(STAGES)
    assert [value(metrics, "atoms", **{"class": name}) for name in ("C", "N")] == [0, 0]
    assert value(metrics, "latency_seconds_count") == value(metrics, "frame_interval_seconds") == 0


def test_buckets_reach_from_half_a_millisecond_to_a_second(metrics: Metrics) -> None:
    metrics.processed(0.0004, True, {}, np.zeros(0, np.uint8))
    metrics.processed(0.9, False, {}, np.zeros(0, np.uint8))
    assert [value(metrics, "latency_seconds_bucket", le=le) for le in ("0.0005", "0.5", "1.0")] == [1, 1, 2]
    assert value(metrics, "deadline_missed_total") == 1


def test_a_frame_from_arrival_to_answer(metrics: Metrics) -> None:
    metrics.received()
    metrics.exposed(2, 50.0, 0.04)
    metrics.processed(0.01, None, {"network": 0.005}, np.array([0, 1, 1, 1], np.uint8))
    metrics.dropped("superseded")
    assert value(metrics, "frames_received_total") == value(metrics, "frames_processed_total") == 1
    assert value(metrics, "frames_missing_total") == 2
    assert value(metrics, "dose_electrons_per_square_angstrom_total") == 50
    assert value(metrics, "frame_interval_seconds") == 0.04
    assert value(metrics, "stage_seconds_sum", stage="network") == 0.005
    assert (value(metrics, "atoms", **{"class": "C"}), value(metrics, "atoms", **{"class": "N"})) == (1, 3)
    assert value(metrics, "frames_dropped_total", reason="superseded") == 1
    assert value(metrics, "queue_frames") == 3


def test_an_answer_for_three_frames(metrics: Metrics) -> None:
    metrics.processed(0.01, False, {}, np.zeros(5, np.uint8), frames=3)
    metrics.dropped("superseded", 3)
    assert value(metrics, "frames_processed_total") == value(metrics, "deadline_missed_total") == 3
    assert value(metrics, "frames_dropped_total", reason="superseded") == 3
    assert value(metrics, "latency_seconds_count") == 1


def test_build_and_process(metrics: Metrics) -> None:
    text = generate_latest(metrics.registry).decode()
    assert 'atomstream_build_info{backend="openvino int8",model="graphene",source="cam",version="' in text
    assert "process_resident_memory_bytes" in text
    assert "_created" not in text


def test_another_device_takes_the_place_of_the_first(metrics: Metrics) -> None:
    metrics.computing_on("openvino f32")
    lines = [line for line in generate_latest(metrics.registry).decode().splitlines() if "build_info{" in line]
    assert len(lines) == 1
    assert 'backend="openvino f32"' in lines[0]


def test_served_on_loopback() -> None:
    instruments = Instruments()
    Metrics("cam", "graphene", "openvino int8", ("C",), lambda: 3, instruments)
    with instruments.serve("127.0.0.1", 0) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=30) as answer:
            assert b"atomstream_frames_received_total" in answer.read()
        with pytest.raises(ConfigError, match=f"metrics_port: expected a free port, got 127.0.0.1:{server.port}"):
            instruments.serve("127.0.0.1", server.port)
    with socket.create_server(("127.0.0.1", server.port)):  # given back
        pass
