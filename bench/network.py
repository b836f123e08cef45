"""The network alone: one prepared frame through it, again and again, with nothing around it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.rounds import Rate
from engine import ModelSpec
from engine.network import OpenVinoNetwork, cpu_precisions, map_count
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
        weights, precision, channels=spec.channels, maps=map_count(spec), threads=threads, at_once=at_once(threads)
    )


def at_once(threads: int) -> int:
    """Frames side by side in the network, as `serve` has them by default."""
    return ServeConfig(policy="lossless", socket="pull", threads=threads).side_by_side


def alone(network: OpenVinoNetwork, pixels: NDArray[np.float32], threads: int, seconds: float) -> Rate:
    """A measurement of the network with as many frames side by side as in `serve`, without a copy of its answers."""
    network.settle(pixels.shape)
    workers = ThreadPoolExecutor(at_once(threads))

    def run(end_s: float) -> int:
        done = 0
        while done == 0 or time.perf_counter() < end_s:
            with network.request(pixels.shape) as request:
                request.infer([pixels], share_inputs=True, share_outputs=True)
            done += 1
        return done

    def rate() -> float:
        begun_s = time.perf_counter()
        done = sum(workers.map(run, [begun_s + seconds] * at_once(threads)))
        return done / (time.perf_counter() - begun_s)

    run(0)  # what is allocated once is not measured
    return rate
