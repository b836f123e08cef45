"""serve's side of a recording: a ROUTER that gives one recorder every result, in a thread of its own.

The publish thread only adds to the backlog. A recorder that is slow or absent fills it up, and then results are lost
and counted, unless the loop was told to wait for it.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

import zmq

from engine.errors import FrameError
from stream.backlog import Backlog
from stream.config import ServeConfig
from stream.exposure import Answer
from stream.receiver import endpoint_error
from stream.recording import MAX_REPORT_BYTES, Report, decode_report, encode_record

_TICK_S = 0.02
_ABSENT_S = 3.0  # a recorder says something twice a second
_FINISH_S = 10.0  # how long the end waits for a recorder that is there
_LINGER_MS = 500
_MANY_REPORTS = 100  # taken in before results are sent again, however fast somebody sends


class RecordChannel:
    """What is recorded goes in by `offer`. A context manager.

    Parameters
    ----------
    begin : dict
        What a recording tells of the service: model, columns, configuration.
    lost : callable
        Told a reason and how many results will be missing.
    fault : callable
        Told what went wrong with the recorder: a reason and a text.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        config: ServeConfig,
        begin: dict[str, Any],
        lost: Callable[[str, int], None],
        fault: Callable[[str, Exception | str], None],
    ) -> None:
        assert config.record is not None
        self._config = config
        self._lost = lost
        self._fault = fault
        self._backlog = Backlog(round(config.record_buffer_MB * 1e6))
        self._begin = {"run": uuid.uuid4().hex, "started": time.time(), "record_frames": config.record_frames} | begin
        self._gaps: Counter[str] = Counter()  # each reason is booked by one thread only
        self._written = 0
        self._peer = b""  # ZeroMQ's name of the connection
        self._report: Report | None = None
        self._heard_s = -_ABSENT_S
        self._until_s: float | None = None
        self._idle = False  # all that waits is on its way
        self._closing = Event()
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = _LINGER_MS
        self._socket.set_hwm(0)  # the recorder's window is the limit; a ROUTER over its mark would drop silently
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_REPORT_BYTES)
        try:
            self._socket.bind(config.record)
        except zmq.ZMQError as error:
            self._socket.close(0)
            raise endpoint_error("record", config.record, error) from None
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._thread = Thread(target=self._serve, name="record", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_go()
        self._closing.set()
        self._thread.join()
        self._socket.close()

    # ---- publish thread ----

    def offer(self, answer: Answer, header: dict[str, Any]) -> None:
        """Record an answer as it was published; never blocks, unless told to by record_hold."""
        pixels = answer.located.exposure.sent_pixels() if self._config.record_frames else None
        columns = list(answer.located.atoms.columns().values())
        answered = time.time()

        def make(number: int) -> list[Any]:
            numbered = header | {"record": number, "answered": answered}
            return encode_record("atoms", self._config.source_name, numbered, columns, pixels)

        self._lose("buffer_full", self._backlog.put(make, self._hold))

    def status(self) -> dict[str, Any]:
        """For a `status` message."""
        messages, size = self._backlog.unwritten
        return {
            "connected": self._connected,
            "written": self._written,
            "waiting": messages,
            "waiting_MB": round(size / 1e6, 3),
            "gaps": dict(self._gaps),
        }

    # ---- any thread ----

    def let_go(self) -> None:
        """The service ends: nobody is held back for much longer."""
        if self._until_s is None:
            self._until_s = time.monotonic() + _FINISH_S

    @property
    def _connected(self) -> bool:
        return time.monotonic() - self._heard_s < _ABSENT_S

    def _hold(self) -> bool:
        return self._config.record_hold and (self._until_s is None or self._worth_waiting)

    @property
    def _worth_waiting(self) -> bool:
        return self._connected and time.monotonic() < (self._until_s or 0.0)

    def _lose(self, reason: str, results: int) -> None:
        if results:
            self._gaps[reason] += results
            self._lost(reason, results)

    # ---- record thread ----

    def _serve(self) -> None:
        while not self._closing.is_set() or (self._backlog.unwritten[0] and self._worth_waiting):
            try:
                self._listen()
                self._idle = self._send()
            except Exception as error:
                self._fault("internal", error)
                self._closing.wait(_TICK_S)
        self._lose("stopping", self._backlog.drain())
        self._say("end", {"run": self._begin["run"], "last": self._backlog.number, "gaps": dict(self._gaps)})

    def _listen(self) -> None:
        """Read the reports that came; wait for a moment where there is nothing to do."""
        if self._idle:
            self._backlog.wait(_TICK_S)
        for _ in range(_MANY_REPORTS):
            if not self._socket.poll(0 if self._idle else round(_TICK_S * 1000)):
                return
            self._idle = True
            peer, *parts = self._socket.recv_multipart(zmq.NOBLOCK)
            try:
                if len(parts) != 1:
                    raise FrameError("wrong_parts", f"Expected a report of 1 part, got {len(parts)}: update both ends")
                self._read(peer, decode_report(parts[0]))
            except FrameError as error:
                self._fault(error.reason, f"record: {error}")

    def _read(self, peer: bytes, report: Report) -> None:
        known = self._report
        same = known is not None and report.recorder == known.recorder
        if not same and report.run is not None:
            # It records another run, or another recorder took its place: either way its recording is over.
            kind = "replaced" if report.run == self._begin["run"] else "begin"
            self._say(kind, self._begin, peer)
            return
        if not same and known is not None and self._connected:
            self._say("replaced", self._begin)
        if report.run == self._begin["run"]:
            self._settle(report)
        if not same or peer != self._peer:
            self._peer = peer
            first = self._backlog.again()
            if not same:
                self._say("begin", self._begin | {"first": first})
        self._report, self._heard_s = report, time.monotonic()

    def _settle(self, report: Report) -> None:
        """Book what a recorder did with the results it got."""
        self._backlog.written(report.written)
        self._written = max(self._written, min(report.written, self._backlog.number))
        for reason, results in report.lost.items():
            self._lose(reason, results)
        if report.fault:
            self._fault("record", report.fault)

    def _send(self) -> bool:
        """Send what may be on its way; whether nothing is left."""
        while self._report is not None and self._report.run and self._connected:
            entry = self._backlog.take(self._report.window)
            if entry is None:
                return not self._backlog.waits
            # COPY: none of the pixels, ZeroMQ holds on to them.
            self._socket.send_multipart([self._peer, *entry.parts], zmq.NOBLOCK, copy=False)
        return False

    def _say(self, kind: str, header: dict[str, Any], peer: bytes | None = None) -> None:
        to = self._peer if peer is None else peer
        if to:
            self._socket.send_multipart([to, *encode_record(kind, self._config.source_name, header)], zmq.NOBLOCK)
