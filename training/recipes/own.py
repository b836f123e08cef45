"""A user's own structure, as `atomstream-train simulate NAME --structure FILE` wrote it down.

Ranges are those of gold at any voltage, doses what the user told.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.decidable import crystal_sign, element_sign
from training.pairs import Pair
from training.ranges import COLUMNS
from training.recipes.recipe import Recipe, family_spec
from training.specimen_file import OwnSpecimen
from training.structures.own import depth_A, nearest_A

_FOCUS_A = 200.0  # and half the specimen, to both sides of its exit face: as far to both sides of any depth


def own(name: str, specimen: OwnSpecimen) -> Recipe:
    """The recipe of the model `name`; ConfigError where the structure's columns cannot be told apart."""
    from ase.data import chemical_symbols

    focus_A = _FOCUS_A + depth_A(specimen.ranges) / 2
    images = replace(
        COLUMNS,
        voltage_kV=specimen.voltage_kV,
        defocus_A=(-focus_A, focus_A),
        dose_e_A2=specimen.dose_e_A2,
        contamination_chance=0.2,
        rule=element_sign if len(np.unique(specimen.ranges.numbers)) == 1 else crystal_sign,
    )
    spec = family_spec(
        name,
        images,
        tuple(chemical_symbols[number] for number in specimen.ranges.elements),
        licence="its maker's",
        separation_A=min(0.8, max(0.6, 0.6 * nearest_A(specimen.ranges))),
    )
    return Recipe(
        spec=spec,
        structures=specimen.ranges,
        images=images,
        seed=1,
        specimens=300,
        held_out=64,
        crop_px=256,
        calm=replace(images, tilt_mrad=0.2, dose_e_A2=_calm(specimen.dose_e_A2), contamination_chance=0.0),
        calm_steps=1000,
        doses_e_A2=_reported(specimen.dose_e_A2),
    )


def _calm(dose_e_A2: Pair) -> Pair:
    """The upper two fifths, of the logarithm."""
    low, high = dose_e_A2
    return float(low * (high / low) ** 0.6), high


def _reported(dose_e_A2: Pair) -> tuple[float, ...]:
    """1 and 3 of each power of ten, from the highest that was taught to the lowest; of a narrow range the ends."""
    low, high = dose_e_A2
    steps = [step * 10.0**power for power in range(7, -1, -1) for step in (3, 1)]
    inside = tuple(step for step in steps if low <= step <= high)
    return inside if len(inside) > 1 else (high, low)[: 1 + (low < high)]
