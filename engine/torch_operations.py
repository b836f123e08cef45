"""What the operations of our exported networks are in torch, by their name in ONNX; for torch_network.py alone.

Each takes the values and the options of a node. Where numbers are read here (shapes, scales) they lie on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

from engine.errors import ModelError

Values = list[Any]  # inputs of an operation: tensors, and lists of int where the graph computes with shapes
Options = dict[str, Any]

_TYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.BOOL: torch.bool,
}


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


OPERATIONS: dict[str, Callable[[Values, Options], Any]] = {
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
