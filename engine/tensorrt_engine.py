"""One TensorRT engine: loaded from the cache or built, and runs of it in memory that is ours.

Loading blocks, for minutes where the engine has to be built; a run is only enqueued.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.device import OUT_OF_MEMORY, Array, Device, Stream
from engine.engine_cache import KERNELS, EngineCache, EngineKey
from engine.errors import AtomstreamError, DeviceError, FrameError, ModelError, one_line
from engine.tensorrt_build import INPUT, OUTPUT, ShapeRange, build
from engine.tensorrt_module import Edition

_LOADING: set[object] = set()  # a mark for each engine that is built or loaded in this process, whoever wants it
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

    def key(self, sizes: ShapeRange) -> EngineKey:
        """What the engine of these sizes depends on."""
        digest = hashlib.sha256(self.onnx).hexdigest()
        return EngineKey(self.gpu, self.edition.name, digest, sizes, self.precision, self.workspace_MB)

    def build(self, sizes: ShapeRange, wanted: Callable[[], bool] = lambda: True) -> bytes:
        """Build and keep an engine; blocks, and fails once it is not wanted any more."""
        began_s = time.monotonic()
        _LOG.warning("Building the %s engine of %s for %s, once", self.precision, self.edition.name, self.gpu)
        timing = self.cache.load_timing(self.gpu, self.edition.name)
        built = build(
            self.edition,
            self.onnx,
            sizes,
            channels=self.channels,
            maps=self.maps,
            timing=timing,
            workspace_MB=self.workspace_MB,
            wanted=wanted,
        )
        self.cache.store(self.key(sizes), built.engine)
        self.cache.store_timing(self.gpu, self.edition.name, built.timing)
        _LOG.warning("Built it in %.0f s, %.1f MB", time.monotonic() - began_s, len(built.engine) / 1e6)
        return built.engine


class Engine:
    """One engine, of which execution contexts are made."""

    def __init__(self, device: Device, source: EngineSource, engine: bytes, sizes: ShapeRange) -> None:
        self._device, self._source, self.sizes = device, source, sizes
        self._logger = source.edition.logger()
        with device.active():
            self._runtime = source.edition.start("Runtime", self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(engine)
            if self._engine is None:
                raise ModelError(
                    f"Expected {source.edition.name} to load its engine, got {self._logger.last()}: "
                    "run atomstream doctor"
                )
            self._kernels = source.edition.kernels(self._engine)
            self._kept = b"" if self._kernels is None else source.cache.load(source.key(sizes), KERNELS) or b""
            if self._kept:
                self._kernels.deserialize(self._kept)  # what is of another GPU or driver it refuses, and compiles anew

    def bind(self, stream: Stream, pixels: Array, maps: Array) -> Callable[[Stream], None]:
        """A context for these arrays, and what runs it."""
        context, shape = self._context(stream, tuple(pixels.shape))
        if shape != tuple(maps.shape):
            raise ModelError(
                f"Expected maps of {tuple(maps.shape)}, got {shape} from the engine: export the model again"
            )
        return self._runs(context, pixels, maps)

    def try_once(self) -> None:
        """Run the least size; blocks.

        Raises
        ------
        ModelError
            It does not run here. An engine that loads may not: RTX compiles only then, and not for every GPU.
        FrameError
            "no_memory", where there is not even enough for that.
        """
        stream, done = self._device.stream(), self._device.event()
        try:
            with self._device.active():
                pixels = self._device.zeros((1, self._source.channels, *self.sizes.least), np.float32)
                context, shape = self._context(stream, pixels.shape)
                self._runs(context, pixels, self._device.zeros(shape, np.float32))(stream)
                self._device.record(done, stream)
                self._device.synchronize(done)  # SYNC: once, before there are frames
        except DeviceError as error:
            said = self._logger.last() if self._logger.errors else one_line(error)
            raise ModelError(
                f"Expected {self._source.edition.name} to run its engine on {self._source.gpu}, got {said}: "
                "update the driver, or choose backend torch"
            ) from None
        self.keep()

    def keep(self) -> None:
        """Keep the kernels that were compiled so far for the next start."""
        if self._kernels is None:
            return
        with self._device.active():
            compiled = self._kernels.serialize()
        content = b"" if compiled is None else bytes(compiled)
        if content not in (b"", self._kept):
            self._source.cache.store(self._source.key(self.sizes), content, KERNELS)
            self._kept = content

    def _context(self, stream: Stream, shape: tuple[int, ...]) -> tuple[Any, tuple[int, ...]]:
        """A context for an input of this shape, and the shape of its output."""
        self._logger.errors.clear()  # what is told is of this try
        context = self._source.edition.context(self._engine, self._kernels)
        if context is None:
            raise self._failed("an execution context")
        try:
            context.set_optimization_profile_async(0, self._device.handle(stream))
        except RuntimeError:  # what others than it say with a False
            raise self._failed("its profile") from None
        if not context.set_input_shape(INPUT, shape):
            raise self._failed(f"an input of {shape}")
        return context, tuple(context.get_tensor_shape(OUTPUT))

    def _runs(self, context: Any, pixels: Array, maps: Array) -> Callable[[Stream], None]:
        """What enqueues a run; it holds the memory of the context, which counts as any other of ours."""
        size = context.update_device_memory_size_for_shapes()
        scratch = self._device.zeros((max(size, 1),), np.uint8)
        context.set_device_memory(self._device.address(scratch), size)
        for name, array in ((INPUT, pixels), (OUTPUT, maps)):
            if not context.set_tensor_address(name, self._device.address(array)):
                raise self._failed(f"the address of {name}")

        def enqueue(stream: Stream, held: Array = (scratch, pixels, maps)) -> None:
            self._logger.errors.clear()
            with self._device.active():
                # Only enqueued: nothing waits here.
                if not context.execute_async_v3(self._device.handle(stream)):
                    raise self._failed("a run")

        return enqueue

    def _failed(self, what: str) -> AtomstreamError:
        """Of a frame where memory was short, which may be free for the next; else of the device."""
        said = self._logger.last()
        if any(OUT_OF_MEMORY.search(error) for error in self._logger.errors):
            return FrameError("no_memory", f"GPU expects free memory, got {said}: free some, or bin")
        return DeviceError(f"Expected {self._source.edition.name} to take {what}, got {said}: restart")


def load_engine(
    device: Device, source: EngineSource, sizes: ShapeRange, wanted: Callable[[], bool] = lambda: True
) -> Engine:
    """From the cache; built where there is none, or where what is there does not load."""
    mark = object()
    _LOADING.add(mark)
    try:
        cached = source.cache.load(source.key(sizes))
        if cached is not None:
            try:
                return Engine(device, source, cached, sizes)
            except ModelError as error:
                _LOG.warning("%s; it is built again", error)
        with device.active():
            built = source.build(sizes, wanted)
        return Engine(device, source, built, sizes)
    finally:
        _LOADING.discard(mark)


def any_loading() -> bool:
    """Whether an engine is built or loaded, for whichever network: that synchronises the GPU, which ends a capture."""
    return bool(_LOADING)
