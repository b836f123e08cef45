"""A user's own structure, as `atomstream-train simulate NAME --structure FILE` wrote it down.

Ranges are those of gold at any voltage, doses those of graphene: crystals may bear more.
"""

from __future__ import annotations

from dataclasses import replace

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
        dose_e_A2=(3e2, 1e5),
        contamination_chance=0.2,
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
        calm=replace(images, tilt_mrad=0.2, dose_e_A2=(1e4, 1e5), contamination_chance=0.0),
        calm_steps=1000,
    )
