"""A recipe whose frames are drawn in milliseconds, and its specimens. Shared by the tests of training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.training.specimens import CALM, sheet_specimen
from training import evaluate, export
from training.exit_waves import Specimen
from training.ranges import ImageRanges
from training.recipes.graphene import graphene
from training.recipes.recipe import Recipe, Round


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Threads that wait for each other on busy cores cost more than such small networks do."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """That of graphene with small specimens, small crops and a very small network."""
    images = ImageRanges(sampling_A=(0.12, 0.4))
    return replace(
        graphene(),
        structures=CALM,
        images=images,
        specimens=2,
        held_out=2,
        widths=(8, 16),
        depth=(1, 1),
        crop_px=64,
        batch=4,
        rounds=(Round(4, 2e-3), Round(2, 6e-4, beta=0.0)),
        calm_steps=0,
    )


@pytest.fixture(scope="session")
def specimens() -> list[Specimen]:
    """Two sheets of graphene, 40 A wide."""
    return [sheet_specimen(seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def few_frames() -> Iterator[None]:
    """A few small frames for calibration, quantisation and evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_CALIBRATION_FRAMES", 3)
        patch.setattr(export, "_QUANTISATION_FRAMES", 4)
        patch.setattr(export, "FIELD_A", (20.0, 22.0))
        patch.setattr(evaluate, "FIELD_A", (20.0, 22.0))
        yield
