"""MoS2 at 80 kV from three images of different focus.

Ranges are those of graphene's microscope; steps of focus and kinds of defects follow Schiotz et al. 2018 (Microsc.
Microanal. 24, 512), where three defoci tell Mo, S and their vacancies apart.
"""

from __future__ import annotations

from dataclasses import replace

from engine.spec import ModelSpec
from training.decidable import mos2_sign
from training.ranges import ImageRanges
from training.recipes.recipe import Recipe
from training.structures.mos2 import CLASSES, Mos2Ranges

_IMAGES = 3


def mos2() -> Recipe:
    """The recipe of the model `mos2`."""
    images = ImageRanges(
        defocus_A=(-120.0, 120.0),  # of the middle image, which nobody knows
        focus_step_A=(20.0, 60.0),
        drift_px=4.0,
        drift_left_A=0.1,
        threefold_A=(0.0, 300.0),
        uneven_focus_chance=0.1,
        rule=mos2_sign,
    )
    low, high = images.dose_e_A2
    spec = ModelSpec(
        name="mos2",
        version="1",
        family="mos2",
        licence="BSD-3-Clause",
        classes=CLASSES,
        channels=_IMAGES,
        sampling_A=0.2,
        normalise_A=12.0,
        stride=2,
        multiple=32,
        threshold=0.35,
        separation_A=0.8,
        trained={
            "sampling_A": images.sampling_A,
            "dose_e_A2": (_IMAGES * low, _IMAGES * high),  # of the three images together
            "voltage_kV": (80.0, 80.0),
            "defocus_A": (images.defocus_A[0] - 60.0, images.defocus_A[1] + 60.0),
            "field_A": (20.0, 2000.0),
        },
    )
    return Recipe(
        spec=spec,
        structures=Mos2Ranges(),
        images=images,
        seed=1,
        specimens=320,
        held_out=64,
        widths=(32, 64, 96, 128, 128),
        depth=(1, 1, 2, 2, 4),
        crop_px=256,
        batch=4,
        steps=7000,
        polish_steps=3000,
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
