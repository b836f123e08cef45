"""Graphene at 80 kV, as the shipped network was made.

Ranges follow Madsen et al. 2018, widened to what real cameras show.
"""

from __future__ import annotations

from dataclasses import replace

from training.decidable import graphene_hint
from training.ranges import ImageRanges, nearly_round
from training.recipes.recipe import Recipe, Round, family_spec
from training.structures.graphene import SheetRanges


def graphene() -> Recipe:
    """The recipe of the model `graphene`."""
    images = ImageRanges()
    spec = family_spec("graphene", images, ("C",), bonds=(3, 1.8))
    return Recipe(
        spec=spec,
        structures=SheetRanges(),
        images=images,
        seed=1,
        specimens=640,
        held_out=100,
        crop_px=288,
        taught=replace(images, rule=graphene_hint, uneven_focus_chance=0.5),
        calm=nearly_round(images),
        calm_steps=1500,
        rounds=(
            Round(9500, 2e-3, deeper=False),
            Round(4000, 6e-4, beta=0.0, deeper=False),
            Round(6500, 1e-3),
            Round(3000, 4e-4, beta=0.0),
            Round(1600, 8e-4),
            Round(1400, 4e-4, beta=0.0),
            Round(1800, 8e-4),
            Round(1600, 3e-4, beta=0.0),
            Round(5500, 8e-4),
            Round(3000, 3e-4, beta=0.0),
            Round(4000, 4e-4, beta=0.0),
        ),
    )
