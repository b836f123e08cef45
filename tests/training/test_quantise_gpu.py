"""The INT8 file for GPUs: what it is made of, that TensorRT builds it, and that it says what the network says."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engine.shipped import find_spec, list_models
from engine.spec import ModelSpec
from engine.tensorrt_build import ShapeRange, build
from engine.tensorrt_module import Edition
from engine.torch_network import TorchNetwork
from tests.cuda_on_cpu import HostDevice
from tests.engine.conftest import edition  # noqa: F401 - a fixture
from training.quantise_gpu import measure, quantise_for_gpu


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return ModelSpec.read(find_spec(list_models()[0]))


@pytest.fixture(scope="module")
def network(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped file."""
    copied = tmp_path_factory.mktemp("network") / f"{spec.name}.onnx"
    shutil.copy(find_spec(spec.name).with_suffix(".onnx"), copied)
    return copied


@pytest.fixture(scope="module")
def quantised(network: Path, spec: ModelSpec) -> Path:
    return quantise_for_gpu(network, [sheet(spec, seed) for seed in range(4)])


def sheet(spec: ModelSpec, seed: int) -> NDArray[np.float32]:
    """A hexagonal pattern of graphene's period in noise, of no contrast outside."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: 8 * spec.multiple, : 8 * spec.multiple] * spec.sampling_A
    turn = rng.uniform(0, np.pi)
    waves = sum(np.cos(2 * np.pi / 2.13 * (x * np.cos(a) + y * np.sin(a))) for a in turn + np.pi * np.arange(3) / 3)
    return (waves + rng.normal(0, 0.5, waves.shape))[None, None].astype(np.float32)


def answer(network: Path, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    maps = np.zeros((1, 6, pixels.shape[2] // 2, pixels.shape[3] // 2), np.float32)
    TorchNetwork(HostDevice({}), network.read_bytes(), "f32", "cpu").bind(1, pixels, maps)(1)
    return maps[0]


def test_every_convolution_but_the_last_is_quantised_as_tensorrt_reads_it(quantised: Path) -> None:
    graph = onnx.load(quantised).graph
    made_by = {node.output[0]: node for node in graph.node}
    values = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    *inner, head = [node for node in graph.node if node.op_type == "Conv"]
    assert len(inner) > 5
    for node in inner:
        assert [made_by[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
    assert made_by[head.input[0]].op_type == "Cast"
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = values[node.input[1]], values[node.input[2]]
            assert scale.dtype == np.float16
            assert (scale > 0).all()
            assert zero.dtype == np.int8  # signed
            assert not zero.any()  # and symmetric
    biases = {values[node.input[2]].dtype for node in inner}
    assert biases == {np.dtype(np.float16)}  # no integer bias


def test_it_is_smaller(quantised: Path, network: Path) -> None:
    assert quantised.stat().st_size < 0.6 * network.stat().st_size


def test_tensorrt_builds_it(quantised: Path, spec: ModelSpec, edition: Edition) -> None:  # noqa: F811
    sizes = [(k * spec.multiple, k * spec.multiple) for k in (1, 8, 64)]
    assert build(edition, quantised.read_bytes(), ShapeRange(*sizes), channels=spec.channels, maps=6).engine


def test_it_says_what_the_network_says(quantised: Path, network: Path, spec: ModelSpec) -> None:
    pixels = sheet(spec, 99)
    got, expected = answer(quantised, pixels), answer(network, pixels)
    score, offset = np.abs(got[0] - expected[0]), np.abs(got[2:4] - expected[2:4])
    assert expected[0].max() > 0.5
    assert score.mean() < 0.01
    assert offset[:, expected[0] > 0.5].mean() < 0.1
    assert score.any()  # and it is not the same network


def convolution(weight: float) -> bytes:
    """Two convolutions by 1, the first of this weight."""
    nodes = [
        helper.make_node("Conv", ["frame", "first"], ["inner"]),
        helper.make_node("Relu", ["inner"], ["bright"]),
        helper.make_node("Conv", ["bright", "second"], ["between"]),
        helper.make_node("Conv", ["between", "second"], ["maps"]),
    ]
    weights = {"first": np.full((1, 1, 1, 1), weight, np.float32), "second": np.ones((1, 1, 1, 1), np.float32)}
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, ["N", 1, "H", "W"])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["N", 1, "h", "w"])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()
    return content


def test_the_rarest_values_do_not_cost_the_others_their_resolution() -> None:
    pixels = np.ones((1, 1, 200, 200), np.float32)
    pixels[0, 0, 0, 0] = 1000
    assert measure(convolution(2.0), ["frame", "bright"], [pixels]) == {"frame": 1.0, "bright": 2.0}
    several = measure(convolution(2.0), ["bright"], [pixels, 3 * pixels, pixels])
    assert several == {"bright": 6.0}  # the largest of all frames


@pytest.mark.parametrize("weight", [0.0, 1e-7])  # of a fit that has just begun: its scale is 0 in float16
def test_a_channel_or_tensor_that_is_always_zero_is_no_division_by_zero(tmp_path: Path, weight: float) -> None:
    path = tmp_path / "dark.onnx"
    path.write_bytes(convolution(weight))
    graph = onnx.load(quantise_for_gpu(path, [np.ones((1, 1, 8, 8), np.float32)])).graph
    scales = [numpy_helper.to_array(weight) for weight in graph.initializer if weight.name.endswith(".scale")]
    assert len(scales) == 4  # of two inputs and two weights
    assert all(np.isfinite(scale).all() and (scale > 0).all() for scale in scales)
