"""ONNX in, serialised TensorRT engine out. Strongly typed: the precision is what the file says, see engine/half.py.

Building takes seconds to minutes and blocks; `tensorrt` needs a GPU for it, `tensorrt_rtx` none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.errors import ModelError
from engine.tensorrt_module import Edition

INPUT, OUTPUT = "frame", "maps"

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """Heights and widths of the network's input that an engine takes, and the one it is fastest at."""

    least: Size
    best: Size
    most: Size

    def holds(self, size: Size) -> bool:
        """Whether an input of this size may be given."""
        return all(low <= got <= high for low, got, high in zip(self.least, size, self.most, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A serialised engine, and what timing kernels taught for the next build (empty where nothing is timed)."""

    engine: bytes
    timing: bytes


def build(
    edition: Edition,
    onnx: bytes,
    sizes: ShapeRange,
    *,
    channels: int,
    maps: int,
    timing: bytes = b"",
    workspace_MB: float = 2048,
    wanted: Callable[[], bool] = lambda: True,
) -> Built:
    """Build an engine with one optimisation profile.

    Parameters
    ----------
    onnx : bytes
        The network's file.
    sizes : ShapeRange
        That it is to take.
    channels, maps : int
        Channels of its input and output.
    timing : bytes
        Of an earlier build on this GPU; what does not fit is left out.
    workspace_MB : float
        Most device memory that a layer may work in.
    wanted : callable
        Asked at each step of the build, which fails once it says no; from threads of TensorRT.

    Raises
    ------
    ModelError
        A file that is no network, a network with other inputs or outputs or with an operation that TensorRT lacks,
        a build that failed.
    """
    logger = edition.logger()
    builder = edition.start("Builder", logger)
    network = builder.create_network(edition.network_flags)
    parser = edition.module.OnnxParser(network, logger)
    if not parser.parse(onnx):
        raise ModelError(f"Expected a network that {edition.name} can read, got {_refusal(parser)}: export it again")
    _expect_channels(network, edition, channels, maps)
    config = builder.create_builder_config()
    _round_nothing(edition, config)
    _take_less_for_less(edition, config)
    config.progress_monitor = edition.monitor(wanted)
    config.set_memory_pool_limit(edition.module.MemoryPoolType.WORKSPACE, int(workspace_MB * 1e6))
    _add_profile(builder, config, channels, sizes)
    kept = _use_timing(edition, config, timing)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ModelError(
            f"Expected {edition.name} to build an engine, got {logger.last()}: free GPU memory, or update the "
            "driver; the CPU goes without"
        )
    return Built(bytes(engine), bytes(kept.serialize()) if kept is not None else b"")


def _refusal(parser: Any) -> str:
    errors = [parser.get_error(k) for k in range(parser.num_errors)]
    if not errors:
        return "no reason"
    first = errors[0]
    operation = f"operation {first.node_operator()!r}: " if first.node_operator() else ""
    return operation + " ".join(first.desc().split())[:300]


def _expect_channels(network: Any, edition: Edition, channels: int, maps: int) -> None:
    tensors = [network.get_input(k) for k in range(network.num_inputs)]
    tensors += [network.get_output(k) for k in range(network.num_outputs)]
    got = [(tensor.name, tuple(tensor.shape), tensor.dtype) for tensor in tensors]
    single = edition.module.DataType.FLOAT
    want = [(INPUT, (-1, channels, -1, -1), single), (OUTPUT, (-1, maps, -1, -1), single)]
    if got != want:
        said = ", ".join(f"{name} {shape} {str(dtype).rpartition('.')[2]}" for name, shape, dtype in got)
        raise ModelError(
            f"Expected one input {INPUT} (N, {channels}, H, W) and one output {OUTPUT} (N, {maps}, h, w) of float32, "
            f"got {said}: export the model again"
        )


def _round_nothing(edition: Edition, config: Any) -> None:
    """float32 is float32: rounded to TF32, which is on unless told, the last convolution would move the atoms."""
    tf32 = getattr(edition.module.BuilderFlag, "TF32", None)
    if tf32 is not None:
        config.clear_flag(tf32)


def _take_less_for_less(edition: Edition, config: Any) -> None:
    """Activations by the shape that is run: else smaller strips would find no memory where larger ones found none."""
    feature = getattr(edition.module.PreviewFeature, "RUNTIME_ACTIVATION_RESIZE_10_10", None)
    if feature is not None:
        config.set_preview_feature(feature, True)


def _add_profile(builder: Any, config: Any, channels: int, sizes: ShapeRange) -> None:
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, *((1, channels, *size) for size in (sizes.least, sizes.best, sizes.most)))
    if config.add_optimization_profile(profile) < 0:
        raise ModelError(f"Expected sizes that grow, got {sizes}: correct the range of frame sizes")


def _use_timing(edition: Edition, config: Any, timing: bytes) -> Any:
    """The timing cache of this build, or None. One of another GPU is refused by its own header, and begun anew."""
    if not edition.times_kernels:
        return None
    cache = config.create_timing_cache(timing)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache
