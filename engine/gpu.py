"""A model onto a GPU: TensorRT where it is installed, else torch. Imported only when a GPU is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from engine.cupy_device import CupyDevice
from engine.detector import Detector
from engine.device import KINDS, Device
from engine.device_plan import DeviceNetwork
from engine.engine_cache import EngineCache
from engine.errors import FileError, ModelError
from engine.gpu_detector import GpuDetector
from engine.gpu_group import GpuGroup
from engine.gpu_probe import obstacle, usable_gpus
from engine.half import halved
from engine.network import map_count
from engine.shipped import find_spec, verified_weights
from engine.spec import ModelSpec
from engine.tensorrt_build import ShapeRange
from engine.tensorrt_engine import EngineSource
from engine.tensorrt_module import find_tensorrt
from engine.tensorrt_network import TensorRtNetwork

PRECISIONS = ("auto", "f32", "f16", "int8")

_BEST_PX, _MOST_PX = 512, 2048  # network pixels that the first engine is for; others are built for when they come
_LOG = logging.getLogger("atomstream")


def load_on_gpu(
    spec: ModelSpec,
    folder: Path,
    *,
    backend: str = "auto",
    precision: str = "auto",
    memory_MB: float = 4096,
    kinds: int = KINDS,
    fallback: Callable[[], Detector] | None = None,
    every: bool = False,
) -> Detector:
    """A detector on the first GPU, or on every one.

    Parameters
    ----------
    folder : Path
        Of the weights.
    backend : str
        "tensorrt", "torch", or "auto": the first of these that is installed.
    precision : str
        "f16", "f32", "int8" where the model has a file for it; "auto" takes f16.
    memory_MB, kinds, fallback
        See `GpuDetector`.
    every : bool
        Frames are dealt round all GPUs that can be used.

    Raises
    ------
    ModelError
        What is missing, or does not fit, and what mends it.
    """
    expect_gpu()
    precision = "f16" if precision == "auto" else precision
    network = network_bytes(spec, folder, precision)
    indices = usable_gpus() if every else (0,)
    alone, members = len(indices) == 1, []
    for index in indices:
        device = CupyDevice(index, memory_MB)
        opened = open_network(backend, device, index, spec, network, precision, memory_MB, kinds)
        own = fallback if alone else None
        members.append(
            GpuDetector(spec, device, opened, memory_MB=memory_MB, kinds=kinds, fallback=own, replaceable=not alone)
        )
    return members[0] if alone else GpuGroup(members, fallback)


def build_ahead(model: str | Path, precision: str = "auto", memory_MB: float = 4096) -> dict[str, Path]:
    """Build the engine that a detector of this model will load, for every GPU that is here; blocks for minutes.

    Parameters
    ----------
    model, precision, memory_MB
        As `load_detector` will be told.

    Returns
    -------
    dict of Path
        The engine's file by the name of the GPU; one that was there already is kept.

    Raises
    ------
    ModelError
        No GPU, no TensorRT, a model or precision that is not there, a build that failed.
    FileError
        The engine could not be kept.
    """
    expect_gpu()
    path = find_spec(model)
    spec, precision = ModelSpec.read(path), "f16" if precision == "auto" else precision
    network = network_bytes(spec, path.parent, precision)
    built = {}
    for index in usable_gpus():
        device = CupyDevice(index, memory_MB)
        source = engine_source(device, spec, network, precision, memory_MB)
        key = source.key(first_range(spec))
        TensorRtNetwork(device, source, key.sizes).close()
        if source.cache.load(key) is None:
            raise FileError(f"{source.cache.folder}: expected to keep the engine there, got none: see the log above")
        built[device.name] = source.cache.folder / key.file_name
    return built


def expect_gpu() -> None:
    """ModelError that says what is missing, and what mends it, where nothing runs on a GPU here."""
    reason = obstacle()
    if reason is not None:
        raise ModelError(f"Expected a GPU that can be used, got {reason}")


def open_network(
    backend: str,
    device: Device,
    index: int,
    spec: ModelSpec,
    network: bytes,
    precision: str,
    memory_MB: float,
    kinds: int = KINDS,
) -> DeviceNetwork:
    """With TensorRT, or with torch where that is asked for or there is no other."""
    missing = None
    if backend != "torch":
        try:
            return open_tensorrt(device, spec, network, precision, memory_MB, kinds)
        except (ModelError, FileError) as error:  # the latter where there is no home for engines
            if backend == "tensorrt":
                raise
            missing = error
    try:
        opened = open_torch(device, index, network, precision, memory_MB)
    except ModelError as error:
        if missing is None:
            raise
        raise ModelError(f"{missing}; nor can torch run the network: {error}") from None
    if missing is not None:
        _LOG.warning("%s; torch runs the network instead", missing)
    return opened


def network_bytes(spec: ModelSpec, folder: Path, precision: str) -> bytes:
    """The network's ONNX file in a precision; ModelError where the model has none."""
    if precision not in PRECISIONS:
        raise ModelError(f"Expected a precision of {', '.join(PRECISIONS)}, got {precision!r}: choose one of these")
    quantised = f"{spec.name}.int8.onnx"
    if precision == "int8":
        if quantised not in spec.sha256:
            raise ModelError(
                f"Model {spec.name} has no INT8 weights for GPUs, got precision 'int8': choose 'f16' or 'f32'"
            )
        return verified_weights(spec, folder, ".int8.onnx").read_bytes()
    network = verified_weights(spec, folder, ".onnx").read_bytes()
    return halved(network) if precision == "f16" else network


def open_tensorrt(
    device: Device,
    spec: ModelSpec,
    network: bytes,
    precision: str,
    memory_MB: float,
    kinds: int = KINDS,
    cache: EngineCache | None = None,
) -> DeviceNetwork:
    """The network as an engine of the installed TensorRT, from the cache or built now."""
    source = engine_source(device, spec, network, precision, memory_MB, cache)
    return TensorRtNetwork(device, source, first_range(spec), kinds=kinds)


def engine_source(
    device: Device,
    spec: ModelSpec,
    network: bytes,
    precision: str,
    memory_MB: float,
    cache: EngineCache | None = None,
) -> EngineSource:
    """Where engines of this network for this GPU come from: one key for who builds ahead and who serves."""
    return EngineSource(
        edition=find_tensorrt(),
        gpu=device.name,
        onnx=network,
        precision=precision,
        channels=spec.channels,
        maps=map_count(spec),
        cache=EngineCache() if cache is None else cache,
        workspace_MB=memory_MB / 2,
    )


def open_torch(device: Device, index: int, network: bytes, precision: str, memory_MB: float) -> DeviceNetwork:
    """The network as torch operations; half of the memory is for it, as for TensorRT."""
    try:
        from engine.torch_network import TorchNetwork
    except ImportError as error:
        raise ModelError(
            f"Expected torch where there is no TensorRT, got {error}: pip install atomstream[training]"
        ) from None
    if precision == "int8":
        raise ModelError("torch runs no INT8 network, got precision 'int8': choose 'f16', or install TensorRT")
    return TorchNetwork(device, network, precision, f"cuda:{index}", memory_MB / 2)


def first_range(spec: ModelSpec) -> ShapeRange:
    """Sizes of the network's input that the engine of the start takes."""
    least, best, most = (max(size // spec.multiple, 1) * spec.multiple for size in (spec.multiple, _BEST_PX, _MOST_PX))
    return ShapeRange((least, least), (best, best), (most, most))
