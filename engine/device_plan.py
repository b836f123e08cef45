"""All that frames of one kind need on the device, allocated once: tables, buffers, places for frames on their way.

`Plan.run` puts a frame's whole computation into a stream. Nothing here waits for the device.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.candidates import CANDIDATE, parameters
from engine.device import Array, Device, Stream
from engine.device_prepare import Preparation
from engine.errors import DeviceError, FrameError
from engine.network import MAPS
from engine.spec import ModelSpec
from engine.strips import REACH_A, Strip, cut, least_pixels

PLACES = 3  # frames on their way: one is uploaded, one computed, one read

_LIKELY = 8  # of so many cells one holds a candidate, at most; more are fetched in a second step
_LEAST_ROWS = 1024
_CAPTURE_AGAIN = 100  # runs after one that could not be captured: what was in its way is soon over, and a try is cheap
_LOG = logging.getLogger("atomstream")


class DeviceNetwork(Protocol):
    """A network that runs on device memory; its detector lets in one thread at a time."""

    @property
    def backend(self) -> str:
        """Runtime and precision."""

    @property
    def capturable(self) -> bool:
        """Whether a run can become part of a graph now; may change from run to run."""

    def ready(self, size: tuple[int, int]) -> None:
        """Return where this size can be run; FrameError where it cannot yet."""

    def finish(self) -> None:
        """Block until nothing is built any more that a size which was not ready asked for."""

    def bind(self, stream: Stream, pixels: Array, maps: Array) -> Callable[[Stream], None]:
        """What puts a run from these (1, C, H, W) pixels to these (1, M, h, w) maps, float32, into a stream."""

    def close(self) -> None:
        """Free what it holds."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What frames have in common that one plan serves.

    Attributes
    ----------
    shape : (int, int, int)
        Images, height, width.
    to : (int, int)
        Of the part of the network's input that holds the frame.
    dtype : str
        As uploaded.
    masked : bool
    sampling_A : float
    """

    shape: tuple[int, int, int]
    to: tuple[int, int]
    dtype: str
    masked: bool
    sampling_A: float

    def __str__(self) -> str:
        height, width = self.shape[1:]
        return f"{height} x {width} {self.dtype}{' masked' * self.masked} at {self.sampling_A:g} A/px"

    @property
    def item_bytes(self) -> int:
        """Of a pixel as uploaded."""
        return np.dtype(self.dtype).itemsize

    @property
    def holes(self) -> bool:
        """Whether pixels may be masked or no count."""
        return self.masked or np.dtype(self.dtype).kind == "f"


class Place:
    """Memory of one frame on its way, on both sides of the bus."""

    def __init__(self, device: Device, kind: Kind, cells: int) -> None:
        frame = kind.shape[1:]
        self.raw_host, self.raw = device.pinned(kind.shape, kind.dtype), device.zeros(kind.shape, kind.dtype)
        self.mask_host = device.pinned(frame, np.uint8) if kind.masked else None
        self.mask = device.zeros(frame, np.uint8) if kind.masked else None
        rows = 1 + min(cells, max(_LEAST_ROWS, cells // _LIKELY))
        self.found = device.zeros(((1 + cells) * CANDIDATE.itemsize,), np.uint8)
        self.found_host = device.pinned((rows * CANDIDATE.itemsize,), np.uint8)
        self.uploaded, self.done = device.event(), device.event()
        self.graph: Callable[[], None] | None = None
        self.ran = False  # to the end, once
        self.located = True  # else its last frame was dropped on the way, and may still be read from here

    @property
    def head(self) -> Array:
        """The part of `found` that is always fetched."""
        return self.found[: self.found_host.size]


class Plan:
    """Tables and buffers for frames of one kind.

    Parameters
    ----------
    most_pixels : int
        Network pixels that may be run at once; more are run in strips.
    budget_pixels : int, optional
        As many may be run where strips of `most_pixels` would be lower than strips can be.
    """

    def __init__(
        self,
        device: Device,
        spec: ModelSpec,
        network: DeviceNetwork,
        kind: Kind,
        most_pixels: int,
        budget_pixels: int = 0,
    ) -> None:
        self.kind, self._device, self._spec, self._network = kind, device, spec, network
        channels, height, width = kind.shape
        self.padded = tuple(-(-size // spec.multiple) * spec.multiple for size in kind.to)
        self.cells = tuple(-(-size // spec.stride) for size in kind.to)
        self.scale = (height / kind.to[0], width / kind.to[1])
        reach = math.ceil(REACH_A / spec.sampling_A)
        whole = self.padded[0], self.padded[1]
        self.least_pixels = least_pixels(whole, reach, spec.multiple)
        most_pixels = max(most_pixels, min(self.least_pixels, budget_pixels))
        self._strips = cut(whole, most_pixels, reach, spec.multiple)
        self.strip_size = (self._strips[0].bottom - self._strips[0].top, self.padded[1])

        classes = len(spec.classes) if len(spec.classes) > 1 else 0
        rows, columns = (size // spec.stride for size in self.padded)
        self.input = device.zeros((1, channels, *self.padded), np.float32)
        self.maps = device.zeros((1, MAPS + classes, rows, columns), np.float32)
        if len(self._strips) > 1:
            strip_rows = self.strip_size[0] // spec.stride
            self._strip_input = device.zeros((1, channels, *self.strip_size), np.float32)
            self._strip_maps = device.zeros((1, MAPS + classes, strip_rows, columns), np.float32)
        dtype = np.dtype(kind.dtype)
        self._preparation = Preparation(device, spec, (height, width), kind.to, dtype, kind.holes)
        self._contrast = device.zeros((1,), np.int32)
        self._threshold = device.constant(np.full(max(1, classes), spec.threshold, np.float32))
        count = math.prod(self.cells)
        self._parameters = device.constant(
            parameters(
                spec,
                cells=(self.cells[0], self.cells[1]),
                padded=(rows, columns),
                frame_shape=(height, width),
                scale=self.scale,
                sampling_A=kind.sampling_A,
                capacity=count,
            )
        )
        self._runs, self._capture_from = 0, 0
        self._enqueue: Callable[[Stream], None] | None = None
        self.free: SimpleQueue[Place] = SimpleQueue()
        for _ in range(PLACES):
            self.free.put(Place(device, kind, count))

    @property
    def is_idle(self) -> bool:
        """Whether none of its frames is on its way."""
        return self.free.qsize() == PLACES

    @property
    def bound(self) -> bool:
        """Whether the network was put onto this plan's buffers, and so need not be ready for another."""
        return self._enqueue is not None

    def run(self, stream: Stream, place: Place) -> None:
        """Put a frame into the stream, from its raw pixels on the device to its candidates in host memory."""
        self._runs += 1
        # The first run makes contexts and compiles; then the launches of a place never change, and become one graph.
        if place.graph is None and place.ran and self.bound and self._may_capture():
            place.graph = self._capture(stream, place)
        if place.graph is not None:
            place.graph()
        else:
            self._steps(stream, place)
            place.ran = True
        self._device.download(stream, place.found_host, place.head)

    def _may_capture(self) -> bool:
        return self._runs >= self._capture_from and self._network.capturable

    def _capture(self, stream: Stream, place: Place) -> Callable[[], None] | None:
        try:
            return self._device.capture(stream, lambda: self._steps(stream, place))
        except (DeviceError, FrameError) as error:  # a graph takes memory too: launches may go without
            # Once: where it never can be, every hundredth frame would say so.
            level = logging.DEBUG if self._capture_from else logging.WARNING
            _LOG.log(level, "No CUDA graph for now, launches go one by one: %s", error)
            self._capture_from = self._runs + _CAPTURE_AGAIN
            return None

    def steps(self, stream: Stream, place: Place) -> dict[str, Callable[[], None]]:
        """What a frame's computation is made of, by name and in order; each puts its part into the stream."""
        return {
            "prepare": lambda: self._prepare(stream, place),
            "network": lambda: self._run_network(stream),
            "peaks": lambda: self._find_peaks(stream, place),
        }

    def _steps(self, stream: Stream, place: Place) -> None:
        for step in self.steps(stream, place).values():
            step()

    def _prepare(self, stream: Stream, place: Place) -> None:
        self._device.launch(stream, "begin", 1, self._contrast, place.found)
        for channel in range(self.kind.shape[0]):
            out = self.input[0, channel]
            self._preparation.run(stream, place.raw[channel], place.mask, self._contrast, out)

    def _find_peaks(self, stream: Stream, place: Place) -> None:
        arguments = (self.maps, self._threshold, self._contrast, self._parameters, place.found)
        self._device.launch(stream, "peaks", math.prod(self.cells), *arguments)

    def _run_network(self, stream: Stream) -> None:
        for strip in self._strips:
            self._run_strip(stream, strip)

    def _run_strip(self, stream: Stream, strip: Strip) -> None:
        enqueue = self._bound(stream)
        if len(self._strips) == 1:
            enqueue(stream)
            return
        top, first, last = (row // self._spec.stride for row in (strip.top, strip.first, strip.last))
        # COPY: a strip of several images is not in one piece, and its maps' rows go between those of others.
        self._device.copy(stream, self._strip_input, self.input[:, :, strip.top : strip.bottom])
        enqueue(stream)
        self._device.copy(stream, self.maps[:, :, first:last], self._strip_maps[:, :, first - top : last - top])

    def _bound(self, stream: Stream) -> Callable[[Stream], None]:
        """The network on this plan's own buffers, for good: a graph that was captured must find them as they were."""
        if self._enqueue is None:
            whole = len(self._strips) == 1
            buffers = (self.input, self.maps) if whole else (self._strip_input, self._strip_maps)
            self._enqueue = self._network.bind(stream, *buffers)
        return self._enqueue


class Ledger:
    """A device that only counts what a `Plan` would take of its memory, in bytes."""

    def __init__(self) -> None:
        self.bytes = 0

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        self.bytes += math.prod(shape) * np.dtype(dtype).itemsize
        return self.pinned(shape, dtype)

    def constant(self, values: NDArray[Any]) -> Array:
        self.bytes += values.nbytes
        return values

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        return np.broadcast_to(np.zeros((), dtype), shape)

    def event(self) -> None:
        pass


def candidates_in(found: NDArray[np.uint8]) -> tuple[int, NDArray[Any]]:
    """How many candidates the kernel counted, and those of them that are here."""
    rows = found.view(CANDIDATE)
    count = int(rows[0]["cell"])
    return count, rows[1 : 1 + count]
