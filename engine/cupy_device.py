"""One NVIDIA GPU through CuPy: the Device of engine/device.py. Imports CuPy when it is made.

What is here no test without a GPU has run on one: it is kept to single calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.device import (
    KERNELS,
    OPTIONS,
    THREADS,
    UNREADABLE,
    Array,
    Event,
    Stream,
    kernel_files,
    unreadable,
)
from engine.errors import DeviceError, FrameError, one_line

_NO_MEMORY = 2  # cudaErrorMemoryAllocation: of pinned memory too
_ON_CUDA = 2  # DLPack's number for it


class CupyDevice:
    """One GPU.

    Parameters
    ----------
    index : int
        Which of several.
    memory_MB : float, optional
        Most that our arrays may take of the GPU's memory, with what TensorRT works in; its weights are beside that.
    """

    def __init__(self, index: int = 0, memory_MB: float | None = None) -> None:
        try:
            import cupy
        except ImportError as error:
            raise DeviceError(f"Expected CuPy, got {one_line(error)}: pip install atomstream[gpu]") from None
        self._cupy = cupy
        self.index = index
        # Not CuPy's own pools: the limit is for our arrays, not for those of the caller, and so is `trim`.
        self._pool, self._pinned = cupy.cuda.MemoryPool(), cupy.cuda.PinnedMemoryPool()
        try:
            with self.active():
                properties = cupy.cuda.runtime.getDeviceProperties(index)
                if memory_MB is not None:
                    self._pool.set_limit(size=int(memory_MB * 1e6))
                self._kernels = self._compile()
        except (RuntimeError, ImportError) as error:  # a library of CUDA that CuPy does not find
            raise DeviceError(f"Expected CuPy to start, got {one_line(error)}: pip install atomstream[gpu]") from None
        major, minor = properties["major"], properties["minor"]
        self.name = f"{properties['name'].decode()} sm_{major}{minor}"

    def _compile(self) -> dict[str, Any]:
        """Every kernel by its name; CuPy keeps what it compiled on disk."""
        kernels: dict[str, Any] = {}
        for file, names in kernel_files().items():
            module = self._cupy.RawModule(code=(KERNELS / file).read_text(), options=OPTIONS)
            kernels |= {name: module.get_function(name) for name in names}
        return kernels

    def free_bytes(self) -> int:
        """Of the GPU's memory, whoever uses the rest. Beside the Device protocol: only the bench asks."""
        with self.active():
            return int(self._cupy.cuda.runtime.memGetInfo()[0])

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        with self.active(), self._cupy.cuda.using_allocator(self._pool.malloc):
            return self._settled(self._cupy.zeros(shape, dtype))

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        count = int(np.prod(shape))
        with self.active():
            memory = self._pinned.malloc(max(1, count * np.dtype(dtype).itemsize))
        return np.frombuffer(memory, dtype, count).reshape(shape)

    def constant(self, values: NDArray[Any]) -> Array:
        with self.active(), self._cupy.cuda.using_allocator(self._pool.malloc):
            return self._settled(self._cupy.asarray(values))

    def trim(self) -> None:
        with self.active():
            self._pool.free_all_blocks()
            self._pinned.free_all_blocks()

    def stream(self) -> Stream:
        with self.active():
            return self._cupy.cuda.Stream(non_blocking=True)

    def event(self) -> Event:
        with self.active():
            return self._cupy.cuda.Event(block=True, disable_timing=True)

    def record(self, event: Event, stream: Stream) -> None:
        with self.active():
            event.record(stream)

    def wait(self, stream: Stream, event: Event) -> None:
        with self.active():
            stream.wait_event(event)

    def synchronize(self, event: Event) -> None:
        with self.active():
            event.synchronize()

    def upload(self, stream: Stream, target: Array, source: NDArray[Any]) -> None:
        with self.active():
            target.set(source, stream=stream)

    def download(self, stream: Stream, target: NDArray[Any], source: Array) -> None:
        with self.active():
            source.get(stream=stream, out=target, blocking=False)

    def copy(self, stream: Stream, target: Array, source: Array) -> None:
        with self.active(), stream:
            target[...] = source

    def launch(self, stream: Stream, kernel: str, count: int, *args: Any) -> None:
        with self.active(), stream:
            self._kernels[kernel]((-(-count // THREADS),), (THREADS,), args)

    def capture(self, stream: Stream, steps: Callable[[], None]) -> Callable[[], None]:
        with self.active(), stream:
            stream.begin_capture()
            try:
                steps()
            finally:
                graph = stream.end_capture()

        def run() -> None:
            with self.active():
                graph.launch(stream)

        return run

    def adopt(self, pixels: Any) -> Array | None:
        with self.active():
            try:
                there = self._adopted(pixels)
                if there is not None and there.device.id != self.index:
                    raise ValueError(f"pixels on GPU {there.device.id}, not {self.index}")
            except self._cupy.cuda.runtime.CUDARuntimeError:
                raise  # a RuntimeError too, but not of the pixels
            except UNREADABLE as error:
                remedy = "detach them, copy them to that GPU, or hand over NumPy's"
                raise unreadable(pixels, error, f"that GPU {self.index} can read", remedy) from None
        return there

    def _adopted(self, pixels: Any) -> Array | None:
        """By DLPack where it can be: unlike torch's __cuda_array_interface__ it waits for the stream of the maker."""
        if isinstance(pixels, self._cupy.ndarray):
            return pixels
        if hasattr(pixels, "__dlpack_device__"):
            return self._cupy.from_dlpack(pixels) if pixels.__dlpack_device__()[0] == _ON_CUDA else None
        return self._cupy.asarray(pixels) if hasattr(pixels, "__cuda_array_interface__") else None

    def follow(self, stream: Stream) -> None:
        with self.active():
            event = self._cupy.cuda.Event(disable_timing=True)
            event.record(self._cupy.cuda.get_current_stream())
            stream.wait_event(event)

    def address(self, array: Array) -> int:
        return int(array.data.ptr)

    def handle(self, stream: Stream) -> int:
        return int(stream.ptr)

    def _settled(self, array: Array) -> Array:
        """An array whose first values are there: our streams do not wait for the one that CuPy writes them in."""
        self._cupy.cuda.get_current_stream().synchronize()  # SYNC: where memory is allocated, so never in mid-stream
        return array

    @contextmanager
    def active(self) -> Iterator[None]:
        """On this GPU, CuPy's errors as ours."""
        cuda = self._cupy.cuda
        try:
            with cuda.Device(self.index):
                yield
        except (
            cuda.memory.OutOfMemoryError,
            cuda.runtime.CUDARuntimeError,
            cuda.driver.CUDADriverError,
            cuda.compiler.CompileException,
        ) as error:
            if isinstance(error, cuda.memory.OutOfMemoryError) or getattr(error, "status", None) == _NO_MEMORY:
                said = f"GPU expects free memory, got {one_line(error)}: free some, or bin"
                raise FrameError("no_memory", said) from None
            raise DeviceError(
                f"GPU {self.index}: expected an answer, got {one_line(error)}: run atomstream doctor, then restart"
            ) from None
