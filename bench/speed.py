"""Frames a second and latency of the live path, beside the network alone: three frame sizes, and each precision."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from bench.network import alone, load_network, precisions
from bench.path import EDGES, LivePath, sustained
from bench.recording import record
from bench.rounds import interleave, ratio, summary
from bench.setting import Setting
from engine.prepare import prepare


@dataclass(frozen=True, slots=True)
class Case:
    """A camera, and how fast it is to be followed."""

    shape: tuple[int, int]
    sampling_A: float
    target_fps: float

    def __str__(self) -> str:
        return f"{self.shape[0]} x {self.shape[1]} at {self.sampling_A:g} A/px"


CASES = (
    Case((512, 512), 0.1, 100),
    Case((1024, 1024), 0.1, 25),
    Case((2048, 2048), 0.05, 20),
)


def measure_speed(setting: Setting) -> list[dict[str, Any]]:
    """Path and network in turn, then the live view's latency at the rate that is asked for; one result a case."""
    return [measure_case(case, setting) for case in CASES]


def measure_case(case: Case, setting: Setting) -> dict[str, Any]:
    """One frame size."""
    recording = record(setting.folder, case.shape, case.sampling_A)
    pixels = prepare(recording.frames[0], setting.spec).pixels
    network = load_network(setting.model, setting.precision, setting.threads)
    with LivePath(setting.model, setting.precision, setting.threads) as path:
        measurements = {
            "path": sustained(path, recording, setting.seconds),
            "network": alone(network, pixels, setting.threads, setting.seconds),
        }
        rates = interleave(measurements, setting.rounds)
    with LivePath(setting.model, setting.precision, setting.threads, "latest") as live:
        live.run(recording, EDGES[0], case.target_fps)  # compiles for this shape
        count = EDGES[0] + round(case.target_fps * setting.latency_s)
        steady = live.run(recording, count, case.target_fps)
    result: dict[str, Any] = {
        "frame": str(case),
        "network_input": list(pixels.shape[2:]),
        "target_fps": case.target_fps,
        "path": summary(rates["path"]),
        "network": summary(rates["network"]),
        "path_over_network": ratio(rates["path"], rates["network"]),
        "latency_ms_at_target": steady.percentiles("latency_ms"),
        "atoms": round(sum(answer.atoms for answer in steady.answers) / len(steady.answers)),
    }
    setting.say(
        f"{case}: path {result['path']['fps']}/s, network {result['network']['fps']}/s, "
        f"ratio {result['path_over_network']['median']}, latency {result['latency_ms_at_target']} ms"
    )
    return result


def measure_precisions(setting: Setting) -> list[dict[str, Any]]:
    """Path and network at 512 x 512 in every precision that model and CPU have, in turn."""
    case = CASES[0]
    recording = record(setting.folder, case.shape, case.sampling_A)
    pixels = prepare(recording.frames[0], setting.spec).pixels
    names = precisions(setting.spec)
    with ExitStack() as stack:
        measurements = {}
        for name in names:
            path = stack.enter_context(LivePath(setting.model, name, setting.threads))
            network = load_network(setting.model, name, setting.threads)
            measurements[f"{name} path"] = sustained(path, recording, setting.seconds)
            measurements[f"{name} network"] = alone(network, pixels, setting.threads, setting.seconds)
        rates = interleave(measurements, setting.rounds)
    results: list[dict[str, Any]] = [
        {"precision": name, "path": summary(rates[f"{name} path"]), "network": summary(rates[f"{name} network"])}
        for name in names
    ]
    for one in results:
        setting.say(f"{one['precision']}: path {one['path']['fps']}/s, network {one['network']['fps']}/s")
    return results
