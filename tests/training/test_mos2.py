"""MoS2: triplets whose truth lies where the images show it, and a network that answers classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.drift import register
from tests.training.specimens import ROUND, thin, thin_sites
from training.bound import position_bound_pm
from training.dataset import VIEWS, Samples
from training.exit_waves import Specimen
from training.export import Exported
from training.fit import fit, loss_terms, new_network, read_network
from training.imaging import Shot, shoot
from training.recipes.mos2 import mos2
from training.recipes.recipe import Recipe, Round
from training.structures.mos2 import Mos2Ranges
from training.unet import CLASSES

CELL_A = 44.0
FIELD_A = (16.0, 18.0)
TRIPLET = replace(ROUND, focus_step_A=(20.0, 30.0), drift_px=3.0, drift_left_A=0.0, sampling_A=(0.15, 0.15))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    whole = mos2()
    return replace(
        whole,
        structures=Mos2Ranges(cell_A=CELL_A, edge_chance=0.0, hole_chance=0.0),
        images=replace(whole.images, sampling_A=(0.15, 0.3), contamination_chance=0.0),
        widths=(8, 16),
        depth=(1, 1),
        crop_px=64,
        rounds=(Round(3, 2e-3), Round(1, 6e-4, beta=0.0)),
        calm_steps=0,
    )


@pytest.fixture(scope="module")
def specimen(recipe: Recipe) -> Specimen:
    return thin_sites(recipe.structures.draw(np.random.default_rng(3)).sites, CELL_A)


def triplet(specimen: Specimen, seed: int = 0, **options: object) -> Shot:
    ranges = replace(TRIPLET, **options)
    (shot,) = shoot(specimen, ranges, FIELD_A, np.random.default_rng(seed), 1e7, undecidable=True)
    return shot


class TestTriplets:
    def test_three_images_whose_focus_goes_one_way(self, specimen: Specimen) -> None:
        for seed in range(6):
            shot = triplet(specimen, seed)
            assert shot.frame.pixels.shape == (3, *shot.frame.shape)
            first, middle, last = (optics.defocus_A for optics, _ in shot.images)
            assert (middle - first) * (last - middle) > 0
            assert 20 <= abs(middle - first) <= 30
            assert shot.optics.defocus_A == middle
            assert shot.frame.dose_e_A2 == 3e7

    def test_drift_is_there_and_is_taken_out(self) -> None:
        alone = thin(np.array([[15.3, 16.8], [18.0, 13.0], [13.5, 13.1]]))
        shot = triplet(
            alone, 1, defocus_A=(-100.0, -100.0), focus_step_A=(0.0, 0.0), noise_blur_px=(0.0, 0.0), bad_pixels=0.0
        )
        assert np.hypot(*shot.images[0][1].drift_px) > 0.3
        moved = register(shot.ideal[1], shot.ideal[0]).shift
        np.testing.assert_allclose(moved, -np.array(shot.images[0][1].drift_px), atol=0.15)
        for image in shot.frame.pixels[::2]:
            left = register(shot.frame.pixels[1], image, within_px=5).shift
            np.testing.assert_allclose(left, 0, atol=0.15)

    def test_a_measurement_leaves_some(self, specimen: Specimen) -> None:
        exact, rough = (triplet(specimen, 2, drift_left_A=left) for left in (0.0, 0.3))
        np.testing.assert_array_equal(exact.positions_px, rough.positions_px)
        assert np.abs(exact.frame.pixels[0] - rough.frame.pixels[0]).max() > 0

    def test_three_images_measure_better_than_one(self, specimen: Specimen) -> None:
        shot = triplet(specimen)
        alone = replace(shot, images=shot.images[1:2])
        assert position_bound_pm(specimen, shot, 1e4) < position_bound_pm(specimen, alone, 1e4)


class TestNetwork:
    def test_samples_hold_the_class_of_each_site(self, recipe: Recipe, specimen: Specimen) -> None:
        frames, maps = Samples([specimen], recipe)[0]
        assert frames.shape == (VIEWS, 3, 64, 64)
        assert maps.shape == (VIEWS, 7, 32, 32)
        assert {0.0, 1.0} <= set(maps[:, 6].unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}

    def test_the_class_loss_asks_for_the_true_class(self) -> None:
        maps = torch.zeros(1, 7, 2, 2)
        maps[:, 3], maps[:, 5], maps[:, 6] = 1, 1, 2
        right, wrong = torch.full((1, CLASSES + 4, 2, 2), -20.0), torch.full((1, CLASSES + 4, 2, 2), -20.0)
        right[:, CLASSES + 2], wrong[:, CLASSES + 1] = 20, 20
        assert float(loss_terms(right, maps)["class"]) == pytest.approx(0, abs=1e-5)
        assert float(loss_terms(wrong, maps)["class"]) == pytest.approx(40, rel=1e-3)
        maps[:, 3] = 0
        assert loss_terms(wrong, maps)["class"] == 0

    def test_a_map_of_chances_for_each_class_follows_the_six(self, recipe: Recipe) -> None:
        torch.manual_seed(0)
        network, frames = new_network(recipe).eval(), torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            raw, maps = network(frames), Exported(network, recipe.spec).eval()(frames)
        assert maps.shape == (1, 6 + 4, 16, 16)
        torch.testing.assert_close(maps[:, 6:], torch.sigmoid(raw[:, CLASSES:]), atol=1e-5, rtol=1e-4)

    def test_it_fits_and_is_read_again(self, recipe: Recipe, specimen: Specimen, tmp_path: Path) -> None:
        fitted = fit([specimen], recipe, tmp_path, workers=0)
        again = read_network(tmp_path / "checkpoint.pt", recipe)
        assert torch.equal(again.head.weight, fitted.head.weight)
        assert again.head.out_channels == CLASSES + 4
