"""A block of frames to its rows: what one worker does, in whatever process or on whatever machine it runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.atoms import Atoms
from engine.detector import Detector, load_detector
from engine.errors import FileError, FrameError
from stream.exposure import DRIFT_COLUMNS, drift_row
from stream.files import pixel_size_A, read_frames
from stream.neighbours import find_vacancies, nearest_A
from stream.samples import Samples

Rows = dict[str, NDArray[Any]]

VACANCY = "vacancy"  # how the names of classes begin that are places where an atom is missing
FRAME_NUMBERS = ("sampling_A", "nearest_mean_A", "nearest_std_A", "score_mean", "sigma_mean_pm", *DRIFT_COLUMNS)


@dataclass(frozen=True, slots=True)
class Job:
    """How every block is analysed."""

    model: str
    precision: str
    sampling_A: float | None
    max_drift_A: float = 1.0
    covered: bool = False  # atoms under contamination are rows too


@dataclass(frozen=True, slots=True)
class Block:
    """Frames, or triplets, `start` to before `stop` of one file; `file` and `number` count from 0."""

    number: int
    file: int
    path: str
    start: int
    stop: int


# Of this process: a worker loads its model once, and settles it once for all frames that are alike.
_loaded: dict[Job, Detector] = {}
_settled: dict[Job, tuple[tuple[int, int], float]] = {}


def analyse_block(job: Job, block: Block) -> Rows:
    """The rows of a block.

    Returns
    -------
    dict of arrays
        Columns of the atoms and, with the prefix "frame_", of the frames, one a frame whatever became of it; and
        "notes", JSON in bytes: for every frame why it was refused (or null) and its warnings.
    """
    detector = _loaded.get(job)
    if detector is None:
        detector = _loaded[job] = load_detector(job.model, "openvino", job.precision, threads=1)
    vacant = np.array([name.startswith(VACANCY) for name in detector.spec.classes])
    atoms: list[Rows] = []
    frames: list[dict[str, float]] = []
    notes: list[tuple[str | None, list[str]]] = []
    with read_frames(Path(block.path)) as recording:
        size_A = pixel_size_A(recording, job.sampling_A)
        # Drift is followed within a block only: else the rows would depend on what a worker did before.
        samples = Samples(recording, size_A, detector.spec.channels, job.max_drift_A)
        for number in range(block.start, block.stop):
            refused: str | None = None
            warnings: tuple[str, ...] = ()
            found = Atoms.none()
            drift_px: tuple[tuple[float, float], ...] = ()
            try:
                sample = samples[number]
                frame, drift_px = sample.frame, sample.drift_px
                warnings = (*detector.check(frame), *sample.warnings)
                if _settled.get(job) != (frame.shape, size_A):
                    # Else the rows would depend on what a worker did before, and those of a resumed run differ.
                    detector.settle(frame)
                    _settled[job] = (frame.shape, size_A)
                found = detector.detect(frame)
            except (FileError, FrameError) as error:
                refused = f"{getattr(error, 'reason', 'unreadable')}: {error}"
            positions_A = found.positions.astype(np.float64) * size_A
            missing = vacant[found.class_id]
            nearest = np.full(len(found), np.nan)
            nearest[~missing] = nearest_A(positions_A[~missing])
            field_A = (recording.shape[0] * size_A, recording.shape[1] * size_A)
            shown = np.flatnonzero(job.covered | found.clear)
            # A model that has learned vacancies knows them better than what is left of the bonds.
            vacancies = missing[shown].sum() if vacant.any() else len(find_vacancies(positions_A, field_A))
            covered = len(found) - len(shown)
            found, nearest = found.select(shown), nearest[shown]
            row = {"movie": block.file, "frame": number, "height": recording.shape[0], "width": recording.shape[1]}
            row |= {"covered": covered, "vacancies": int(vacancies)}
            frames.append(row | _measured(found, nearest, size_A) | drift_row(drift_px))
            atoms.append(_atom_rows(found, nearest, block.file, number, size_A))
            notes.append((refused, list(warnings)))
    rows: Rows = {name: np.concatenate([one[name] for one in atoms]) for name in atoms[0]}
    rows |= {f"frame_{name}": np.array([one[name] for one in frames]) for name in frames[0]}
    return rows | {"notes": np.frombuffer(json.dumps(notes).encode(), np.uint8)}


def _measured(found: Atoms, nearest: NDArray[np.float64], size_A: float) -> dict[str, float]:
    known = nearest[np.isfinite(nearest)]
    nothing = float("nan")
    return {
        "count": len(found),
        "sampling_A": size_A,
        "nearest_mean_A": float(known.mean()) if len(known) else nothing,
        "nearest_std_A": float(known.std()) if len(known) else nothing,
        "score_mean": float(found.score.mean()) if len(found) else nothing,
        "sigma_mean_pm": float(found.sigma_pm.mean()) if len(found) else nothing,
    }


def _atom_rows(found: Atoms, nearest: NDArray[np.float64], file: int, number: int, size_A: float) -> Rows:
    count = len(found)
    return {
        "movie": np.full(count, file, np.int64),
        "frame": np.full(count, number, np.int64),
        **{name: column for name, column in found.columns().items() if name != "agreement"},
        "nearest_A": nearest,
        "sampling_A": np.full(count, size_A),
    }
