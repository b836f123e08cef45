"""Bytes and operations of a frame on a GPU, and the least time that they take: what a measured time is held against.

Counted from the network's ONNX graph and the sizes of buffers. Of the network only convolutions count as operations,
and as bytes only what they must read and write: all between them can be fused. A floor is never too high by that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from engine.device_plan import Kind, Place, Plan
from engine.openvino import ov

_BYTES = {"f32": 4, "f16": 2, "int8": 1}  # of a value in the network


@dataclass(frozen=True, slots=True)
class Limits:
    """What a GPU can do at most.

    Attributes
    ----------
    memory_B_s : float
        Between its memory and its cores, bytes a second.
    operations_s : dict of float
        Multiplications and additions a second by precision, dense, in tensor cores.
    up_B_s, down_B_s : float
        Over the bus, as measured with large transfers.
    """

    memory_B_s: float
    operations_s: dict[str, float]
    up_B_s: float
    down_B_s: float


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution: multiplications and additions, and values that it reads and writes."""

    operations: int
    values: int


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a frame's way: what it has to do, and in what time it can be done at the limit."""

    name: str
    bytes: int
    operations: int
    floor_s: float


def convolutions(network: bytes, shape: tuple[int, int, int]) -> list[Layer]:
    """The layers of an ONNX file for an input of (C, H, W)."""
    model = ov.Core().read_model(network)
    model.reshape([1, *shape])
    layers = []
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            read, weights = (math.prod(node.input(k).get_shape()) for k in range(2))
            written = node.output(0).get_shape()
            layers.append(Layer(2 * math.prod(written[2:]) * weights, read + weights + math.prod(written)))
    return layers


def stages(plan: Plan, place: Place, layers: Iterable[Layer], precision: str, limits: Limits) -> list[Stage]:
    """A frame's way from host memory to candidates in host memory, in order.

    Each floor is the larger of two: bytes over bandwidth, operations over their rate; for the network layer by layer.
    """
    frame, size = _frame_bytes(plan.kind), _BYTES[precision]
    given = 4 * math.prod(plan.input.shape)
    maps = 4 * math.prod(plan.maps.shape)
    rate = limits.operations_s[precision]
    layers = list(layers)
    network_s = sum(max(one.operations / rate, one.values * size / limits.memory_B_s) for one in layers)
    found = place.found_host.nbytes
    return [
        Stage("up", frame, 0, frame / limits.up_B_s),
        Stage("prepare", frame + given, 0, (frame + given) / limits.memory_B_s),
        Stage("network", size * sum(one.values for one in layers), sum(one.operations for one in layers), network_s),
        Stage("peaks", maps, 0, maps / limits.memory_B_s),
        Stage("down", found, 0, found / limits.down_B_s),
    ]


def floor_s(parts: Iterable[Stage]) -> float:
    """Least time from frame to frame: both ways over the bus run beside what is computed, so the slowest counts."""
    by_name = {part.name: part.floor_s for part in parts}
    return max(by_name["up"], by_name["down"], by_name["prepare"] + by_name["network"] + by_name["peaks"])


def _frame_bytes(kind: Kind) -> int:
    """That go up for a frame."""
    pixels = math.prod(kind.shape[1:])
    return pixels * (kind.shape[0] * kind.item_bytes + kind.masked)
