"""A detector on a device: frames a second, latency, its parts, what it allocates, and whether its atoms are the CPU's.

Host frame in, atoms out, in one process. Nothing here asks which device it is: the tests have one on the CPU.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.gpu_limits import timed
from bench.roofline import Layer, Limits, floor_s, stages
from engine import Atoms, Frame
from engine.device import Device
from engine.device_plan import PLACES
from engine.gpu_detector import DevicePrepared, GpuDetector
from training.score import match

_WORKERS = PLACES + 1  # each has a frame: all places are taken, and one waits
_TOLERANCE_A = 0.5  # two atoms closer than this are one


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how often things are measured."""

    seconds: float = 3.0
    rounds: int = 5
    frames: int = 2000  # of a latency
    repeats: int = 20  # of a part


class Counting:
    """A device that counts what is allocated on it; everything else is the device's own."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.allocations = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Counted."""
        self.allocations += 1
        return self._device.zeros(shape, dtype)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Counted."""
        self.allocations += 1
        return self._device.pinned(shape, dtype)

    def constant(self, values: NDArray[Any]) -> Any:
        """Counted."""
        self.allocations += 1
        return self._device.constant(values)


def measure_speed(
    detector: GpuDetector,
    device: Counting,
    frames: Sequence[Frame],
    rate_Hz: float,
    pace: Pace,
    free_bytes: Callable[[], int],
) -> dict[str, Any]:
    """Sustained rate, latency of a frame alone and of frames at a rate, and what was allocated meanwhile."""
    for frame in itertools.islice(itertools.cycle(frames), 2 * _WORKERS):  # contexts, graphs, caches of the runtime
        detector.detect(frame)
    sustained(detector, frames, min(pace.seconds, 1.0))
    allocations, free = device.allocations, free_bytes()
    rates = [sustained(detector, frames, pace.seconds) for _ in range(pace.rounds)]
    alone = [_seconds(detector, frame) for frame in itertools.islice(itertools.cycle(frames), pace.frames)]
    at_rate = paced(detector, frames, rate_Hz, pace.frames)
    return {
        "fps": round(median(rates), 2),
        "range": [round(min(rates), 2), round(max(rates), 2)],
        "latency_ms": percentiles_ms(alone),
        "latency_ms_at_target": percentiles_ms(at_rate),
        "allocations": device.allocations - allocations,
        "memory_grown_MB": round(max(0, free - free_bytes()) / 1e6, 1),
    }


def sustained(
    detector: GpuDetector, frames: Sequence[Frame], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Frames a second with one frame in the hands of each worker."""

    def run(worker: int) -> int:
        done = 0
        while done == 0 or clock() < end_s:
            detector.detect(frames[(worker + done) % len(frames)])
            done += 1
        return done

    with ThreadPoolExecutor(_WORKERS) as workers:
        begun_s = clock()
        end_s = begun_s + seconds
        done = sum(workers.map(run, range(_WORKERS)))
        return done / (clock() - begun_s)


def paced(
    detector: GpuDetector,
    frames: Sequence[Frame],
    rate_Hz: float,
    count: int,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> list[float]:
    """Seconds from when each frame was due to its atoms, whether or not those before it were done by then."""

    def run(number: int) -> float:
        detector.detect(frames[number % len(frames)])
        return clock() - (begun_s + number / rate_Hz)

    with ThreadPoolExecutor(_WORKERS) as workers:
        begun_s = clock()
        answers = []
        for number in range(count):
            if (early_s := begun_s + number / rate_Hz - clock()) > 0:
                sleep(early_s)
            answers.append(workers.submit(run, number))
        return [answer.result() for answer in answers]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What the floors of a frame's parts are reckoned from; whether the network's runs can be captured."""

    layers: Sequence[Layer]
    precision: str
    limits: Limits
    capturable: bool


def measure_parts(detector: GpuDetector, device: Device, frame: Frame, known: Parts, repeats: int) -> dict[str, Any]:
    """Each part of a frame's way by itself: bytes, operations, time, floor, share; and what they make together."""
    prepared = detector.prepare(frame)
    assert isinstance(prepared, DevicePrepared)
    plan, place, stream = prepared.ticket.plan, prepared.ticket.place, device.stream()
    detector.locate(frame, prepared, detector.infer(prepared))
    steps = {
        "up": lambda: device.upload(stream, place.raw, place.raw_host),
        **plan.steps(stream, place),
        "down": lambda: device.download(stream, place.found_host, place.head),
    }
    captured = {"prepare", "peaks", *(["network"] if known.capturable else [])}
    floors = stages(plan, place, known.layers, known.precision, known.limits)
    parts = []
    for stage in floors:
        took_s = timed(device, stream, steps[stage.name], repeats, captured=stage.name in captured)
        parts.append(asdict(stage) | {"seconds": took_s, "share": stage.floor_s / took_s})
    computed_s = {part["name"]: part["seconds"] for part in parts if part["name"] in ("prepare", "network", "peaks")}
    share = computed_s["peaks"] / sum(computed_s.values())
    return {"parts": parts, "floor_s": floor_s(floors), "peaks_share": share}


def agreement(ours: Sequence[Atoms], reference: Sequence[Atoms], sampling_A: float) -> dict[str, Any]:
    """F1 of the one against the other over all frames, and the largest distance of two that are the same, per axis."""
    common, largest_px = 0, 0.0
    for found, expected in zip(ours, reference, strict=True):
        a, b = expected.positions.astype(np.float64), found.positions.astype(np.float64)
        pairs = match(a, b, _TOLERANCE_A / sampling_A)
        common += len(pairs)
        if len(pairs):
            largest_px = max(largest_px, float(np.abs(a[pairs[:, 0]] - b[pairs[:, 1]]).max()))
    total = sum(len(atoms) for atoms in (*ours, *reference))
    return {
        "f1": round(2 * common / total, 5) if total else 1.0,
        "largest_px": round(largest_px, 4),
        "atoms": round(sum(map(len, reference)) / max(1, len(reference))),
    }


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50 and p99."""
    p50, p99 = np.percentile(seconds, (50, 99))
    return {"p50": round(float(p50) * 1e3, 3), "p99": round(float(p99) * 1e3, 3)}


def _seconds(detector: GpuDetector, frame: Frame) -> float:
    begun_s = time.perf_counter()
    detector.detect(frame)
    return time.perf_counter() - begun_s
