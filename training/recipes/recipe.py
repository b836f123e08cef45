"""What a recipe says: specimens, images, network and fit. Everything a run depends on is in here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from engine.spec import ModelSpec
from training.ranges import DOSES_E_A2, ImageRanges
from training.structures.structure import Structures


@dataclass(frozen=True, slots=True)
class Round:
    """So many steps from a rate down a cosine; positions weighted with their error to the power 2 beta (fit.py)."""

    steps: int
    rate: float
    beta: float = 0.5
    deeper: bool = True  # the network's second looks take part


LEARN, POLISH = Round(7000, 2e-3), Round(3000, 6e-4, beta=0.0)
_QUICK_SPECIMENS, _QUICK_ROUNDS = 240, (Round(4500, 2e-3, deeper=False), Round(1500, 8e-4, beta=0.0))


@dataclass(frozen=True, slots=True)
class Recipe:
    """One trained network, from structures to export."""

    spec: ModelSpec
    structures: Structures
    images: ImageRanges
    seed: int
    specimens: int
    held_out: int  # specimens of another seed, for evaluation alone
    crop_px: int
    calm: ImageRanges  # what the first `calm_steps` see in place of `images`: easy to tell, quick to learn
    calm_steps: int
    rounds: tuple[Round, ...] = (LEARN, POLISH)
    widths: tuple[int, ...] = (32, 64, 96, 128, 128)
    depth: tuple[int, ...] = (1, 1, 2, 2, 4)
    batch: int = 4
    doses_e_A2: tuple[float, ...] = DOSES_E_A2
    taught: ImageRanges | None = None  # what is learnt from, where it is other than what is scored
    taught_structures: Structures | None = None  # so too

    @property
    def all_steps(self) -> int:
        """From the first to the last."""
        return sum(each.steps for each in self.rounds)

    def round_at(self, step: int) -> tuple[Round, int]:
        """The round of a step, and which of its own steps it is."""
        for each in self.rounds:
            if step < each.steps:
                return each, step
            step -= each.steps
        raise IndexError(f"expected a step of the recipe's {self.all_steps}, got one beyond")

    def structures_of(self, seed: int) -> Structures:
        """What specimens of a seed are drawn from: its own is that of what is taught, others of what is scored."""
        return (self.taught_structures if seed == self.seed else None) or self.structures

    def continued(self) -> Recipe:
        """The same for a network that knows something already: at once all of what is taught, to all of the network."""
        return replace(self, calm_steps=0, rounds=tuple(replace(each, deeper=True) for each in self.rounds))

    def images_at(self, step: int) -> ImageRanges:
        """What the samples of a step are drawn from."""
        taught = self.taught or self.images
        return replace(self.calm, rule=taught.rule) if step < self.calm_steps else taught


def quick(recipe: Recipe) -> Recipe:
    """The same family from nothing in about an hour and a half on two cores, as a model of its own name."""
    spec = replace(recipe.spec, name=f"{recipe.spec.name}-quick")
    return replace(recipe, spec=spec, specimens=_QUICK_SPECIMENS, rounds=_QUICK_ROUNDS)


def family_spec(family: str, images: ImageRanges, classes: tuple[str, ...], **more: Any) -> ModelSpec:
    """What the networks of all families have in common, for a model of this name; `more` says what is different.

    Weights that a recipe makes are the first of their kind, and nobody has checked them on real frames: a later
    version, or a note of such frames, is written into the card of the very weights.
    """
    common: dict[str, Any] = {
        "channels": 1,
        "sampling_A": 0.2,
        "level_A": 12.0,
        "normalise_A": 12.0,
        "stride": 2,
        "multiple": 32,
        "threshold": 0.35,
        "separation_A": 0.8,
        "notes": "verified on simulation only",
    }
    trained = {
        "sampling_A": images.sampling_A,
        "dose_e_A2": images.dose_e_A2,
        "voltage_kV": (images.voltage_kV, images.voltage_kV),
        "defocus_A": images.defocus_A,
        "field_A": (20.0, 2000.0),
    }
    of_all = {"name": family, "version": "1", "family": family, "licence": "BSD-3-Clause", "classes": classes}
    return ModelSpec(**of_all | common | more | {"trained": trained | more.get("trained", {})})
