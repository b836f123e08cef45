"""All that one source says: answers, previews, events in their order, status. Belongs to its publish thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from numpy.typing import NDArray

from engine.spec import ModelSpec
from stream.accounting import Accounting, Totals
from stream.channel import RecordChannel
from stream.config import ServeConfig
from stream.exposure import Answer, Exposure, Located
from stream.publisher import Publisher, atoms_header, draw_preview, model_header, preview_header

_EVENTS_KEPT = 100


class Outlet:
    """Says it to the publisher, and to the recorder where there is one; `publisher` and `recording` are set once open.

    Parameters
    ----------
    spec, backend
        Of the model.
    flow : callable
        Figures of a status that the receiving side knows.
    """

    publisher: Publisher

    def __init__(
        self,
        config: ServeConfig,
        spec: ModelSpec,
        backend: Callable[[], str],
        accounting: Accounting,
        flow: Callable[[], dict[str, Any]],
    ) -> None:
        self.recording: RecordChannel | None = None
        self._config = config
        self._spec = spec
        self._backend = backend
        self._accounting = accounting
        self._flow = flow
        self._model = model_header(spec, backend())
        self._events: deque[dict[str, Any]] = deque(maxlen=_EVENTS_KEPT)
        self._shown: Exposure | None = None
        self._next_preview_s = 0.0
        self._begun_s = self._next_status_s = time.perf_counter()
        self._before = (self._begun_s, 0, 0)
        self.status = self.figures(self._begun_s)

    def computing_on(self, backend: str) -> None:
        """What runs the network from now on; results name it."""
        self._model = self._model | {"backend": backend}

    @property
    def recorded(self) -> dict[str, Any]:
        """What a recording tells of its source before the first result."""
        return self._model | {"spec": asdict(self._spec), "configuration": asdict(self._config)}

    def fault(self, reason: str, message: str) -> None:
        """Tell of a fault; for any thread."""
        self._events.append({"event": "fault", "reason": reason, "message": message})

    def answer(self, located: Located, answered_s: float) -> Answer:
        """Publish the atoms of a frame, and record them."""
        answer = Answer.of(located, answered_s)
        self._begin_series(located.exposure)
        header = atoms_header(answer, self._model)
        self._publish("atoms", header, *located.atoms.columns().values())
        if self.recording is not None:
            self.recording.offer(answer, header)
        return answer

    def show(self, answer: Answer) -> None:
        """Publish the picture of a frame, where it is time for one."""
        now_s, rate = time.perf_counter(), self._config.preview_rate
        if not rate or now_s < self._next_preview_s:
            return
        self._next_preview_s = now_s + 1 / rate
        frame = answer.located.frame
        picture = draw_preview(frame.pixels, frame.mask, self._config.preview_size)
        self._publish("preview", preview_header(answer, picture), picture)

    def report(self, now_s: float) -> None:
        """Publish the events that wait, and the status where it is time."""
        while self._events:
            self._publish("event", self._events.popleft())
        if now_s >= self._next_status_s:
            self._next_status_s = max(now_s, self._next_status_s + self._config.status_interval)
            self.status = self.figures(time.perf_counter())
            self._publish("status", self.status)

    def end(self) -> None:
        """The last words, with the final figures."""
        self._begin_series(None)
        self._events.append({"event": "stopping", "message": "The service is stopping"})
        self._next_status_s = 0.0
        self.report(time.perf_counter())

    def figures(self, now_s: float) -> dict[str, Any]:
        """A status, its rates since the one before."""
        totals = self._accounting.totals()
        before_s, received, processed = self._before
        self._before = (now_s, totals.received, totals.processed)
        passed_s = max(now_s - before_s, 1e-3)
        return status_header(totals) | {
            "fps_in": round((totals.received - received) / passed_s, 2),
            "fps_out": round((totals.processed - processed) / passed_s, 2),
            **self._flow(),
            "recording": None if self.recording is None else self.recording.status(),
            "model": self._model["model"],
            "backend": self._backend(),
            "policy": self._config.policy,
            "uptime_s": round(now_s - self._begun_s, 1),
        }

    def _begin_series(self, exposure: Exposure | None) -> None:
        """Tell of a series before its first result, so that no result of the one before comes after."""
        shown, self._shown = self._shown, exposure
        if shown is not None and exposure is not None and shown.epoch == exposure.epoch:
            return
        for event, one in (("series_end", shown), ("series_start", exposure)):
            if one is not None:
                series = one.message.series
                message = f"{'End' if event == 'series_end' else 'Start'} of series {series!r}"
                self._publish("event", {"event": event, "message": message, "series": series})

    def _publish(self, kind: str, header: dict[str, Any], *blobs: NDArray[Any]) -> None:
        self.publisher.publish(kind, self._config.source_name, header, *blobs)


def status_header(totals: Totals) -> dict[str, Any]:
    """The books as a `status` message tells them."""
    return {
        "received": totals.received,
        "processed": totals.processed,
        "dropped": totals.dropped,
        "missing": totals.missing,
        "drift_uncertain": totals.drift_uncertain,
        "latency_ms": totals.latency_ms,
        "age_ms": totals.age_ms,
        "in_time": totals.in_time,
        "atoms_mean": totals.atoms_mean,
        "dose_e_A2": totals.dose_e_A2,
        "dose_total_e_A2": round(totals.dose_total_e_A2, 3),
    }
