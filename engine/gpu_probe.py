"""Is there a GPU that can be used, and if not, what is missing and what mends it? Asks the driver itself, not CuPy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec
from typing import Any

from engine.errors import ModelError
from engine.tensorrt_module import find_tensorrt

_LIBRARY, _MANAGEMENT = "libcuda.so.1", "libnvidia-ml.so.1"
_CUDA = 13000  # what cupy-cuda13x and the kernels' compiler need of the driver; 1000 * major + 10 * minor
_DRIVER = 580  # the first driver that has it
_ARCHITECTURE = (7, 5)  # older ones CUDA 13 has left behind
_MAJOR, _MINOR = 75, 76  # cuDeviceGetAttribute: compute capability
_EXTRA = "pip install atomstream[gpu]"
_CUPY, _CUPY_MAJOR = ("cupy-cuda13x", "cupy"), 14  # as the extra asks for; "cupy" is conda's, and a build at home


@dataclass(frozen=True, slots=True)
class Part:
    """One thing the GPU path stands on.

    Attributes
    ----------
    text : str
        What was found.
    remedy : str
        The command or step that mends it; empty where nothing is missing.
    needed : bool
        Whether nothing runs on the GPU without it.
    """

    name: str
    text: str
    remedy: str = ""
    needed: bool = True


def parts() -> Iterator[Part]:
    """Driver, GPUs, CuPy, TensorRT and the packages beside them, each whether found or not."""
    driver = load_driver()
    yield _driver(driver)
    if driver is not None:
        yield from _gpus(driver)
    yield _cupy()
    yield _package("onnx", ("onnx",), _EXTRA)
    try:
        yield Part("TensorRT", find_tensorrt().name)
    except ModelError as error:
        found, _, remedy = str(error).rpartition(": ")
        yield Part("TensorRT", found.removeprefix("Expected TensorRT, got "), remedy, needed=False)
    yield _package("torch", ("torch",), "pip install atomstream[training], if TensorRT cannot be had", needed=False)


def obstacle(found: Iterator[Part] | None = None) -> str | None:
    """Why nothing runs on a GPU here, in one line; None where it should."""
    engines = []
    for part in parts() if found is None else found:
        if part.needed and part.remedy:
            return f"{part.name}: {part.text}: {part.remedy}"
        if part.name in ("TensorRT", "torch"):
            engines.append(part)
    if all(part.remedy for part in engines):
        return "; ".join(f"{part.name}: {part.text}: {part.remedy}" for part in engines)
    return None


def usable_gpus() -> tuple[int, ...]:
    """Numbers of the GPUs that can be used, as CUDA counts them."""
    driver = load_driver()
    found = [] if driver is None else list(_gpus(driver))
    return tuple(index for index, part in enumerate(found) if not part.remedy)


def load_driver() -> Any | None:
    """The driver's library; None where no driver is installed."""
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError:
        return None


def _driver(driver: Any | None) -> Part:
    if driver is None:
        return Part("driver", "no NVIDIA driver", f"install driver {_DRIVER} or newer; the CPU goes without")
    cuda = ctypes.c_int(0)
    status = driver.cuDriverGetVersion(ctypes.byref(cuda))
    said = f"for CUDA {cuda.value // 1000}.{cuda.value % 1000 // 10}"
    number = driver_version()
    said = said if number is None else f"{number}, {said}"
    if status or cuda.value < _CUDA:
        return Part("driver", f"{said}, which is too old", f"update it to {_DRIVER} or newer")
    return Part("driver", said)


def driver_version() -> str | None:
    """As nvidia-smi says it, asked of the library that comes with the driver; None where that does not answer."""
    try:
        library = ctypes.CDLL(_MANAGEMENT)
        said = ctypes.create_string_buffer(80)
        if library.nvmlInit_v2():
            return None
        status = library.nvmlSystemGetDriverVersion(said, len(said))
        library.nvmlShutdown()
    except (OSError, AttributeError):
        return None
    return None if status else said.value.decode()


def _gpus(driver: Any) -> Iterator[Part]:
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or count.value == 0:
        remedy = "look at nvidia-smi and CUDA_VISIBLE_DEVICES; in a container, start it with --gpus all"
        yield Part("GPU", f"none (the driver's status is {status})", remedy)
    for index in range(count.value):
        yield _gpu(driver, index)


def _gpu(driver: Any, index: int) -> Part:
    name, memory = ctypes.create_string_buffer(100), ctypes.c_size_t(0)
    driver.cuDeviceGetName(name, len(name), index)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), index)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, index)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, index)
    text = f"{name.value.decode()}, {memory.value / 1e9:.0f} GB, sm_{major.value}{minor.value}"
    if (major.value, minor.value) < _ARCHITECTURE:
        # One of several may be too old: that the first is used is what counts.
        return Part(
            f"GPU {index}", f"{text}, which CUDA 13 does not run on", "use a GPU from sm_75 on", needed=index == 0
        )
    return Part(f"GPU {index}", text)


def _cupy() -> Part:
    """All of its packages hold the same module, each for another CUDA: of two the one installed last is imported."""
    installed = _cupy_packages()
    wrong = [name for name in installed if name not in _CUPY]
    if wrong:
        remedy = f"pip uninstall {' '.join(installed)}, then {_EXTRA}"
        return Part("cupy", f"{' '.join(wrong)}, which is not for CUDA 13", remedy)
    part = _package("cupy", _CUPY, _EXTRA)
    major = part.text.partition(".")[0]
    if major.isdecimal() and int(major) < _CUPY_MAJOR:
        return Part("cupy", f"{part.text}, which is too old", "pip install --upgrade atomstream[gpu]")
    return part


def _cupy_packages() -> list[str]:
    """Names of the installed packages that hold CuPy, in one spelling."""
    names = {str(found.metadata["Name"]).lower().replace("_", "-") for found in distributions()}
    return sorted(name for name in names if name == "cupy" or name.startswith(("cupy-cuda", "cupy-rocm")))


def _package(module: str, distributions: tuple[str, ...], remedy: str, needed: bool = True) -> Part:
    if find_spec(module) is None:
        return Part(module, "not installed", remedy, needed)
    for distribution in distributions:
        try:
            found = version(distribution)
        except PackageNotFoundError:
            continue
        if found.endswith("+cpu"):  # torch without CUDA
            return Part(module, f"{found}, built for CPUs only", remedy, needed)
        return Part(module, found)
    return Part(module, "installed, version unknown")
