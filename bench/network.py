"""The network alone: one prepared frame through it, again and again, with nothing around it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from engine import ModelSpec
from engine.network import MAPS, OpenVinoNetwork, cpu_precisions
from engine.shipped import find_spec, verified_weights
from stream.config import ServeConfig


def precisions(spec: ModelSpec) -> list[str]:
    """What this model and this CPU can do, the most exact first."""
    quantised = f"{spec.name}.int8.xml" in spec.sha256
    return [name for name in ("f32", "bf16") if name in cpu_precisions()] + ["int8"] * quantised


def load_network(model: str | Path, precision: str, threads: int) -> OpenVinoNetwork:
    """The same network that `serve` runs, as policy lossless runs it, without what stands around it."""
    path = find_spec(model)
    spec = ModelSpec.read(path)
    weights = verified_weights(spec, path.parent, ".int8.xml" if precision == "int8" else ".onnx")
    return OpenVinoNetwork(
        weights, precision, channels=spec.channels, maps=MAPS, threads=threads, at_once=at_once(threads)
    )


def at_once(threads: int) -> int:
    """Frames side by side in the network, as `serve` has them by default."""
    return ServeConfig(policy="lossless", socket="pull", threads=threads).side_by_side


def inference(network: OpenVinoNetwork, pixels: NDArray[np.float32], threads: int) -> Callable[[], object]:
    """One inference more, as many side by side as in `serve`; and not even a copy of its answer."""
    network.settle(pixels.shape)
    running: deque[ov.InferRequest] = deque()
    with ExitStack() as stack:  # all of them at once
        for _ in range(at_once(threads)):
            running.append(stack.enter_context(network.request(pixels.shape)))
            running[-1].set_input_tensor(ov.Tensor(pixels.copy(), shared_memory=False))
            running[-1].start_async()

    def one_more() -> None:
        first = running.popleft()
        first.wait()
        first.start_async()
        running.append(first)

    return one_more
