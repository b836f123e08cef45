"""Graphene at 80 kV, as the shipped network was made.

Ranges follow Madsen et al. 2018, widened to what real cameras show.
"""

from __future__ import annotations

from dataclasses import replace

from engine.spec import ModelSpec
from training.ranges import ImageRanges
from training.recipes.recipe import Recipe
from training.structures.graphene import SheetRanges


def graphene() -> Recipe:
    """The recipe of the model `graphene`."""
    images = ImageRanges()
    spec = ModelSpec(
        name="graphene",
        version="1",
        family="graphene",
        licence="BSD-3-Clause",
        classes=("C",),
        channels=1,
        sampling_A=0.2,
        normalise_A=12.0,
        stride=2,
        multiple=32,
        threshold=0.35,
        separation_A=0.8,
        bonds=(3, 1.8),
        trained={
            "sampling_A": images.sampling_A,
            "dose_e_A2": images.dose_e_A2,
            "voltage_kV": (80.0, 80.0),
            "defocus_A": images.defocus_A,
            "field_A": (20.0, 2000.0),
        },
    )
    return Recipe(
        spec=spec,
        structures=SheetRanges(),
        images=images,
        seed=1,
        specimens=640,
        held_out=64,
        widths=(32, 64, 96, 128, 128),
        depth=(1, 1, 2, 2, 4),
        crop_px=288,
        batch=4,
        steps=9500,
        polish_steps=4000,
        learning_rate=2e-3,
        polish=0.3,
        calm=replace(
            images,
            Cs_A=(-4e4, 4e4),
            astigmatism_A=(0.0, 5.0),
            coma_A=(0.0, 60.0),
            threefold_A=(0.0, 60.0),
            tilt_mrad=0.2,
            dose_e_A2=(1e4, 2e5),
            contamination_chance=0.0,
            uneven_focus_chance=0.0,
        ),
        calm_steps=1500,
    )
