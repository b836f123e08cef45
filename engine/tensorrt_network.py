"""A network as TensorRT engines: one to begin with, others built for the sizes that it does not take.

One thread at a time may call it. A size that no engine takes is built for in a thread of its own, and its frames are
refused meanwhile.
"""

from __future__ import annotations

import atexit
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Thread
from weakref import WeakSet

from engine.device import Array, Device, Stream
from engine.device_plan import PLANS
from engine.errors import DeviceError, FrameError, ModelError, one_line
from engine.tensorrt_build import ShapeRange, Size
from engine.tensorrt_engine import Engine, EngineSource, any_loading, load_engine

_CLOSE_S = 10.0  # a supervisor kills what takes much longer to end
_AGAIN_S = 300.0  # after a build that failed: memory or a disk may be free by then, and a build may take minutes
_LOG = logging.getLogger("atomstream")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a size could not be built for, and when that was."""

    reason: str
    at_s: float


class TensorRtNetwork:
    """A DeviceNetwork of TensorRT engines.

    Parameters
    ----------
    sizes : ShapeRange
        Of the network's input to begin with.
    kinds : int
        Of frames that are kept ready: as many engines are, beside the first.
    clock : callable
        Seconds; for the tests.

    Raises
    ------
    ModelError
        No engine can be built, or it does not run on this GPU.
    """

    def __init__(
        self,
        device: Device,
        source: EngineSource,
        sizes: ShapeRange,
        *,
        kinds: int = PLANS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device, self._source, self._kinds, self._clock = device, source, kinds, clock
        self._engines = [load_engine(device, source, sizes)]  # the one of the start, then those that were built last
        self._engines[0].try_once()
        self._building: Thread | None = None
        self._built: list[Engine] = []
        self._refused: dict[Size, _Refusal] = {}
        self._closed = Event()
        self.backend = f"{source.edition.name} {source.precision}"
        _OPEN.add(self)

    @property
    def capturable(self) -> bool:
        """Not while an engine is built: capture and build would end each other."""
        return self._source.edition.capturable and not self._is_building() and not any_loading()

    def ready(self, size: Size) -> None:
        """Return where an input of this size can be run.

        Raises
        ------
        FrameError
            "no_engine": one is being built, or could not be.
        """
        if self._building is not None and not self._is_building():
            self._building = None
            if self._built:
                self._engines.append(self._built.pop())
                if len(self._engines) > 1 + self._kinds:
                    self._engines.pop(1).keep()
        if self._engine_for(size) is not None:
            return
        refusal = self._refused.get(size)
        if refusal is not None and self._clock() < refusal.at_s + _AGAIN_S:
            every_min = _AGAIN_S / 60
            raise FrameError("no_engine", f"{refusal.reason}; it is tried again {every_min:g} minutes after it failed")
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

        Raises
        ------
        FrameError
            "no_memory": what it works in, which is taken from the device here and freed with what is returned.
        DeviceError
            TensorRT takes something not.
        """
        engine = self._engine_for(pixels.shape[2:])
        if engine is None:
            raise ModelError(f"Expected a size that is ready, got {pixels.shape[2:]}: call ready first")
        with self._device.active():
            return engine.bind(stream, pixels, maps)

    def close(self) -> None:
        """End what is being built, keep what was compiled, free the engines."""
        self._end_build()
        for engine in self._engines:
            with suppress(DeviceError):  # of one that is lost nothing can be had any more
                engine.keep()
        self._engines.clear()
        self._built.clear()

    def _end_build(self) -> None:
        """Let a build end at its next step, and wait for that; but not for the minutes that it might take."""
        self._closed.set()
        if self._building is not None:
            self._building.join(_CLOSE_S)
            if self._building.is_alive():
                _LOG.warning("An engine is still being built: it ends with the process, and is built again next time")
        _OPEN.discard(self)

    def _is_building(self) -> bool:
        return self._building is not None and self._building.is_alive()

    def _engine_for(self, size: Size) -> Engine | None:
        return next((engine for engine in self._engines if engine.sizes.holds(size)), None)

    def _build(self, size: Size) -> None:
        """For this size alone: it is the camera's, and the next frame has it too."""
        sizes = ShapeRange(size, size, size)
        try:
            self._built.append(load_engine(self._device, self._source, sizes, lambda: not self._closed.is_set()))
        except Exception as error:  # whatever it is: unseen, the next frame would begin the same build again
            self._refused[size] = _Refusal(one_line(error) or type(error).__name__, self._clock())


_OPEN: WeakSet[TensorRtNetwork] = WeakSet()


@atexit.register
def _end_builds() -> None:
    """Of those that nobody closed: TensorRT calls our logger, and aborts the process once Python can run no more."""
    for network in list(_OPEN):
        network._end_build()
