"""The CUDA kernels on a CPU: the very .cu files behind a few lines of C++, built by g++, as an engine Device.

Threads run one after the other. Where g++ is missing the tests that ask for it skip and say why.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.cupy_device import CupyDevice
from engine.device import KERNELS, THREADS, Device, kernel_files
from engine.errors import DeviceError
from engine.gpu_probe import obstacle

_SHIM = Path(__file__).with_name("cuda_on_cpu.h")
_OPTIONS = (
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-shared",
    "-ffp-contract=off",
    "-Wall",
    "-Wno-unused-function",
    "-Wno-unknown-pragmas",
)


@pytest.fixture(scope="session")
def cuda_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> HostDevice:
    """A device whose kernels run on the CPU."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("expected g++ on the PATH, found none: install it to run the kernels on the CPU")
    folder, functions = tmp_path_factory.mktemp("kernels"), {}
    for file, names in kernel_files().items():
        source = folder / f"{file}.cpp"
        launchers = "\n".join(f"LAUNCHER({name})" for name in names)
        source.write_text(f'#include "{_SHIM}"\n#include "{KERNELS / file}"\n{launchers}\n')
        library = source.with_suffix(".so")
        subprocess.run([compiler, *_OPTIONS, str(source), "-o", str(library)], check=True)
        loaded = ctypes.CDLL(str(library))
        functions |= {name: getattr(loaded, f"launch_{name}") for name in names}
    return HostDevice(functions)


@pytest.fixture(scope="session", params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Any:
    """A device whose kernels run on the CPU, and where there is a GPU that one: one test body for both."""
    if request.param == "cpu":
        return request.getfixturevalue("cuda_on_cpu")
    if reason := obstacle():
        pytest.skip(f"expected a GPU that can be used, got {reason}")
    return CupyDevice()


def fetched(device: Device, stream: Any, array: Any) -> NDArray[Any]:
    """A copy of a device's array, once all is done that went into the stream before."""
    there, done = device.pinned(array.shape, array.dtype), device.event()
    device.download(stream, there, array)
    device.record(done, stream)
    device.synchronize(done)
    return there.copy()


class OnDevice:
    """Pixels that lie on a device: nothing but that device may read them, but everybody their shape and dtype."""

    def __init__(self, there: NDArray[Any]) -> None:
        self.there = there
        self.shape, self.ndim, self.size, self.dtype = there.shape, there.ndim, there.size, there.dtype


class Foreign:
    """Pixels on the device as a library that we do not know has them: `__dlpack__`, and not even a shape."""

    def __init__(self, there: NDArray[Any]) -> None:
        self.there = there

    def __dlpack__(self, **options: Any) -> Any:
        raise AssertionError("brought down")


class HostDevice:
    """Runs everything at once, and keeps a log of what went into which stream."""

    name = "CPU sm_0"

    def __init__(self, functions: dict[str, Any]) -> None:
        self._functions = functions
        self._streams = 0
        self._capturing: list[Callable[[], None]] | None = None
        self._captured_by = 0
        self.log: list[tuple[Any, ...]] = []

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        self._expect_no_capture("an allocation")
        self.log.append(("zeros", shape))
        return np.zeros(shape, dtype)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        self.log.append(("pinned", shape))
        return np.zeros(shape, dtype)

    def constant(self, values: NDArray[Any]) -> NDArray[Any]:
        self._expect_no_capture("a constant")
        self.log.append(("constant", values.shape))
        return values.copy()

    def trim(self) -> None:
        self.log.append(("trim",))

    def stream(self) -> int:
        self._streams += 1
        return self._streams

    def event(self) -> list[int]:
        return []

    def record(self, event: list[int], stream: int) -> None:
        event[:] = [stream]
        self.log.append(("record", stream))

    def wait(self, stream: int, event: list[int]) -> None:
        self.log.append(("wait", stream, *event))

    def synchronize(self, event: list[int]) -> None:
        self._expect_no_capture("a wait")
        self.log.append(("synchronize", *event))

    def upload(self, stream: int, target: NDArray[Any], source: NDArray[Any]) -> None:
        self._do(stream, "upload", lambda: np.copyto(target, source))

    def download(self, stream: int, target: NDArray[Any], source: NDArray[Any]) -> None:
        self._do(stream, "download", lambda: np.copyto(target, source))

    def copy(self, stream: int, target: NDArray[Any], source: NDArray[Any] | OnDevice) -> None:
        values = source.there if isinstance(source, OnDevice) else source
        self._do(stream, "copy", lambda: np.copyto(target, values))

    def launch(self, stream: int, kernel: str, count: int, *args: Any) -> None:
        values = [_argument(value) for value in args]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        blocks = -(-count // THREADS)
        # The arrays stay alive as long as what is captured does.
        self._do(stream, kernel, lambda kept=(args, values): self._functions[kernel](blocks, THREADS, pointers))

    def capture(self, stream: int, steps: Callable[[], None]) -> Callable[[], None]:
        self._capturing = captured = []
        self._captured_by = get_ident()
        try:
            steps()
        finally:
            self._capturing = None

        def run() -> None:
            self.log.append(("graph", stream))
            for step in captured:
                step()

        return run

    def adopt(self, pixels: Any) -> OnDevice | None:
        return OnDevice(pixels.there) if isinstance(pixels, OnDevice | Foreign) else None

    def follow(self, stream: int) -> None:
        self.log.append(("follow", stream))

    def address(self, array: NDArray[Any]) -> int:
        return int(array.ctypes.data)

    def handle(self, stream: int) -> int:
        return 1000 + stream

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        yield

    def _expect_no_capture(self, got: str) -> None:
        """CUDA ends a capture that waits or allocates; what other threads do meanwhile is no matter of it."""
        if self._capturing is not None and self._captured_by == get_ident():
            raise DeviceError(f"CPU: expected launches and copies while it captures, got {got}: do it before")

    def _do(self, stream: int, what: str, step: Callable[[], None]) -> None:
        if self._capturing is not None:
            self._capturing.append(step)
            return
        self.log.append((what, stream))
        step()


def _argument(value: Any) -> Any:
    """As a kernel takes it: a pointer, or a NumPy scalar of the very type."""
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return ctypes.c_void_p(value.ctypes.data)
    return {np.int32: ctypes.c_int, np.float32: ctypes.c_float}[type(value)](value)
