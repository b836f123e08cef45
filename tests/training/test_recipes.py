"""Shipped recipes and the cards of the models that came of them."""

from __future__ import annotations

import pytest

from engine import ModelSpec, list_models
from engine.shipped import find_spec
from training.recipes import RECIPES

NETWORK = ("channels", "sampling_A", "level_A", "normalise_A", "stride", "multiple", "separation_A", "bonds")


@pytest.mark.parametrize("name", list_models())
def test_a_shipped_model_is_of_its_recipe(name: str) -> None:
    card, spec = ModelSpec.read(find_spec(name)), RECIPES[name]().spec
    for key in ("name", "family", "classes", "licence", "trained", *NETWORK):
        assert getattr(card, key) == getattr(spec, key), key
    assert card.data.keys() >= {"steps", "specimens", "images"}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_what_a_recipe_makes_is_not_taken_for_the_shipped_weights(name: str) -> None:
    spec = RECIPES[name]().spec
    assert (spec.name, spec.version, spec.notes) == (name, "1", "verified on simulation only")


@pytest.mark.parametrize("name", list_models())
def test_each_frame_of_a_card_s_figures_has_a_specimen_of_its_own(name: str) -> None:
    rows = [row for table in ModelSpec.read(find_spec(name)).measured.values() for row in table.values()]
    settings = [row["frames"] + row["undecidable"] for row in rows if "undecidable" in row]
    assert 0 < max(settings) <= RECIPES[name]().held_out
