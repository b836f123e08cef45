"""The network: its shapes, and that every part of it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from engine.shipped import find_spec
from training.fit import new_network
from training.recipes import RECIPES
from training.unet import HEAT, UNet


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(16, 32), (48, 16)])
def test_half_the_size_and_five_maps(channels: int, height: int, width: int) -> None:
    network = UNet(channels, (8, 16, 24), (1, 1, 1))
    assert network(torch.zeros(2, channels, height, width)).shape == (2, 5, height // 2, width // 2)


def test_at_first_atoms_are_rare() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        raw = UNet(1, (8, 16), (1, 1))(torch.randn(2, 1, 32, 32))
    assert torch.sigmoid(raw[:, HEAT]).mean() < 0.4


def test_every_weight_is_used() -> None:
    network = UNet(1, (8, 16, 24), (1, 1, 2))
    for look in network.looks.modules():
        if isinstance(look, torch.nn.BatchNorm2d):  # as after a step or two: a new look is not there at first
            torch.nn.init.ones_(look.weight)
    network(torch.randn(2, 1, 32, 32)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.parameters())


def test_a_new_look_changes_nothing() -> None:
    network = UNet(1, (8, 16, 24), (1, 1, 2)).eval()
    frames = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        with_it = network(frames)
        network.deeper = False
        assert torch.equal(with_it, network(frames))


@pytest.mark.parametrize("name", ["graphene", "mos2", "gold"])
def test_a_frame_of_512_at_a_tenth_of_an_angstrom_takes_few_operations(name: str) -> None:
    recipe = RECIPES[name]()
    network = new_network(recipe).eval()
    frames = torch.zeros(1, recipe.spec.channels, 256, 256)  # as it comes to the network, at 0.2 A
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(frames)
    assert 4e9 < counter.get_total_flops() < 8.5e9


@pytest.mark.parametrize("name", ["graphene", "mos2", "gold"])
def test_the_quick_recipe_makes_the_same_network_of_a_name_of_its_own(name: str) -> None:
    recipe, quick = RECIPES[name](), RECIPES[f"{name}-quick"]()
    assert quick.spec == replace(recipe.spec, name=f"{name}-quick", notes="verified on simulation only")
    assert (quick.images, quick.structures, quick.widths) == (recipe.images, recipe.structures, recipe.widths)
    assert quick.specimens < recipe.specimens
    assert quick.calm_steps < quick.all_steps < recipe.all_steps


@pytest.mark.parametrize("path", sorted(find_spec("graphene").parent.iterdir()), ids=lambda path: path.name)
def test_every_shipped_file_is_small(path: Path) -> None:
    assert path.stat().st_size < 4e6
