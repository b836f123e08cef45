"""What frames cost before the engine sees them: read from their bytes, and received, with no engine behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from statistics import median
from typing import Any

import bitshuffle
import numpy as np
import zmq
from numpy.typing import NDArray

from bench.recording import Recording, record
from bench.rounds import Rate, interleave, repeated, summary
from bench.setting import Setting
from stream.accounting import Accounting
from stream.config import ServeConfig
from stream.intake import Intake
from stream.messages import decode, encode
from stream.metrics import Metrics
from stream.receiver import Receiver
from stream.references import References

_LARGE, _SMALL, _SAMPLING_A = (1024, 1024), (512, 512), 0.1
_WAIT_S = 10.0
_MOST_BYTES = 10_000_000
_EDGE = 50  # frames until queues have filled


def measure_decoding(setting: Setting) -> dict[str, Any]:
    """Milliseconds a frame of 1024 x 1024 by encoding; frames of 512 x 512 a second that one core receives."""
    pixels = np.load(record(setting.folder, _LARGE, _SAMPLING_A).path)[0]
    raw, packed = messages(pixels)
    measurements: dict[str, Rate] = {
        "raw": repeated(lambda: decode(raw), setting.seconds / 4),
        "bslz4": repeated(lambda: decode(packed), setting.seconds / 4),
    }
    rates = interleave(measurements, setting.rounds)
    received = [receive(record(setting.folder, _SMALL, _SAMPLING_A), setting.seconds) for _ in range(setting.rounds)]
    result = {f"{name}_ms": round(1e3 / median(values), 4) for name, values in rates.items()}
    result |= {"received": summary(received), "packed_share": round(len(packed[1]) / pixels.nbytes, 3)}
    setting.say(f"decoding: {result}")
    return result


def messages(pixels: NDArray[np.uint16]) -> tuple[list[bytes | memoryview], list[bytes | memoryview]]:
    """One frame as it is, and packed with bitshuffle-LZ4."""
    packed = encode(pixels, frame=0, encoding="bslz4")
    return encode(pixels, frame=0), [packed[0], bitshuffle.compress_lz4(pixels).tobytes()]


def receive(recording: Recording, seconds: float) -> float:
    """Frames a second from the socket to an exposure, on one core; the sender has another."""
    config = ServeConfig(policy="lossless", socket="pull")
    accounting, metrics = Accounting(), Metrics("bench", "none", "none", (), lambda: 0)
    intake = Intake(config, References(), accounting, metrics)
    cores = sorted(os.sched_getaffinity(0))
    with (
        zmq.Context() as context,
        Receiver(
            context,
            "tcp://127.0.0.1:*",
            socket="pull",
            role="bind",
            hwm=config.receive_hwm,
            max_bytes=_MOST_BYTES,
            fault=_fail,
        ) as receiver,
        subprocess.Popen(_sender(recording, receiver.endpoint), stdout=subprocess.DEVNULL) as sender,
    ):
        os.sched_setaffinity(sender.pid, cores[-1:])
        threads = [int(name) for name in os.listdir("/proc/self/task")]
        for thread in threads:  # ZeroMQ's own too
            os.sched_setaffinity(thread, cores[:1])
        try:
            for _ in range(_EDGE):
                _take(receiver, intake)
            done, begun_s = 0, time.perf_counter()
            while (passed_s := time.perf_counter() - begun_s) < seconds:
                _take(receiver, intake)
                done += 1
        finally:
            sender.kill()
            for thread in threads:
                os.sched_setaffinity(thread, cores)
    return done / passed_s


def _sender(recording: Recording, endpoint: str) -> list[str]:
    header = json.dumps(recording.header | {"series": 1})
    return [
        *(sys.executable, "-m", "bench.sender", str(recording.path)),
        *("--endpoint", endpoint, "--count", "1000000", "--header", header),
    ]


def _take(receiver: Receiver, intake: Intake) -> None:
    parts = receiver.receive(_WAIT_S)
    if parts is None:
        raise RuntimeError(f"Expected frames of the sender, got none in {_WAIT_S:g} s")
    for message in intake.split(parts):
        intake.expose(message, time.perf_counter(), time.time())


def _fail(fault: str) -> None:
    print(fault, file=sys.stderr)
