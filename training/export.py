"""Weights to what ships: ONNX with the activations and the local-maximum test inside, its INT8 twin, their spec."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine import Detector, ModelSpec, load_detector
from engine.contamination import contaminated
from engine.errors import one_line, writing
from engine.openvino import ov
from engine.prepare import prepare
from engine.refine import around, around_cells
from engine.spec import AS_IT_IS, file_sha256
from training.covered import clear_of_any
from training.decidable import none_told
from training.evaluate import FIELD_A, Result, class_f1, evaluate, scores_of, sigma_ratio
from training.exit_waves import Specimen
from training.imaging import shoot
from training.quantise_gpu import quantise_for_gpu
from training.recipes.recipe import Recipe
from training.score import inner
from training.unet import CLASSES, COVERED, DX, DY, HEAT, LOG_SIGMA

_ROUNDS = 25  # of Newton's method
_CALIBRATION_FRAMES = 60
_FLAGGED_CLEAR = 0.005  # of the atoms where nothing covers them, share that may be flagged all the same
_SUSPICIONS = np.arange(20, 65, 3) / 100  # of a network sure of its clear specimens the least: it is less so of others
_AS_GOOD = 0.0002  # thresholds whose F1 differs by less are alike, and the highest invents the fewest atoms
_QUANTISATION_FRAMES = 96
_THRESHOLDS = np.arange(0.15, 0.75, 0.025)
_ORDER = (HEAT, HEAT, DY, DX, LOG_SIGMA, COVERED)  # which raw channel each map is made of; classes follow
_PEAK = 1


class Exported(nn.Module):
    """(N, C, H, W) normalised frames to (N, 6 + K, h, w) maps: score, peak, dy, dx, log sigma, contamination, classes.

    K is the number of classes, 0 of a network of one.
    """

    is_chance: Tensor
    is_peak: Tensor

    def __init__(self, network: nn.Module, spec: ModelSpec, log_sigma_offset: float = 0.0):
        super().__init__()
        self.network = _folded(network)
        head = self.network.head
        assert isinstance(head, nn.Conv2d)
        self.network.head = _in_order(head, log_sigma_offset)
        # The largest square inside the circle of the separation: a wider one would hide atoms across its corners.
        reach = math.floor(spec.separation_A / (spec.stride * spec.sampling_A) / math.sqrt(2))
        self.neighbourhood = nn.MaxPool2d(2 * reach + 1, stride=1, padding=reach)
        order = channel_order(head.out_channels)
        is_chance = torch.tensor([channel in (HEAT, COVERED) or channel >= CLASSES for channel in order])
        is_peak = torch.arange(len(order)) == _PEAK
        self.register_buffer("is_chance", is_chance[:, None, None], persistent=False)
        self.register_buffer("is_peak", is_peak[:, None, None], persistent=False)

    def forward(self, frame: Tensor) -> Tensor:
        # All channels alike and then chosen from: taking them apart and joining them again costs OpenVINO 1 ms more.
        raw = self.network(frame)
        values = torch.where(self.is_chance, torch.sigmoid(raw), raw)
        hidden = self.is_peak & (raw < self.neighbourhood(raw))
        return torch.where(hidden, torch.zeros_like(values), values)


def export(
    network: nn.Module,
    recipe: Recipe,
    specimens: list[Specimen],
    unseen: list[Specimen],
    folder: Path,
    progress: Callable[[str], None] = lambda said: None,
) -> ModelSpec:
    """Write NAME.onnx, NAME.int8.xml and NAME.int8.bin for CPUs, NAME.int8.onnx for GPUs, and NAME.json.

    Thresholds and sigma are set on `unseen` specimens: of those that it learned from a network is too sure. What INT8
    needs to know of activations is measured on the latter. What the folder held before stays until all is made.
    """
    with _whole(folder) as partial:
        progress("ONNX")
        spec = write_network(network, recipe.spec, partial)
        progress("threshold and sigma")
        spec, offset = calibrate(spec, recipe, unseen, partial)
        spec = write_network(network, spec, partial, offset)
        progress("INT8")
        inputs = calibration_inputs(recipe, specimens)
        quantise(partial / f"{spec.name}.onnx", inputs)
        quantise_for_gpu(partial / f"{spec.name}.onnx", inputs)
        files = [f"{spec.name}{suffix}" for suffix in (".onnx", ".int8.xml", ".int8.bin", ".int8.onnx")]
        spec = replace(spec, sha256={name: file_sha256(partial / name) for name in files})
        spec.write(partial / f"{spec.name}.json")
    return spec


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A hidden folder to write to, whose files replace those of `folder` at the end, the card last.

    Inside of it, so that they move within one file system. FileError where there is no room.
    """
    partial = folder / ".export.part"
    try:
        with writing(folder, "room for a model", "free some, or choose another --output"):
            shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
            partial.mkdir(parents=True)
            yield partial
            # A card in place of the old one makes the new weights count: without it their hashes do not fit.
            for path in sorted(partial.iterdir(), key=lambda path: path.suffix == ".json"):
                path.replace(folder / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_network(network: nn.Module, spec: ModelSpec, folder: Path, log_sigma_offset: float = 0.0) -> ModelSpec:
    """NAME.onnx and its spec alone, with weights of float16."""
    path = folder / f"{spec.name}.onnx"
    height, width = (spec.multiple * torch.export.Dim(name, min=1, max=512) for name in ("rows", "columns"))
    torch.onnx.export(
        Exported(network, spec, log_sigma_offset).eval(),
        (torch.zeros(2, spec.channels, 2 * spec.multiple, 3 * spec.multiple),),
        path,
        input_names=["frame"],
        output_names=["maps"],
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("N", min=1, max=16), 2: height, 3: width},),
        external_data=False,
        verbose=False,
    )
    _halve_weights(path)
    spec = replace(spec, sha256={path.name: file_sha256(path)})
    spec.write(folder / f"{spec.name}.json")
    return spec


def _halve_weights(path: Path) -> None:
    """Keep the weights of an ONNX file as float16, each with a cast to the float32 it is computed in.

    What the exporter notes on every node, its line of Python among it, stays behind: it would be most of the graph.
    """
    model = onnx.load(path)
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) > 1:  # of convolutions; the rest is small
            stored = onnx.numpy_helper.from_array(
                onnx.numpy_helper.to_array(weight).astype(np.float16), f"{weight.name}.float16"
            )
            casts.append(onnx.helper.make_node("Cast", [stored.name], [weight.name], to=onnx.TensorProto.FLOAT))
            weight.CopyFrom(stored)
    nodes = [*casts, *model.graph.node]
    for node in nodes:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def calibrate(spec: ModelSpec, recipe: Recipe, specimens: list[Specimen], folder: Path) -> tuple[ModelSpec, float]:
    """Thresholds of contamination and, the highest of the best mean F1, of the score; the chance that a score stands
    for; what log sigma lacks for errors over sigma to spread by 1."""
    path = folder / f"{spec.name}.json"
    with load_detector(path, precision="f32") as detector:
        spec = replace(spec, covered=covered_threshold(detector, recipe, specimens))
    replace(spec, threshold=float(_THRESHOLDS[0]), chance=AS_IT_IS).write(path)
    with load_detector(path, precision="f32") as detector:
        doses = recipe.doses_e_A2[:-1] or recipe.doses_e_A2  # frames of the faintest say little
        results = evaluate(detector, specimens, recipe.images, recipe.seed + 1, _CALIBRATION_FRAMES, doses)
    decidable = [r for r in results if r.decidable]
    if not decidable:
        raise none_told(_CALIBRATION_FRAMES)
    tried = {t: [r.above(t) for r in decidable] for t in np.round(_THRESHOLDS, 3).tolist()}
    f1 = {t: _mean_f1(rows, spec) for t, rows in tried.items()}
    best = max(t for t in f1 if f1[t] >= max(f1.values()) - _AS_GOOD)
    ratio = sigma_ratio(tried[best])
    # Where no frame is good enough to tell, the network's own sigma stands.
    return replace(spec, threshold=best, chance=fit_chance(tried[best])), math.log(ratio) if ratio > 0 else 0.0


def fit_chance(results: list[Result]) -> tuple[float, float]:
    """Offset and slope of the logistic curve from the logit of the network's score to whether the atom is there.

    By Newton's method; held a little to a chance that is the score, for where all are there.
    """
    score, is_there = scores_of(results)
    score = np.clip(score, 1e-6, 1 - 1e-6)
    design = np.stack([np.ones_like(score), np.log(score / (1 - score))], axis=1)
    line = np.array(AS_IT_IS)
    for _ in range(_ROUNDS):
        chance = 1 / (1 + np.exp(-(design @ line)))
        slope = design.T @ (is_there - chance) - (line - AS_IT_IS)
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + np.eye(2)
        line += np.linalg.solve(curvature, slope)
    offset, factor = np.round(line, 4).tolist()
    return (offset, factor) if factor > 0 else AS_IT_IS


def covered_threshold(detector: Detector, recipe: Recipe, specimens: list[Specimen]) -> float:
    """The least suspicion at which hardly an atom is taken for covered where nothing covers the specimen."""
    spec, frames = detector.spec, []
    for k in range(_CALIBRATION_FRAMES):
        rng = np.random.default_rng((recipe.seed + 3, k))
        for shot in shoot(specimens[k % len(specimens)], recipe.images, FIELD_A, rng):
            prepared = detector.prepare(shot.frame)
            contamination = detector.infer(prepared).contamination
            truth = shot.positions_px[inner(shot.positions_px, 0, shot.frame.shape)]
            cells = ((truth + 0.5) / np.array(prepared.scale) // spec.stride).astype(np.intp)
            cells = np.clip(cells, 0, np.array(contamination.shape) - 1)
            seen = around(contamination, cells, around_cells(spec))
            frames.append((*truth.T.astype(np.float32), seen, shot.frame.sampling_A, clear_of_any(shot, truth)))
    for suspected in _SUSPICIONS:
        taken = [contaminated(y, x, seen, sampling_A, suspected)[clear] for y, x, seen, sampling_A, clear in frames]
        if sum(map(np.sum, taken)) <= _FLAGGED_CLEAR * sum(map(len, taken)):
            return float(suspected)
    return float(_SUSPICIONS[-1])


def _mean_f1(rows: list[Result], spec: ModelSpec) -> float:
    """Over frames; of a model of several classes over these, so that rare ones count as much as the others."""
    of_class = class_f1(rows) if len(spec.classes) > 1 else {}
    return float(np.mean(list(of_class.values()) or [r.score.f1 for r in rows]))


def calibration_inputs(recipe: Recipe, specimens: list[Specimen]) -> list[NDArray[np.float32]]:
    """Network inputs, drawn as in training, that the quantiser measures activations on."""
    size, inputs = recipe.crop_px, []
    for k in range(_QUANTISATION_FRAMES):
        rng = np.random.default_rng((recipe.seed + 2, k))
        shots = shoot(specimens[k % len(specimens)], recipe.images, FIELD_A, rng)
        inputs += [prepare(shot.frame, recipe.spec).pixels[:, :, :size, :size] for shot in shots]
    return inputs


def quantise(path: Path, inputs: list[NDArray[np.float32]]) -> None:
    """NAME.onnx to NAME.int8.xml and .bin, convolutions in INT8; the head stays as it is, it holds the positions."""
    import nncf

    model = ov.Core().read_model(path)
    ignored = nncf.IgnoredScope(names=_from_last_convolution(model), validate=False)
    quantised = nncf.quantize(model, nncf.Dataset(inputs), subset_size=len(inputs), ignored_scope=ignored)
    try:
        ov.save_model(quantised, path.with_suffix(".int8.xml"), compress_to_fp16=True)
    except RuntimeError as error:  # OpenVINO's of a full disk
        raise OSError(one_line(error)) from None


def _from_last_convolution(model: ov.Model) -> list[str]:
    """The head and all that follows: rounded to 8 bits, a score would no longer be its own neighbourhood's highest."""
    ops = model.get_ordered_ops()
    last = max(k for k, op in enumerate(ops) if op.get_type_name() == "Convolution")
    return [op.get_friendly_name() for op in ops[last:]]


def channel_order(channels: int) -> list[int]:
    """Which of so many raw channels each map is made of."""
    return [*_ORDER, *range(CLASSES, channels)]


def _in_order(head: nn.Conv2d, log_sigma_offset: float) -> nn.Conv2d:
    """The last convolution with its channels in the order of the maps."""
    order = channel_order(head.out_channels)
    ordered = nn.Conv2d(head.in_channels, len(order), 1)
    assert head.bias is not None
    assert ordered.bias is not None
    with torch.no_grad():
        ordered.weight.copy_(head.weight[order])
        ordered.bias.copy_(head.bias[order])
        ordered.bias[order.index(LOG_SIGMA)] += log_sigma_offset
    return ordered


def _folded(network: nn.Module) -> nn.Module:
    """A copy with every batch normalisation folded into the convolution before it."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if not isinstance(module, nn.Sequential) or len(module) < 2:
            continue
        convolution, norm = module[0], module[1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module[0] = nn.utils.fusion.fuse_conv_bn_eval(convolution, norm)
            module[1] = nn.Identity()
    return network
