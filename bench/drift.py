"""Simulated triplets with a known drift between their images: how well it is taken out, and what it costs in F1."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import Detector, Frame
from stream.alignment import Aligned, Aligner, read_image
from stream.references import References
from training.camera import detect
from training.exit_waves import Specimen
from training.imaging import Shot, shoot
from training.ranges import ImageRanges
from training.score import score

SAMPLING_A, FIELD_A, DOSE_E_A2 = 0.1, 51.2, 3e4  # dose of each image
MOST_PX = 8.0
_MAX_DRIFT_A = 1.0  # as `serve` has it by default
_PERCENTILES = {"median": 50, "p90": 90}
_ONE_SIGMA = 68.27  # percent
_MIDDLE = 1  # the image that the two others are moved onto
_SLIP_PX = 4.0  # more than any measurement errs by, less than half of a period


@dataclass(frozen=True, slots=True, eq=False)
class Triplet:
    """Three images as a camera counts them.

    Attributes
    ----------
    images : (3, H, W) float32
    drift_px : (3, 2) float64
        What brings each image back onto the middle one, along y and x.
    shot : Shot
        With the truth; its positions are those of the middle image.
    """

    images: NDArray[np.float32]
    drift_px: NDArray[np.float64]
    shot: Shot


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What is left of a triplet's drift.

    Attributes
    ----------
    left_px : (2, 2) float64
        Along y and x, of the first image and of the last.
    doubted : bool
        Was it told that it may be off by a period?
    """

    left_px: NDArray[np.float64]
    doubted: bool

    @property
    def error_px(self) -> float:
        """Of the image that lies worse."""
        return float(np.hypot(*self.left_px.T).max())


def triplets(
    specimens: Sequence[Specimen], ranges: ImageRanges, count: int, seed: int, most_px: float = MOST_PX
) -> Iterator[Triplet]:
    """So many settings of the microscope that can be decided; setting k is the same whatever the drift.

    The specimen drifts up to `most_px` from the middle image to another.
    """
    ranges = replace(ranges, sampling_A=(SAMPLING_A, SAMPLING_A), sampling_error=0.0, drift_px=most_px / math.sqrt(2))
    made = number = 0
    while made < count:
        rng = np.random.default_rng((seed, number))
        shots = shoot(specimens[number % len(specimens)], ranges, (FIELD_A, FIELD_A), rng, DOSE_E_A2)
        number += 1
        for shot in shots:
            noise = np.random.default_rng((seed, number, 1))
            images = np.stack([detect(image, ranges, noise) for image in shot.ideal])
            made += 1
            yield Triplet(images, _drift_px(shot), shot)


def _drift_px(shot: Shot) -> NDArray[np.float64]:
    """By the stage, and by the focus where the beam is tilted: an image moves by tilt times the change of focus."""
    origin_px = shot.view.to_frame(np.zeros((1, 2)))[0]
    moved_A = [
        -(optics.defocus_A - shot.optics.defocus_A) * 1e-3 * np.array([optics.tilt_mrad]) for optics, _ in shot.images
    ]
    return np.stack([origin_px - view.to_frame(by)[0] for by, (_, view) in zip(moved_A, shot.images, strict=True)])


def align(triplet: Triplet) -> Aligned:
    """As `serve` and `detect` do it to a triplet without one before."""
    images = [read_image(image, None, References()) for image in triplet.images]
    return Aligner(_MAX_DRIFT_A).align(images, SAMPLING_A, None)


def measure(triplet: Triplet) -> Measured:
    """Drift as `serve` measures it against what it was."""
    aligned = align(triplet)
    left_px = np.delete(np.asarray(aligned.drift_px) - triplet.drift_px, _MIDDLE, axis=0)
    return Measured(left_px, aligned.doubt is not None)


def summarise(measured: Sequence[Measured]) -> dict[str, Any]:
    """Slips, those that were not told, and the errors of the others: of the worse image, and along an axis."""
    right = [one for one in measured if one.error_px < _SLIP_PX]
    slips = [one.doubted for one in measured if one.error_px >= _SLIP_PX]
    errors = [one.error_px for one in right] or [math.nan]
    along_axes = np.abs([one.left_px for one in right]) if right else np.nan
    return {
        "triplets": len(measured),
        "slips": len(slips),
        "slips_untold": slips.count(False),
        "doubted": sum(one.doubted for one in measured),
        "error_px": {name: round(float(np.percentile(errors, at)), 3) for name, at in _PERCENTILES.items()},
        "within_0.1_px": round(float(np.mean(np.array(errors) <= 0.1)), 3),
        "one_sigma_px": round(float(np.percentile(along_axes, _ONE_SIGMA)), 3),
    }


def measure_f1(detector: Detector, moved: Sequence[Triplet], still: Sequence[Triplet]) -> dict[str, float]:
    """Mean F1 of the same settings with drift and without."""
    with_drift, without = (float(np.mean([_f1(detector, one) for one in many])) for many in (moved, still))
    return {"f1": round(with_drift, 4), "f1_still": round(without, 4), "difference": round(with_drift - without, 4)}


def _f1(detector: Detector, triplet: Triplet) -> float:
    aligned = align(triplet)
    atoms = detector.detect(Frame(aligned.pixels, SAMPLING_A, aligned.mask))
    shape = (triplet.images.shape[1], triplet.images.shape[2])
    return score(triplet.shot.positions_px, atoms.positions.astype(np.float64), SAMPLING_A, shape).f1
