"""One source: frames in, atoms out. Threads that receive and decode, find atoms, and publish; what waits between.

One engine thread takes a frame from pixels to atoms; with policy lossless, or on a GPU, there are several, each on
another frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from threading import Event, Lock, Thread
from typing import Any

import zmq

from engine.detector import Detector
from engine.errors import DeviceError, FrameError
from stream.accounting import REASONS, Accounting
from stream.channel import RecordChannel
from stream.config import ServeConfig
from stream.exposure import Exposure, Located
from stream.header import Part
from stream.intake import Intake
from stream.journal import Journal
from stream.metrics import Instruments, Metrics
from stream.outlet import Outlet
from stream.publisher import Publisher, milliseconds
from stream.receiver import Receiver
from stream.references import References
from stream.slots import BoundedQueue, LatestSlot, Slot, Turns
from stream.stacker import Stacker

_TICK_S = 0.1  # how soon a thread that waits sees that it should stop
_FINISH_S = 10.0  # how long policy lossless may go on with what waits once it is told to stop
_BESIDE = 2  # engine threads that prepare and locate frames beside those whose frames are in the network
_CUT_OFF = 2  # ZeroMQ cuts a sender off at so many times the limit: what is less over it is a counted drop


class Source:
    """What becomes of the frames of one source. Whatever goes wrong here, the other sources go on.

    `opened` it has its sockets, `start` lets it run, `stop` tells it to end, and `join` waits until it has.

    Parameters
    ----------
    config : ServeConfig
    detector : Detector
        For the engine threads while they run.
    instruments : Instruments
        Of the service.
    """

    def __init__(self, config: ServeConfig, detector: Detector, instruments: Instruments) -> None:
        self.name = config.source_name
        self.config = config
        self._detector = detector
        references = References.read(config.dark_reference, config.gain_reference)
        # The images of a triplet are corrected before they are moved onto each other, not after.
        self._stacker = Stacker(config, references) if detector.spec.channels == 3 else None
        self._references = references if self._stacker is None else References()
        self._slot: Slot[Exposure] = LatestSlot() if config.policy == "latest" else BoundedQueue(config.queue_frames)
        self._turns, self._stacking = Turns(), Turns()
        self._beside_network = Lock()
        self._handover: Slot[Located] = BoundedQueue(1)
        self._stopping = Event()
        self._until_s = 0.0
        self._receiving = self._thread("receive", self._receive)
        engines = range(_engines(config, detector.places))
        self._engines = [self._thread(f"engine {rank}", partial(self._find_atoms, rank)) for rank in engines]
        self._publishing = self._thread("publish", self._publish)
        spec, self._backend = detector.spec, detector.backend
        self.lost: str | None = None  # why no frame can be answered any more
        self.accounting = Accounting()
        self.metrics = Metrics(self.name, spec.name, detector.backend, spec.classes, self._slot.__len__, instruments)
        self._intake = Intake(config, references, self.accounting, self.metrics, stacker=self._stacker)
        self._outlet = Outlet(config, spec, lambda: detector.backend, self.accounting, self._flow)
        self._journal = Journal(self._outlet.fault, time.monotonic, self.name)

    @contextmanager
    def opened(self, context: zmq.Context[zmq.Socket[bytes]], publisher: Publisher) -> Iterator[None]:
        """With its sockets; ConfigError where an endpoint cannot be had."""
        config, outlet = self.config, self._outlet
        outlet.publisher = publisher
        with ExitStack() as stack:
            if config.record is not None:
                outlet.recording = stack.enter_context(
                    RecordChannel(context, config, outlet.recorded, self.metrics.record_gap, self._journal.fault)
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
            yield

    def start(self) -> None:
        """Begin to take frames."""
        for thread in (self._receiving, *self._engines, self._publishing):
            thread.start()

    def stop(self) -> None:
        """Take no more frames; does not block."""
        self._until_s = time.monotonic() + _FINISH_S
        self._stopping.set()
        if self._outlet.recording is not None:
            self._outlet.recording.let_go()
        self._slot.close()

    def join(self) -> None:
        """Wait until every frame is answered or dropped, and the last status is sent."""
        self._receiving.join()
        if self.config.policy == "lossless":
            for engine in self._engines:
                engine.join(max(0.0, self._until_s - time.monotonic()))
        for exposure in self._slot.drain():
            self._drop("stopping", exposure.frames)
        for engine in self._engines:
            engine.join()
        self._handover.close()
        self._publishing.join()

    @property
    def endpoint(self) -> str:
        """Where frames come in, a port chosen by the system filled in."""
        return self._receiver.endpoint

    @property
    def record_endpoint(self) -> str | None:
        """Where a recorder connects to; None where nothing is recorded."""
        recording = self._outlet.recording
        return None if recording is None else recording.endpoint

    @property
    def status(self) -> dict[str, Any]:
        """As it was last published."""
        return self._outlet.status

    def _flow(self) -> dict[str, Any]:
        return {
            "clock_difference_ms": milliseconds(self._intake.clock_difference_s),
            "frame_interval_ms": milliseconds(self._intake.interval_s),
            "queue": len(self._slot),
        }

    def _thread(self, name: str, run: Callable[[], None]) -> Thread:
        return Thread(target=run, name=f"{self.name} {name}", daemon=True)

    # ---- receive thread ----

    def _receive(self) -> None:
        while not self._stopping.is_set():
            try:
                parts = self._receiver.receive(_TICK_S)
            except Exception as error:
                self._journal.fault("connection", error)
                self._stopping.wait(_TICK_S)
                continue
            if parts is not None:
                self._take_all(parts)
            if self._stacker is not None:
                for incomplete in self._stacker.expire(time.perf_counter()):
                    self._refuse(incomplete)
        for parts in self._receiver.left():  # nobody will answer it, but it came
            self._take_all(parts)
        if self._stacker is not None:
            self._drop("stopping", self._stacker.waiting)

    def _take_all(self, parts: Sequence[Part]) -> None:
        for message in self._intake.split(parts):
            self._take(message)

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

    def _find_atoms(self, rank: int) -> None:
        # Once a GPU is lost fewer threads are needed: frames in the hands of more would wait for the CPU, and grow old.
        while rank < _engines(self.config, self._detector.places):
            taken = self._turns.take(self._slot.get)
            if taken is None:
                return
            number, exposure = taken
            try:
                located: Located | None = self._locate(number, exposure)
            except Exception as error:
                located = None
                self._refuse(error, exposure.frames)
            with self._turns.turn(number):
                if located is not None:
                    self._handover.put(located)

    def _locate(self, number: int, exposure: Exposure) -> Located:
        begun_s = time.perf_counter()
        # One thread at a time: two that take Python's lock in turns, a hundred times a frame, are slower than one.
        # Not beside a GPU: who prepares may wait for a place that only who locates gives back.
        beside: AbstractContextManager[Any] = nullcontext() if self._detector.places else self._beside_network
        exposure = self._stack(number, exposure, beside)
        doubts = () if exposure.triplet is None else exposure.triplet.doubts
        with beside:
            warnings = (*self._detector.check(exposure.frame), *doubts)
            frame = replace(exposure.frame, pixels=self._references.apply(exposure.frame.pixels))
            prepared = self._detector.prepare(frame)
        prepared_s = time.perf_counter()
        maps = self._detector.infer(prepared)
        inferred_s = time.perf_counter()
        with beside:
            found = self._detector.locate(frame, prepared, maps)
        atoms = found if self.config.covered else found.uncovered()
        covered = len(found) - len(atoms)
        return Located(exposure, frame, atoms, covered, warnings, begun_s, prepared_s, inferred_s, time.perf_counter())

    def _stack(self, number: int, exposure: Exposure, beside: AbstractContextManager[Any]) -> Exposure:
        """Lay the images of a triplet on each other, and book where they may not."""
        if self._stacker is None:
            return exposure
        with self._stacking.turn(number), beside:
            stacked = self._stacker.stack(exposure)
        if stacked.triplet is not None and stacked.triplet.drift_doubt is not None:
            self.accounting.doubted()
            self.metrics.doubted()
        return stacked

    # ---- publish thread ----

    def _publish(self) -> None:
        while not self._handover.finished:
            located = self._handover.get(_TICK_S)
            taken_s = time.perf_counter()
            if located is not None:
                try:
                    self._answer(located, taken_s)
                except Exception as error:
                    self._refuse(error, located.exposure.frames)
            try:
                self._outlet.report(taken_s)
            except Exception as error:
                self._journal.fault("internal", error)
        self._outlet.end()

    def _answer(self, located: Located, answered_s: float) -> None:
        """Say which atoms a frame has, and book it."""
        self._note_backend()
        answer = self._outlet.answer(located, answered_s)
        frames, atoms = located.exposure.frames, located.atoms
        stages_s = answer.stages_s | {"publish": time.perf_counter() - answered_s}
        self.metrics.processed(answer.latency_s, answer.in_time, stages_s, atoms.class_id, frames)
        self.accounting.processed(answered_s, answer.latency_s, answer.age_s, answer.in_time, len(atoms), frames)
        try:
            self._outlet.show(answer)
        except Exception as error:  # the frame is answered: a picture less is a fault, not a drop
            self._journal.fault("internal", error)

    def _note_backend(self) -> None:
        """Say that another device has taken over; from then on results name it."""
        backend = self._detector.backend
        if backend != self._backend:
            self._outlet.computing_on(backend)
            self.metrics.computing_on(backend)
            self._journal.fault("device", f"Computing with {backend} from now on, no longer with {self._backend}")
            self._backend = backend

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


def _engines(config: ServeConfig, places: int) -> int:
    """Engine threads for a detector with so many places on its device.

    With policy latest as many: a frame is taken when a place is free for it, and until then gives way to a newer one.
    """
    if places and config.frames_at_once is None:
        return places + (config.policy == "lossless")  # one applies references while the others have the places
    at_once = config.side_by_side
    return at_once if at_once == 1 else at_once + _BESIDE
