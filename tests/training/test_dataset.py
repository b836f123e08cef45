"""Training samples: drawn from (seed, k) alone, frame and truth always turned alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine import ConfigError
from engine.prepare import prepare
from tests.training.specimens import ROUND
from training.dataset import VIEWS, Samples, crop, loader
from training.decidable import crystal_sign
from training.exit_waves import Specimen
from training.imaging import Shot, shoot
from training.recipes.recipe import Recipe, Round


@pytest.fixture(scope="module")
def bright(recipe: Recipe, specimens: list[Specimen]) -> Shot:
    """A frame of many electrons and bright atoms, half of it contaminated."""
    images = replace(ROUND, bad_pixels=0.0, blur_A=(0.0, 0.0), sampling_A=(0.15, 0.15), sampling_error=0.0)
    (shot,) = shoot(specimens[0], images, (18.0, 20.0), np.random.default_rng(0), dose_e_A2=1e6)
    covered = np.zeros_like(shot.covered)
    covered[len(covered) // 2 :] = 1
    return replace(shot, covered=covered)


class Fixed:
    """A generator that places the crop at its first place and mirrors, or does not."""

    def __init__(self, mirror: bool) -> None:
        self._mirror = mirror

    def integers(self, high: int) -> int:
        return min(3, high - 1)

    def random(self) -> float:
        return 0.1 if self._mirror else 0.9


def correlation(pixels: NDArray[np.float32], heat: NDArray[np.float32]) -> float:
    """Of the frame at the centres of the cells with the heat there."""
    cells = pixels.reshape(heat.shape[0], 2, heat.shape[1], 2).mean(axis=(1, 3))
    return float(np.corrcoef(cells.ravel(), heat.ravel())[0, 1])


def test_the_first_steps_are_calm(recipe: Recipe, specimens: list[Specimen]) -> None:
    calm = replace(recipe.images, dose_e_A2=(1e6, 1e6))
    of_two = replace(recipe, calm=calm, calm_steps=2)
    assert [of_two.images_at(step).dose_e_A2 == (1e6, 1e6) for step in range(4)] == [True, True, False, False]
    taught = replace(of_two, taught=replace(of_two.images, rule=crystal_sign))
    assert [taught.images_at(step).rule for step in (0, 3)] == [crystal_sign] * 2
    assert taught.images.rule is not crystal_sign  # what is scored stays
    # Batches of two settings: samples 0 to 3 are of the calm steps, sample 4 is not.
    first, none = Samples(specimens, of_two), Samples(specimens, recipe)
    assert [bool(torch.equal(first[k][0], none[k][0])) for k in (0, 3, 4)] == [False, False, True]
    resumed = Samples(specimens, of_two, first=3)
    assert torch.equal(resumed[0][0], first[3][0])


def test_a_specimen_that_no_setting_decides_is_told_before_a_search_without_end(
    recipe: Recipe, specimens: list[Specimen]
) -> None:
    hopeless = replace(recipe, images=replace(recipe.images, rule=lambda *shown: False))
    with pytest.raises(ConfigError, match="got none in 100 settings: simulate a thinner specimen"):
        loader(specimens, hopeless, 0, 0)


class TestCrop:
    def test_shapes(self, bright: Shot, recipe: Recipe) -> None:
        pixels, maps = crop(bright, recipe, np.random.default_rng(0))
        assert (pixels.shape, maps.shape) == ((1, 64, 64), (6, 32, 32))
        assert pixels.dtype == maps.dtype == np.float32
        assert pixels.flags.c_contiguous

    @pytest.mark.parametrize("seed", range(4))
    def test_heat_lies_on_the_atoms(self, bright: Shot, recipe: Recipe, seed: int) -> None:
        pixels, maps = crop(bright, recipe, np.random.default_rng(seed))
        assert correlation(pixels[0], maps[0]) > 0.6
        assert abs(correlation(pixels[0], np.roll(maps[0], 3, axis=1))) < 0.5

    def test_a_mirror_turns_frame_and_truth_alike(self, bright: Shot, recipe: Recipe) -> None:
        (pixels, maps), (mirrored, answer) = (crop(bright, recipe, Fixed(mirror)) for mirror in (False, True))
        np.testing.assert_array_equal(mirrored, pixels[:, ::-1])
        expected = maps[:, ::-1] * np.float32([1, -1, 1, 1, 1, 1]).reshape(6, 1, 1)  # dy points the other way
        np.testing.assert_allclose(answer, expected, atol=1e-4)
        assert correlation(mirrored[0], answer[0]) == pytest.approx(correlation(pixels[0], maps[0]), abs=1e-3)

    def test_contamination_travels_with_them(self, bright: Shot, recipe: Recipe) -> None:
        maps = crop(bright, recipe, Fixed(mirror=False))[1]
        covered = maps[4]
        np.testing.assert_allclose(covered, np.broadcast_to(covered[:, :1], covered.shape))
        first = int(np.flatnonzero(covered[:, 0] > 0.5)[0])
        frame_middle = len(bright.covered) / 2 * bright.view.sampling_A
        assert (2 * first + 2 * 3) * recipe.spec.sampling_A == pytest.approx(frame_middle, abs=0.5)
        np.testing.assert_array_equal(maps[5], covered < 0.5)

    def test_it_is_a_part_of_what_the_engine_would_see(self, bright: Shot, recipe: Recipe) -> None:
        pixels = crop(bright, recipe, Fixed(mirror=False))[0]
        whole = prepare(bright.frame, recipe.spec).pixels[0]
        np.testing.assert_array_equal(pixels, whole[:, 6:70, 6:70])


class TestSamples:
    def test_shapes_and_length(self, recipe: Recipe, specimens: list[Specimen]) -> None:
        samples = Samples(specimens, recipe)
        frames, maps = samples[0]
        assert frames.shape == (VIEWS, 1, 64, 64)
        assert maps.shape == (VIEWS, 6, 32, 32)
        assert len(samples) * VIEWS == recipe.all_steps * recipe.batch

    def test_one_sample_is_like_no_other(self, recipe: Recipe, specimens: list[Specimen]) -> None:
        samples = Samples(specimens, recipe)
        assert not torch.equal(samples[0][0], samples[1][0])
        assert not torch.equal(Samples(specimens, replace(recipe, seed=2))[0][0], samples[0][0])

    def test_a_run_that_resumes_sees_what_it_would_have_seen(self, recipe: Recipe, specimens: list[Specimen]) -> None:
        whole, rest = list(loader(specimens, recipe, 0, 0)), list(loader(specimens, recipe, 4, 0))
        assert (len(whole), len(rest)) == (6, 2)
        for (frames, maps), (again, answer) in zip(whole[4:], rest, strict=True):
            assert torch.equal(frames, again)
            assert torch.equal(maps, answer)

    def test_whichever_process_draws_them(self, recipe: Recipe, specimens: list[Specimen]) -> None:
        few = replace(recipe, rounds=(Round(3, 1e-3),))
        alone, beside = (list(loader(specimens, few, 0, workers)) for workers in (0, 2))
        assert len(alone) == len(beside) == 3
        for (frames, maps), (again, answer) in zip(alone, beside, strict=True):
            assert frames.shape == (few.batch // VIEWS, VIEWS, 1, 64, 64)
            assert torch.equal(frames, again)
            assert torch.equal(maps, answer)
