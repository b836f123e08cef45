"""The exported model on specimens it has never seen: F1 against dose, error against its bound, calibration of sigma."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from engine import Atoms, Detector, Frame
from training.bound import position_bound_pm
from training.classical import classical_atoms
from training.exit_waves import Specimen
from training.imaging import Shot, shoot
from training.ranges import DOSES_E_A2, ImageRanges
from training.score import Score, f1, score

FIELD_A = (45.0, 51.0)
AWAY_A = 2.0  # from anything that is to be found, a wrong atom has not been mistaken for it
UPRIGHT_A = 0.5  # columns that lean no more than this have one place
VERY_GOOD_F1 = 0.98  # frames above it tell how good positions can be
GOOD_F1 = 0.9  # frames above it tell whether sigma is meant


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One frame at one dose."""

    number: int
    dose_e_A2: float
    bound_pm: float
    decidable: bool
    score: Score
    shot: Shot
    atoms: Atoms
    label: str = ""  # of the specimen
    lean_A: NDArray[np.float32] | None = None  # of the true columns, see Sites
    left_out: float = 0.0  # share of what was found that counts as contaminated, though nothing covers the specimen
    classical: Score | None = None  # what the classical way finds in the same frame, classes apart

    @property
    def sigma_pm(self) -> NDArray[np.float32]:
        """Predicted error of each matched atom."""
        return self.atoms.sigma_pm[self.score.row]

    def above(self, threshold: float) -> Result:
        """The same frame judged with the atoms of at least this score."""
        atoms = self.atoms.select(self.atoms.score >= threshold)
        return judge(self.shot, atoms, self.number, self.dose_e_A2, self.bound_pm, self.label)


def evaluation_ranges(ranges: ImageRanges) -> ImageRanges:
    """All optics and pixel sizes, atoms as stored; no dirt, bent sheets or stretched pictures: they have no bound."""
    return replace(ranges, contamination_chance=0.0, uneven_focus_chance=0.0, eight_bit_chance=0.0, displacement_A=0.0)


def evaluate(
    detector: Detector,
    specimens: list[Specimen],
    ranges: ImageRanges,
    seed: int,
    frames: int,
    doses: Iterable[float] = DOSES_E_A2,
    progress: Callable[[int], None] = lambda done: None,
    classical: bool = False,
) -> list[Result]:
    """`frames` settings, each at every dose; frame k comes from seed (seed, k) and specimen k alone.

    `classical`: the same frames in the classical way too.
    """
    results = []
    for number in range(frames):
        specimen = specimens[number % len(specimens)]
        bound_at_1 = float("nan")
        for dose in doses:
            rng = np.random.default_rng((seed, number, 1))  # the specimen itself was drawn from (seed, number)
            (shot,) = shoot(specimen, evaluation_ranges(ranges), FIELD_A, rng, dose, undecidable=True)
            if ranges.thin and np.isnan(bound_at_1):
                bound_at_1 = position_bound_pm(specimen, shot, 1.0)
            found = detector.detect(Frame(shot.frame.pixels, shot.frame.sampling_A, shot.frame.mask))
            result = judge(shot, found.uncovered(), number, dose, bound_at_1 / np.sqrt(dose), specimen.label)
            left_out = 1 - len(result.atoms) / len(found) if len(found) else 0.0
            result = replace(result, lean_A=specimen.sites.lean_A, left_out=left_out)
            if classical:
                result = replace(result, classical=_classical(shot))
            results.append(result)
        progress(number + 1)
    return results


def judge(shot: Shot, atoms: Atoms, number: int, dose_e_A2: float, bound_pm: float, label: str = "") -> Result:
    """Found atoms against the shot's truth."""
    found, sampling_A = atoms.positions.astype(np.float64), shot.view.sampling_A
    judged = score(shot.positions_px, found, sampling_A, shot.frame.shape, shot.class_id, atoms.class_id)
    return Result(number, dose_e_A2, bound_pm, shot.decidable, judged, shot, atoms, label)


def _classical(shot: Shot) -> Score:
    """Of bright atoms and dark ones those that come closer to the truth: a user would see which."""
    either = classical_atoms(shot.frame)
    scores = [score(shot.positions_px, found, shot.view.sampling_A, shot.frame.shape) for found in either]
    return max(scores, key=lambda one: one.f1)


def summarise(results: list[Result], classes: Sequence[str] = ()) -> dict[str, dict[str, float]]:
    """Figures a dose, over decidable frames; undecidable ones are counted apart. Each of several classes has an F1."""
    table = {}
    for dose in sorted({r.dose_e_A2 for r in results}, reverse=True):
        rows = [r for r in results if r.dose_e_A2 == dose]
        sure, unsure = [r for r in rows if r.decidable], [r for r in rows if not r.decidable]
        sharp = [r.score.f1 for r in sure if r.bound_pm <= 20]
        table[f"{dose:g}"] = {
            "frames": len(sure),
            "f1": _mean([r.score.f1 for r in sure]),
            "f1_standard_error": standard_error([r.score.f1 for r in sure]),
            "precision": _mean([r.score.precision for r in sure]),
            "recall": _mean([r.score.recall for r in sure]),
            "worst_f1": min((r.score.f1 for r in sure), default=float("nan")),
            "worst_f1_bound_20_pm": min(sharp, default=float("nan")),
            "rmse_pm": _rms([r.score.error_pm for r in sure]),
            "upright_rmse_pm": _rms([_upright_pm(r) for r in sure]),
            "good_upright_scatter_pm": _rms([_upright_pm(r, scatter=True) for r in sure if r.score.f1 > VERY_GOOD_F1]),
            "scatter_pm": _rms([r.score.scatter_pm for r in sure]),
            "bound_pm": _rms([np.array([r.bound_pm]) for r in sure]),
            "error_over_bound_median": _median([r.score.rmse_pm / r.bound_pm for r in sure]),
            "scatter_over_bound_median": _median([_rms([r.score.scatter_pm]) / r.bound_pm for r in sure]),
            "error_over_sigma": sigma_ratio(sure),
            "scatter_over_sigma": sigma_ratio(sure, scatter=True),
            "score_off_by": calibration_error(sure),
            "classical_f1": _mean([r.classical.f1 for r in sure if r.classical]),
            "classical_rmse_pm": _rms([r.classical.error_pm for r in sure if r.classical]),
            "errors_over_classical": errors_over_classical(sure),
            "away_share": away_share(sure),
            "left_out": _mean([r.left_out for r in sure]),
            "undecidable": len(unsure),
            "undecidable_f1": _mean([r.score.f1 for r in unsure]),
        }
        if len(classes) > 1:
            of_class = class_f1(sure)
            table[f"{dose:g}"] |= {f"f1_{name}": of_class.get(k, float("nan")) for k, name in enumerate(classes)}
    return table


def standard_error(values: list[float]) -> float:
    """Of their mean: how far another draw of as many settings would lie. NaN of fewer than two.

    Plainly from their spread: for a mean, a bootstrap over the frames comes to the same and adds its own noise. Frames
    are taken as independent, which they are where each has a specimen of its own.
    """
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def class_f1(results: list[Result]) -> dict[int, float]:
    """F1 of each class over all frames, counts pooled; a class that is nowhere, and claimed nowhere, is left out."""
    total: dict[int, NDArray[np.int64]] = {}
    for result in results:
        for class_id, counts in result.score.counts.items():
            total[class_id] = total.get(class_id, np.zeros(4, np.int64)) + counts
    return {
        class_id: f1(right / max(1, found), hit / max(1, true))
        for class_id, (right, found, hit, true) in sorted(total.items())
        if found or true
    }


def confusion(results: list[Result], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Matched pairs of the decidable frames: of each true class, how many were found as each class, and not at all."""
    count = len(classes)
    table = np.zeros((count, count + 1), int)
    for result in (r for r in results if r.decidable):
        truth, pairs = result.shot.class_id, result.score
        np.add.at(table, (truth[pairs.truth_row], result.atoms.class_id[pairs.row]), 1)
        table[:, count] += [result.score.counts.get(k, np.zeros(4, int))[3] for k in range(count)]
    table[:, count] -= table[:, :count].sum(axis=1)
    return {
        name: dict(zip((*classes, "missed"), row.tolist(), strict=True))
        for name, row in zip(classes, table, strict=True)
    }


def by_label(results: list[Result]) -> dict[str, dict[str, dict[str, float]]]:
    """Frames that can be decided, their mean F1 and its standard error, of each kind of specimen at each dose; empty
    where all are of one kind.

    Of labels like "[110] on CeO2" the parts are kinds too: "[110]" on whatever it lies, "CeO2" whatever lies on it.
    A kind is that of the specimen, of which a frame shows a part. Specimens of no label are of no kind.
    """
    kinds = {r.label: {r.label, *r.label.split(" on ")} for r in results if r.label}
    if len(kinds) < 2:
        return {}
    table: dict[str, dict[str, dict[str, float]]] = {}
    for kind in sorted(set().union(*kinds.values()), key=lambda kind: (kind in kinds, kind)):
        rows = [r for r in results if r.decidable and kind in kinds.get(r.label, ())]
        doses = sorted({r.dose_e_A2 for r in rows}, reverse=True)
        of_dose = {f"{dose:g}": [r.score.f1 for r in rows if r.dose_e_A2 == dose] for dose in doses}
        table[kind] = {
            dose: {"frames": len(f1s), "f1": _mean(f1s), "f1_standard_error": standard_error(f1s)}
            for dose, f1s in of_dose.items()
        }
    return table


def away_share(results: list[Result]) -> float:
    """Of all atoms found, those with nothing that is to be found near them: in a support, in dirt, in vacuum."""
    away = found = 0
    for result in results:
        wrong = result.atoms.positions[result.score.wrong].astype(np.float64)
        distance_px, _ = cKDTree(result.shot.positions_px).query(wrong) if len(wrong) else (np.empty(0), None)
        away += int((distance_px * result.shot.view.sampling_A > AWAY_A).sum())
        found += len(result.atoms)
    return away / found if found else float("nan")


def _upright_pm(result: Result, scatter: bool = False) -> NDArray[np.float64]:
    """Errors of the columns that lean little, `scatter`: without the frame's mean; none where there are no columns."""
    if result.lean_A is None:
        return np.empty((0, 2))
    error_pm = result.score.scatter_pm if scatter else result.score.error_pm
    return error_pm[result.lean_A[result.score.truth_row] <= UPRIGHT_A]


def sigma_ratio(results: list[Result], scatter: bool = False) -> float:
    """Standard deviation of error over predicted sigma, pooled over the frames with F1 above GOOD_F1; `scatter`:
    without each frame's mean error."""
    good = [r for r in results if r.score.f1 > GOOD_F1]
    return _rms([(r.score.scatter_pm if scatter else r.score.error_pm) / r.sigma_pm[:, None] for r in good])


def errors_over_classical(results: list[Result]) -> float:
    """Missed and wrong atoms over those of the classical way in the same frames."""
    pairs = [(r.score, r.classical) for r in results if r.classical]
    ours, theirs = (
        (sum(one.missed + len(one.wrong) for one in scores) for scores in zip(*pairs, strict=True)) if pairs else (0, 0)
    )
    return ours / theirs if theirs else float("nan")


def calibration_error(results: list[Result]) -> float:
    """How far the score lies from the share of atoms that are there: mean over the atoms, by tenths of the score."""
    scores, is_there = scores_of(results)
    excess = np.bincount(np.minimum((scores * 10).astype(np.intp), 9), scores - is_there)
    return float(np.abs(excess).sum() / len(scores)) if len(scores) else float("nan")


def scores_of(results: list[Result]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) scores of matched atoms and of wrong ones away from the edge, and 1 where an atom is there, else 0."""
    there = [r.atoms.score[r.score.row] for r in results]
    wrong = [r.atoms.score[r.score.wrong] for r in results]
    counts = [sum(map(len, parts)) for parts in (there, wrong)]
    return np.concatenate([np.empty(0), *there, *wrong]), np.repeat([1.0, 0.0], counts)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _median(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else float("nan")


def _rms(parts: list[NDArray[np.float64]]) -> float:
    joined = np.concatenate([p.ravel() for p in parts]) if parts else np.empty(0)
    return float(np.sqrt(np.mean(joined**2))) if joined.size else float("nan")
