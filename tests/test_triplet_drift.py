"""Drift of simulated MoS2 triplets as `serve` measures it: whatever the three foci make of the contrast."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from bench.drift import SAMPLING_A, Measured, measure, triplets
from engine.drift import Registration
from stream.alignment import Aligned, Aligner, read_image
from stream.references import References
from tests.training.specimens import thin_sites
from training.exit_waves import SAMPLING_A as WAVE_A
from training.exit_waves import Specimen
from training.optics import Optics, image_spectrum
from training.recipes.mos2 import mos2
from training.structures.mos2 import Mos2Ranges
from training.view import View, project

CELL_A = 56.0


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    return thin_sites(Mos2Ranges(cell_A=CELL_A).draw(np.random.default_rng(1)).sites, CELL_A)


@pytest.fixture(scope="module")
def shifts(specimen: Specimen) -> list[Measured]:
    """0.1 A/px, 3 x 10^4 e/A^2 an image, drift up to 8 px between the middle image and another."""
    return [measure(one) for one in triplets([specimen], mos2().images, 12, seed=2)]


def test_taken_out_to_a_tenth_of_a_pixel(shifts) -> None:
    assert np.median([one.error_px for one in shifts]) < 0.1


def test_none_slips_by_a_period(shifts) -> None:
    assert max(one.error_px for one in shifts) < 2


def test_few_are_doubted(shifts) -> None:
    assert sum(one.doubted for one in shifts) <= 3


def test_a_steady_one_is_followed_further(specimen: Specimen) -> None:
    """It grows from triplet to triplet to more than half a period of 31.6 px."""
    rng, aligner = np.random.default_rng(5), Aligner(1.0)
    look = View(SAMPLING_A, (512, 512), (CELL_A / 2, CELL_A / 2), 0.4)
    focuses = [Optics(defocus_A=defocus_A, Cs_A=2e4, astigmatism_A=10.0) for defocus_A in (30.0, 70.0, 110.0)]
    spectra = [image_spectrum(specimen.wave, WAVE_A, optics)[0] for optics in focuses]
    for size in (3.0, 6.0, 9.0, 12.0, 15.0, 18.0):
        by = size * np.array([0.6, -0.8])
        views = [replace(look, drift_px=tuple((step * by).tolist())) for step in (-1, 0, 1)]
        images = [
            rng.poisson(300 * np.maximum(project(spectrum, view, 0.5), 0)).astype(np.float32)
            for spectrum, view in zip(spectra, views, strict=True)
        ]
        found = aligner.align([read_image(image, None, References()) for image in images], SAMPLING_A, 1)
        np.testing.assert_allclose(found.drift_px, [by, 0 * by, -by], atol=0.3)
        assert found.doubt is None


@pytest.mark.parametrize("hole", ["noise", "nothing"])
def test_of_a_large_image_the_part_that_shows_most_tells(hole: str) -> None:
    rng = np.random.default_rng(6)
    pattern = cv2.GaussianBlur(rng.normal(size=(700, 1100)).astype(np.float32), (0, 0), 2.0)
    images = [np.roll(pattern, by, axis=(0, 1)) for by in ((3, -2), (0, 0), (-1, 4))]
    for image in images:  # more than half of it: the middle, and what lies right of it
        image[:, 540:] = rng.normal(size=(700, 560)) * (0.1 if hole == "noise" else 0)
    found = Aligner(1.5).align([read_image(image, None, References()) for image in images], 0.25, None)
    np.testing.assert_allclose(found.drift_px, [(-3, 2), (0, 0), (1, -4)], atol=0.02)
    assert found.doubt is None
    assert found.pixels.shape == (3, 700, 1100)


def test_images_without_contrast_are_doubted() -> None:
    flat = [read_image(np.full((64, 64), 5, np.float32), None, References())] * 3
    found = Aligner(1.0).align(flat, 0.25, None)
    assert found.drift_px == ((0.0, 0.0),) * 3
    assert found.doubt is not None


class TestThreeMeasurements:
    """Shifts that are given, at 0.1 A/px, of images that need not show anything."""

    def align(self, monkeypatch: pytest.MonkeyPatch, across: tuple[float, float]) -> Aligned:
        given = iter([(1.0, 2.0), (-3.0, 0.5), across])
        shifts = (Registration((y / 2, x / 2), 0.0) for y, x in given)  # on pixels twice as large
        monkeypatch.setattr("stream.alignment.register", lambda *_, **__: next(shifts))
        return Aligner(1.0).align([read_image(np.eye(64, dtype=np.float32), None, References())] * 3, 0.1, None)

    def test_those_that_agree_nearly_are_made_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.align(monkeypatch, (-4.0 + 0.9, -1.5 - 0.6))  # 1.08 px
        np.testing.assert_allclose(found.drift_px, [(0.7, 2.2), (0, 0), (-2.7, 0.3)], atol=1e-9)
        assert found.doubt is None

    def test_those_that_contradict_each_other_are_doubted_and_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.align(monkeypatch, (-4.0 + 1.0, -1.5 - 0.8))  # 1.28 px
        np.testing.assert_allclose(found.drift_px, [(1.0, 2.0), (0, 0), (-3.0, 0.5)], atol=1e-9)
        assert "contradict" in str(found.doubt)
