"""Specimens partly under contamination: is what is found under it left out, and what is clear kept?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from engine import Detector, Frame
from engine.refine import AROUND_A
from training.evaluate import FIELD_A, evaluation_ranges, standard_error
from training.exit_waves import Specimen
from training.imaging import Shot, shoot
from training.pixels import value_at
from training.ranges import ImageRanges
from training.score import BORDER_A, f1_of, inner, score
from training.targets import SEEN


@dataclass(frozen=True, slots=True)
class Covered:
    """One frame, but for its edge.

    Attributes
    ----------
    under, under_left_out : int
        Found where at least 3 A of carbon cover the specimen, right or wrong; how many of these are left out.
    under_true : int
        Atoms that are there.
    clear, clear_left_out : int
        The same of what is found clear of any contamination, see `clear_of_any`.
    clear_f1 : float
        Of what lies clear and is reported.
    """

    under: int
    under_left_out: int
    under_true: int
    clear: int
    clear_left_out: int
    clear_f1: float


def covered(
    detector: Detector, specimens: list[Specimen], ranges: ImageRanges, seed: int, frames: int, dose_e_A2: float
) -> list[Covered]:
    """Frame k comes from seed (seed, k, 3) and specimen k; all are contaminated, and decidable but for that."""
    ranges, judged = replace(evaluation_ranges(ranges), contamination_chance=1.0), []
    for k in range(frames):
        rng = np.random.default_rng((seed, k, 3))
        for shot in shoot(specimens[k % len(specimens)], ranges, FIELD_A, rng, dose_e_A2):
            judged.append(_judged(detector, shot))
    return judged


def summarise_covered(results: list[Covered]) -> dict[str, float]:
    """Shares of all frames' atoms, and F1 as a mean over the frames with clear parts.

    covered_reported: what is reported under contamination, over the atoms that are there.
    """
    total = {name: sum(getattr(one, name) for one in results) for name in Covered.__slots__}
    f1 = [one.clear_f1 for one in results if one.clear]
    reported = total["under"] - total["under_left_out"]
    return {
        "covered_frames": len(results),
        "covered_left_out": _share(total["under_left_out"], total["under"]),
        "covered_reported": _share(reported, total["under_true"]),
        "clear_left_out": _share(total["clear_left_out"], total["clear"]),
        "clear_f1": float(np.mean(f1)) if f1 else float("nan"),
        "clear_f1_standard_error": standard_error(f1),
    }


def clear_of_any(shot: Shot, positions_px: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(N,) positions in the frame with no contamination in the square that the engine looks at around an atom."""
    reach = 2 * int(AROUND_A / shot.view.sampling_A) + 1
    return np.asarray(value_at(cv2.dilate(shot.covered, np.ones((reach, reach), np.uint8)), positions_px) == 0)


def _judged(detector: Detector, shot: Shot) -> Covered:
    found = detector.detect(Frame(shot.frame.pixels, shot.frame.sampling_A, shot.frame.mask))
    edge, shape = BORDER_A / shot.view.sampling_A, shot.frame.shape
    kept, at = found.clear, found.positions.astype(np.float64)
    within = inner(at, edge, shape)
    under = within & (value_at(shot.covered, at) >= SEEN)
    clear = within & clear_of_any(shot, at)
    truth = shot.positions_px
    true = inner(truth, edge, shape)
    reported = score(truth, at[kept], shot.view.sampling_A, shape)
    return Covered(
        under=int(under.sum()),
        under_left_out=int((under & ~kept).sum()),
        under_true=int((true & (value_at(shot.covered, truth) >= SEEN)).sum()),
        clear=int(clear.sum()),
        clear_left_out=int((clear & ~kept).sum()),
        clear_f1=f1_of(reported, true & clear_of_any(shot, truth), clear[kept]),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
