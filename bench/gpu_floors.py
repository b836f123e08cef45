"""The roofline of a GPU that is not here, reckoned from its data sheet: `python -m bench.gpu_floors` prints the table.

Bytes and operations are those of `bench.gpu`; no time in it is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from bench.gpu import CASES, Case
from bench.gpu_report import scaled, time_text
from bench.roofline import Limits, convolutions, floor_s, stages
from engine.device_plan import Kind, Ledger, Plan
from engine.frame import Frame
from engine.prepare import network_shape
from engine.shipped import find_spec, verified_weights
from engine.spec import ModelSpec

# REF: NVIDIA H200 Tensor Core GPU data sheet, SXM: 4.8 TB/s; half of what it gives for the tensor cores with sparsity
# (TF32 989, FP16 1,979 TFLOPS, INT8 3,958 TOPS). PCIe 5 x16 carries 63 GB/s, of which large transfers reach about 55.
H200 = Limits(4.8e12, {"f32": 494.5e12, "f16": 989e12, "int8": 1979e12}, up_B_s=55e9, down_B_s=55e9)


class _Idle:
    """A network of which a plan asks no more than this."""

    capturable = True


def table(name: str, limits: Limits, precision: str = "f16") -> str:
    """Markdown: the parts of a frame's way and what they take at least, for each case of `bench.gpu`."""
    path = find_spec(name)
    spec = ModelSpec.read(path)
    graph = verified_weights(spec, path.parent, ".onnx").read_bytes()
    lines = ["| one frame's part | bytes | operations | floor |", "|---|---|---|---|"]
    for case in CASES:
        lines += ["| " + " | ".join(cells) + " |" for cells in _rows(case, spec, graph, limits, precision)]
    return "\n".join(lines) + "\n"


def _rows(
    case: Case, spec: ModelSpec, graph: bytes, limits: Limits, precision: str
) -> Iterator[tuple[str, str, str, str]]:
    pixels = np.broadcast_to(np.zeros((), np.uint16), case.shape)
    to = network_shape(Frame(pixels, case.sampling_A), spec)
    kind = Kind((spec.channels, *case.shape), to, "uint16", False, case.sampling_A)
    plan = Plan(cast(Any, Ledger()), spec, cast(Any, _Idle()), kind, most_pixels=to[0] * to[1] * 2)
    layers = convolutions(graph, (spec.channels, plan.padded[0], plan.padded[1]))
    parts = stages(plan, plan.free.get(), layers, precision, limits)
    yield f"**{case}, {precision}**", "", "", ""
    for part in parts:
        operations = scaled(part.operations, "FLOP") if part.operations else ""
        yield part.name, scaled(part.bytes, "B"), operations, time_text(part.floor_s)
    least_s = floor_s(parts)
    yield f"from frame to frame: at most {1 / least_s:,.0f} frames/s", "", "", time_text(least_s)


if __name__ == "__main__":
    print(table("graphene", H200), end="")
