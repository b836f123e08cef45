"""A network of the lineage's size on our own path: 4.9 M weights, 164 GFLOP for 512 x 512 pixels of 0.12 A.

Residual U-Net at full resolution (32-64-128-256 channels, three convolutions in each residual), random weights: how
fast it is does not depend on them. Its score stays under the threshold, which spares it the work of finding atoms.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.network import alone, load_network
from bench.path import LivePath, sustained
from bench.recording import Recording, record
from bench.rounds import interleave, ratio, summary
from bench.setting import Setting
from bench.speed import CASES
from engine import ModelSpec
from engine.prepare import prepare
from engine.spec import file_sha256
from training.export import Exported, quantise

_SAMPLING_A = 0.12
_WIDTHS = (32, 64, 128, 256)
_EDGES = (2, 1)  # it takes so long that what the sender costs does not count
_CALIBRATION_FRAMES = 2


def measure_lineage(setting: Setting) -> dict[str, Any]:
    """Both networks on the live path in turn, the same field of view, backend and precision; and each alone."""
    recording = record(setting.folder, CASES[0].shape, CASES[0].sampling_A)
    spec_path, weights = build(setting, recording)
    spec = ModelSpec.read(spec_path)
    measurements, inputs = {}, {}
    with (
        LivePath(setting.model, setting.precision, setting.threads) as ours,
        LivePath(str(spec_path), setting.precision, setting.threads) as lineage,
    ):
        measurements["path"] = sustained(ours, recording, setting.seconds)
        measurements["lineage path"] = sustained(lineage, recording, setting.seconds, _EDGES)
        for name, model, known in (("network", setting.model, setting.spec), ("lineage network", spec_path, spec)):
            inputs[name] = prepare(recording.frames[0], known).pixels
            network = load_network(model, setting.precision, setting.threads)
            measurements[name] = alone(network, inputs[name], setting.threads, setting.seconds)
        rates = interleave(measurements, setting.rounds)
    result: dict[str, Any] = {name: summary(values) for name, values in rates.items()}
    result |= {
        "weights": weights,
        "precision": setting.precision,
        "input": list(inputs["lineage network"].shape[2:]),
        "path_over_path": ratio(rates["path"], rates["lineage path"]),
        "network_over_network": ratio(rates["network"], rates["lineage network"]),
    }
    setting.say(f"lineage: {result}")
    return result


class ResidualUNet(nn.Module):
    """(B, 1, H, W) to (B, 5, H, W) raw maps; H and W multiples of 8."""

    def __init__(self, widths: tuple[int, ...] = _WIDTHS):
        super().__init__()
        self.down = nn.ModuleList(_stage(a, b) for a, b in zip((1, *widths[:-1]), widths, strict=True))
        self.rise = nn.ModuleList(nn.Conv2d(b, a, 3, 1, 1) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(_stage(width, width) for width in widths[:-1])
        self.head = nn.Conv2d(widths[0], 5, 1)
        # Scores that no threshold lets pass; how fast it is does not depend on the weights.
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, -10)

    def forward(self, frames: Tensor) -> Tensor:
        x, skips = self.down[0](frames), []
        for stage in self.down[1:]:
            skips.append(x)
            x = stage(nn.functional.max_pool2d(x, 2))
        for skip, rise, stage in zip(reversed(skips), reversed(self.rise), reversed(self.up), strict=True):
            x = stage(skip + nn.functional.interpolate(rise(x), scale_factor=2.0, mode="nearest"))
        return self.head(x)


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.steps = nn.Sequential(*(_convolution(width, width) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.steps(x)


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_convolution(inputs, outputs), _Residual(outputs), _convolution(outputs, outputs))


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU())


def build(setting: Setting, recording: Recording) -> tuple[Path, int]:
    """Export it with a spec at its own sampling, quantised if the precision is INT8; path of the spec, weights."""
    for name in ("torch.onnx", "nncf"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.manual_seed(1)
    network = ResidualUNet()
    spec = replace(setting.spec, name="lineage", sampling_A=_SAMPLING_A, stride=1, multiple=8, threshold=0.5, sha256={})
    onnx_path, spec_path = setting.folder / "lineage.onnx", setting.folder / "lineage.json"
    height, width = (8 * torch.export.Dim(name, min=1, max=512) for name in ("rows", "columns"))
    torch.onnx.export(
        Exported(network, spec).eval(),
        (torch.zeros(2, 1, 64, 96),),
        onnx_path,
        input_names=["frame"],
        output_names=["maps"],
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("N", min=1, max=16), 2: height, 3: width},),
        external_data=False,
        verbose=False,
    )
    files = [onnx_path]
    if setting.precision == "int8":
        quantise(onnx_path, [prepare(frame, spec).pixels for frame in recording.frames[:_CALIBRATION_FRAMES]])
        files += [onnx_path.with_suffix(suffix) for suffix in (".int8.xml", ".int8.bin")]
    replace(spec, sha256={file.name: file_sha256(file) for file in files}).write(spec_path)
    return spec_path, sum(values.numel() for values in network.parameters())
