"""Simulated frames: their atoms where the truth says, their counts what the dose says, their draws from the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training.specimens import CELL_A, ROUND, thin
from training.camera import detect
from training.exit_waves import SAMPLING_A, Specimen
from training.imaging import Shot, between, draw_optics, shoot
from training.ranges import ImageRanges
from training.view import View, draw_view, project

FIELD_A = (20.0, 24.0)
IDEAL_DETECTOR = replace(
    ROUND, noise_blur_px=(0.0, 0.0), read_noise_e=(1e-6, 1e-6), bad_pixels=0.0, eight_bit_chance=0.0
)


@pytest.fixture(scope="module")
def scattered() -> Specimen:
    """Single atoms, 6 A from each other."""
    grid = np.stack(np.meshgrid(*2 * [np.arange(3, CELL_A, 6.2)]), axis=-1).reshape(-1, 2)
    return thin(grid + np.random.default_rng(0).uniform(-1, 1, grid.shape))


def shot(specimen: Specimen, ranges: ImageRanges, seed: int = 0, **options: object) -> Shot:
    (one,) = shoot(specimen, ranges, FIELD_A, np.random.default_rng(seed), undecidable=True, **options)
    return one


def peaks(image: NDArray[np.float32], near: NDArray[np.float64], reach_px: float) -> NDArray[np.float64]:
    """The brightest place within reach of each position, by a parabola through it and its neighbours."""
    found = []
    for y, x in near:
        low = np.maximum(np.round([y - reach_px, x - reach_px]), 1).astype(int)
        part = image[low[0] : int(y + reach_px) + 2, low[1] : int(x + reach_px) + 2]
        r, c = np.array(np.unravel_index(part.argmax(), part.shape)) + low
        at = []
        for before, here, after in (image[r - 1 : r + 2, c], image[r, c - 1 : c + 2]):
            at.append((before - after) / (2 * (before - 2 * here + after)))
        found.append((r + at[0], c + at[1]))
    return np.array(found)


def well_inside(frame: Shot, margin_A: float = 2.5) -> NDArray[np.float64]:
    margin = margin_A / frame.view.sampling_A
    rows = frame.positions_px
    return rows[np.all((rows > margin) & (rows < np.array(frame.view.shape) - 1 - margin), axis=1)]


class TestTruth:
    @pytest.mark.parametrize("sampling_A", [0.05, 0.12, 0.3, 0.5])
    @pytest.mark.parametrize("seed", range(3))  # each another angle
    def test_atoms_lie_on_the_extremes_of_the_image(self, scattered: Specimen, sampling_A: float, seed: int) -> None:
        frame = shot(scattered, replace(ROUND, sampling_A=(sampling_A, sampling_A)), seed)
        truth = well_inside(frame)
        assert len(truth) >= 4
        found = peaks(frame.ideal, truth, 0.6 / sampling_A)
        np.testing.assert_allclose((found - truth) * sampling_A, 0, atol=0.02 + 0.06 * sampling_A)

    def test_dark_atoms_too(self, scattered: Specimen) -> None:
        frame = shot(scattered, replace(ROUND, defocus_A=(60.0, 60.0), sampling_A=(0.12, 0.12)))
        truth = well_inside(frame)
        np.testing.assert_allclose((peaks(-frame.ideal, truth, 5) - truth) * 0.12, 0, atol=0.03)

    def test_tilt_moves_image_and_truth_alike(self, scattered: Specimen) -> None:
        ranges = replace(ROUND, tilt_mrad=1.0, Cs_A=(1e5, 1e5), sampling_A=(0.12, 0.12))
        frame = shot(scattered, ranges, seed=3)
        truth, straight = well_inside(frame), frame.view.to_frame(scattered.positions_A)
        apart = np.hypot(*(straight[:, None] - truth[None]).transpose(2, 0, 1)).min(axis=0)
        assert apart.min() * 0.12 > 0.03
        # Tilted rings of each atom pull at the others, to all sides: the mean is the shift.
        np.testing.assert_allclose((peaks(frame.ideal, truth, 5) - truth).mean(axis=0) * 0.12, 0, atol=0.02)

    def test_a_view_maps_there_and_back(self) -> None:
        view = View(0.13, (70, 90), (11.0, 17.0), 0.7)
        corners = np.array([[0.0, 0.0], [10.0, 20.0], [69.0, 89.0]])  # (y, x) in the frame
        on_wave = np.column_stack([corners[:, ::-1], np.ones(3)]) @ view.matrix().T
        np.testing.assert_allclose(view.to_frame(on_wave[:, ::-1] * SAMPLING_A), corners, atol=1e-9)

    def test_views_stay_inside_the_cell(self, scattered: Specimen) -> None:
        for seed in range(30):
            view = draw_view(scattered, ROUND, (10.0, 22.0), np.random.default_rng(seed))
            corners = np.array([[0, 0], [0, view.shape[1] - 1], [view.shape[0] - 1, 0], list(view.shape)])
            on_wave = np.column_stack([corners[:, ::-1], np.ones(4)]) @ view.matrix().T * SAMPLING_A
            assert on_wave.min() > 0
            assert on_wave.max() < CELL_A

    def test_the_stated_sampling_is_a_little_wrong(self, scattered: Specimen) -> None:
        errors = [shot(scattered, ROUND, seed) for seed in range(8)]
        ratios = np.array([s.frame.sampling_A / s.view.sampling_A for s in errors]) - 1
        assert 0.003 < np.abs(ratios).max() <= ROUND.sampling_error


class TestCounts:
    @pytest.mark.parametrize("dose_e_A2", [1e3, 1e5])
    def test_electrons_are_dose_times_area(self, scattered: Specimen, dose_e_A2: float) -> None:
        frame = shot(scattered, ROUND, dose_e_A2=dose_e_A2)
        assert frame.frame.dose_e_A2 == dose_e_A2
        assert frame.ideal.mean() == pytest.approx(dose_e_A2 * frame.view.sampling_A**2, rel=0.02)
        assert frame.ideal.shape == frame.frame.shape == frame.covered.shape

    def test_counts_are_poisson_times_a_gain(self) -> None:
        ideal = np.repeat(np.float32([[20.0], [80.0]]), 40_000, axis=1)
        for seed in range(5):
            counts = detect(ideal, IDEAL_DETECTOR, np.random.default_rng(seed))
            gain = float(np.diff(counts.mean(axis=1))[0] / 60)
            assert gain > 0.49
            assert gain <= 51
            np.testing.assert_allclose(counts.var(axis=1), gain**2 * ideal[:, 0], rtol=0.05)
            assert 0 <= counts[0].mean() - 20 * gain <= 200 + gain

    def test_spread_over_pixels_takes_noise_with_it(self) -> None:
        ideal = np.full((200, 200), 50, np.float32)
        white, soft = (
            detect(ideal, replace(IDEAL_DETECTOR, noise_blur_px=(s, s)), np.random.default_rng(1)) for s in (0.0, 0.6)
        )
        assert np.corrcoef(white[:, 1:].ravel(), white[:, :-1].ravel())[0, 1] == pytest.approx(0, abs=0.03)
        assert np.corrcoef(soft[:, 1:].ravel(), soft[:, :-1].ravel())[0, 1] > 0.2

    def test_read_noise_adds_to_it(self) -> None:
        ideal = np.repeat(np.float32([[0.0], [60.0]]), 40_000, axis=1)
        counts = detect(ideal, replace(IDEAL_DETECTOR, read_noise_e=(2.0, 2.0)), np.random.default_rng(2))
        gain = float(np.diff(counts.mean(axis=1))[0] / 60)
        np.testing.assert_allclose(counts.var(axis=1) / gain**2, [4, 64], rtol=0.05)

    def test_bad_pixels_stand_out(self) -> None:
        ideal = np.full((200, 200), 1000, np.float32)
        counts = detect(ideal, replace(IDEAL_DETECTOR, bad_pixels=1e-3), np.random.default_rng(3))
        outliers = np.abs(counts - np.median(counts)) > 8 * np.percentile(np.abs(counts - np.median(counts)), 68)
        assert 10 < outliers.sum() < 80

    def test_eight_bits(self) -> None:
        counts = detect(
            np.full((64, 64), 50, np.float32), replace(IDEAL_DETECTOR, eight_bit_chance=1.0), np.random.default_rng(4)
        )
        assert (counts.min(), counts.max()) == (0, 255)
        np.testing.assert_array_equal(counts, np.rint(counts))

    def test_a_pixel_integrates_along_its_own_edges(self) -> None:
        # A wave along the camera's x: 30 periods along x and 40 along y of the specimen make 50 at this angle.
        wave = np.zeros((160, 160), np.complex64)
        wave[0, 0], wave[40, 30], wave[-40, -30] = 160**2 * np.array([1, 0.1, 0.1])
        sampling_A, angle = 0.3, float(np.arctan2(40, 30))
        image = project(wave, View(sampling_A, (40, 40), (20.0, 20.0), angle), 0.5)
        np.testing.assert_allclose(image, np.broadcast_to(image[:1], image.shape), atol=0.01)
        cycles = 50 / CELL_A * sampling_A  # a pixel
        assert np.ptp(image) == pytest.approx(4 * 0.1 * np.sinc(cycles) * np.exp(-0.5 * cycles), rel=0.03)

    def test_a_falling_mtf_takes_contrast(self, scattered: Specimen) -> None:
        crisp, dull = (
            shot(scattered, replace(ROUND, mtf=(fall, fall), sampling_A=(0.3, 0.3)), dose_e_A2=1.0)
            for fall in (0.0, 1.5)
        )
        assert dull.ideal.std() < 0.9 * crisp.ideal.std()
        assert dull.ideal.mean() == pytest.approx(crisp.ideal.mean(), rel=1e-3)


class TestShoot:
    def test_the_same_seed_gives_the_same_frame(self, specimens: list[Specimen]) -> None:
        one, again = (shoot(specimens[0], ImageRanges(), FIELD_A, np.random.default_rng((7, 1))) for _ in range(2))
        np.testing.assert_array_equal(one[0].frame.pixels, again[0].frame.pixels)
        np.testing.assert_array_equal(one[0].positions_px, again[0].positions_px)

    def test_another_seed_gives_another(self, specimens: list[Specimen]) -> None:
        one, other = (shoot(specimens[0], ImageRanges(), FIELD_A, np.random.default_rng((7, k)))[0] for k in range(2))
        assert one.optics != other.optics
        assert one.view != other.view

    def test_views_share_the_microscope_and_nothing_else(self, specimens: list[Specimen]) -> None:
        one, other = shoot(specimens[0], ImageRanges(), FIELD_A, np.random.default_rng(5), views=2)
        assert one.optics == other.optics
        assert one.view != other.view
        assert one.frame.dose_e_A2 != other.frame.dose_e_A2

    def test_what_nobody_could_decide_is_drawn_again(self, specimens: list[Specimen]) -> None:
        # Far underfocus of one direction, overfocus of the other: a third of the reflections reversed.
        astigmatic = replace(ROUND, defocus_A=(-10.0, 10.0), astigmatism_A=(0.0, 120.0))
        kept = [shoot(specimens[0], astigmatic, FIELD_A, np.random.default_rng(k)) for k in range(6)]
        assert all(shots and shots[0].decidable for shots in kept)
        asked = [shot(specimens[0], astigmatic, k) for k in range(6)]
        assert not all(s.decidable for s in asked)

    @pytest.mark.parametrize("seed", range(3))  # each another angle
    def test_the_rule_sees_the_frame_and_a_little_beside_it(self, specimens: list[Specimen], seed: int) -> None:
        seen = []

        def rule(images: Sequence[NDArray[np.float32]], positions: Sequence[NDArray[np.float64]], *_: object) -> bool:
            seen.append((images[0], positions[0]))
            return True

        frame = shot(specimens[0], replace(IDEAL_DETECTOR, sampling_A=(0.1, 0.1), rule=rule), seed, dose_e_A2=1e7)
        ((image, positions_A),) = seen
        middle_A = np.array(image.shape) * SAMPLING_A / 2
        np.testing.assert_allclose(
            positions_A - middle_A, (frame.positions_px + 0.5 - np.array(frame.view.shape) / 2) * 0.1, atol=1e-6
        )
        edge_A = frame.view.shape[0] * 0.1
        assert image.shape[0] * SAMPLING_A == pytest.approx(max(36.0, edge_A + 15.0), abs=SAMPLING_A)
        # The same picture: the frame, on the rule's pixels.
        size = round(edge_A / SAMPLING_A)
        start = (image.shape[0] - size) // 2
        frame_there = cv2.resize(frame.frame.pixels.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
        inner = image[start : start + size, start : start + size]
        assert np.corrcoef(inner.ravel(), frame_there.ravel())[0, 1] > 0.8

    def test_nothing_to_decide_gives_no_frame(self) -> None:
        empty = thin(np.empty((0, 2)))
        assert shoot(empty, ROUND, FIELD_A, np.random.default_rng(0), tries=2) == []
        assert not shot(empty, ROUND).decidable

    def test_contamination_is_said_and_seen(self, specimens: list[Specimen]) -> None:
        clean, dirty = (
            shot(specimens[0], replace(ROUND, contamination_chance=p), 4, dose_e_A2=1e4) for p in (0.0, 1.0)
        )
        assert not clean.covered.any()
        assert 0.02 < (dirty.covered > 0.5).mean() < 0.9

    def test_a_bent_sheet_has_many_focuses(self, specimens: list[Specimen]) -> None:
        ranges = replace(ROUND, defocus_A=(-90.0, -40.0), mtf=(0.0, 0.0), sampling_A=(0.2, 0.2))
        flat, bent = (shot(specimens[0], replace(ranges, uneven_focus_chance=p), 1, dose_e_A2=1e4) for p in (0.0, 1.0))
        assert flat.optics == bent.optics
        assert np.abs(bent.ideal / flat.ideal - 1).max() > 0.01

    @pytest.mark.parametrize("seed", [1, 3, 5])  # foci far from each other
    def test_its_atoms_are_where_a_tilted_beam_moves_them_at_their_height(self, scattered: Specimen, seed: int) -> None:
        ranges = replace(IDEAL_DETECTOR, defocus_A=(-110.0, -40.0), tilt_mrad=12.0, blur_A=(0.0, 0.0), mtf=(0.0, 0.0))
        ranges = replace(ranges, sampling_A=(0.12, 0.12), uneven_focus_chance=1.0, rule=lambda *_: True)
        frame = shot(scattered, ranges, seed, dose_e_A2=1e4)
        even = shot(scattered, replace(ranges, uneven_focus_chance=0.0), seed, dose_e_A2=1e4)
        assert np.abs(frame.positions_px - even.positions_px).max() * 0.12 > 0.1
        truth = well_inside(frame)
        assert np.abs(peaks(frame.ideal, truth, 4) - truth).max() * 0.12 < 0.03


def test_between_is_linear() -> None:
    values = np.array([[0.0, 10.0], [1.0, 20.0], [3.0, 30.0]])
    np.testing.assert_allclose(between(values, np.array([0.5, 2.0])), [0.5, 30.0])
    np.testing.assert_allclose(between(values, np.array([1.5, 1.0])), [2.0, 20.0])
    np.testing.assert_allclose(between(values[:1], np.array([0.7, 0.0])), [0.0, 10.0])


def test_optics_stay_within_their_ranges() -> None:
    ranges = ImageRanges()
    drawn = [draw_optics(ranges, np.random.default_rng(k)) for k in range(200)]
    for name in ("defocus_A", "Cs_A", "astigmatism_A", "coma_A", "threefold_A", "focal_spread_A", "blur_A"):
        low, high = getattr(ranges, name)
        values = np.array([getattr(optics, name) for optics in drawn])
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high >= values.max() > high - 0.1 * (high - low)
    assert max(np.hypot(*optics.tilt_mrad) for optics in drawn) == pytest.approx(ranges.tilt_mrad, rel=0.05)
