"""MoS2 at 80 kV from three images of different focus.

Ranges are those of graphene's microscope; steps of focus and kinds of defects follow Schiotz et al. 2018 (Microsc.
Microanal. 24, 512), where three defoci tell Mo, S and their vacancies apart.
"""

from __future__ import annotations

from training.decidable import mos2_sign
from training.ranges import ImageRanges, nearly_round
from training.recipes.recipe import Recipe, Round, family_spec
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
    trained = {
        "dose_e_A2": (_IMAGES * low, _IMAGES * high),  # of the three images together
        "defocus_A": (images.defocus_A[0] - 60.0, images.defocus_A[1] + 60.0),
    }
    spec = family_spec("mos2", images, CLASSES, channels=_IMAGES, trained=trained)
    return Recipe(
        spec=spec,
        structures=Mos2Ranges(),
        images=images,
        seed=1,
        specimens=320,
        held_out=64,
        crop_px=256,
        calm=nearly_round(images),
        calm_steps=1500,
        rounds=(
            Round(6000, 2e-3, deeper=False),
            Round(3500, 1e-3, beta=0.0),
            Round(1700, 1e-3),
            Round(1500, 4e-4, beta=0.0),
            Round(1000, 8e-4),
            Round(1200, 3e-4, beta=0.0),
            Round(2600, 6e-4, beta=0.0),
        ),
    )
