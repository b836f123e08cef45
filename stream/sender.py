"""Frames out as acquisition software sends them: PUB or PUSH, bind or connect, at a steady rate. The caller's thread.

Shared by `camera`, `replay` and `follow`, which only make the frames.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import zmq
from numpy.typing import NDArray

from engine.errors import ConfigError
from stream.config import check_port
from stream.messages import encode

ENDPOINT = "tcp://127.0.0.1:5555"
RATE_HZ = 25.0  # where nothing says another
_QUEUE_FRAMES = 16  # what ZeroMQ may hold for one receiver
_LINGER_S = 30.0  # what is sent still gets out when the sender ends

Exposure = tuple[NDArray[Any], dict[str, Any]]  # pixels, and what the header says beside frame and timestamp
Damaged = tuple[None, dict[str, Any]]  # a frame that cannot be read: skipped and counted


class Sender:
    """The sending socket. A context manager; only an interrupt drops what has not left yet.

    `patient`: PUB too blocks while a subscriber is behind, where it would lose frames else.
    """

    def __init__(self, endpoint: str = ENDPOINT, socket: str = "pub", bind: bool = True, patient: bool = False) -> None:
        check_port("bind" if bind else "connect", endpoint)
        self._context = zmq.Context()
        # XPUB is a PUB that hears of its subscribers.
        self._socket = self._context.socket(zmq.XPUB if socket == "pub" else zmq.PUSH)
        self._socket.sndhwm = _QUEUE_FRAMES
        self._socket.linger = 0
        if socket == "pub" and patient:
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # queue for receivers that are there, not for those that may come
        try:
            (self._socket.bind if bind else self._socket.connect)(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(
                f"Expected an endpoint to {'bind' if bind else 'connect'} such as {ENDPOINT}, got {endpoint!r} "
                f"({error.strerror or error}): choose another"
            ) from None
        self.endpoint = self._socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def wait_for_receiver(self) -> None:
        """Block until someone subscribes; PUSH waits by itself when it sends."""
        if self._socket.type == zmq.XPUB:
            while not self._socket.recv().startswith(b"\x01"):
                pass

    def send(self, parts: list[bytes | memoryview]) -> None:
        """Send one message; PUSH blocks while no receiver takes it, PUB loses it, unless it is patient.

        The pixels must not change after.
        """
        self._socket.send_multipart(parts, copy=False)

    def close(self, linger_s: float = 0.0) -> None:
        """Close, after what is queued has left or `linger_s` are over."""
        self._socket.close(linger=round(linger_s * 1000))
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(0.0 if kind is not None and issubclass(kind, KeyboardInterrupt) else _LINGER_S)


@dataclass(slots=True)
class Sent:
    """How many frames went out, in what time, and how many could not be read."""

    frames: int = 0
    seconds: float = 0.0
    skipped: int = 0

    def __str__(self) -> str:
        rate = f", {(self.frames - 1) / self.seconds:.1f} frames/s" if self.frames > 1 and self.seconds > 0 else ""
        skipped = f", {self.skipped} skipped that cannot be read" if self.skipped else ""
        return f"{self.frames} frames sent in {self.seconds:.2f} s{rate}{skipped}"


def send_frames(
    exposures: Iterable[Exposure | Damaged],
    sender: Sender,
    rate_Hz: float | None,
    sent: Sent,
    *,
    hold: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Number, stamp and send every exposure, at `rate_Hz` or, where that is 0, as fast as they are taken.

    Where it is None, each `frame_interval` of a header says when the next frame is due.

    `sent` counts while it runs, so that an interrupt does not lose the count. `hold` is called before every frame and
    returns once that may leave. Who falls behind goes on at the same rate: a burst to make up for it is nothing that a
    camera does. A frame that cannot be read keeps its number, so that the receiver counts it as missing.
    """
    interval_s = 1 / rate_Hz if rate_Hz else 0.0
    started = due = clock()
    for pixels, header in exposures:
        if rate_Hz is None:
            interval_s = header.get("frame_interval", 0.0)
        hold()
        late = clock() - due
        if late < 0:
            sleep(-late)
        elif late > interval_s:
            due += late
        number = sent.frames + sent.skipped
        if pixels is None:
            sent.skipped += 1
        else:
            sender.send(encode(pixels, frame=number, timestamp=now(), **header))
            sent.frames += 1
        sent.seconds = clock() - started
        due += interval_s


def run_sender(
    exposures: Iterable[Exposure | Damaged],
    options: argparse.Namespace,
    hold: Callable[[], None] = lambda: None,
    about: Sequence[str] = (),
) -> int:
    """Wait for a receiver, send everything, say on stderr what went out; Ctrl-C ends it as cleanly.

    The lines `about` what is sent are said once the socket is there. The exit status: 2 where a frame was skipped.
    """
    sent = Sent()
    bind = options.connect is None
    endpoint = options.bind if bind else options.connect
    opened = Sender(endpoint, options.socket, bind, patient=options.rate == 0)
    try:
        with opened as sender:
            for line in about:
                print(line, file=sys.stderr, flush=True)
            how = f"{options.socket.upper()} {'bound to' if bind else 'connected to'} {sender.endpoint}"
            print(f"{how}, waiting for a receiver", file=sys.stderr, flush=True)
            sender.wait_for_receiver()
            send_frames(exposures, sender, options.rate, sent, hold=hold)
    except KeyboardInterrupt:
        pass
    finally:
        print(sent, file=sys.stderr, flush=True)
    return 2 if sent.skipped else 0


def add_sender_arguments(
    parser: argparse.ArgumentParser, rate_Hz: float | None = RATE_HZ, said: str | None = None
) -> None:
    """The flags of a sender; `said` is what the default of --rate is called, where it is no number."""
    rate = f"frames a second; 0: as fast as they are taken ({said or f'{rate_Hz:g}'})"
    parser.add_argument("--rate", type=_rate, default=rate_Hz, help=rate)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--bind", default=ENDPOINT, metavar="ENDPOINT", help=f"wait for receivers here ({ENDPOINT})")
    where.add_argument("--connect", metavar="ENDPOINT", help="or go to a receiver that waits there")
    parser.add_argument(
        "--socket", choices=("pub", "push"), default="pub", help="push loses no frame at any rate (pub)"
    )


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 <= rate <= 1e5:
        raise argparse.ArgumentTypeError(f"expected 0 to 100000 frames a second, got {text}")
    return rate
