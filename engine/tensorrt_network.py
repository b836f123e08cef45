"""A network as TensorRT engines: one to begin with, others built for the sizes that it does not take.

One thread at a time may call it. A size that no engine takes is built for in a thread of its own, and its frames are
refused meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from engine.device import KINDS, Array, Device, Stream
from engine.engine_loading import Loading
from engine.errors import DeviceError, FrameError, ModelError, one_line
from engine.tensorrt_build import ShapeRange, Size
from engine.tensorrt_engine import Engine, EngineSource, any_loading, load_engine

_AGAIN_S = 300.0  # after a build that failed: memory or a disk may be free by then, and a build may take minutes


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
    KeyboardInterrupt
        Its build was cancelled.
    """

    def __init__(
        self,
        device: Device,
        source: EngineSource,
        sizes: ShapeRange,
        *,
        kinds: int = KINDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device, self._source, self._kinds, self._clock = device, source, kinds, clock
        self._engines = [self._load(sizes).result()]  # the one of the start, then those that were built last
        self._engines[0].try_once()
        self._building: tuple[Size, Loading[Engine]] | None = None
        self._refused: dict[Size, _Refusal] = {}
        self.backend = f"{source.edition.name} {source.precision}"

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
        self._take_what_was_built()
        if self._engine_for(size) is not None:
            return
        refusal = self._refused.get(size)
        if refusal is not None and self._clock() < refusal.at_s + _AGAIN_S:
            every_min = _AGAIN_S / 60
            raise FrameError("no_engine", f"{refusal.reason}; it is tried again {every_min:g} minutes after it failed")
        if self._building is None:
            # For this size alone: it is the camera's, and the next frame has it too.
            self._building = size, self._load(ShapeRange(size, size, size))
        raise FrameError(
            "no_engine",
            f"GPU expects an engine for {size[0]} x {size[1]} network pixels, got none yet: it is being built, wait",
        )

    def finish(self) -> None:
        """Block until no engine is being built; for any thread."""
        building = self._building
        if building is not None:
            building[1].join()

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
        """Cancel what is being built, keep what was compiled, free the engines."""
        if self._building is not None:
            self._building[1].cancel()
        self._building = None
        for engine in self._engines:
            with suppress(DeviceError):  # of one that is lost nothing can be had any more
                engine.keep()
        self._engines.clear()

    def _load(self, sizes: ShapeRange) -> Loading[Engine]:
        return Loading(lambda wanted: load_engine(self._device, self._source, sizes, wanted))

    def _is_building(self) -> bool:
        return self._building is not None and not self._building[1].is_over

    def _take_what_was_built(self) -> None:
        """The engine, or why there is none: unseen, the next frame would begin the same build again."""
        if self._building is None or self._is_building():
            return
        size, built = self._building
        self._building = None
        if built.error is not None:
            self._refused[size] = _Refusal(one_line(built.error) or type(built.error).__name__, self._clock())
        if built.engine is not None:
            self._engines.append(built.engine)
            if len(self._engines) > 1 + self._kinds:
                self._engines.pop(1).keep()

    def _engine_for(self, size: Size) -> Engine | None:
        return next((engine for engine in self._engines if engine.sizes.holds(size)), None)
