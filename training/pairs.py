"""Pairs (low, high) that specimens and frames are drawn from: one upside down is refused before anything is drawn."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args, get_type_hints

from engine import ConfigError

Pair = tuple[float, float]


def check_pairs(ranges: Any) -> None:
    """ConfigError where a field of this dataclass that is a Pair, or None, has the larger value first."""
    for name in _pairs_of(type(ranges)):
        value = getattr(ranges, name)
        if value is not None and not (len(value) == 2 and value[0] <= value[1]):
            raise ConfigError(f"Expected {name} as (low, high), got {value}: give the smaller first")


@cache  # ranges are made anew at every step of a fit
def _pairs_of(kind: type) -> tuple[str, ...]:
    """By their types: a tuple of two may also be the chances of two kinds."""
    return tuple(name for name, hint in get_type_hints(kind).items() if Pair in (hint, *get_args(hint)))
