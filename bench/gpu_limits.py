"""What a GPU can do at most: memory and arithmetic from the driver's properties, the bus from large transfers."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.roofline import Limits
from engine.device import Device
from engine.errors import DeviceError

# cuDeviceGetAttribute: clocks in kHz, the width of the memory's bus in bits.
_CLOCK, _PROCESSORS, _MEMORY_CLOCK, _MEMORY_BITS, _MAJOR, _MINOR = 13, 16, 36, 37, 75, 76
# REF: NVIDIA's architecture papers. Dense float16 operations (a multiplication and an addition are two) a clock and
# multiprocessor, in tensor cores; of an architecture that is not here its next older one's.
_PER_CLOCK = {(7, 5): 1024, (8, 0): 2048, (8, 6): 1024, (8, 9): 1024, (9, 0): 4096, (10, 0): 8192, (12, 0): 1024}
_OF_HALF = {"f32": 0.5, "f16": 1.0, "int8": 2.0}  # f32 as TF32: what the hardware could do, if fewer bits were enough
_TRANSFER_BYTES, _TRANSFERS = 256 << 20, 8


@dataclass(frozen=True, slots=True)
class Properties:
    """Of a GPU, as the driver tells them; clocks are the highest."""

    architecture: tuple[int, int]
    processors: int
    clock_Hz: float
    memory_clock_Hz: float
    memory_bits: int

    @property
    def memory_B_s(self) -> float:
        """Two transfers a clock."""
        return 2 * self.memory_clock_Hz * self.memory_bits / 8

    @property
    def operations_s(self) -> dict[str, float]:
        """By precision, dense."""
        known = [architecture for architecture in sorted(_PER_CLOCK) if architecture <= self.architecture]
        half = _PER_CLOCK[known[-1] if known else min(_PER_CLOCK)] * self.processors * self.clock_Hz
        return {precision: share * half for precision, share in _OF_HALF.items()}


def properties(driver: Any, index: int = 0) -> Properties:
    """What the driver's library says of a GPU; DeviceError where it says nothing."""

    def ask(attribute: int) -> int:
        value = ctypes.c_int(0)
        status = driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, index)
        if status or (value.value <= 0 and attribute != _MINOR):
            raise DeviceError(f"Expected attribute {attribute} of GPU {index}, got status {status}: update the driver")
        return value.value

    return Properties(
        architecture=(ask(_MAJOR), ask(_MINOR)),
        processors=ask(_PROCESSORS),
        clock_Hz=1e3 * ask(_CLOCK),
        memory_clock_Hz=1e3 * ask(_MEMORY_CLOCK),
        memory_bits=ask(_MEMORY_BITS),
    )


def limits(
    device: Device,
    found: Properties,
    size_bytes: int = _TRANSFER_BYTES,
    clock: Callable[[], float] = time.perf_counter,
) -> Limits:
    """With the bus as it is measured here; blocks for a moment."""
    here, there, stream = device.pinned((size_bytes,), np.uint8), device.zeros((size_bytes,), np.uint8), device.stream()
    up_s = timed(device, stream, lambda: device.upload(stream, there, here), _TRANSFERS, clock=clock)
    down_s = timed(device, stream, lambda: device.download(stream, here, there), _TRANSFERS, clock=clock)
    return Limits(found.memory_B_s, found.operations_s, size_bytes / up_s, size_bytes / down_s)


def timed(
    device: Device,
    stream: Any,
    step: Callable[[], None],
    repeats: int,
    *,
    captured: bool = False,
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds that the device takes for a step, the median of rounds of so many repeats.

    Captured, they are one graph: what the CPU needs to launch a small kernel is then not measured in its place.
    """
    mark = device.event()
    run = _several(device, stream, step, repeats, captured)

    def once() -> float:
        begun_s = clock()
        run()
        device.record(mark, stream)
        device.synchronize(mark)
        return (clock() - begun_s) / repeats

    run()  # what is allocated or compiled once
    device.record(mark, stream)
    device.synchronize(mark)
    return float(np.median([once() for _ in range(rounds)]))


def _several(device: Device, stream: Any, step: Callable[[], None], repeats: int, captured: bool) -> Callable[[], None]:
    def several() -> None:
        for _ in range(repeats):
            step()

    if captured:
        try:
            return device.capture(stream, several)
        except DeviceError:
            pass  # as the detector does: then launches go one by one
    return several
