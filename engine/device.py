"""A device that runs kernels: what the GPU path asks of one, and CuPy's answer. The tests have a CPU's.

Arrays, streams and events are the device's own and are handed on unseen. Nothing blocks unless it says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import DeviceError, FrameError

Array = Any  # of the device
Stream = Any
Event = Any

THREADS = 256  # of a block
KERNELS = Path(__file__).parent / "kernels"
OPTIONS = ("--fmad=false", "-std=c++17")  # no fused multiply-add: decisions must be those of NumPy
_NO_MEMORY = 2  # cudaErrorMemoryAllocation: of pinned memory too
_NAME = re.compile(r'extern "C" __global__ void (\w+)\(|^CONVERT\((\w+),', re.MULTILINE)


class Device(Protocol):
    """Memory, kernels and the order they run in."""

    @property
    def name(self) -> str:
        """Of the hardware, for the cache key and the log."""

    def bind(self) -> None:
        """Make it the device of the calling thread, for libraries that ask which that is."""

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Device memory; FrameError "no_memory" where there is none left."""

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Host memory that transfers run from and to beside the CPU."""

    def constant(self, values: NDArray[Any]) -> Array:
        """A device copy of an array; blocks."""

    def stream(self) -> Stream:
        """An order of its own."""

    def event(self) -> Event:
        """A mark in a stream."""

    def record(self, event: Event, stream: Stream) -> None:
        """Set the mark behind all that the stream was given."""

    def wait(self, stream: Stream, event: Event) -> None:
        """Let the stream go on once the mark is reached."""

    def synchronize(self, event: Event) -> None:
        """Block the caller until the mark is reached, without the GIL."""

    def upload(self, stream: Stream, target: Array, source: NDArray[Any]) -> None:
        """Pinned memory to the device."""

    def download(self, stream: Stream, target: NDArray[Any], source: Array) -> None:
        """Device to pinned memory."""

    def copy(self, stream: Stream, target: Array, source: Array) -> None:
        """From one part of the device's memory to another."""

    def launch(self, stream: Stream, kernel: str, count: int, *args: Any) -> None:
        """Run a kernel in at least `count` threads; arguments are arrays, NumPy scalars or None."""

    def capture(self, stream: Stream, steps: Callable[[], None]) -> Callable[[], None]:
        """What `steps` puts into the stream, not run now, as one thing to run."""

    def address(self, array: Array) -> int:
        """Where an array lies."""

    def handle(self, stream: Stream) -> int:
        """The stream as other libraries take it."""

    def errors(self) -> AbstractContextManager[None]:
        """Errors of the device's library as ours."""


def kernel_files() -> dict[str, tuple[str, ...]]:
    """The kernels of each file, by the file's name."""
    files = {}
    for path in sorted(KERNELS.glob("*.cu")):
        names = _NAME.findall(path.read_text())
        files[path.name] = tuple(name or f"convert_{dtype}" for name, dtype in names)
    return files


class CupyDevice:
    """One NVIDIA GPU through CuPy.

    Parameters
    ----------
    index : int
        Which of several.
    memory_MB : float, optional
        Most that CuPy may take of the GPU's memory; TensorRT's share is beside it.
    """

    def __init__(self, index: int = 0, memory_MB: float | None = None) -> None:
        try:
            import cupy
        except ImportError as error:
            raise DeviceError(f"Expected CuPy, got {one_line(error)}: pip install atomstream[gpu]") from None
        self._cupy = cupy
        self.index = index
        try:
            with self.errors():
                cupy.cuda.Device(index).use()
                properties = cupy.cuda.runtime.getDeviceProperties(index)
                if memory_MB is not None:
                    cupy.get_default_memory_pool().set_limit(size=int(memory_MB * 1e6))
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

    def bind(self) -> None:
        with self.errors():
            self._cupy.cuda.Device(self.index).use()

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        with self.errors():
            return self._cupy.zeros(shape, dtype)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        count = int(np.prod(shape))
        with self.errors():
            memory = self._cupy.cuda.alloc_pinned_memory(max(1, count * np.dtype(dtype).itemsize))
        return np.frombuffer(memory, dtype, count).reshape(shape)

    def constant(self, values: NDArray[Any]) -> Array:
        with self.errors():
            return self._cupy.asarray(values)

    def stream(self) -> Stream:
        return self._cupy.cuda.Stream(non_blocking=True)

    def event(self) -> Event:
        return self._cupy.cuda.Event(block=True, disable_timing=True)

    def record(self, event: Event, stream: Stream) -> None:
        event.record(stream)

    def wait(self, stream: Stream, event: Event) -> None:
        stream.wait_event(event)

    def synchronize(self, event: Event) -> None:
        with self.errors():
            event.synchronize()

    def upload(self, stream: Stream, target: Array, source: NDArray[Any]) -> None:
        with self.errors():
            target.set(source, stream=stream)

    def download(self, stream: Stream, target: NDArray[Any], source: Array) -> None:
        with self.errors():
            source.get(stream=stream, out=target, blocking=False)

    def copy(self, stream: Stream, target: Array, source: Array) -> None:
        with self.errors(), self._cupy.cuda.Device(self.index), stream:
            target[...] = source

    def launch(self, stream: Stream, kernel: str, count: int, *args: Any) -> None:
        with self.errors(), self._cupy.cuda.Device(self.index), stream:
            self._kernels[kernel]((-(-count // THREADS),), (THREADS,), args)

    def capture(self, stream: Stream, steps: Callable[[], None]) -> Callable[[], None]:
        with self.errors(), self._cupy.cuda.Device(self.index), stream:
            stream.begin_capture()
            try:
                steps()
            finally:
                graph = stream.end_capture()

        def run() -> None:
            with self.errors():
                graph.launch(stream)

        return run

    def address(self, array: Array) -> int:
        return int(array.data.ptr)

    def handle(self, stream: Stream) -> int:
        return int(stream.ptr)

    @contextmanager
    def errors(self) -> Any:
        """CuPy's errors as ours."""
        cuda = self._cupy.cuda
        try:
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


def one_line(error: BaseException) -> str:
    """What a library says, without its line ends."""
    return " ".join(str(error).split())
