"""What a recipe says: specimens, images, network and fit. Everything a run depends on is in here."""

from __future__ import annotations

from dataclasses import dataclass

from engine.spec import ModelSpec
from training.ranges import ImageRanges
from training.structures.structure import Structures


@dataclass(frozen=True, slots=True)
class Recipe:
    """One trained network, from structures to export."""

    spec: ModelSpec
    structures: Structures
    images: ImageRanges
    seed: int
    specimens: int
    held_out: int  # specimens of another seed, for evaluation alone
    widths: tuple[int, ...]
    depth: tuple[int, ...]
    crop_px: int
    batch: int
    steps: int
    polish_steps: int  # more steps at `polish` times the rate, positions by their plain likelihood
    learning_rate: float
    polish: float
    calm: ImageRanges  # what the first `calm_steps` see in place of `images`: easy to tell, quick to learn
    calm_steps: int
    doses_e_A2: tuple[float, ...] = (1e5, 3e4, 1e4, 3e3, 1e3)  # of an image, that evaluation reports

    @property
    def all_steps(self) -> int:
        """From the first to the last."""
        return self.steps + self.polish_steps

    def images_at(self, step: int) -> ImageRanges:
        """What the samples of a step are drawn from."""
        return self.calm if step < self.calm_steps else self.images
