"""Ranges upside down are refused as they are made, not at export hours later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine import ConfigError
from training.ranges import ImageRanges
from training.recipes import RECIPES
from training.structures.gold import GoldRanges
from training.structures.graphene import SheetRanges
from training.structures.mos2 import Mos2Ranges
from training.structures.own import OwnRanges

OWN = OwnRanges(np.zeros((1, 3)), np.uint8([38]), None, (38,), "as-given")


@pytest.mark.parametrize(
    ("ranges", "name"),
    [
        (ImageRanges(), "dose_e_A2"),
        (ImageRanges(), "focus_step_A"),  # a pair or none
        (SheetRanges(), "hole_radius_A"),
        (GoldRanges(), "diameter_A"),
        (Mos2Ranges(), "defects"),
        (OWN, "disorder_A"),
        (OWN, "thickness_A"),
    ],
)
@pytest.mark.parametrize("value", [(3.0, 1.0), (1.0,), (float("nan"), 1.0)])
def test_a_pair_upside_down_is_named(ranges: Any, name: str, value: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError) as raised:
        replace(ranges, **{name: value})
    assert str(raised.value) == f"Expected {name} as (low, high), got {value}: give the smaller first"


@pytest.mark.parametrize("name", ["dose_e_A2", "sampling_A", "gain"])
def test_what_is_drawn_by_its_logarithm_is_over_0(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"Expected {name} over 0, got \(0.0, 1.0\): raise the smaller"):
        replace(ImageRanges(), **{name: (0.0, 1.0)})


def test_what_only_looks_like_a_pair_is_none() -> None:
    assert replace(SheetRanges(), grains=(0.7, 0.3)).grains == (0.7, 0.3)  # chances of one grain, of two


def test_a_pair_may_be_one_value_or_none() -> None:
    assert replace(ImageRanges(), dose_e_A2=(1e4, 1e4), focus_step_A=None).dose_e_A2 == (1e4, 1e4)


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipes_are_the_right_way_up(name: str) -> None:
    assert RECIPES[name]().images.dose_e_A2[0] > 0
