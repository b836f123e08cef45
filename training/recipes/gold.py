"""Gold nanoparticles at 300 kV on CeO2 or amorphous carbon.

Ranges follow Madsen et al. 2017 and 2018.
"""

from __future__ import annotations

from dataclasses import replace

from training.decidable import gold_sign
from training.ranges import COLUMNS
from training.recipes.recipe import Recipe, Round, family_spec
from training.structures.gold import GoldRanges


def gold() -> Recipe:
    """The recipe of the model `gold`."""
    images = replace(
        COLUMNS,
        voltage_kV=300.0,
        defocus_A=(40.0, 200.0),  # to one side: but for [111] only the focus tells the sign
        Cs_A=(-3e5, 0.0),
        dose_e_A2=(50.0, 2e4),
        sampling_A=(0.05, 0.5),  # columns of [211] lie 1.44 A apart
        contamination_chance=0.1,
        rule=gold_sign,
    )
    spec = family_spec("gold", images, ("Au",))
    return Recipe(
        spec=spec,
        structures=GoldRanges(),
        taught_structures=GoldRanges(zones=(0.35, 0.2, 0.35, 0.1)),  # [111] is the hardest
        images=images,
        seed=1,
        specimens=700,
        held_out=120,
        crop_px=256,
        calm=replace(images, tilt_mrad=0.2, dose_e_A2=(3e3, 2e4), contamination_chance=0.0),
        calm_steps=1000,
        rounds=(
            Round(3500, 2e-3, deeper=False),
            Round(1200, 1e-3, beta=0.0),
            Round(7000, 1.5e-3),
            Round(2000, 6e-4, beta=0.0),
            Round(7000, 1.5e-3),
            Round(3000, 5e-4, beta=0.0),
            Round(2000, 7e-4),
            Round(1300, 3e-4, beta=0.0),
        ),
        doses_e_A2=(1e4, 3e3, 1e3, 300.0, 200.0, 100.0),
    )
