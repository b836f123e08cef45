"""The INT8 file for GPUs: explicit quantisation as TensorRT reads it, calibrated on frames drawn as in training.

TensorRT wants signed, symmetric activations and no integer bias; OpenVINO misreads such a file: each has its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engine.half import halved
from engine.openvino import ov

_STEPS = 127  # of the largest value, to either side
_KEPT = (
    99.99  # percentile that the largest step stands for: the rare values beyond it are cut, the many gain resolution
)


def quantise_for_gpu(path: Path, inputs: list[NDArray[np.float32]]) -> Path:
    """NAME.onnx to NAME.int8.onnx: convolutions and products in INT8, sums between in float16, the head in float32.

    Parameters
    ----------
    path : Path
        Network of one input; weights float32, or float16 with a cast.
    inputs : list of (1, C, H, W) float32
        That activations are measured on.
    """
    content = path.read_bytes()
    graph = onnx.load_from_string(content).graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"][:-1]
    read = {node.input[0] for node in convolutions}
    products = _products(graph, read)
    largest = measure(content, sorted(read.union(*(node.input for node in products))), inputs)
    model = onnx.load_from_string(halved(content))
    _insert(model.graph, {node.output[0] for node in (*convolutions, *products)}, largest)
    onnx.checker.check_model(model)
    quantised = path.with_suffix(".int8.onnx")
    onnx.save(model, quantised)
    return quantised


def measure(content: bytes, names: list[str], inputs: list[NDArray[np.float32]]) -> dict[str, float]:
    """The largest absolute value of each of these tensors that is worth a step."""
    model = onnx.load_from_string(content)
    given = {value.name for value in model.graph.input}
    inside = [name for name in names if name not in given]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inside)
    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    largest = dict.fromkeys(names, 0.0)
    for pixels in inputs:
        values = compiled([pixels])
        seen = {name: values[k] for k, name in enumerate(inside)} | dict.fromkeys(given & set(names), pixels)
        for name, value in seen.items():
            largest[name] = max(largest[name], float(np.percentile(np.abs(value), _KEPT)))
    return largest


def _products(graph: onnx.GraphProto, read: set[str]) -> list[onnx.NodeProto]:
    """Products of what a convolution reads with what coarser levels say of it: the former is kept in INT8 alone then.

    Each factor has a scale of its own. A product with a constant, or of sizes, is none of these.
    """
    weights = {weight.name for weight in graph.initializer}
    products = [node for node in graph.node if node.op_type == "Mul"]
    return [node for node in products if read.intersection(node.input) and not weights.intersection(node.input)]


def _insert(graph: onnx.GraphProto, quantised: set[str], largest: dict[str, float]) -> None:
    """Quantise and dequantise before the data and the weights of these nodes, named by their outputs."""
    weights = {weight.name: weight for weight in graph.initializer}
    sources = {node.output[0]: node for node in graph.node}
    nodes, done = [], {}
    for node in graph.node:
        if node.output[0] in quantised:
            is_convolution = node.op_type == "Conv"
            for k, data in enumerate(node.input[:1] if is_convolution else node.input):
                if data not in done:
                    done[data], added = _activation(graph, data, largest[data.removesuffix(".half")])
                    nodes += added
                node.input[k] = done[data]
            if is_convolution:
                stored = node.input[1] if node.input[1] in weights else sources[node.input[1]].input[0]
                node.input[1], added = _weight(graph, node.input[1], numpy_helper.to_array(weights[stored]))
                nodes += added
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(graph)


def _activation(graph: onnx.GraphProto, name: str, largest: float) -> tuple[str, list[onnx.NodeProto]]:
    scale, zero = f"{name}.scale", f"{name}.zero"
    # A tensor that is always 0, or so near that float16 has no scale for it, has none of its own.
    _add(graph, scale, np.float16(largest / _STEPS) or np.float16(1))
    _add(graph, zero, np.int8(0))
    return f"{name}.quantised", [
        helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}.int8"]),
        helper.make_node("DequantizeLinear", [f"{name}.int8", scale, zero], [f"{name}.quantised"]),
    ]


def _weight(graph: onnx.GraphProto, name: str, values: NDArray[np.generic]) -> tuple[str, list[onnx.NodeProto]]:
    """A scale for each output channel."""
    exact = values.astype(np.float64)
    scale = (np.abs(exact).max(axis=tuple(range(1, exact.ndim))) / _STEPS).astype(np.float16)
    scale = np.where(scale > 0, scale, np.float16(1))
    steps = np.rint(exact / scale.astype(np.float64).reshape(-1, *[1] * (exact.ndim - 1)))
    _add(graph, f"{name}.int8", np.clip(steps, -_STEPS, _STEPS).astype(np.int8))
    _add(graph, f"{name}.scale", scale)
    _add(graph, f"{name}.zero", np.zeros(len(scale), np.int8))
    parts = [f"{name}.int8", f"{name}.scale", f"{name}.zero"]
    return f"{name}.quantised", [helper.make_node("DequantizeLinear", parts, [f"{name}.quantised"], axis=0)]


def _add(graph: onnx.GraphProto, name: str, values: NDArray[np.generic] | np.generic) -> None:
    graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Nodes and initializers that lead to no output; from the end on, what only unused nodes used is unused too."""
    used = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            used.update(node.input)
            nodes.append(node)
    kept = [value for value in graph.initializer if value.name in used]
    for parts, left in ((graph.node, nodes[::-1]), (graph.initializer, kept)):
        del parts[:]
        parts.extend(left)
