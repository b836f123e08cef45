"""The live path as a user has it: sender, ZeroMQ, `atomstream serve`, each a process, ZeroMQ, and a subscriber: us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil
import zmq

from bench.recording import Recording
from stream.messages import Result, decode_result

EDGES = (20, 40)  # answers left out of a rate: queues fill first, and at the end they empty without the sender's load
_FEW = 12
_START_S = 60.0
_SILENT_S = 60.0  # without a result for so long the path has failed
_END_S = 30.0
_POLL_MS = 50
_MOST_SAID = 65_536


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer as it reached the subscriber; `latency_ms` counts from the sender's timestamp until then."""

    frame: int
    received_s: float
    latency_ms: float
    age_ms: float
    processing_ms: float
    atoms: int


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one batch of frames."""

    sent: int
    answers: list[Answered]

    def fps(self, edges: tuple[int, int] = EDGES) -> float:
        """Sustained frames a second, without so many answers at the begin and at the end."""
        inner = self.answers[edges[0] : len(self.answers) - edges[1]]
        return (len(inner) - 1) / (inner[-1].received_s - inner[0].received_s)

    def percentiles(self, value: str) -> dict[str, float]:
        """p50 and p99 of one of an answer's values, once the path has warmed up."""
        warm = min(EDGES[0], len(self.answers) // 2)
        values = [getattr(answer, value) for answer in self.answers[warm:]]
        p50, p99 = np.percentile(values, (50, 99))
        return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}


class LivePath:
    """`atomstream serve` in a process of its own and a subscriber to it. A context manager.

    Parameters
    ----------
    model, precision : str
        As `serve` takes them.
    policy : str
        "lossless" listens to a PUSH, "latest" to a PUB.
    threads : int
        Of the network.
    """

    def __init__(self, model: str, precision: str, threads: int, policy: str = "lossless") -> None:
        self._socket = "push" if policy == "lossless" else "pub"
        self._options = [
            f"--model={model}",
            f"--precision={precision}",
            f"--threads={threads}",
            f"--policy={policy}",
            f"--socket={'pull' if policy == 'lossless' else 'sub'}",
            "--input=tcp://127.0.0.1:*",
            "--input-role=bind",
            "--output=tcp://127.0.0.1:*",
            "--send-hwm=100000",  # what a slow subscriber loses is no loss of the path
            "--metrics-port=0",
        ]
        self._series = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._said = stack.enter_context(tempfile.TemporaryFile())
            command = [sys.executable, "-c", "from stream.demo import child; child()", "serve"]
            self._process = subprocess.Popen([*command, *self._options], stdout=self._said, stderr=subprocess.STDOUT)
            stack.callback(self._end)
            self._input, output = self._endpoints()
            context = stack.enter_context(zmq.Context())
            self._results = stack.enter_context(context.socket(zmq.SUB))
            self._results.linger = 0
            self._results.rcvhwm = 0
            for kind in ("atoms", "status"):
                self._results.setsockopt_string(zmq.SUBSCRIBE, kind)
            self._results.connect(output)
            self._await("status")
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    def resident_MB(self) -> float:
        """Memory of the serving process, in 10^6 bytes."""
        return float(psutil.Process(self._process.pid).memory_info().rss / 1e6)

    def run(
        self,
        recording: Recording,
        count: int,
        rate_Hz: float = 0.0,
        pause_s: float = 0.0,
        watch: Callable[[Answered], None] = lambda answer: None,
    ) -> Run:
        """Send so many frames as a series of their own, as fast as they are taken unless a rate is given.

        Returns once the last of them is answered; `watch` is told of each answer.
        """
        self._series += 1
        answers: list[Answered] = []
        with self._sender(recording, count, rate_Hz, pause_s) as sender:
            try:
                while not answers or answers[-1].frame < count - 1:
                    answers.append(_answered(self._await("atoms")))
                    watch(answers[-1])
                sent = json.loads(sender.communicate(timeout=_END_S)[0])
            finally:
                sender.kill()  # where it still waits for a receiver that is gone
        return Run(sent["frames"], answers)

    def books(self) -> dict[str, Any]:
        """The header of the next status."""
        return self._await("status").header

    def _sender(self, recording: Recording, count: int, rate_Hz: float, pause_s: float) -> subprocess.Popen[str]:
        header = recording.header | {"series": self._series}
        command = [sys.executable, "-m", "bench.sender", str(recording.path), f"--endpoint={self._input}"]
        options = [f"--socket={self._socket}", f"--count={count}", f"--rate={rate_Hz}", f"--pause={pause_s}"]
        return subprocess.Popen([*command, *options, "--header", json.dumps(header)], stdout=subprocess.PIPE, text=True)

    def _await(self, kind: str) -> Result:
        """The next result of a kind; those of the other are passed over."""
        deadline_s = time.monotonic() + _SILENT_S
        while self._process.poll() is None and time.monotonic() < deadline_s:
            if self._results.poll(_POLL_MS):
                result = decode_result(self._results.recv_multipart())
                if result.kind == kind:
                    return result
        raise RuntimeError(f"Expected {kind} of serve, got none: {self._words()}")

    def _endpoints(self) -> tuple[str, str]:
        """The first line that serve says names both."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            first, complete, _ = self._words().partition("\n")
            if complete and first.startswith("Frames from "):
                frames, _, atoms = first.removeprefix("Frames from ").partition(", atoms at ")
                return frames, atoms
            time.sleep(_POLL_MS / 1000)
        raise RuntimeError(f"Expected serve to start, got: {self._words()}")

    def _words(self) -> str:
        # Not by seek and read: the child writes at the position of the same open file.
        return os.pread(self._said.fileno(), _MOST_SAID, 0).decode(errors="replace")

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def sustained(
    path: LivePath, recording: Recording, seconds: float, edges: tuple[int, int] = EDGES
) -> Callable[[], float]:
    """A measurement of the path's rate over about so many seconds; what compiles is run at once."""
    path.run(recording, 1)
    guessed = path.run(recording, _FEW).fps((1, 0))
    count = sum(edges) + max(_FEW, round(guessed * seconds))
    return lambda: path.run(recording, count).fps(edges)


def _answered(result: Result) -> Answered:
    now_s, header = time.time(), result.header
    return Answered(
        frame=header["frame"],
        received_s=now_s,
        latency_ms=(now_s - header["timestamp"]) * 1e3,
        age_ms=header["age_ms"],
        processing_ms=sum(ms for stage, ms in header["stages_ms"].items() if stage != "wait"),
        atoms=len(result.arrays["y"]),
    )
