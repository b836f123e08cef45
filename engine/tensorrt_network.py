"""A network as TensorRT engines: loaded from the cache or built, run on a stream without waiting for it.

One thread at a time may call it. A size that no engine takes is built for in a thread of its own, and its frames are
refused meanwhile.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Any

from engine.device import Array, Device, Stream
from engine.device_plan import PLANS
from engine.engine_cache import EngineCache, EngineKey
from engine.errors import DeviceError, FrameError, ModelError, one_line
from engine.tensorrt_build import INPUT, OUTPUT, ShapeRange, Size, build
from engine.tensorrt_module import Edition

_CLOSE_S = 10.0  # a supervisor kills what takes much longer to end
_LOG = logging.getLogger("atomstream")


@dataclass(frozen=True, slots=True, eq=False)
class EngineSource:
    """Where engines of one network come from.

    Attributes
    ----------
    gpu : str
        Name and architecture.
    onnx : bytes
        The network in its precision.
    precision : str
        What it was brought to.
    channels, maps : int
        Of input and output.
    """

    edition: Edition
    gpu: str
    onnx: bytes
    precision: str
    channels: int
    maps: int
    cache: EngineCache
    workspace_MB: float = 2048

    def key(self, ranges: tuple[ShapeRange, ...]) -> EngineKey:
        """What the engine of these ranges depends on."""
        digest = hashlib.sha256(self.onnx).hexdigest()
        return EngineKey(self.gpu, self.edition.name, digest, ranges, self.precision, self.workspace_MB)

    def build(self, ranges: tuple[ShapeRange, ...]) -> bytes:
        """Build and keep an engine; blocks."""
        began_s = time.monotonic()
        _LOG.warning("Building the %s engine of %s for %s, once", self.precision, self.edition.name, self.gpu)
        timing = self.cache.load_timing(self.gpu, self.edition.name)
        built = build(
            self.edition,
            self.onnx,
            ranges,
            channels=self.channels,
            maps=self.maps,
            timing=timing,
            workspace_MB=self.workspace_MB,
        )
        self.cache.store(self.key(ranges), built.engine)
        self.cache.store_timing(self.gpu, self.edition.name, built.timing)
        _LOG.warning("Built it in %.0f s, %.1f MB", time.monotonic() - began_s, len(built.engine) / 1e6)
        return built.engine


class TensorRtNetwork:
    """A DeviceNetwork of TensorRT engines.

    Parameters
    ----------
    ranges : tuple of ShapeRange
        Sizes of the network's input to begin with, a profile each; the first that holds a size runs it.
    """

    def __init__(self, device: Device, source: EngineSource, ranges: tuple[ShapeRange, ...]) -> None:
        self._device, self._source = device, source
        self._engines = [_load(device, source, ranges)]  # the one of the start, then those that were built last
        self._building: Thread | None = None
        self._built: list[_Engine] = []
        self._refused: dict[Size, str] = {}  # sizes that could not be built for: another try would take as long
        self.backend = f"{source.edition.name} {source.precision}"
        self.capturable = source.edition.capturable

    def ready(self, size: Size) -> None:
        """Return where an input of this size can be run.

        Raises
        ------
        FrameError
            "no_engine": one is being built, or could not be.
        """
        if self._building is not None and not self._building.is_alive():
            self._building = None
            if self._built:
                self._engines[1:] = [*self._engines[1:], self._built.pop()][-PLANS:]  # one for each plan that is kept
        if self._engine_for(size) is not None:
            return
        if size in self._refused:
            raise FrameError("no_engine", self._refused[size])
        if self._building is None:
            self._building = Thread(target=self._build, args=(size,), name="engine", daemon=True)
            self._building.start()
        raise FrameError(
            "no_engine",
            f"GPU expects an engine for {size[0]} x {size[1]} network pixels, got none yet: it is being built, wait",
        )

    def finish(self) -> None:
        """Block until no engine is being built; for any thread."""
        building = self._building
        if building is not None:
            building.join()

    def bind(self, stream: Stream, pixels: Array, maps: Array) -> Callable[[Stream], None]:
        """What puts a run into a stream.

        It has an execution context of its own, which nothing changes afterwards: TensorRT leaves undefined what a
        captured graph does once its context was told another shape.

        Parameters
        ----------
        stream : Stream
            That the context is made in.
        pixels : (1, C, H, W) float32, on the device, C-contiguous
        maps : (1, M, h, w) float32, on the device, C-contiguous
            Is written to.
        """
        engine = self._engine_for(pixels.shape[2:])
        if engine is None:
            raise ModelError(f"Expected a size that is ready, got {pixels.shape[2:]}: call ready first")
        with self._device.active():
            return engine.bind(stream, pixels, maps)

    def close(self) -> None:
        """Free the engines; waits for one that is being built, but not for the minutes that it may take."""
        if self._building is not None:
            self._building.join(_CLOSE_S)
            if self._building.is_alive():
                _LOG.warning("An engine is still being built: it ends with the process, and is built again next time")
        self._engines.clear()

    def _engine_for(self, size: Size) -> _Engine | None:
        return next((engine for engine in self._engines if engine.profile_for(size) is not None), None)

    def _build(self, size: Size) -> None:
        """For this size alone: it is the camera's, and the next frame has it too."""
        try:
            self._built.append(_load(self._device, self._source, (ShapeRange(size, size, size),)))
        except Exception as error:  # whatever it is: unseen, the next frame would begin the same build again
            self._refused[size] = f"{one_line(error) or type(error).__name__}, then restart"


class _Engine:
    """One engine, of which execution contexts are made."""

    def __init__(self, device: Device, source: EngineSource, engine: bytes, ranges: tuple[ShapeRange, ...]) -> None:
        self._device, self._source, self._ranges = device, source, ranges
        self._logger = source.edition.logger()
        with device.active():
            self._runtime = source.edition.module.Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise ModelError(
                f"Expected {source.edition.name} to load its engine, got {self._logger.last()}: run atomstream doctor"
            )

    def profile_for(self, size: Size) -> int | None:
        """The first that takes this size."""
        return next((k for k, size_range in enumerate(self._ranges) if size_range.holds(size)), None)

    def bind(self, stream: Stream, pixels: Array, maps: Array) -> Callable[[Stream], None]:
        """A context for these arrays, and what runs it."""
        context = self._context(self.profile_for(pixels.shape[2:]) or 0, stream)
        accepted = context.set_input_shape(INPUT, tuple(pixels.shape))
        got = tuple(context.get_tensor_shape(OUTPUT))
        if not accepted or got != tuple(maps.shape):
            raise ModelError(f"Expected maps of {tuple(maps.shape)}, got {got} from the engine: export the model again")
        for name, array in ((INPUT, pixels), (OUTPUT, maps)):
            if not context.set_tensor_address(name, self._device.address(array)):
                raise self._failed(f"the address of {name}")

        def enqueue(stream: Stream) -> None:
            with self._device.active():
                # Only enqueued: nothing waits here.
                if not context.execute_async_v3(self._device.handle(stream)):
                    raise self._failed("a run")

        return enqueue

    def _context(self, profile: int, stream: Stream) -> Any:
        context = self._source.edition.context(self._engine)
        if context is None:  # its activations did not find room
            raise FrameError("no_memory", f"GPU expects free memory, got {self._logger.last()}: free some, or bin")
        if not context.set_optimization_profile_async(profile, self._device.handle(stream)):
            raise self._failed(f"profile {profile}")
        return context

    def _failed(self, what: str) -> DeviceError:
        return DeviceError(f"Expected {self._source.edition.name} to take {what}, got {self._logger.last()}: restart")


def _load(device: Device, source: EngineSource, ranges: tuple[ShapeRange, ...]) -> _Engine:
    """From the cache; built where there is none, or where what is there does not load."""
    cached = source.cache.load(source.key(ranges))
    if cached is not None:
        try:
            return _Engine(device, source, cached, ranges)
        except ModelError as error:
            _LOG.warning("%s; it is built again", error)
    with device.active():
        built = source.build(ranges)
    return _Engine(device, source, built, ranges)
