"""Training samples: k is drawn from seed (seed, k) alone, whichever process draws it and wherever a run resumes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from engine.prepare import prepare
from training.decidable import none_told
from training.exit_waves import Specimen
from training.imaging import Shot, shoot
from training.ranges import ImageRanges
from training.recipes.recipe import Recipe
from training.targets import targets

VIEWS = 2  # frames a microscope setting: the image is dear, looking at it again is cheap
_TRIES = 4  # settings of one specimen before another is taken
_CHECKED = 25  # specimens that a recipe is tried on
_FIELD_MARGIN_A = (1.0, 8.0)  # the frame is larger than what the network sees of it


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """(VIEWS, C, S, S) frames and (VIEWS, 6, S/2, S/2) targets: heat, dy, dx, near, covered, weight.

    Of a recipe with several classes a seventh: the class of the nearest site.
    """

    def __init__(self, specimens: list[Specimen], recipe: Recipe, first: int = 0):
        self.specimens, self.recipe, self.first = specimens, recipe, first

    def __len__(self) -> int:
        return max(0, self.recipe.all_steps * self.recipe.batch // VIEWS - self.first)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.recipe.seed, self.first + index))
        step = (self.first + index) * VIEWS // self.recipe.batch
        pairs = [crop(shot, self.recipe, rng) for shot in self._shots(self.recipe.images_at(step), rng)]
        return torch.from_numpy(np.stack([p[0] for p in pairs])), torch.from_numpy(np.stack([p[1] for p in pairs]))

    def check(self) -> None:
        """ConfigError where of many settings none is decidable: drawing samples would not come to an end."""
        rng = np.random.default_rng(self.recipe.seed)
        if not any(self._shot(self.recipe.images, rng) for _ in range(_CHECKED)):
            raise none_told(_CHECKED * _TRIES)

    def _shots(self, images: ImageRanges, rng: np.random.Generator) -> list[Shot]:
        while True:
            shots = self._shot(images, rng)
            if shots:
                return shots

    def _shot(self, images: ImageRanges, rng: np.random.Generator) -> list[Shot]:
        """Of one specimen; empty where its settings were undecidable."""
        size_A = self.recipe.crop_px * self.recipe.spec.sampling_A
        field_A = (size_A + _FIELD_MARGIN_A[0], size_A + _FIELD_MARGIN_A[1])
        specimen = self.specimens[rng.integers(len(self.specimens))]
        return shoot(specimen, images, field_A, rng, views=VIEWS, tries=_TRIES)


def crop(shot: Shot, recipe: Recipe, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A square of the prepared frame, mirrored at random, and its targets."""
    spec, size = recipe.spec, recipe.crop_px
    prepared = prepare(shot.frame, spec)
    low = [2 * int(rng.integers(max(0, full - size) // 2 + 1)) for full in prepared.shape]
    pixels = prepared.pixels[0, :, low[0] : low[0] + size, low[1] : low[1] + size]
    scale = np.array(prepared.scale)
    positions = (shot.positions_px + 0.5) / scale - 0.5 - low
    grid = [
        np.rint((np.arange(size) + start + 0.5) * s - 0.5).astype(int)
        for start, s in zip(low, prepared.scale, strict=True)
    ]
    rows, cols = (np.clip(g, 0, n - 1) for g, n in zip(grid, shot.covered.shape, strict=True))
    covered = shot.covered[np.ix_(rows, cols)]
    if rng.random() < 0.5:
        pixels, covered = pixels[:, ::-1], covered[::-1]
        positions = positions * [-1, 1] + [size - 1, 0]
    answer = targets(positions, shot.class_id, covered, spec.stride, spec.sampling_A)
    maps = [answer.heat, *answer.offset, answer.near, answer.covered, answer.weight]
    if len(spec.classes) > 1:
        maps.append(answer.class_id)
    return np.ascontiguousarray(pixels), np.stack(maps)


def loader(
    specimens: list[Specimen], recipe: Recipe, first_step: int, workers: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches from a step on, made by processes beside the training."""
    samples = Samples(specimens, recipe, first_step * recipe.batch // VIEWS)
    samples.check()
    return DataLoader(
        samples,
        batch_size=recipe.batch // VIEWS,
        num_workers=workers,
        worker_init_fn=_one_thread,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="spawn" if workers else None,
    )


def _one_thread(worker: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
