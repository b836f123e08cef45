"""Focus that runs through zero contrast across a frame, as over a tilted or bent sheet: what is found beside that band.

Held against frames of the same sheet at uniform focus, each of one that the ramp passes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine import Detector, Frame
from training.bound import position_bound_pm
from training.camera import detect
from training.decidable import FIRST_ORDER_A
from training.evaluate import FIELD_A, evaluation_ranges
from training.exit_waves import Specimen
from training.imaging import Series, Shot, between, draw_optics, is_decidable
from training.optics import Optics, odd_and_even
from training.ranges import ImageRanges
from training.score import BORDER_A, f1_of, inner, score
from training.view import View, draw_view, project

DOSE_E_A2 = 3e4
MOST_BOUND_PM = 30.0  # where an atom's bound is beyond, contrast is as good as zero
_REACH_A = 60.0  # of focus, to both sides of zero contrast
_FOCI = 13  # between two of them the image is taken as linear
_UNIFORM = slice(0, None, 3)  # of the foci that are clear, each as a frame of its own
_TRIES = 60
_LEAST_DECIDABLE = 0.1  # share of the atoms, for a frame to count


@dataclass(frozen=True, slots=True)
class Ramp:
    """One frame.

    Attributes
    ----------
    f1, decidable_f1 : float
        Of what lies where the bound is at most MOST_BOUND_PM; where besides a frame of that focus is decidable: near
        zero contrast astigmatism shows another lattice, however sharp its atoms are.
    uniform_f1 : float
        Mean of frames of uniform focus, of such foci.
    decidable : float
        Share of the true atoms that lie there.
    """

    f1: float
    decidable_f1: float
    uniform_f1: float
    decidable: float


def ramps(detector: Detector, specimens: list[Specimen], ranges: ImageRanges, seed: int, frames: int) -> list[Ramp]:
    """Frame k comes from seed (seed, k, 2) and specimen k; those whose ramp ends in frames nobody could decide are not
    taken."""
    ranges = evaluation_ranges(ranges)
    found = (_ramp(detector, specimens[k % len(specimens)], ranges, (seed, k, 2)) for k in range(frames))
    return [ramp for ramp in found if ramp is not None]


def summarise_ramps(results: list[Ramp]) -> dict[str, float]:
    """Means over the frames in which some atoms lie where anybody could decide."""
    rows = [ramp for ramp in results if ramp.decidable >= _LEAST_DECIDABLE]
    means = {f"ramp_{name}": float(np.mean([getattr(row, name) for row in rows])) for name in Ramp.__slots__ if rows}
    return {"ramp_frames": len(rows)} | means


def zero_contrast_A(optics: Optics) -> float:
    """The focus nearest to 0 at which graphene's first-order reflections, on average, change their sign."""
    angle = np.linspace(0, np.pi, 24, endpoint=False).astype(np.float32)
    ky, kx = (part[:, None] / np.float32(FIRST_ORDER_A) for part in (np.sin(angle), np.cos(angle)))
    foci = np.arange(-150.0, 151.0)
    transfer = np.array([np.sin(odd_and_even(replace(optics, defocus_A=focus), ky, kx)[1]).mean() for focus in foci])
    crossings = foci[:-1][np.diff(np.sign(transfer)) != 0]
    return float(crossings[np.argmin(np.abs(crossings))]) if len(crossings) else 0.0


def _ramp(detector: Detector, specimen: Specimen, ranges: ImageRanges, seed: tuple[int, ...]) -> Ramp | None:
    rng = np.random.default_rng(seed)
    for _ in range(_TRIES):
        optics, view = draw_optics(ranges, rng), draw_view(specimen, ranges, FIELD_A, rng)
        middle = zero_contrast_A(optics)
        foci = [replace(optics, defocus_A=float(middle + at)) for at in np.linspace(-_REACH_A, _REACH_A, _FOCI)]
        ends = (Series.of(specimen.wave, (focus,)) for focus in (foci[0], foci[-1]))
        if all(is_decidable(end, specimen, view, ranges) for end in ends):
            return _judged(detector, specimen, ranges, foci, view, rng)
    return None


def _judged(
    detector: Detector,
    specimen: Specimen,
    ranges: ImageRanges,
    foci: list[Optics],
    view: View,
    rng: np.random.Generator,
) -> Ramp | None:
    fall = rng.uniform(*ranges.mtf)
    alone = [Series.of(specimen.wave, (focus,)) for focus in foci]
    images = np.stack([project(one.spectra[0], view, fall) for one in alone])
    truths = np.stack([view.to_frame(specimen.positions_A + one.shifts_A[0]) for one in alone])
    bounds = np.array(
        [_bound_pm(specimen, focus, view, truth, fall) for focus, truth in zip(foci, truths, strict=True)]
    )

    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.indices(view.shape)
    image = between(images, _position(rows, columns, view, angle))
    at = _position(*truths[_FOCI // 2].T, view, angle)
    truth = np.stack([between(truths[..., axis], at) for axis in (0, 1)], axis=1)
    found = _found(detector, image, ranges, view, rng)
    sharp = bounds <= MOST_BOUND_PM
    clear = sharp & [is_decidable(one, specimen, view, ranges) for one in alone]
    of_all, _ = _f1_where(sharp, truth, found, view, angle)
    of_clear, share = _f1_where(clear, truth, found, view, angle)
    uniform = [
        score(truths[k], _found(detector, images[k], ranges, view, rng), view.sampling_A, view.shape).f1
        for k in np.flatnonzero(clear)[_UNIFORM]
    ]
    return Ramp(of_all, of_clear, float(np.mean(uniform)), share) if uniform else None


def _bound_pm(specimen: Specimen, focus: Optics, view: View, truth: NDArray[np.float64], fall: float) -> float:
    empty = np.zeros(view.shape, np.float32)
    frame = Frame(empty, view.sampling_A)
    shot = Shot(frame, truth, specimen.sites.class_id, empty, empty, ((focus, view),), fall, decidable=True)
    return position_bound_pm(specimen, shot, DOSE_E_A2, atoms=1)


def _position(rows: NDArray[np.generic], columns: NDArray[np.generic], view: View, angle: float) -> NDArray[np.float64]:
    """Where on the ramp, 0 to _FOCI - 1: it runs over the whole field at this angle."""
    y, x = (part / (size - 1) - 0.5 for part, size in zip((rows, columns), view.shape, strict=True))
    across = (y * np.sin(angle) + x * np.cos(angle)) / (abs(np.sin(angle)) + abs(np.cos(angle))) + 0.5
    return np.asarray(np.clip(across, 0, 1) * (_FOCI - 1), np.float64)


def _found(
    detector: Detector, image: NDArray[np.floating], ranges: ImageRanges, view: View, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(N, 2) positions found in what a camera makes of the image."""
    electrons = np.maximum(image, 0).astype(np.float32) * np.float32(DOSE_E_A2 * view.sampling_A**2)
    frame = Frame(detect(electrons, ranges, rng), view.sampling_A)
    return detector.detect(frame).uncovered().positions.astype(np.float64)


def _f1_where(
    clear: NDArray[np.bool_], truth: NDArray[np.float64], found: NDArray[np.float64], view: View, angle: float
) -> tuple[float, float]:
    """F1 of what lies between two clear foci, and the share of the true atoms that do."""
    judged = score(truth, found, view.sampling_A, view.shape)
    edge = BORDER_A / view.sampling_A

    def between(positions: NDArray[np.float64]) -> NDArray[np.bool_]:
        below = np.minimum(_position(*positions.T, view, angle).astype(np.intp), _FOCI - 2)
        return np.asarray(clear[below] & clear[below + 1] & inner(positions, edge, view.shape))

    true, claimed = between(truth), between(found)
    return f1_of(judged, true, claimed), float(true.sum() / max(1, inner(truth, edge, view.shape).sum()))
