"""A fit that begins with an exported model: the same answers before its first step, nothing of another network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import ModelError
from engine.openvino import ov
from engine.shipped import find_spec, list_models
from training import fit as module
from training.checkpoint import begun_with, describe_fit
from training.exit_waves import Specimen
from training.export import channel_order, write_network
from training.fit import fit, new_network
from training.recipes import RECIPES
from training.recipes.recipe import Recipe, Round
from training.start import begin_with
from training.unet import CLASSES, COVERED, HEAT, UNet


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(6, 1, 32, 32)).astype(np.float32))


def learnt(recipe: Recipe, frames: torch.Tensor) -> UNet:
    """A network whose every layer differs from a new one's, its batch normalisations too."""
    torch.manual_seed(3)
    network = new_network(recipe).train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        network(2 * frames)
    return network.eval()


def exported(network: UNet, recipe: Recipe, folder: Path) -> Path:
    write_network(network, recipe.spec, folder)
    return folder / f"{recipe.spec.name}.json"


def test_it_answers_as_the_model_did(recipe: Recipe, frames: torch.Tensor, tmp_path: Path) -> None:
    before = learnt(recipe, frames)
    network = new_network(recipe)
    begin_with(network, exported(before, recipe, tmp_path), frames, recipe.spec.classes)
    with torch.no_grad():
        expected, new = before(frames), new_network(recipe).eval()(frames)
        untrained = float((new - expected).std())
        assert network.training
        assert float((network(frames) - expected).abs().max()) < 0.05 * untrained  # normalised by these frames
        assert float((network.eval()(frames) - expected).abs().max()) < 0.05 * untrained  # weights were of float16


def of_classes(recipe: Recipe, *classes: str) -> Recipe:
    return replace(recipe, spec=replace(recipe.spec, classes=classes))


@pytest.mark.parametrize("classes", [("C",), ("Mo", "S"), ("Ti", "Sr"), ("Sr", "Ti", "O")])
def test_of_other_classes_only_their_head_begins_afresh(
    recipe: Recipe, frames: torch.Tensor, tmp_path: Path, classes: tuple[str, ...]
) -> None:
    model, two = of_classes(recipe, *classes), of_classes(recipe, "Sr", "Ti")
    before, network = learnt(model, frames), new_network(two)
    afresh = [part[CLASSES:].detach().clone() for part in (network.head.weight, network.head.bias)]
    begin_with(network, exported(before, model, tmp_path), frames, two.spec.classes)
    torch.testing.assert_close(network.head.weight[:CLASSES], before.head.weight[:CLASSES], atol=1e-3, rtol=1e-3)
    for part, begun in zip((network.head.weight, network.head.bias), afresh, strict=True):
        assert torch.equal(part[CLASSES:], begun)


def test_of_the_same_classes_their_head_is_kept(recipe: Recipe, frames: torch.Tensor, tmp_path: Path) -> None:
    two = of_classes(recipe, "Sr", "Ti")
    before, network = learnt(two, frames), new_network(two)
    begin_with(network, exported(before, two, tmp_path), frames, two.spec.classes)
    torch.testing.assert_close(network.head.weight, before.head.weight, atol=1e-3, rtol=1e-3)


def test_another_network_is_refused(recipe: Recipe, frames: torch.Tensor, tmp_path: Path) -> None:
    model = exported(learnt(recipe, frames), recipe, tmp_path)
    for other in (
        replace(recipe, widths=(8, 24)),
        replace(recipe, depth=(1, 2)),
        replace(recipe, spec=replace(recipe.spec, channels=3)),
    ):
        with pytest.raises(ModelError, match=r"expected a model of this recipe's network, got .*: begin with"):
            begin_with(new_network(other), model, frames, recipe.spec.classes)


@pytest.mark.parametrize("name", list_models())
def test_begun_with_a_shipped_model_the_maps_are_its_own(name: str) -> None:
    recipe = RECIPES[name]()
    network = new_network(recipe)
    noise = np.random.default_rng(2).normal(size=(2, recipe.spec.channels, 64, 64)).astype(np.float32)
    begin_with(network, name, torch.from_numpy(noise[:1]), recipe.spec.classes)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    shipped = ov.Core().compile_model(find_spec(name).with_suffix(".onnx"), "CPU", exact)(noise)[0]
    with torch.no_grad():
        raw = network.eval()(torch.from_numpy(noise))
    order = channel_order(raw.shape[1])
    assert shipped.shape[1] == len(order) == raw.shape[1] + 1
    for k, channel in enumerate(order):
        if k == 1:  # the peaks: a network in training has none
            continue
        is_chance = channel in (HEAT, COVERED) or channel >= CLASSES
        answered = torch.sigmoid(raw[:, channel]) if is_chance else raw[:, channel]
        np.testing.assert_allclose(answered.numpy(), shipped[:, k], atol=1e-3, rtol=1e-3)


def test_a_fit_goes_on_from_it_and_says_so(
    recipe: Recipe, specimens: list[Specimen], frames: torch.Tensor, tmp_path: Path
) -> None:
    model = exported(learnt(recipe, frames), recipe, tmp_path)
    still = replace(recipe, rounds=(Round(1, 1e-12, deeper=False),))
    folder = tmp_path / "fit"
    folder.mkdir()
    network = fit(specimens, still, folder, workers=0, start=model)
    with torch.no_grad():
        expected, new = learnt(recipe, frames)(frames), new_network(recipe).eval()(frames)
        assert float((network(frames) - expected).abs().max()) < 0.1 * float((new - expected).std())
    assert begun_with(folder / "checkpoint.pt") == str(model)
    assert describe_fit(folder / "checkpoint.pt", 1) == f"fit: 1 steps from the weights of {model}"


def test_interrupted_it_goes_on_without_being_told_again(
    recipe: Recipe, specimens: list[Specimen], frames: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = exported(learnt(recipe, frames), recipe, tmp_path)
    recipe = replace(recipe, calm_steps=4, rounds=(Round(4, 2e-3, deeper=False), Round(2, 6e-4, beta=0.0)))
    monkeypatch.setattr(module, "CHECKPOINT_S", -1.0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = fit(specimens, recipe, whole, workers=0, start=model).state_dict()
    real, calls = module.loss_terms, iter(range(3))

    def interrupt(*arguments: object) -> dict[str, torch.Tensor]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "loss_terms", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(specimens, recipe, parts, workers=0, start=model)
    monkeypatch.setattr(module, "loss_terms", real)
    model.unlink()  # what it began with is in the checkpoint
    resumed = fit(specimens, recipe, parts, workers=0).state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())
    assert begun_with(parts / "checkpoint.pt") == str(model)
