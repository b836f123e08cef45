"""A device that runs kernels: what the GPU path asks of one. CuPy answers in cupy_device.py, a CPU in the tests.

Arrays, streams and events are the device's own and are handed on unseen. Nothing blocks unless it says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from engine.errors import FrameError, one_line

Array = Any  # of the device
Stream = Any
Event = Any

KINDS = 2  # of frames that a device keeps ready unless told: two cameras, or one that changes its binning
THREADS = 256  # of a block
KERNELS = Path(__file__).parent / "kernels"
OPTIONS = ("--fmad=false", "-std=c++17")  # no fused multiply-add: decisions must be those of NumPy
# As CUDA and its libraries say it, and torch of a CPU's; an "illegal memory access" is something else.
OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|memory.* could not be allocated|can't allocate memory|ALLOC(ATION)?_FAILED", re.IGNORECASE
)
_NAME = re.compile(r'extern "C" __global__ void (\w+)\(|^CONVERT\((\w+),', re.MULTILINE)


class Device(Protocol):
    """Memory, kernels and the order they run in."""

    @property
    def name(self) -> str:
        """Of the hardware, for the cache key and the log."""

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Device memory; FrameError "no_memory" where there is none left."""

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Host memory that transfers run from and to beside the CPU."""

    def constant(self, values: NDArray[Any]) -> Array:
        """A device copy of an array; blocks."""

    def trim(self) -> None:
        """Give freed memory, also pinned, back to the driver, for the libraries beside us; may block."""

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

    def adopt(self, pixels: Any) -> Array | None:
        """Somebody else's array as one of the device's, without a copy; None where it does not lie there."""

    def follow(self, stream: Stream) -> None:
        """Let the stream wait for what the calling thread has enqueued on its own, which may still make that array."""

    def address(self, array: Array) -> int:
        """Where an array lies."""

    def handle(self, stream: Stream) -> int:
        """The stream as other libraries take it."""

    def active(self) -> AbstractContextManager[None]:
        """The calling thread's device, for libraries that ask which that is; errors of the device's library as ours."""


def kernel_files() -> dict[str, tuple[str, ...]]:
    """The kernels of each file, by the file's name."""
    files: dict[str, tuple[str, ...]] = {}
    for path in sorted(KERNELS.glob("*.cu")):
        files[path.name] = tuple(
            kernel
            for name, dtype in _NAME.findall(path.read_text())
            for kernel in ([name] if name else [f"limits_{dtype}", f"convert_{dtype}"])
        )
    return files


# What making an array of somebody else's raises where it cannot be.
UNREADABLE = (AttributeError, TypeError, ValueError, RuntimeError, BufferError)


def unreadable(pixels: Any, error: BaseException, where: str, remedy: str) -> FrameError:
    """The error for pixels that a detector was handed and cannot read."""
    return FrameError(
        "unknown_dtype",
        f"Engine expects pixels {where}, got {type(pixels).__name__} ({one_line(error)}): {remedy}",
    )
