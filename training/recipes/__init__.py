"""A recipe is a Python function that returns its configuration."""

from training.recipes.gold import gold
from training.recipes.graphene import graphene
from training.recipes.mos2 import mos2

RECIPES = {"gold": gold, "graphene": graphene, "mos2": mos2}
