"""A fit that begins with the weights of a model that is exported already, shipped or one's own."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from engine import ModelError, ModelSpec
from engine.shipped import find_spec, verified_weights
from training.export import channel_order
from training.unet import CLASSES, UNet

_HALF = ".float16"  # at the end of the names of weights that are kept so
_PREFIX = "network."


def begin_with(network: UNet, model: str | Path, frames: Tensor, classes: tuple[str, ...]) -> None:
    """Give a network the weights of a shipped model, by name, or of one's own, by the path of its spec.

    Batch normalisations were folded into the convolutions before them: they are set anew, such that they change nothing
    in the mean over `frames`. The head of classes begins afresh where the model has others, be they as many.

    Parameters
    ----------
    network : UNet
        Of the model's widths and depth, on the CPU.
    frames : (B, C, H, W) float32
        As in the training to come.
    classes : tuple of str
        Names of those that the network is to tell apart, in the order of its maps.

    Raises
    ------
    ModelError
        Unknown or damaged model, or one of another network.
    """
    path = find_spec(model)
    spec = ModelSpec.read(path)
    weights = _read(verified_weights(spec, path.parent, ".onnx"))
    expected = {name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    if {name.rsplit(".", 1)[0] for name in weights} != expected:
        raise _another(path, "other layers")
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        if name == "head":
            alike = spec.classes == classes
            weight, bias = _in_raw_order(weight, module.weight, alike), _in_raw_order(bias, module.bias, alike)
        if weight.shape != module.weight.shape:
            raise _another(path, f"{name} of {list(weight.shape)} instead of {list(module.weight.shape)}")
        norm = network.get_submodule(f"{name[:-1]}1") if module.bias is None else None
        with torch.no_grad():
            module.weight.copy_(weight)
            (module if norm is None else norm).bias.copy_(bias)
    _set_norms(network, frames)


def _read(path: Path) -> dict[str, Tensor]:
    """Weights and biases by the name of their layer in the network."""
    held = {weight.name.removesuffix(_HALF): weight for weight in onnx.load(path).graph.initializer}
    return {
        name.removeprefix(_PREFIX): torch.from_numpy(onnx.numpy_helper.to_array(weight).copy()).float()
        for name, weight in held.items()
        if name.startswith(_PREFIX)
    }


def _in_raw_order(exported: Tensor, begun: Tensor | None, alike: bool) -> Tensor:
    """The head's weights, or its biases, in the order of the network's own channels; where classes are not alike those
    of them that were begun."""
    assert begun is not None
    raw, order = begun.detach().clone(), torch.tensor(channel_order(len(exported) - 1))  # the score comes twice
    kept = (order < CLASSES) | (alike and len(exported) - 1 == len(raw))
    raw[order[kept]] = exported[kept]
    return raw


def _set_norms(network: UNet, frames: Tensor) -> None:
    """Mean and variance of what comes to each batch normalisation, and gains and offsets that give it back as it was,
    but for the folded bias that is its offset so far."""
    came: dict[nn.BatchNorm2d, tuple[Tensor, Tensor]] = {}

    def pass_on(norm: nn.BatchNorm2d, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        (x,) = inputs
        came[norm] = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
        return x + norm.bias[:, None, None]

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_hook(pass_on) for norm in norms]
    with torch.no_grad():
        network.eval()(frames)
        network.train()
        for norm, (mean, variance) in came.items():
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_((variance + norm.eps).sqrt())
            norm.bias += mean
    for hook in hooks:
        hook.remove()


def _another(path: Path, found: str) -> ModelError:
    return ModelError(
        f"{path}: expected a model of this recipe's network, got {found}: begin with one of as many images, or without"
    )
