"""An exported network run by torch on a GPU that has no TensorRT: the operations of the ONNX file, one after the other.

The only module of engine that imports torch, and only when it is asked for. On a CPU torch runs it too, for the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional
from torch.utils.dlpack import from_dlpack

from engine.device import Array, Device, Stream
from engine.errors import DeviceError, FrameError, ModelError, one_line
from engine.tensorrt_build import INPUT, OUTPUT

Values = list[Any]  # inputs of an operation: tensors, and lists of int where the graph computes with shapes
Options = dict[str, Any]

_TYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.BOOL: torch.bool,
}


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

    Raises
    ------
    ModelError
        A file that is no network, or holds an operation that is not among those of our exports.
    """

    capturable = False  # torch's allocator wants graphs of its own making

    def __init__(self, device: Device, network: bytes, precision: str, where: str) -> None:
        self._device, self._where = device, where
        if where != "cpu":  # float32 is float32: as TF32, torch's default, the last convolution would move the atoms
            cudnn: Any = torch.backends.cudnn
            cudnn.conv.fp32_precision = "ieee"
        try:
            graph = onnx.load_from_string(network).graph
        except Exception as error:  # protobuf raises classes of its own, which differ from version to version
            raise ModelError(f"Expected a network in ONNX, got {one_line(error)}: export the model again") from None
        unknown = sorted({node.op_type for node in graph.node} - set(_OPERATIONS))
        if unknown or [value.name for value in (*graph.input, *graph.output)] != [INPUT, OUTPUT]:
            raise ModelError(
                f"Expected a network from {INPUT} to {OUTPUT} of operations that torch is told of here, "
                f"got {', '.join(unknown) or 'other names'}: install TensorRT, or export the model again"
            )
        self._nodes = [(_OPERATIONS[n.op_type], list(n.input), list(n.output), _options(n)) for n in graph.node]
        self._last = _last_uses(self._nodes)
        self._weights: dict[str, Any] = {"": None}
        for weight in graph.initializer:
            self._weights[weight.name] = _weight(numpy_helper.to_array(weight), where)
        self.backend = f"torch {torch.__version__} {precision}"

    def ready(self, size: tuple[int, int]) -> None:
        """Any size can be run at once."""

    def finish(self) -> None:
        """Nothing is ever built."""

    def bind(self, stream: Stream, pixels: Array, maps: Array) -> Callable[[Stream], None]:
        """What puts a run into a stream; torch keeps the memory that it works in for the next."""
        return lambda stream: self._enqueue(stream, pixels, maps)

    def _enqueue(self, stream: Stream, pixels: Array, maps: Array) -> None:
        on_stream: Any = nullcontext()
        if self._where != "cpu":
            on_stream = torch.cuda.stream(torch.cuda.ExternalStream(self._device.handle(stream), device=self._where))
        try:
            with on_stream, torch.inference_mode():
                answer = self.run(from_dlpack(pixels))
                from_dlpack(maps).copy_(answer)
        except torch.OutOfMemoryError as error:
            said = one_line(error)[:200]
            raise FrameError("no_memory", f"GPU expects free memory, got {said}: free some, or bin") from None
        except torch.AcceleratorError as error:
            raise DeviceError(
                f"{self._where}: expected an answer, got {one_line(error)[:200]}: run atomstream doctor, then restart"
            ) from None

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

    def close(self) -> None:
        """Free the weights."""
        self._weights.clear()


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
    tensor = tensor.to(where)
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _options(node: Any) -> Options:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _conv(inputs: Values, options: Options) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    top, left, bottom, right = options.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        x = functional.pad(x, (left, right, top, bottom))
        top = left = 0
    strides, dilations = options.get("strides", [1, 1]), options.get("dilations", [1, 1])
    return functional.conv2d(x, weight, bias, strides, (top, left), dilations, options.get("group", 1))


def _max_pool(inputs: Values, options: Options) -> Tensor:
    top, left, _, _ = options.get("pads", [0, 0, 0, 0])
    return functional.max_pool2d(inputs[0], options["kernel_shape"], options.get("strides", [1, 1]), (top, left))


def _resize(inputs: Values, options: Options) -> Tensor:
    """Nearest by whole factors, as the exported networks do it."""
    scales = [float(scale) for scale in inputs[2]]
    if options.get("mode") not in (b"nearest", None) or any(scale != int(scale) for scale in scales):
        raise ModelError(f"Expected a nearest resize by whole factors, got {scales}: install TensorRT")
    x: Tensor = inputs[0]
    return functional.interpolate(x, scale_factor=tuple(scales[2:]), mode="nearest")


def _split(inputs: Values, options: Options) -> tuple[Tensor, ...]:
    """By the sizes that are given, else into so many parts, of which the last may be smaller."""
    x, sizes = (*inputs, None)[:2]
    axis = options.get("axis", 0)
    parts: int | list[int] = -(-x.shape[axis] // options["num_outputs"]) if sizes is None else [int(k) for k in sizes]
    return torch.split(x, parts, dim=axis)


def _reshape(inputs: Values, options: Options) -> Tensor:
    x, shape = inputs
    sizes = [int(size) for size in shape]
    if not options.get("allowzero"):
        sizes = [x.shape[k] if size == 0 else size for k, size in enumerate(sizes)]
    return x.reshape(sizes) if isinstance(x, Tensor) else torch.tensor(x)


def _shape(inputs: Values, options: Options) -> Tensor:
    return torch.tensor(inputs[0].shape[options.get("start", 0) : options.get("end")])


def _div(inputs: Values, options: Options) -> Tensor:
    a, b = inputs
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


def _clip(inputs: Values, options: Options) -> Tensor:
    x, low, high = (*inputs, None, None)[:3]
    return torch.clamp(x, low, high)


def _constant(inputs: Values, options: Options) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(options["value"]).copy())


def _cast(inputs: Values, options: Options) -> Tensor:
    x: Tensor = inputs[0]
    return x.to(_TYPES[options["to"]])


def _quantise(inputs: Values, options: Options) -> Tensor:
    """With one scale; emulated, for a look at what INT8 costs: TensorRT is what computes in it."""
    x, scale, zero = inputs
    steps: Tensor = torch.round(x / scale) + zero
    return steps.clamp(-128, 127).to(torch.int8)


def _dequantise(inputs: Values, options: Options) -> Tensor:
    x, scale, zero = inputs
    along = [-1 if k == options.get("axis", 1) else 1 for k in range(x.ndim)] if scale.ndim else []
    steps: Tensor = x.to(scale.dtype) - zero.to(scale.dtype).reshape(along)
    values: Tensor = steps * scale.reshape(along)
    return values


_OPERATIONS: dict[str, Callable[[Values, Options], Any]] = {
    "Add": lambda x, _: x[0] + x[1],
    "And": lambda x, _: x[0] & x[1],
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda x, o: torch.cat(x, dim=o["axis"]),
    "Constant": _constant,
    "Conv": _conv,
    "DequantizeLinear": _dequantise,
    "Div": _div,
    "Equal": lambda x, _: x[0] == x[1],
    "Expand": lambda x, _: x[0].expand([int(size) for size in x[1]]),
    "Less": lambda x, _: x[0] < x[1],
    "Max": lambda x, _: torch.maximum(x[0], x[1]),
    "MaxPool": _max_pool,
    "Mul": lambda x, _: x[0] * x[1],
    "QuantizeLinear": _quantise,
    "Relu": lambda x, _: torch.relu(x[0]),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Sigmoid": lambda x, _: torch.sigmoid(x[0]),
    "Split": _split,
    "Sub": lambda x, _: x[0] - x[1],
    "Transpose": lambda x, o: x[0].permute(o["perm"]),
    "Where": lambda x, _: torch.where(x[0], x[1], x[2]),
}
