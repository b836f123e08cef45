"""Gold nanoparticles at 300 kV on CeO2 or amorphous carbon.

Ranges follow Madsen et al. 2017 and 2018, wider in focus: 200 A to both sides of the optimum.
"""

from __future__ import annotations

from dataclasses import replace

from engine.spec import ModelSpec
from training.decidable import column_sign
from training.ranges import ImageRanges
from training.recipes.recipe import Recipe
from training.structures.gold import GoldRanges


def gold() -> Recipe:
    """The recipe of the model `gold`."""
    images = ImageRanges(
        voltage_kV=300.0,
        defocus_A=(-230.0, 230.0),  # the best focus is that of the particle's middle, up to 30 A before the exit wave
        Cs_A=(-3e5, 1e5),
        astigmatism_A=(0.0, 50.0),
        coma_A=(0.0, 400.0),
        threefold_A=(0.0, 400.0),
        focal_spread_A=(20.0, 50.0),
        dose_e_A2=(50.0, 2e4),
        contamination_chance=0.1,
        uneven_focus_chance=0.0,
        displacement_A=0.0,
        thin=False,
        rule=column_sign,
    )
    spec = ModelSpec(
        name="gold",
        version="1",
        family="gold",
        licence="BSD-3-Clause",
        classes=("Au",),
        channels=1,
        sampling_A=0.2,
        normalise_A=12.0,
        stride=2,
        multiple=32,
        threshold=0.35,
        separation_A=0.8,
        trained={
            "sampling_A": images.sampling_A,
            "dose_e_A2": images.dose_e_A2,
            "voltage_kV": (300.0, 300.0),
            "defocus_A": images.defocus_A,
            "field_A": (20.0, 2000.0),
        },
    )
    return Recipe(
        spec=spec,
        structures=GoldRanges(),
        images=images,
        seed=1,
        specimens=300,
        held_out=64,
        widths=(32, 64, 96, 128, 128),
        depth=(1, 1, 2, 2, 4),
        crop_px=256,
        batch=4,
        steps=7000,
        polish_steps=3000,
        learning_rate=2e-3,
        polish=0.3,
        calm=replace(images, tilt_mrad=0.2, dose_e_A2=(3e3, 2e4), contamination_chance=0.0),
        calm_steps=1000,
        doses_e_A2=(1e4, 3e3, 1e3, 300.0, 200.0, 100.0),
    )
