"""A float32 ONNX network to one that computes in float16, for runtimes that take the precision from the file.

The last convolution and all that follows stay in float32: they hold the positions. Inputs and outputs stay float32 too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import ModelError, one_line

_NOT_DATA = {"Resize": (1, 2)}  # inputs that stay float32: scales are no data
_SOURCES = ("Constant", "ConstantOfShape")  # make a float32 tensor of nothing that could be float16
_NEEDS = "pip install onnx"


def halved(network: bytes) -> bytes:
    """The network with float16 weights and arithmetic up to its last convolution.

    Parameters
    ----------
    network : bytes
        ONNX file with one float32 input; weights may be stored as float16 with a cast.

    Raises
    ------
    ModelError
        No ONNX file, or none with a convolution; the package onnx is missing.
    """
    onnx = _onnx()
    try:
        model = onnx.shape_inference.infer_shapes(onnx.load_from_string(network))
    except Exception as error:  # protobuf raises classes of its own, which differ from version to version
        cause = one_line(error)
        raise ModelError(f"Expected a network in ONNX, got {cause}: export the model again") from None
    graph = model.graph
    convolutions = [k for k, node in enumerate(graph.node) if node.op_type == "Conv"]
    if not convolutions:
        raise ModelError("Expected a network with convolutions, got none: export the model again")
    head = convolutions[-1]
    _Halving(onnx, graph).run(head)
    del graph.value_info[:]  # of the types before
    return bytes(model.SerializeToString())


class _Halving:
    """Walks a graph in order and keeps which tensors are float16 by now."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self._onnx, self._graph = onnx, graph
        single = onnx.TensorProto.FLOAT
        typed = [*graph.value_info, *graph.input, *graph.output]
        self._single = {value.name for value in typed if value.type.tensor_type.elem_type == single}
        self._weights = {weight.name: weight for weight in graph.initializer}
        self._single |= {name for name, weight in self._weights.items() if weight.data_type == single}
        self._half: dict[str, str] = {}  # name of the float32 tensor: name of its float16 form
        self._nodes: list[Any] = []

    def run(self, head: int) -> None:
        """Rewrite the graph; node number `head` and those after it stay as they are."""
        nodes = list(self._graph.node)
        rewritten = set()  # outputs that are float16 under their own name
        for node in nodes[:head]:
            for k, name in enumerate(node.input):
                if name in self._single and k not in _NOT_DATA.get(node.op_type, ()) and node.op_type != "Shape":
                    node.input[k] = name if name in rewritten else self._as_half(name)
            if node.op_type == "Cast":  # a weight that is stored as float16
                _set_target(node, self._onnx)
            if node.op_type not in _SOURCES:
                rewritten |= set(node.output) & self._single
            self._nodes.append(node)
        for node in nodes[head:]:
            for k, name in enumerate(node.input):
                if name in rewritten:
                    node.input[k] = self._as_single(name)
            self._nodes.append(node)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        weights = [weight for weight in self._graph.initializer if weight.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(weights)

    def _as_half(self, name: str) -> str:
        """Name of a float16 form of an input or a weight."""
        if name not in self._half:
            self._half[name] = f"{name}.half"
            if name in self._weights:
                self._add_weight(name, self._half[name])
            else:
                self._cast(name, self._half[name], self._onnx.TensorProto.FLOAT16)
        return self._half[name]

    def _as_single(self, name: str) -> str:
        single = f"{name}.single"
        if self._half.get(single) is None:
            self._half[single] = single
            self._cast(name, single, self._onnx.TensorProto.FLOAT)
        return single

    def _add_weight(self, name: str, half: str) -> None:
        values = self._onnx.numpy_helper.to_array(self._weights[name])
        self._graph.initializer.append(self._onnx.numpy_helper.from_array(values.astype(np.float16), half))

    def _cast(self, name: str, to: str, data_type: int) -> None:
        self._nodes.append(self._onnx.helper.make_node("Cast", [name], [to], to=data_type))


def _set_target(node: Any, onnx: Any) -> None:
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = onnx.TensorProto.FLOAT16


def _onnx() -> Any:
    try:
        import onnx
        import onnx.shape_inference
    except ImportError as error:
        raise ModelError(f"Expected the package onnx to write a float16 network, got {error}: {_NEEDS}") from None
    return onnx
