"""Exit waves to weights: one plain loop, a checkpoint every few minutes, resumable.

atomstream-train fit graphene
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.network import cpu_precisions
from training.checkpoint import begun_with, load_checkpoint, of_these_specimens, of_this_network, save_checkpoint
from training.dataset import loader
from training.exit_waves import Specimen
from training.losses import forget_after, log_losses
from training.recipes.recipe import Recipe
from training.specimen_set import SpecimenSet
from training.start import begin_with
from training.unet import CLASSES, COVERED, DX, DY, HEAT, LOG_SIGMA, UNet

CHECKPOINT_S = 180.0
WARM_UP = 300  # steps
_START_BATCHES = 8  # that batch normalisations of a model to begin with are set on
AVERAGE_STEPS = 400  # the weights kept are an exponential average over about this many steps


def fit(
    specimens: list[Specimen],
    recipe: Recipe,
    folder: Path,
    workers: int = 1,
    progress: Callable[[int, dict[str, float]], None] = lambda step, losses: None,
    start: str | Path = "",
) -> nn.Module:
    """Train to the recipe's last step and return the averaged network; continues from folder/checkpoint.pt.

    A new fit begins with the weights of the model `start`, a shipped name or a spec's path; without one, from nothing.
    """
    torch.manual_seed(recipe.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fast = device == "cuda" or "bf16" in cpu_precisions()
    network, checkpoint = new_network(recipe), folder / "checkpoint.pt"
    recipe, start = _begin(network, checkpoint, recipe, specimens, str(start))
    network = network.to(device, memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=_ema(), use_buffers=True)
    optimiser = torch.optim.AdamW(network.parameters(), recipe.rounds[0].rate, weight_decay=1e-4)
    whence = {"start": start, "made_of": made_of(recipe), "taught": json.dumps(taught(recipe, len(specimens)))}
    begun = saved = time.monotonic()
    step = 0
    if checkpoint.exists():
        step, before_s = _restore(checkpoint, recipe, network, average, optimiser)
        begun -= before_s
        progress(step, {})
    forget_after(step, folder / "losses.jsonl")
    for frames, maps in loader(specimens, recipe, step, workers):
        now, _ = recipe.round_at(step)
        for group in optimiser.param_groups:
            group["lr"] = rate(step, recipe)
        network.deeper = now.deeper
        frames, maps = frames.flatten(0, 1).to(device), maps.flatten(0, 1).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=fast):
            features = network.features(frames)
        # The head in float32: bf16 would round an offset of some pixels by a hundredth of one.
        losses = loss_terms(network.head(features.float()), maps, now.beta)
        total = sum(losses.values(), torch.zeros((), device=device))
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(network)
        step += 1
        if step % 20 == 0:
            values = {name: float(value.detach()) for name, value in losses.items()}
            progress(step, values)
            log_losses(folder / "losses.jsonl", step, values)
        if time.monotonic() - saved > CHECKPOINT_S or step == recipe.all_steps:
            saved = time.monotonic()
            state = {
                "step": step,
                "seconds": saved - begun,  # of the whole fit, interruptions left out
                **whence,
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
            }
            save_checkpoint(checkpoint, state)
    return average.module.eval()


def _begin(
    network: UNet, checkpoint: Path, recipe: Recipe, specimens: list[Specimen], start: str
) -> tuple[Recipe, str]:
    """Weights of the model `start` into the network of a new fit; what is taught then, and which model it was."""
    is_new = not checkpoint.exists()
    start = start if is_new else begun_with(checkpoint)
    if not start:
        return recipe, start
    recipe = recipe.continued()
    if is_new:
        batches = islice(loader(specimens, recipe, 0, 0), _START_BATCHES)
        begin_with(network, start, torch.cat([frames.flatten(0, 1) for frames, _ in batches]), recipe.spec.classes)
    return recipe, start


def new_network(recipe: Recipe) -> UNet:
    """The recipe's network, untrained."""
    return UNet(recipe.spec.channels, recipe.widths, recipe.depth, len(recipe.spec.classes))


def loss_terms(raw: Tensor, maps: Tensor, beta: float = 0.5) -> dict[str, Tensor]:
    """The losses of (B, 5 + K, h, w) raw maps against (B, 6 or 7, h, w) targets; that of classes if there are several.

    Positions by the likelihood of a Gaussian whose width is answered too, weighted with the width to the power 2 beta:
    0.5 finds what is faint beside what is sharp, 0, the plain likelihood, measures.
    REF: Seitzer et al., ICLR 2022 (arXiv 2203.09168).
    """
    heat, offset, near, covered, weight = maps[:, 0], maps[:, 1:3], maps[:, 3], maps[:, 4], maps[:, 5]
    entropy = nn.functional.binary_cross_entropy_with_logits(raw[:, HEAT], heat, reduction="none")
    log_sigma = raw[:, LOG_SIGMA].clamp(-5, 2)
    error2 = (raw[:, [DY, DX]] - offset).square().sum(dim=1)
    likelihood = 0.5 * error2 * torch.exp(-2 * log_sigma) + 2 * log_sigma
    likelihood = likelihood * torch.exp(2 * beta * log_sigma.detach())
    dirt = nn.functional.binary_cross_entropy_with_logits(raw[:, COVERED], covered)
    losses = {
        "heat": 10 * (entropy * weight).sum() / weight.sum().clamp(min=1),
        "position": 2 * (likelihood * near).sum() / near.sum().clamp(min=1),
        "contamination": 0.3 * dirt,
    }
    if raw.shape[1] > CLASSES:
        losses["class"] = _class_loss(raw[:, CLASSES:], maps[:, 6], near)
    return losses


def _class_loss(raw: Tensor, class_id: Tensor, near: Tensor) -> Tensor:
    """Each class against all others, so that its map is a probability of its own and needs no other in the graph."""
    truth = nn.functional.one_hot(class_id.long(), raw.shape[1]).movedim(-1, 1).to(raw.dtype)
    entropy = nn.functional.binary_cross_entropy_with_logits(raw, truth, reduction="none").sum(dim=1)
    return (entropy * near).sum() / near.sum().clamp(min=1)


def made_of(recipe: Recipe) -> str:
    """What a network learns from and how that is shown to it, as JSON: recipes differ in it, though their networks be
    alike."""
    spec = recipe.spec
    shown = {"level_A": spec.level_A, "normalise_A": spec.normalise_A, "image_sampling_A": spec.sampling_A}
    return json.dumps({"classes": spec.classes, **shown, **SpecimenSet.of(recipe, recipe.seed).made_of}, sort_keys=True)


def taught(recipe: Recipe, count: int) -> dict[str, Any]:
    """For the card: so many specimens and what they, and their images, were drawn from."""
    images = asdict(recipe.taught or recipe.images)
    images["rule"] = images["rule"].__name__
    return {
        "specimens": {"count": count, **SpecimenSet.of(recipe, recipe.seed).made_of},
        "calm_steps": recipe.calm_steps,
        "images": images,
    }


def _load(checkpoint: Path, recipe: Recipe) -> dict[str, Any]:
    """What a fit to the recipe's specimens saved."""
    state = load_checkpoint(checkpoint)
    of_these_specimens(checkpoint, state, made_of(recipe))
    return state


def read_network(checkpoint: Path, recipe: Recipe) -> nn.Module:
    """The averaged network of a checkpoint, ready to evaluate."""
    state = _load(checkpoint, recipe)
    average = torch.optim.swa_utils.AveragedModel(new_network(recipe), use_buffers=True)
    with of_this_network(checkpoint):
        average.load_state_dict(state["average"])
    return average.module.eval()


def _ema() -> Callable[..., None]:
    return torch.optim.swa_utils.get_ema_multi_avg_fn(1 - 1 / AVERAGE_STEPS)


def rate(step: int, recipe: Recipe) -> float:
    """Learning rate: a warm-up, and a cosine for each round."""
    now, done = recipe.round_at(step)
    if step < WARM_UP:
        return now.rate * (step + 1) / WARM_UP
    begun = WARM_UP if done == step else 0
    return now.rate * _cosine((done - begun) / (now.steps - begun))


def _cosine(done: float) -> float:
    return 0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * done))


def _restore(
    path: Path, recipe: Recipe, network: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[int, float]:
    """The step, and how long it took to come there."""
    state = _load(path, recipe)
    with of_this_network(path):
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
    return int(state["step"]), float(state.get("seconds", math.nan))  # older ones did not count
