"""A network small enough to be understood, and frames it can read. Shared by the tests of every package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engine import Frame, ModelSpec
from engine.openvino import ov
from engine.spec import file_sha256

# The first example compiles a network; on a busy machine any may be slow.
settings.register_profile("atomstream", deadline=None, max_examples=40)
settings.load_profile("atomstream")

BLOB_A = 0.4  # sigma of a blob: what the tiny network takes for an atom
_WINDOW_PX = 1.5  # sigma of the window in which it takes the centroid
_HALF_SCORE = 0.8  # mean brightness in the window, in local RMS, that scores a half

TINY = ModelSpec(
    name="tiny",
    version="1",
    family="test",
    licence="BSD-3-Clause",
    classes=("C",),
    channels=1,
    sampling_A=0.2,
    level_A=12.0,
    normalise_A=12.0,
    stride=2,
    multiple=16,
    threshold=0.5,
    separation_A=0.8,
    trained={
        "sampling_A": (0.05, 0.75),
        "dose_e_A2": (1e3, 1e5),
        "voltage_kV": (60.0, 100.0),
        "defocus_A": (-200.0, 200.0),
        "field_A": (5.0, 250.0),
    },
)


@pytest.fixture(scope="session")
def tiny_spec() -> ModelSpec:
    """The spec of the tiny model, without hashes."""
    return TINY


@pytest.fixture(scope="session")
def tiny_model(build_tiny_model: Callable[..., Path]) -> Path:
    """Spec of a model that finds bright blobs of about 0.6 A radius at 0.2 A/px; weights beside it."""
    return build_tiny_model()


@pytest.fixture(scope="session")
def build_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that writes a tiny model with these changes to its spec, `int8=True` with IR files; gives the path."""

    def build(*, int8: bool = False, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("model")
        spec = replace(TINY, **changes)
        network = folder / f"{spec.name}.onnx"
        onnx.save(tiny_network(spec), network)
        files = [network]
        if int8:  # not quantised: only the names and the format are those of INT8 weights
            ir = folder / f"{spec.name}.int8.xml"
            ov.save_model(ov.Core().read_model(network), ir, compress_to_fp16=False)
            files += [ir, ir.with_suffix(".bin")]
        replace(spec, sha256={file.name: file_sha256(file) for file in files}).write(folder / f"{spec.name}.json")
        return folder / f"{spec.name}.json"

    return build


@pytest.fixture(scope="session")
def draw_frame() -> Callable[..., Frame]:
    """A function (shape, positions_px, sampling_A) -> Frame with a bright blob at each position."""

    def draw(
        shape: tuple[int, int], positions: NDArray[np.floating] | list[tuple[float, float]], sampling_A: float = 0.2
    ) -> Frame:
        y, x = (np.arange(size, dtype=np.float64) for size in shape)
        image = np.full(shape, 100.0)
        for at_y, at_x in positions:
            sigma = BLOB_A / sampling_A
            image += 50 * np.outer(np.exp(-((y - at_y) ** 2) / 2 / sigma**2), np.exp(-((x - at_x) ** 2) / 2 / sigma**2))
        return Frame(image.astype(np.float32), sampling_A)

    return draw


def tiny_network(spec: ModelSpec) -> onnx.ModelProto:
    """Score: brightness in a Gaussian window. Offset: the centroid in it. All else constant."""
    taps = np.arange(8) - 3.5  # a cell's centre lies between two pixels
    window = np.exp(-(taps**2) / 2 / _WINDOW_PX**2)
    window /= window.sum()
    widen = 1 + (BLOB_A / spec.sampling_A / _WINDOW_PX) ** 2  # the window pulls the centroid to its own centre
    kernels = [
        np.outer(window, window),
        np.outer(widen * window * taps, window),
        np.outer(window, widen * window * taps),
    ]
    weights = np.stack(kernels)[:, None].repeat(spec.channels, axis=1) / spec.channels

    constants = {
        "weights": weights,
        "one_each": [1, 1, 1],
        "half": _HALF_SCORE,
        "least": 1e-3,
        "zero": 0,
        "one": 1,
        "log_sigma": np.log(0.1),
        "furthest": 4,
        "nearest": -4,
    }
    several = len(spec.classes) > 1
    maps = ["score", "peak", "offset", "sigma", "clean", *(["not_score", "score"] if several else [])]
    nodes = [
        ("Relu", ["frame"], ["bright"], {}),
        ("Conv", ["bright", "weights"], ["moments"], {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
        ("Split", ["moments", "one_each"], ["mean", "by_y", "by_x"], {"axis": 1}),
        ("Add", ["mean", "half"], ["total"], {}),
        ("Div", ["mean", "total"], ["score"], {}),
        ("MaxPool", ["score"], ["highest"], {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2], "strides": [1, 1]}),
        ("Equal", ["score", "highest"], ["is_peak"], {}),
        ("Where", ["is_peak", "score", "zero"], ["peak"], {}),
        ("Concat", ["by_y", "by_x"], ["by"], {"axis": 1}),
        ("Max", ["mean", "least"], ["some"], {}),
        ("Div", ["by", "some"], ["centroid"], {}),
        ("Clip", ["centroid", "nearest", "furthest"], ["offset"], {}),
        ("Mul", ["score", "zero"], ["clean"], {}),
        ("Add", ["clean", "log_sigma"], ["sigma"], {}),
        ("Sub", ["one", "score"], ["not_score"], {}),
        ("Concat", maps, ["maps"], {"axis": 1}),
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, outputs, **options) for kind, inputs, outputs, options in nodes],
        "tiny",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, ["N", spec.channels, "H", "W"])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["N", 6 + 2 * several, "h", "w"])],
        [
            numpy_helper.from_array(np.array(value, np.int64 if name == "one_each" else np.float32), name)
            for name, value in constants.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
