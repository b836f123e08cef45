"""A detector without a network, a service around it, and peers that send frames and collect results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray

from engine.atoms import Atoms
from engine.errors import FrameError
from engine.frame import Frame
from engine.network import Maps
from engine.prepare import Prepared
from engine.spec import ModelSpec
from stream.config import ServeConfig
from stream.messages import Result, decode_result, encode
from stream.service import Service
from stream.source import Source

PATIENCE_S = 60.0
ANY_PORT = "tcp://127.0.0.1:*"

SPEC = ModelSpec(
    name="fake",
    version="1",
    family="test",
    licence="BSD-3-Clause",
    classes=("C",),
    channels=1,
    sampling_A=0.2,
    level_A=12.0,
    normalise_A=12.0,
    stride=2,
    multiple=16,
    threshold=0.5,
    separation_A=0.8,
    trained={"sampling_A": (0.05, 0.75)},
)

TRIPLETS = replace(SPEC, channels=3)


@dataclass
class FakeDetector:
    """Finds one atom at (1, 2); its x says how bright the frame is. Each step can be held."""

    spec: ModelSpec = SPEC
    backend: str = "fake f32"
    places: int = 0
    before_infer: Callable[[Prepared], None] = lambda prepared: None
    before_locate: Callable[[Frame], None] = lambda frame: None
    seen: list[Frame] = field(default_factory=list)

    def check(self, frame: Frame) -> tuple[str, ...]:
        if frame.sampling_A > 1:
            raise FrameError("sampling_out_of_range", f"Model fake expects up to 1 A/px, got {frame.sampling_A}")
        return ("Model fake expects a sampling of up to 0.75 A/px",) if frame.sampling_A > 0.75 else ()

    def prepare(self, frame: Frame) -> Prepared:
        self.seen.append(frame)
        return Prepared(np.zeros((1, 1, 16, 16), np.float32), (1.0, 1.0), (16, 16))

    def infer(self, prepared: Prepared) -> Maps:
        self.before_infer(prepared)
        return Maps(np.zeros((6, 8, 8), np.float32))

    def locate(self, frame: Frame, prepared: Prepared, maps: Maps) -> Atoms:
        self.before_locate(frame)
        one = np.ones(1, np.float32)
        bright = np.array([frame.pixels.mean()], np.float32)
        return Atoms(one, bright, np.zeros(1, np.uint8), one, 10 * one, one, np.zeros(1, np.uint8))


class Gate:
    """Holds whoever passes until it is opened, and says that someone stands before it."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, _: object) -> None:
        self.reached.set()
        assert self.open.wait(PATIENCE_S)


class SideBySide:
    """Counts, for each who passes, how many are inside with it."""

    def __init__(self, wait: Callable[[Any], None]) -> None:
        self._wait = wait
        self._inside: list[int] = []
        self.numbers: list[int] = []

    def __call__(self, prepared: object) -> None:
        self._inside.append(1)
        self.numbers.append(len(self._inside))
        self._wait(prepared)
        self._inside.pop()


@dataclass
class Bench:
    """A running service with one sender and one subscriber."""

    service: Service
    sender: zmq.Socket[bytes]
    results: zmq.Socket[bytes]
    stop: Callable[[], None]  # ends the service; what it published can still be read

    @property
    def source(self) -> Source:
        """The one that the frames are sent to."""
        return self.service.sources[0]

    @property
    def endpoints(self) -> tuple[str, str]:
        """Where frames go in, where results come out."""
        return self.source.endpoint, self.service.endpoint

    def send(self, number: int, pixels: NDArray[Any] | None = None, **keys: Any) -> None:
        """One frame, of 4 x 5 pixels that hold its number unless told."""
        pixels = np.full((4, 5), number, np.uint16) if pixels is None else pixels
        self.sender.send_multipart(encode(pixels, frame=number, **({"sampling": 0.2} | keys)))

    def next(self, *kinds: str) -> Result:
        """The next result of these kinds; others are passed over."""
        while True:
            result = decode_result(self.results.recv_multipart())
            if result.kind in kinds:
                return result

    def until_settled(self, frames: int) -> dict[str, int]:
        """Wait until so many frames are answered or dropped; the drops by reason."""
        accounting = self.source.accounting
        wait_until(lambda: (totals := accounting.totals()).waiting == 0 and totals.received >= frames)
        return accounting.totals().dropped


@contextmanager
def bench(detector: FakeDetector | None = None, **options: Any) -> Iterator[Bench]:
    """A service in this process, on ports that the system chose; its subscriber outlives it."""
    options = {"socket": "pull", "status_interval": 0.05, "metrics_port": 0} | options
    config = ServeConfig(input=ANY_PORT, input_role="bind", output=ANY_PORT, **options)
    with zmq.Context() as context, context.socket(zmq.SUB) as results:
        results.linger, results.rcvtimeo, results.rcvhwm = 0, round(PATIENCE_S * 1000), 100_000
        results.subscribe(b"")
        with ExitStack() as running:
            service = running.enter_context(Service([config], [detector or FakeDetector()]))  # type: ignore[list-item]
            results.connect(service.endpoint)
            with context.socket(zmq.PUSH if config.socket == "pull" else zmq.PUB) as sender:
                sender.linger, sender.sndtimeo = 0, round(PATIENCE_S * 1000)
                sender.connect(service.sources[0].endpoint)
                made = Bench(service, sender, results, running.close)
                made.next("status")  # the subscription has arrived
                yield made


def wait_until(condition: Callable[[], bool]) -> None:
    """Returns once it holds; an AssertionError if it never does."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.002)
