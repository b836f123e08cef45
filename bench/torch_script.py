"""What one would script: the same network in eager float32 torch, `peak_local_max` on its score, in one process.

Frames come from memory, not over a socket, which favours the script.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from skimage.feature import peak_local_max
from skimage.filters import gaussian
from skimage.transform import resize
from torch import nn

from bench.network import load_network
from bench.path import LivePath, sustained
from bench.recording import record
from bench.rounds import interleave, ratio, repeated, summary
from bench.setting import Setting
from bench.speed import CASES
from engine import Frame, ModelSpec
from engine.prepare import network_shape, prepare
from engine.shipped import find_spec, verified_weights
from training.export import Exported
from training.unet import HEAT, UNet

_STORED_AS = ".float16"  # of the exported weights of convolutions
_ALIKE = 1e-3  # the rebuilt network's score may differ from OpenVINO's by so much

Script = Callable[[Frame], NDArray[np.intp]]


def measure_script(setting: Setting) -> dict[str, Any]:
    """Path and both scripts in turn at 512 x 512."""
    torch.set_num_threads(setting.threads)
    recording = record(setting.folder, CASES[0].shape, CASES[0].sampling_A)
    network = rebuilt_network(setting.model)
    _expect_alike(network, setting, recording.frames[0])
    frames = cycle(recording.frames)
    ours, theirs = scripts(network, setting.spec)
    with LivePath(setting.model, setting.precision, setting.threads) as path:
        measurements = {
            "path": sustained(path, recording, setting.seconds),
            "our prepare": repeated(lambda: ours(next(frames)), setting.seconds),
            "scikit-image": repeated(lambda: theirs(next(frames)), setting.seconds),
        }
        rates = interleave(measurements, setting.rounds)
    result: dict[str, Any] = {name: summary(values) for name, values in rates.items()}
    for name in ("our prepare", "scikit-image"):
        result[name]["path_over_script"] = ratio(rates["path"], rates[name])
    setting.say(f"torch script: {result}")
    return result


def rebuilt_network(model: str) -> nn.Module:
    """The network of an exported ONNX file, batch normalisation folded as there."""
    path = find_spec(model)
    spec = ModelSpec.read(path)
    stored = onnx.load(verified_weights(spec, path.parent, ".onnx")).graph.initializer
    weights = {
        one.name.removesuffix(_STORED_AS): torch.from_numpy(numpy_helper.to_array(one).astype(np.float32))
        for one in stored
        if one.name.startswith("network.")
    }
    widths, depth = _layout(weights)
    exported = Exported(UNet(spec.channels, widths, depth), spec)
    exported.load_state_dict(weights)
    return exported.network.eval()


def scripts(network: nn.Module, spec: ModelSpec) -> tuple[Script, Script]:
    """Frame in, cells of atoms out: with the engine's preparation, and with one out of scikit-image."""
    least = round(spec.separation_A / (spec.sampling_A * spec.stride))

    def peaks(pixels: NDArray[np.float32]) -> NDArray[np.intp]:
        with torch.inference_mode():
            score = torch.sigmoid(network(torch.from_numpy(pixels))[0, HEAT]).numpy()
        return peak_local_max(score, min_distance=least, threshold_abs=spec.threshold, exclude_border=False)

    return (
        lambda frame: peaks(prepare(frame, spec).pixels),
        lambda frame: peaks(scripted_pixels(frame, spec)),
    )


def scripted_pixels(frame: Frame, spec: ModelSpec) -> NDArray[np.float32]:
    """(1, 1, H, W) network input by scikit-image: resized, local mean and RMS under a Gaussian of the same width."""
    sigma = spec.normalise_A / spec.sampling_A
    image = resize(frame.pixels.astype(np.float32), network_shape(frame, spec), anti_aliasing=True)
    flat = image - gaussian(image, sigma, mode="mirror")
    image = flat / np.sqrt(gaussian(flat**2, sigma, mode="mirror") + 1e-12)
    missing = [(0, -size % spec.multiple) for size in image.shape]
    return np.pad(image, missing)[None, None].astype(np.float32)


def _layout(weights: dict[str, torch.Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths and depth of the U-Net that has these weights."""
    steps = sorted({tuple(name.split(".")[2:4]) for name in weights if name.startswith("network.encode.")})
    levels = sorted({int(level) for level, _ in steps})
    widths = tuple(len(weights[f"network.encode.{level}.0.0.bias"]) for level in levels)
    return widths, tuple(sum(int(one) == level for one, _ in steps) for level in levels)


def _expect_alike(network: nn.Module, setting: Setting, frame: Frame) -> None:
    """The rebuilt network has to be the same one."""
    pixels = prepare(frame, setting.spec).pixels
    want = load_network(setting.model, "f32", setting.threads).infer(pixels).score
    with torch.inference_mode():
        got = torch.sigmoid(network(torch.from_numpy(pixels))[0, HEAT]).numpy()
    worst = float(np.abs(got - want).max())
    if worst > _ALIKE:
        raise RuntimeError(f"Expected torch and OpenVINO to score within {_ALIKE}, got {worst:.2g}: rebuild differs")
