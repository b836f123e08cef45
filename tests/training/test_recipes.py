"""Shipped recipes and the cards of the models that came of them."""

from __future__ import annotations

import pytest

from engine import ModelSpec, list_models
from engine.shipped import find_spec
from training.recipes import RECIPES


@pytest.mark.parametrize("name", list_models())
def test_a_shipped_model_has_its_recipe_s_version(name: str) -> None:
    version = ModelSpec.read(find_spec(name)).version
    assert version == RECIPES[name]().spec.version
    assert int(version) > 1 == int(RECIPES[f"{name}-quick"]().spec.version)  # weights of its own, the first
