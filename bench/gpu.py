"""`python -m bench.gpu`: the detector on an NVIDIA GPU, host frame in to atoms out; JSON, table and roofline out."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.gpu_limits import limits, properties
from bench.gpu_report import BEGIN, END, section
from bench.gpu_speed import Counting, Pace, Parts, agreement, measure_parts, measure_speed
from bench.machine import versions_and_commit
from bench.recording import record
from bench.report import replace_between
from bench.roofline import Limits, convolutions
from engine import AtomstreamError, Frame, ModelError, ModelSpec, load_detector
from engine.device import Device
from engine.device_plan import DeviceNetwork
from engine.gpu import expect_gpu, network_bytes, open_network
from engine.gpu_detector import GpuDetector
from engine.gpu_probe import load_driver
from engine.prepare import network_shape
from engine.shipped import find_spec, verified_weights

_FOLDER = Path(__file__).parent
_PAGE = _FOLDER.parent / "docs" / "performance.md"
_MEMORY_MB = 4096.0  # as `load_detector` has it
_COMPARED = 4  # frames whose atoms are held against the CPU's, which takes seconds for the largest
_QUICK = Pace(seconds=0.3, rounds=1, frames=100, repeats=3)

Opener = Callable[[Device, str], DeviceNetwork]  # of a precision


@dataclass(frozen=True, slots=True)
class Case:
    """A camera, and how the GPU is to follow it."""

    shape: tuple[int, int]
    sampling_A: float
    target_fps: float
    target_p99_ms: float

    def __str__(self) -> str:
        return f"{self.shape[0]} x {self.shape[1]} at {self.sampling_A:g} A/px"


CASES = (
    Case((4096, 4096), 0.05, 250, 8),
    Case((2048, 2048), 0.05, 1000, 3),
    Case((512, 512), 0.1, 4000, 1),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the results, print the section of the page."""
    options = _parse(argv)
    try:
        expect_gpu()
        results = measure(options)
    except AtomstreamError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n")
    if not options.quick:
        replace_between(options.page, BEGIN, END, section(results))
    print(section(results), end="")
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every case in every precision that model and runtime have, on the first GPU."""
    from engine.cupy_device import CupyDevice

    device = CupyDevice(0, _MEMORY_MB)
    path = find_spec(options.model)
    spec = ModelSpec.read(path)
    at_most = limits(device, properties(load_driver()))
    pace = _QUICK if options.quick else Pace()

    def opened(device: Device, precision: str) -> DeviceNetwork:
        network = network_bytes(spec, path.parent, precision)
        return open_network(options.backend, device, 0, spec, network, precision, _MEMORY_MB)

    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            frames = record(Path(folder), case.shape, case.sampling_A).frames
            subject = Subject(path, device, opened, at_most, device.free_bytes)
            cases += measure_case(case, frames, subject, options.precisions, pace)
    return versions_and_commit() | {
        "gpu": device.name,
        "quick": options.quick,
        "model": {"name": spec.name, "version": spec.version, "sha256": spec.sha256},
        "limits": asdict(at_most),
        "cases": cases,
    }


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What is measured: the spec's path, a device, what opens a network on it, its limits, what of it is free."""

    model: Path
    device: Device
    opened: Opener
    limits: Limits
    free_bytes: Callable[[], int]


def measure_case(
    case: Case, frames: Sequence[Frame], subject: Subject, precisions: Sequence[str], pace: Pace
) -> Iterator[dict[str, Any]]:
    """One frame size in each precision that can be had, and why another cannot."""
    spec = ModelSpec.read(subject.model)
    compared = frames[:_COMPARED]
    with load_detector(subject.model, precision="f32") as cpu:
        reference = [cpu.detect(frame) for frame in compared]
    graph = verified_weights(spec, subject.model.parent, ".onnx").read_bytes()
    height, width = (-(-size // spec.multiple) * spec.multiple for size in network_shape(frames[0], spec))
    layers = convolutions(graph, (spec.channels, height, width))
    for precision in precisions:
        device = Counting(subject.device)
        result: dict[str, Any] = {"frame": str(case), "network_input": [height, width], "precision": precision}
        try:
            network = subject.opened(device, precision)
        except ModelError as error:
            print(f"{case}, {precision}: {error}", file=sys.stderr)
            yield result | {"missing": str(error)}
            continue
        with GpuDetector(spec, device, network, memory_MB=_MEMORY_MB) as detector:
            ours = [detector.detect(frame) for frame in compared]
            result |= {
                "backend": detector.backend,
                "target_fps": case.target_fps,
                "target_p99_ms": case.target_p99_ms,
                "same_atoms": agreement(ours, reference, case.sampling_A),
            }
            result |= measure_speed(detector, device, frames, case.target_fps, pace, subject.free_bytes)
            parts = Parts(layers, precision, subject.limits, network.capturable)
            result |= measure_parts(detector, device, frames[0], parts, pace.repeats)
        print(f"{case}, {precision}: {result['fps']} frames/s, {result['same_atoms']}", file=sys.stderr)
        yield result


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--model", default="graphene", help="a shipped model, or the path of a spec .json (graphene)")
    parser.add_argument("--backend", default="auto", choices=("auto", "tensorrt", "torch"), help="as serve takes it")
    parser.add_argument("--precisions", type=lambda text: text.split(","), default=["f16", "f32", "int8"])
    parser.add_argument("--quick", action="store_true", help="does it run at all: figures that mean little, no page")
    parser.add_argument("--output", type=Path, default=_FOLDER / "results" / "gpu.json", metavar="JSON")
    parser.add_argument("--page", type=Path, default=_PAGE, metavar="MD", help="whose section a full run writes")
    return parser.parse_args(argv)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    sys.exit(main())
