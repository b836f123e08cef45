"""The network alone: one prepared frame through it, again and again, with nothing around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine import ModelSpec
from engine.network import MAPS, OpenVinoNetwork, cpu_precisions
from engine.shipped import find_spec, verified_weights


def precisions(spec: ModelSpec) -> list[str]:
    """What this model and this CPU can do, the most exact first."""
    quantised = f"{spec.name}.int8.xml" in spec.sha256
    return [name for name in ("f32", "bf16") if name in cpu_precisions()] + ["int8"] * quantised


def load_network(model: str | Path, precision: str, threads: int) -> OpenVinoNetwork:
    """The same network that `serve` runs, without what stands around it."""
    path = find_spec(model)
    spec = ModelSpec.read(path)
    weights = verified_weights(spec, path.parent, ".int8.xml" if precision == "int8" else ".onnx")
    return OpenVinoNetwork(weights, precision, channels=spec.channels, maps=MAPS, threads=threads)


def inference(network: OpenVinoNetwork, pixels: NDArray[np.float32]) -> Callable[[], object]:
    """One inference, and not even a copy of its answer."""
    network.settle(pixels.shape)
    request = network.request(pixels.shape)
    return lambda: request.infer([pixels], share_inputs=True, share_outputs=True)
