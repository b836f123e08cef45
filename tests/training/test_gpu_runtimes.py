"""The network's form through all that the GPU path does with it: torch, float16, INT8, TensorRT; and the bench.

Untrained: the form is what is tested. `test_export.py` and the tests of engine have trained ones.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from bench.torch_script import rebuilt_network
from engine import ModelSpec
from engine.half import halved
from engine.network import OpenVinoNetwork
from engine.tensorrt_build import ShapeRange, build
from engine.tensorrt_module import Edition
from engine.torch_network import TorchNetwork
from tests.cuda_on_cpu import HostDevice
from tests.engine.conftest import edition  # noqa: F401 - a fixture
from training.export import Exported, write_network
from training.quantise_gpu import quantise_for_gpu
from training.recipes.graphene import graphene
from training.unet import UNet

pytestmark = pytest.mark.timeout(400)  # torch is slow to export

_WIDTHS, _DEPTH = (8, 16, 24), (1, 1, 2)
_SPEC = replace(graphene().spec, name="untrained")


@pytest.fixture(scope="module")
def untrained() -> UNet:
    """Normalisations that have seen frames, and weights that no two channels share."""
    torch.manual_seed(0)
    network = UNet(1, _WIDTHS, _DEPTH)
    with torch.no_grad():
        for look in network.looks.modules():
            if isinstance(look, torch.nn.BatchNorm2d):  # untrained, second looks say nothing
                look.weight.fill_(1)
        for _ in range(20):
            network(torch.randn(2, 1, 32, 32))
    return network.eval()


@pytest.fixture(scope="module")
def path(untrained: UNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported file, its spec beside it."""
    folder = tmp_path_factory.mktemp("network")
    write_network(untrained, _SPEC, folder)
    return folder / f"{_SPEC.name}.onnx"


@pytest.fixture(scope="module")
def quantised(path: Path) -> Path:
    return quantise_for_gpu(path, [pixels(seed) for seed in range(4)])


def pixels(seed: int, height: int = 64, width: int = 96) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(1, 1, height, width)).astype(np.float32)


def answer(content: bytes, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """What torch makes of the file's operations."""
    maps = np.zeros((1, 6, image.shape[2] // 2, image.shape[3] // 2), np.float32)
    TorchNetwork(HostDevice({}), content, "f32", "cpu").bind(1, image, maps)(1)
    return maps[0]


@pytest.fixture(scope="module")
def expected(path: Path) -> NDArray[np.float32]:
    network = OpenVinoNetwork(path, "f32", channels=1, maps=6, threads=1)
    values = network.infer(pixels(9)).values
    network.close()
    return values


REST = [0, 2, 3, 4, 5]  # the peak channel may choose the other of two near-equal neighbours


def test_coarse_levels_multiply_finer_ones(path: Path, untrained: UNet) -> None:
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    levels, looks = len(_WIDTHS) - 1, sum(len(level) for level in untrained.looks)
    assert looks
    assert [kinds.count(kind) for kind in ("Resize", "Split")] == [levels + looks, levels]
    assert kinds.count("Mul") >= levels + looks


@pytest.mark.parametrize(("half", "share"), [(False, 1e-3), (True, 0.05)])
def test_torch_answers_as_openvino(path: Path, expected: NDArray[np.float32], half: bool, share: float) -> None:
    content = path.read_bytes()
    got = answer(halved(content) if half else content, pixels(9))
    for k in REST:  # against what the map itself varies by
        assert np.abs(got[k] - expected[k]).max() < share * expected[k].std()
    assert ((got[1] > 0) != (expected[1] > 0)).mean() < 0.01


def test_what_is_multiplied_is_quantised_each_factor_by_a_scale_of_its_own(quantised: Path) -> None:
    graph = onnx.load(quantised).graph
    made_by = {node.output[0]: node for node in graph.node}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    products = [node for node in graph.node if node.op_type == "Mul" and node.input[0] in made_by]
    products = [node for node in products if made_by[node.input[0]].op_type == "DequantizeLinear"]
    assert len(products) == len(_WIDTHS) - 1
    for node in products:
        factors = [made_by[name] for name in node.input]
        assert [factor.op_type for factor in factors] == ["DequantizeLinear"] * 2
        assert factors[0].input[1] != factors[1].input[1]
        # The finer feature is read by the way down too: nothing of it is kept in float16 beside.
        fine = made_by[factors[0].input[0]]
        assert fine.op_type == "QuantizeLinear"
        assert readers[fine.input[0]] == {"QuantizeLinear"}
        assert "Conv" in readers[node.input[0]]


def test_int8_says_what_the_network_says(quantised: Path, expected: NDArray[np.float32]) -> None:
    got = answer(quantised.read_bytes(), pixels(9))
    for k in REST:
        error = np.abs(got[k] - expected[k])
        assert 0 < error.mean() < 0.15 * expected[k].std()


@pytest.mark.parametrize("precision", ["f32", "f16", "int8"])
def test_tensorrt_builds_it(path: Path, quantised: Path, edition: Edition, precision: str) -> None:  # noqa: F811
    content = quantised.read_bytes() if precision == "int8" else path.read_bytes()
    sizes = [(k * _SPEC.multiple, k * _SPEC.multiple) for k in (1, 8, 64)]
    assert build(
        edition, halved(content) if precision == "f16" else content, ShapeRange(*sizes), channels=1, maps=6
    ).engine


def test_the_bench_rebuilds_it_from_its_file(path: Path, untrained: UNet) -> None:
    exported = Exported(untrained, ModelSpec.read(path.with_suffix(".json"))).eval()
    for weight in exported.parameters():
        if weight.ndim > 1:
            weight.data = weight.data.half().float()  # as the file keeps them
    image = torch.from_numpy(pixels(9))
    with torch.inference_mode():
        got, want = rebuilt_network(str(path.with_suffix(".json")))(image), exported.network(image)
    assert torch.equal(got, want)
