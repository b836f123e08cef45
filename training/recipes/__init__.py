"""A recipe is a Python function that returns its configuration."""

from __future__ import annotations

from collections.abc import Callable

from training.recipes.gold import gold
from training.recipes.graphene import graphene
from training.recipes.mos2 import mos2
from training.recipes.recipe import Recipe, quick


def _quick(recipe: Callable[[], Recipe]) -> Callable[[], Recipe]:
    return lambda: quick(recipe())


RECIPES: dict[str, Callable[[], Recipe]] = {"gold": gold, "graphene": graphene, "mos2": mos2}
RECIPES |= {f"{name}-quick": _quick(recipe) for name, recipe in RECIPES.items()}
