import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine import ModelError
from engine.half import halved
from engine.openvino import ov
from engine.shipped import find_spec, list_models
from engine.spec import ModelSpec
from tests.conftest import TINY, tiny_network


def types(model):
    """Element type of every tensor, once the whole graph has been checked."""
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


def run(network, pixels):
    core = ov.Core()
    compiled = core.compile_model(core.read_model(network), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled([pixels])[0]


def pixels(size=64, channels=1):
    return np.random.default_rng(0).normal(size=(1, channels, size, size)).astype(np.float32)


def expect_alike(half, single, atol):
    """Near-equal neighbours may change which of them is the local maximum; nothing else may jump."""
    peak = [channel == 1 for channel in range(single.shape[1])]
    np.testing.assert_allclose(half[:, ~np.array(peak)], single[:, ~np.array(peak)], atol=atol)
    moved = (half[:, 1] > 0) != (single[:, 1] > 0)
    assert moved.mean() < 0.002


def stored_as_half(model):
    """As training.export keeps weights: float16, and a cast."""
    for weight in model.graph.initializer:
        if weight.name == "weights":
            stored = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), "weights.float16")
            model.graph.node.insert(0, helper.make_node("Cast", [stored.name], [weight.name], to=TensorProto.FLOAT))
            weight.CopyFrom(stored)
    return model


@pytest.mark.parametrize("name", list_models())
def test_a_shipped_network_in_half(name):
    path = find_spec(name)
    spec = ModelSpec.read(path)
    network = path.with_suffix(".onnx").read_bytes()
    half = halved(network)
    known = types(onnx.load_from_string(half))
    convolutions = [node for node in onnx.load_from_string(half).graph.node if node.op_type == "Conv"]
    assert {known[node.output[0]] for node in convolutions[:-1]} == {TensorProto.FLOAT16}
    assert known[convolutions[-1].output[0]] == TensorProto.FLOAT
    assert (known["frame"], known["maps"]) == (TensorProto.FLOAT, TensorProto.FLOAT)
    image = pixels(16 * spec.multiple, spec.channels)
    expect_alike(run(half, image), run(network, image), 0.03)


@pytest.mark.parametrize("stored", [False, True])
def test_what_follows_the_last_convolution_stays_single(stored):
    model = tiny_network(TINY)
    # A convolution before the last, so that something is left to be halved.
    delta = np.zeros((1, 1, 3, 3), np.float32)
    delta[0, 0, 1, 1] = 1
    model.graph.initializer.append(numpy_helper.from_array(delta, "delta"))
    model.graph.node[0].input[0] = "same"
    model.graph.node.insert(0, helper.make_node("Conv", ["frame", "delta"], ["same"], pads=[1, 1, 1, 1]))
    before = run(model.SerializeToString(), pixels())
    half = halved((stored_as_half(model) if stored else model).SerializeToString())
    known = types(onnx.load_from_string(half))
    assert {known["same"], known["bright"]} == {TensorProto.FLOAT16}
    assert {known["moments"], known["score"], known["maps"]} == {TensorProto.FLOAT}
    expect_alike(run(half, pixels()), before, 0.02)


def test_constants_and_scales_keep_their_types():
    nodes = [
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.float32(2), "two")),
        helper.make_node("Mul", ["frame", "two"], ["double"]),
        helper.make_node("Resize", ["double", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Conv", ["large", "one"], ["maps"]),
    ]
    weights = {"one": np.ones((1, 1, 1, 1), np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}
    shape = ["N", 1, "H", "W"]
    graph = helper.make_graph(
        nodes,
        "scaled",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["N", 1, "h", "w"])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    half = onnx.load_from_string(halved(network))
    assert types(half)["large"] == TensorProto.FLOAT16
    assert {w.name: w.data_type for w in half.graph.initializer}["scales"] == TensorProto.FLOAT
    np.testing.assert_allclose(run(half.SerializeToString(), pixels(8)), run(network, pixels(8)), atol=0.01)


@pytest.mark.parametrize("content", [b"", b"not a network"])
def test_what_is_no_network_is_refused(content):
    with pytest.raises(ModelError, match=r"Expected a network .*, got .*: export the model again"):
        halved(content)
