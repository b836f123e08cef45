"""What Prometheus reads. Every label is there from the start, so that an alert works at zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from engine.errors import ConfigError
from stream.accounting import GAPS, REASONS

STAGES = ("decode", "wait", "prepare", "network", "locate", "publish")

_BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1)


class Instruments:
    """Every metric, in one registry; each has the label `source`."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"atomstream_{name}", text, ("source", *labels), registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"atomstream_{name}", text, ("source", *labels), registry=self.registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(
                f"atomstream_{name}", text, ("source", *labels), registry=self.registry, buckets=_BUCKETS_S
            )

        self.received = counter("frames_received", "Messages that came")
        self.processed = counter("frames_processed", "Frames answered")
        self.dropped = counter("frames_dropped", "Frames that were not answered, by reason", "reason")
        self.missing = counter("frames_missing", "Gaps in the sender's frame numbers")
        self.uncertain = counter("drift_uncertain", "Triplets whose images may lie a lattice vector off")
        self.stages = histogram("stage_seconds", "Time a frame spent in a stage", "stage")
        self.latency = histogram("latency_seconds", "Sender's timestamp to answer, else arrival")
        self.late = counter("deadline_missed", "Frames answered later than their frame interval")
        self.interval = gauge("frame_interval_seconds", "Time from frame to frame")
        self.atoms = gauge("atoms", "Atoms in the last frame", "class")
        self.dose = counter("dose_electrons_per_square_angstrom", "Dose of all frames received")
        self.gaps = counter("record_gaps", "Results that are missing in the recording, by reason", "reason")
        self.queue = gauge("queue_frames", "Frames that wait for the engine")
        self.build = gauge("build_info", "What runs", "version", "model", "backend")

    def serve(self, host: str, port: int) -> MetricsServer:
        """Serve them over HTTP until the context ends; ConfigError where the port is not free."""
        return MetricsServer(self.registry, host, port)


class Metrics:
    """The metrics of one source, in the registry of its service, or in one of their own."""

    def __init__(
        self,
        source: str,
        model: str,
        backend: str,
        classes: tuple[str, ...],
        queue: Callable[[], int],
        instruments: Instruments | None = None,
    ) -> None:
        every = instruments or Instruments()
        self.registry = every.registry
        self._received = every.received.labels(source)
        self._processed = every.processed.labels(source)
        self._dropped = {reason: every.dropped.labels(source, reason) for reason in REASONS}
        self._missing = every.missing.labels(source)
        self._uncertain = every.uncertain.labels(source)
        self._stages = {stage: every.stages.labels(source, stage) for stage in STAGES}
        self._latency = every.latency.labels(source)
        self._late = every.late.labels(source)
        self._interval = every.interval.labels(source)
        self._atoms = [every.atoms.labels(source, name) for name in classes]
        self._dose = every.dose.labels(source)
        self._gaps = {reason: every.gaps.labels(source, reason) for reason in GAPS}
        every.queue.labels(source).set_function(queue)
        self._build, self._what = every.build, (source, version("atomstream"), model)
        self._backend = backend
        self._build.labels(*self._what, backend).set(1)

    def computing_on(self, backend: str) -> None:
        """What runs the network from now on."""
        self._build.remove(*self._what, self._backend)
        self._build.labels(*self._what, backend).set(1)
        self._backend = backend

    def received(self) -> None:
        """One more message came."""
        self._received.inc()

    def exposed(self, missing: int, dose_e_A2: float | None, interval_s: float | None) -> None:
        """It holds a frame."""
        self._missing.inc(missing)
        self._dose.inc(dose_e_A2 or 0.0)
        if interval_s is not None:
            self._interval.set(interval_s)

    def dropped(self, reason: str, frames: int = 1) -> None:
        """One frame will not be answered, or several alike."""
        self._dropped[reason].inc(frames)

    def doubted(self) -> None:
        """The images of one more triplet may lie a lattice vector off."""
        self._uncertain.inc()

    def record_gap(self, reason: str, results: int) -> None:
        """So many results will not be in the recording."""
        self._gaps[reason].inc(results)

    def processed(
        self,
        latency_s: float,
        in_time: bool | None,
        stages_s: Mapping[str, float],
        class_id: NDArray[np.uint8],
        frames: int = 1,
    ) -> None:
        """One frame was answered, or the several that made a triplet."""
        self._processed.inc(frames)
        self._latency.observe(latency_s)
        if in_time is False:
            self._late.inc(frames)
        for stage, seconds in stages_s.items():
            self._stages[stage].observe(seconds)
        for gauge, count in zip(self._atoms, np.bincount(class_id, minlength=len(self._atoms)), strict=False):
            gauge.set(int(count))


class MetricsServer:
    """An HTTP server in a thread of its own."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise ConfigError(
                f"metrics_port: expected a free port, got {host}:{port} ({error.strerror}): "
                "stop the other program, choose another port, or 0 for no metrics"
            ) from None
        self.port = self._server.server_port

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
