"""A recipe is a Python function that returns its configuration."""

from training.recipes.graphene import graphene

RECIPES = {"graphene": graphene}
