"""An exported network run by torch on a GPU that has no TensorRT: the operations of the ONNX file, as a CUDA graph.

Imported only when it is asked for. On a CPU torch runs it too, one operation after the other, for the tests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import RLock
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from engine.device import OUT_OF_MEMORY, Array, Device, Stream
from engine.errors import AtomstreamError, DeviceError, FrameError, ModelError, one_line
from engine.tensorrt_build import INPUT, OUTPUT
from engine.torch_operations import OPERATIONS, Options

_LOADS = "install a torch that is built for the CUDA of this driver, or TensorRT"
_RUNS = "run atomstream doctor, then restart"
_SETTINGS = RLock()  # of torch, which the process has one of; and graphs are captured one at a time
_granted: dict[str, int] = {}  # bytes that our networks may take of each GPU through torch
_LOG = logging.getLogger("atomstream")


class TorchNetwork:
    """A DeviceNetwork of torch operations.

    Parameters
    ----------
    network : bytes
        ONNX file in the precision that it is run in.
    precision : str
        Of it, for the name.
    where : str
        "cuda:0", or "cpu".
    memory_MB : float, optional
        Of the GPU, that torch may take for this network.

    Raises
    ------
    ModelError
        A file that is no network, or holds an operation that is not among those of our exports; a torch that does not
        run there.
    FrameError
        "no_memory": not even for the weights.
    """

    capturable = False  # in a plan's graph: torch's allocator wants graphs of its own making

    def __init__(
        self, device: Device, network: bytes, precision: str, where: str, memory_MB: float | None = None
    ) -> None:
        self._device, self._where, self._share = device, where, 0
        graph = _read(network)
        self._nodes = [(OPERATIONS[n.op_type], list(n.input), list(n.output), _options(n)) for n in graph.node]
        self._last = _last_uses(self._nodes)
        self._weights: dict[str, Any] = {"": None}
        self._on_gpu = self.captures = where.startswith("cuda")
        self.pool: Any = None  # that its graphs work in
        numbers = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}
        try:
            with self._active(_LOADS):
                if self._on_gpu and memory_MB is not None:
                    self._share = _grant(where, int(memory_MB * 1e6))
                for weight in graph.initializer:
                    there = "cpu" if weight.name in numbers else where
                    self._weights[weight.name] = _weight(numpy_helper.to_array(weight), there)
        except AtomstreamError:
            self.close()
            raise
        self.backend = f"torch {torch.__version__} {precision}"

    def ready(self, size: tuple[int, int]) -> None:
        """Any size can be run at once."""

    def finish(self) -> None:
        """Nothing is ever built."""

    def bind(self, stream: Stream, pixels: Array, maps: Array) -> Callable[[Stream], None]:
        """What puts a run into a stream; torch keeps the memory that it works in for the next."""
        with self._active(_RUNS):
            return _Bound(self, from_dlpack(pixels), from_dlpack(maps)).run

    def run(self, pixels: Tensor) -> Tensor:
        """(1, C, H, W) to (1, M, h, w) float32."""
        values: dict[str, Any] = self._weights | {INPUT: pixels}
        for (operation, inputs, outputs, options), done in zip(self._nodes, self._last, strict=True):
            result = operation([values[name] for name in inputs], options)
            results = result if len(outputs) > 1 else [result]
            values.update(zip(outputs, results, strict=True))
            for name in done:
                del values[name]
        answer: Tensor = values[OUTPUT]
        return answer

    @contextmanager
    def on(self, stream: Stream) -> Iterator[Any]:
        """In a stream of the device, which is torch's of it; None where torch runs on the CPU."""
        with self._active(_RUNS):
            if not self._on_gpu:
                yield None
                return
            there: Any = torch.cuda.ExternalStream(self._device.handle(stream), device=self._where)
            with torch.cuda.stream(there):
                yield there

    def close(self) -> None:
        """Free the weights, and what torch kept to work in."""
        self._weights.clear()
        self.pool = None
        share, self._share = self._share, 0
        if share:
            with suppress(RuntimeError):  # of a GPU that is lost
                _grant(self._where, -share)

    @contextmanager
    def _active(self, remedy: str) -> Iterator[None]:
        """On the device, torch's errors as ours."""
        try:
            with self._device.active():
                yield
        except (AssertionError, RuntimeError) as error:  # the former of a torch that was built for CPUs
            said = one_line(error)
            # Of another class where not torch's own allocator was asked, but CUDA or cuDNN.
            if isinstance(error, torch.OutOfMemoryError) or OUT_OF_MEMORY.search(said):
                raise FrameError("no_memory", f"GPU expects free memory, got {said[:200]}: free some, or bin") from None
            raise DeviceError(f"{self._where}: expected an answer of torch, got {said[:200]}: {remedy}") from None


class _Bound:
    """A network on buffers for good. Its first run makes what the operations need; on a GPU they then are a graph."""

    def __init__(self, network: TorchNetwork, pixels: Tensor, maps: Tensor) -> None:
        self._network, self._pixels, self._maps = network, pixels, maps
        self._graph: Any = None
        self._ran = False

    def run(self, stream: Stream) -> None:
        """Put a run into a stream."""
        with self._network.on(stream) as there:
            if self._graph is None and self._ran and self._network.captures:
                self._graph = self._capture(there)
            if self._graph is None:
                self._run_operations()
            else:
                self._graph.replay()
        self._ran = True

    def _run_operations(self) -> None:
        with _exact(), torch.inference_mode():
            self._maps.copy_(self._network.run(self._pixels))

    def _capture(self, stream: Any) -> Any:
        """The operations as one graph; None where that cannot be, and then it is not tried again.

        All graphs of a network work in the same memory: they run one after the other, and leave nothing there.
        """
        network, graph = self._network, torch.cuda.CUDAGraph()
        try:
            if network.pool is None:
                network.pool = torch.cuda.graph_pool_handle()
            # SYNC: once for each plan, by torch. Relaxed: other threads allocate meanwhile, through CuPy.
            with _SETTINGS, torch.cuda.graph(graph, network.pool, stream, capture_error_mode="relaxed"):
                self._run_operations()
        except RuntimeError as error:
            _LOG.warning("No CUDA graph of torch, operations go one by one: %s", one_line(error)[:200])
            network.captures = False
            return None
        return graph


@contextmanager
def _exact() -> Iterator[None]:
    """Float32 is float32 meanwhile: as TF32, torch's default, the last convolution would move the atoms."""
    cudnn: Any = torch.backends.cudnn
    with _SETTINGS:
        before = cudnn.conv.fp32_precision
        cudnn.conv.fp32_precision = "ieee"
        try:
            yield
        finally:
            cudnn.conv.fp32_precision = before


def _grant(where: str, share: int) -> int:
    """Let torch take so many bytes more of a GPU, or less again; how many it was.

    The limit is the process's. Where somebody else has memory there through torch already, theirs would be limited
    too: none is set.
    """
    with _SETTINGS:
        if share < 0:
            with suppress(RuntimeError):  # torch before 2.12 refuses once CUDA ended a capture
                torch.cuda.empty_cache()  # else what we leave behind would be taken for somebody else's
        elif where not in _granted and torch.cuda.memory_reserved(where) > 0:
            return 0
        ours = _granted.pop(where, 0) + share
        fraction = ours / torch.cuda.get_device_properties(where).total_memory if ours else 1.0
        torch.cuda.set_per_process_memory_fraction(min(1.0, fraction), where)
        if ours:
            _granted[where] = ours
    return share


def _read(network: bytes) -> Any:
    try:
        graph = onnx.load_from_string(network).graph
    except Exception as error:  # protobuf raises classes of its own, which differ from version to version
        raise ModelError(f"Expected a network in ONNX, got {one_line(error)}: export the model again") from None
    unknown = sorted({node.op_type for node in graph.node} - set(OPERATIONS))
    if unknown or [value.name for value in (*graph.input, *graph.output)] != [INPUT, OUTPUT]:
        raise ModelError(
            f"Expected a network from {INPUT} to {OUTPUT} of operations that torch is told of here, "
            f"got {', '.join(unknown) or 'other names'}: install TensorRT, or export the model again"
        )
    return graph


def _last_uses(nodes: list[tuple[Any, list[str], list[str], Options]]) -> list[set[str]]:
    """After each node, what no other needs: its memory is for the next."""
    seen, last = {OUTPUT, ""}, []
    for _, inputs, outputs, _ in reversed(nodes):
        last.append({*inputs, *outputs} - seen)
        seen |= last[-1]
    return last[::-1]


def _weight(values: Any, where: str) -> Tensor:
    """Numbers that shapes are made of stay on the CPU: there they are read without waiting for the GPU."""
    tensor = torch.from_numpy(values.copy())
    if tensor.dtype == torch.int64:
        return tensor
    # Laid out on the CPU: a kernel that does it on the GPU is in another stream than ours, which does not wait for it.
    return (tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor).to(where)


def _options(node: Any) -> Options:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
