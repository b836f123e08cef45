"""Does `atomstream record` keep up: results of 1,500 atoms as `serve` offers them, into a file, by their rate."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import zmq

from bench.rounds import interleave, summary
from bench.setting import Setting
from engine import Atoms
from stream.archived import Archived
from stream.channel import RecordChannel
from stream.config import ServeConfig

ATOMS, RATE_HZ = 1500, 200.0
_SHAPE = (512, 512)
_WAIT_S = 60.0
_TICK_S = 0.01
_PART = "recorder"


class Recording:
    """serve's side, without what finds the atoms: answers made beforehand, offered to a recorder of its own process.

    A context manager.
    """

    def __init__(self, context: zmq.Context[Any], path: Path, pixels: bool) -> None:
        config = ServeConfig(
            policy="lossless", socket="pull", record="tcp://127.0.0.1:*", record_frames=pixels, record_hold=True
        )
        self.path = path
        self.offered = 0
        self._answers = _answers()
        self._channel = RecordChannel(context, config, _begin(), _lost, _said)

    def __enter__(self) -> Recording:
        self._channel.__enter__()
        command = ["record", f"--endpoint={self._channel.endpoint}", f"--output={self.path}", "--reserve-MB=1"]
        code = "from stream.demo import child; child()"
        self._recorder = subprocess.Popen([sys.executable, "-c", code, *command], stderr=subprocess.PIPE, text=True)
        try:
            self._until(lambda: self.status["connected"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.__exit__(None, None, None)
        try:
            self._recorder.communicate(timeout=_WAIT_S)
        finally:
            self._recorder.kill()

    @property
    def status(self) -> dict[str, Any]:
        """As `serve` publishes it."""
        return self._channel.status()

    def offer(self) -> None:
        """The next answer."""
        self.offered += 1
        answer = self._answers[self.offered % len(self._answers)]
        self._channel.offer(answer, _header(self.offered))

    def settle(self) -> None:
        """Wait until all that was offered is on the disk."""
        self._until(lambda: self.status["written"] >= self.offered)

    def _until(self, condition: Any) -> None:
        end_s = time.monotonic() + _WAIT_S
        while not condition():
            if time.monotonic() > end_s or self._recorder.poll() is not None:
                raise RuntimeError(f"Expected the recorder to go on, got {self.status}: see what it said")
            time.sleep(_TICK_S)


def measure_recorder(setting: Setting) -> dict[str, Any]:
    """As fast as it is taken, results alone and with their frames in turn; then at the rate that is asked for."""
    with zmq.Context() as context:
        number = iter(range(1_000_000))

        def fastest(pixels: bool) -> float:
            with recording(context, setting, next(number), pixels) as one:
                return _fastest(one, setting.seconds)

        rates = interleave({"results": lambda: fastest(False), "with_frames": lambda: fastest(True)}, setting.rounds)
        with recording(context, setting, next(number), False) as steady:
            result: dict[str, Any] = {"atoms": ATOMS, "asked_fps": RATE_HZ, **at_rate(steady, setting.latency_s)}
        result |= {name: summary(values) for name, values in rates.items()}
    setting.say(f"recorder: {result}")
    return result


@contextmanager
def recording(context: zmq.Context[Any], setting: Setting, number: int, pixels: bool) -> Iterator[Recording]:
    """One recording; its file is removed at the end."""
    path = setting.folder / f"{_PART}{number}.h5"
    try:
        with Recording(context, path, pixels) as one:
            yield one
    finally:
        path.unlink(missing_ok=True)


def _fastest(one: Recording, seconds: float) -> float:
    begun_s = time.perf_counter()
    while time.perf_counter() - begun_s < seconds:
        one.offer()
    one.settle()
    return one.offered / (time.perf_counter() - begun_s)


def at_rate(one: Recording, seconds: float) -> dict[str, Any]:
    """What waited at most, how soon the last was on the disk, and what is not in the file."""
    waited = 0
    begun_s = time.perf_counter()
    count = max(1, round(seconds * RATE_HZ))
    for number in range(count):
        time.sleep(max(0.0, begun_s + number / RATE_HZ - time.perf_counter()))
        one.offer()
        waited = max(waited, one.status["waiting"])
    offered_s = time.perf_counter() - begun_s
    one.settle()
    settled_s = time.perf_counter() - begun_s - offered_s
    with Archived(one.path) as archived:
        found = sum(1 for _ in archived)
        gaps = sum(gap.count for gap in archived.gaps())
    return {
        "offered": count,
        "offered_fps": round(count / offered_s, 1),
        "waited": waited,
        "settled_s": round(settled_s, 3),
        "lost": count - found,
        "gaps": gaps,
    }


def _answers() -> list[Any]:
    """Atoms that differ, and frames of a few counts a pixel."""
    rng = np.random.default_rng(0)
    return [SimpleNamespace(located=SimpleNamespace(atoms=_atoms(rng), exposure=_exposure(rng))) for _ in range(8)]


def _atoms(rng: np.random.Generator) -> Atoms:
    y, x, score, sigma_pm = (rng.uniform(0, most, ATOMS).astype(np.float32) for most in (512, 512, 1, 20))
    none = np.zeros(ATOMS, np.uint8)
    return Atoms(y, x, none, score, sigma_pm, np.ones(ATOMS, np.float32), none)


def _exposure(rng: np.random.Generator) -> Any:
    pixels = rng.poisson(100, _SHAPE).astype(np.uint16)
    return SimpleNamespace(sent_pixels=lambda: pixels)


def _begin() -> dict[str, Any]:
    return {
        "model": {"name": "bench", "version": "1", "sha256": None},
        "classes": ["C"],
        "backend": "none",
        "spec": {},
        "configuration": {},
    }


def _header(number: int) -> dict[str, Any]:
    """What an answer's message says of it, in its usual length."""
    columns = Atoms.none().columns().items()
    return {
        "frame": number,
        "series": "bench",
        "timestamp": time.time(),
        "shape": list(_SHAPE),
        "sampling_A": 0.1,
        "count": ATOMS,
        "columns": [{"name": name, "dtype": column.dtype.str, "unit": ""} for name, column in columns],
        "dose_e_A2": 1e4,
        "stages_ms": dict.fromkeys(("decode", "wait", "prepare", "network", "locate"), 1.0),
        "latency_ms": 10.0,
        "in_time": True,
        "warnings": [],
        "header": {},
    }


def _lost(reason: str, results: int) -> None:
    """In the gaps of the status."""


def _said(reason: str, message: Exception | str) -> None:
    print(f"{reason}: {message}", file=sys.stderr)
