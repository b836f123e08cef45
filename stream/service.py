"""Frames in, atoms out: threads that receive and decode, find atoms, and publish, and what waits between them.

One engine thread takes a frame from pixels to atoms; with policy lossless there are several, each on another frame.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, replace
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Self

import zmq

from engine.detector import Detector
from engine.errors import DeviceError, FrameError
from stream.accounting import REASONS, Accounting, Totals
from stream.alignment import Stacker
from stream.channel import RecordChannel
from stream.config import ServeConfig
from stream.exposure import Answer, Exposure, Located
from stream.header import Part
from stream.intake import Intake
from stream.journal import Journal
from stream.metrics import Metrics
from stream.publisher import Publisher, atoms_header, draw_preview, milliseconds, model_header, preview_header
from stream.receiver import Receiver
from stream.references import References
from stream.slots import BoundedQueue, LatestSlot, Slot, Turns

_TICK_S = 0.1  # how soon a thread that waits sees that it should stop
_FINISH_S = 10.0  # how long policy lossless may go on with what waits once it is told to stop
_EVENTS_KEPT = 100
_BESIDE = 2  # engine threads that prepare and locate frames beside those whose frames are in the network
_CUT_OFF = 2  # ZeroMQ cuts a sender off at so many times the limit: what is less over it is a counted drop


class Service:
    """The live path with its threads. A context manager: it runs inside, and stops at the end.

    Parameters
    ----------
    config : ServeConfig
    detector : Detector
        Belongs to the service's threads while it runs.

    Attributes
    ----------
    lost : str or None
        Why no frame can be answered any more: the GPU is lost, and no other device may take over. Who runs the
        service has to end it.
    """

    def __init__(self, config: ServeConfig, detector: Detector) -> None:
        self._config = config
        self._detector = detector
        references = References.read(config.dark_reference, config.gain_reference)
        # The images of a triplet are corrected before they are moved onto each other, not after.
        self._stacker = Stacker(config, references) if detector.spec.channels == 3 else None
        self._references = references if self._stacker is None else References()
        self._model = model_header(detector.spec, detector.backend)
        self._slot: Slot[Exposure] = LatestSlot() if config.policy == "latest" else BoundedQueue(config.queue_frames)
        self._turns = Turns()
        self._beside_network = Lock()
        self._handover: Slot[Located] = BoundedQueue(1)
        self._events: deque[dict[str, Any]] = deque(maxlen=_EVENTS_KEPT)
        self._journal = Journal(self._tell_fault, time.monotonic)
        self._stopping = Event()
        self._recording: RecordChannel | None = None
        self._shown: Exposure | None = None
        self._next_preview_s = 0.0
        self._begun_s = time.perf_counter()
        self._status_before = (self._begun_s, 0, 0)
        self._receiving = Thread(target=self._receive, name="receive", daemon=True)
        engines = range(_engines(config.side_by_side))
        self._engines = [Thread(target=self._find_atoms, name=f"engine {k}", daemon=True) for k in engines]
        self._publishing = Thread(target=self._publish, name="publish", daemon=True)
        self.lost: str | None = None
        self.accounting = Accounting()
        self.metrics = Metrics(
            config.source_name, detector.spec.name, detector.backend, detector.spec.classes, self._slot.__len__
        )
        self._intake = Intake(config, references, self.accounting, self.metrics, triplets=self._stacker is not None)
        self.status: dict[str, Any] = self._status(self._begun_s)

    def __enter__(self) -> Self:
        config = self._config
        with ExitStack() as stack:
            context = zmq.Context()
            stack.callback(context.term)
            self._publisher = stack.enter_context(
                Publisher(context, config.output, config.source_name, config.send_hwm)
            )
            if config.record is not None:
                begin = self._model | {"spec": asdict(self._detector.spec), "configuration": asdict(config)}
                self._recording = stack.enter_context(
                    RecordChannel(context, config, begin, self.metrics.record_gap, self._journal.fault)
                )
            self._receiver = stack.enter_context(
                Receiver(
                    context,
                    config.input,
                    socket=config.socket,
                    role=config.input_role,
                    hwm=config.receive_hwm,
                    max_bytes=_CUT_OFF * self._intake.rules.max_bytes,
                    fault=lambda message: self._journal.fault("connection", message),
                )
            )
            if config.metrics_port:
                stack.enter_context(self.metrics.serve(config.metrics_host, config.metrics_port))
            self._open = stack.pop_all()
        for thread in (self._receiving, *self._engines, self._publishing):
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        if self._recording is not None:
            self._recording.let_go()
        self._slot.close()
        self._receiving.join()
        if self._config.policy == "lossless":
            until_s = time.monotonic() + _FINISH_S
            for engine in self._engines:
                engine.join(max(0.0, until_s - time.monotonic()))
        for exposure in self._slot.drain():
            self._drop("stopping", exposure.frames)
        for engine in self._engines:
            engine.join()
        self._handover.close()
        self._publishing.join()
        self._open.close()

    @property
    def record_endpoint(self) -> str | None:
        """Where a recorder connects to; None where nothing is recorded."""
        return None if self._recording is None else self._recording.endpoint

    @property
    def endpoints(self) -> tuple[str, str]:
        """Where frames come in and results go out, ports chosen by the system filled in."""
        return self._receiver.endpoint, self._publisher.endpoint

    # ---- receive thread ----

    def _receive(self) -> None:
        while not self._stopping.is_set():
            try:
                parts = self._receiver.receive(_TICK_S)
            except Exception as error:
                self._journal.fault("connection", error)
                self._stopping.wait(_TICK_S)
                continue
            for message in [] if parts is None else self._intake.split(parts):
                self._take(message)
            if self._stacker is not None:
                for incomplete in self._stacker.expire(time.perf_counter()):
                    self._refuse(incomplete)
        if self._stacker is not None:
            self._drop("stopping", self._stacker.waiting)

    def _take(self, parts: Sequence[Part]) -> None:
        """Make an exposure of a message and hand it on. What only tells of a series is no frame, and not booked."""
        arrival_s, arrival_since_1970_s = time.perf_counter(), time.time()
        exposure, error = None, None
        try:
            exposure = self._intake.expose(parts, arrival_s, arrival_since_1970_s)
        except Exception as caught:
            error = caught
        if exposure is None and error is None:
            return
        self.accounting.received(arrival_s)
        self.metrics.received()
        if error is not None:
            self._refuse(error)
        elif exposure is not None:
            self._hand_on(exposure)

    def _hand_on(self, exposure: Exposure) -> None:
        """To the engine thread; where the model takes three images, once there are three."""
        ready: Exposure | None = exposure
        if self._stacker is not None:
            ready, refused = self._stacker.add(exposure)
            for error in refused:
                self._refuse(error)
        lost = None if ready is None else self._slot.put(ready)
        if lost is not None:
            self._drop("stopping" if self._stopping.is_set() else "superseded", lost.frames)

    # ---- engine threads ----

    def _find_atoms(self) -> None:
        while (taken := self._turns.take(self._slot.get)) is not None:
            number, exposure = taken
            try:
                located: Located | None = self._locate(exposure)
            except Exception as error:
                located = None
                self._refuse(error, exposure.frames)
            with self._turns.turn(number):
                if located is not None:
                    self._handover.put(located)

    def _locate(self, exposure: Exposure) -> Located:
        begun_s = time.perf_counter()
        # One thread at a time: two that take Python's lock in turns, a hundred times a frame, are slower than one.
        # Not beside a GPU: who prepares may wait for a place that only who locates gives back.
        beside: AbstractContextManager[Any] = nullcontext() if self._detector.waits_for_device else self._beside_network
        with beside:
            warnings = self._detector.check(exposure.frame)
            frame = replace(exposure.frame, pixels=self._references.apply(exposure.frame.pixels))
            prepared = self._detector.prepare(frame)
        prepared_s = time.perf_counter()
        maps = self._detector.infer(prepared)
        inferred_s = time.perf_counter()
        with beside:
            atoms = self._detector.locate(frame, prepared, maps)
        return Located(exposure, frame, atoms, warnings, begun_s, prepared_s, inferred_s, time.perf_counter())

    # ---- publish thread ----

    def _publish(self) -> None:
        next_status_s = self._begun_s
        while not self._handover.finished:
            located = self._handover.get(_TICK_S)
            taken_s = time.perf_counter()
            if located is not None:
                try:
                    self._answer(located, taken_s)
                except Exception as error:
                    self._refuse(error, located.exposure.frames)
            try:
                self._send_events()
                if taken_s >= next_status_s:
                    next_status_s = max(taken_s, next_status_s + self._config.status_interval)
                    self._send_status()
            except Exception as error:
                self._journal.fault("internal", error)
        self._begin_series(None)
        self._events.append({"event": "stopping", "message": "The service is stopping"})
        self._send_events()
        self._send_status()

    def _answer(self, located: Located, answered_s: float) -> None:
        """Publish the atoms of a frame, and book it."""
        self._note_backend()
        atoms, answer = located.atoms, Answer.of(located, answered_s)
        self._begin_series(located.exposure)
        header = atoms_header(answer, self._model)
        self._publisher.publish("atoms", header, *atoms.columns().values())
        if self._recording is not None:
            self._recording.offer(answer, header)
        frames = located.exposure.frames
        stages_s = answer.stages_s | {"publish": time.perf_counter() - answered_s}
        self.metrics.processed(answer.latency_s, answer.in_time, stages_s, atoms.class_id, frames)
        self.accounting.processed(answered_s, answer.latency_s, answer.age_s, answer.in_time, len(atoms), frames)
        self._send_preview(answer)

    def _note_backend(self) -> None:
        """Say that another device has taken over; from then on results name it."""
        before, backend = self._model["backend"], self._detector.backend
        if backend != before:
            self._model = self._model | {"backend": backend}
            self.metrics.computing_on(backend)
            self._journal.fault("device", f"Computing with {backend} from now on, no longer with {before}")

    def _send_preview(self, answer: Answer) -> None:
        now_s, rate = time.perf_counter(), self._config.preview_rate
        if not rate or now_s < self._next_preview_s:
            return
        self._next_preview_s = now_s + 1 / rate
        try:
            frame = answer.located.frame
            picture = draw_preview(frame.pixels, frame.mask, self._config.preview_size)
            self._publisher.publish("preview", preview_header(answer, picture), picture)
        except Exception as error:  # the frame is answered: a picture less is a fault, not a drop
            self._journal.fault("internal", error)

    def _begin_series(self, exposure: Exposure | None) -> None:
        """Tell of a series before its first result, so that no result of the one before comes after."""
        shown, self._shown = self._shown, exposure
        if shown is not None and exposure is not None and shown.epoch == exposure.epoch:
            return
        for event, one in (("series_end", shown), ("series_start", exposure)):
            if one is not None:
                series = one.message.series
                message = f"{'End' if event == 'series_end' else 'Start'} of series {series!r}"
                self._publisher.publish("event", {"event": event, "message": message, "series": series})

    def _send_events(self) -> None:
        while self._events:
            self._publisher.publish("event", self._events.popleft())

    def _send_status(self) -> None:
        now_s = time.perf_counter()
        self.status = self._status(now_s)
        self._publisher.publish("status", self.status)

    def _status(self, now_s: float) -> dict[str, Any]:
        totals = self.accounting.totals()
        before_s, received, processed = self._status_before
        self._status_before = (now_s, totals.received, totals.processed)
        passed_s = max(now_s - before_s, 1e-3)
        return status_header(totals) | {
            "fps_in": round((totals.received - received) / passed_s, 2),
            "fps_out": round((totals.processed - processed) / passed_s, 2),
            "clock_difference_ms": milliseconds(self._intake.clock_difference_s),
            "frame_interval_ms": milliseconds(self._intake.interval_s),
            "queue": len(self._slot),
            "recording": None if self._recording is None else self._recording.status(),
            "model": self._model["model"],
            "backend": self._detector.backend,
            "policy": self._config.policy,
            "uptime_s": round(now_s - self._begun_s, 1),
        }

    # ---- any thread ----

    def _refuse(self, error: Exception, frames: int = 1) -> None:
        if isinstance(error, DeviceError):
            self.lost = str(error)  # not the error itself: its trace would hold on to the frame's memory
            self._journal.fault("device", error)
            self._drop("internal", frames)
            return
        reason = error.reason if isinstance(error, FrameError) and error.reason in REASONS else "internal"
        self._journal.fault(reason, error)
        self._drop(reason, frames)

    def _drop(self, reason: str, frames: int = 1) -> None:
        if frames:
            self.accounting.dropped(reason, frames)
            self.metrics.dropped(reason, frames)

    def _tell_fault(self, reason: str, message: str) -> None:
        self._events.append({"event": "fault", "reason": reason, "message": message})


def _engines(at_once: int) -> int:
    return at_once if at_once == 1 else at_once + _BESIDE


def status_header(totals: Totals) -> dict[str, Any]:
    """The books as a `status` message tells them."""
    return {
        "received": totals.received,
        "processed": totals.processed,
        "dropped": totals.dropped,
        "missing": totals.missing,
        "latency_ms": totals.latency_ms,
        "age_ms": totals.age_ms,
        "in_time": totals.in_time,
        "atoms_mean": totals.atoms_mean,
        "dose_e_A2": totals.dose_e_A2,
        "dose_total_e_A2": round(totals.dose_total_e_A2, 3),
    }
