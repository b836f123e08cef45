"""Contamination over part of a frame: which atoms are under it, which clear, and what leaving them out is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from engine import Atoms, Frame
from engine.atoms import CONTAMINATED
from tests.training.oracle import atoms_at
from tests.training.specimens import ROUND
from training import covered as module
from training.covered import Covered, clear_of_any, covered, summarise_covered
from training.exit_waves import Specimen
from training.imaging import Shot, shoot
from training.pixels import value_at
from training.targets import SEEN

RANGES = replace(ROUND, sampling_A=(0.2, 0.3))
Flags = Callable[[Shot, NDArray[np.float64]], NDArray[np.bool_]]


def everything(shot: Shot, at: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.ones(len(at), bool)


def nothing(shot: Shot, at: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.zeros(len(at), bool)


def what_is(shot: Shot, at: NDArray[np.float64]) -> NDArray[np.bool_]:
    return value_at(shot.covered, at) >= SEEN


class Knows:
    """Finds every atom of the frame drawn last, and flags those that `flags` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, flags: Flags) -> None:
        self.flags, self.shots = flags, []
        monkeypatch.setattr(module, "FIELD_A", (32.0, 34.0))
        monkeypatch.setattr(module, "shoot", self._remembered)

    def detect(self, frame: Frame) -> Atoms:
        shot = self.shots[-1]
        assert frame.pixels is shot.frame.pixels
        atoms = atoms_at(shot.positions_px)
        return replace(atoms, flags=self.flags(shot, shot.positions_px) * np.uint8(CONTAMINATED))

    def _remembered(self, *told: object) -> list[Shot]:
        shots = shoot(*told)  # type: ignore[arg-type]
        self.shots += shots
        return shots


@pytest.mark.parametrize(
    ("flags", "shares"),
    [(everything, (1, 0, 1, 0)), (nothing, (0, 1, 0, 1)), (what_is, (1, 0, 0, 1))],
)
def test_what_is_left_out_and_what_that_costs(
    specimens: list[Specimen], monkeypatch: pytest.MonkeyPatch, flags: Flags, shares: tuple[int, ...]
) -> None:
    frames = covered(Knows(monkeypatch, flags), specimens, RANGES, 5, 3, 3e4)  # type: ignore[arg-type]
    figures = summarise_covered(frames)
    assert figures["covered_frames"] == 3
    assert sum(one.under for one in frames) > 50
    assert sum(one.clear for one in frames) > 50
    keys = ("covered_left_out", "covered_reported", "clear_left_out", "clear_f1")
    assert tuple(figures[key] for key in keys) == shares


def test_every_frame_is_contaminated_and_the_same_from_its_seed(
    specimens: list[Specimen], monkeypatch: pytest.MonkeyPatch
) -> None:
    never = replace(RANGES, contamination_chance=0.0)
    one, again = (Knows(monkeypatch, nothing) for _ in range(2))
    for detector in (one, again):
        monkeypatch.setattr(module, "shoot", detector._remembered)
        covered(detector, specimens, never, 5, 2, 3e4)  # type: ignore[arg-type]
    assert all(shot.covered.max() > SEEN and shot.decidable for shot in one.shots)
    for shot, other in zip(one.shots, again.shots, strict=True):
        np.testing.assert_array_equal(shot.frame.pixels, other.frame.pixels)
    assert not np.array_equal(one.shots[0].covered, one.shots[1].covered)


def test_clear_is_what_has_none_of_it_in_the_square_around(specimens: list[Specimen]) -> None:
    (shot,) = shoot(specimens[0], replace(RANGES, sampling_A=(0.25, 0.25)), (32.0, 32.0), np.random.default_rng(0), 1e4)
    dirt = np.zeros_like(shot.covered)
    dirt[60, 60] = 1e-6
    at = np.array([[60.0, 40.0], [60.0, 39.0], [81.0, 81.0], [80.0, 80.0], [-3.0, 5.0]])  # 20 px are the 5 A
    assert clear_of_any(replace(shot, covered=dirt), at).tolist() == [False, True, True, False, False]


def test_shares_are_of_all_atoms_and_f1_of_frames_with_clear_parts() -> None:
    frames = [Covered(30, 27, 150, 0, 0, 1.0), Covered(70, 53, 250, 200, 1, 0.9), Covered(0, 0, 0, 200, 3, 0.8)]
    assert summarise_covered(frames) == {
        "covered_frames": 3,
        "covered_left_out": pytest.approx(0.8),
        "covered_reported": pytest.approx(0.05),
        "clear_left_out": pytest.approx(0.01),
        "clear_f1": pytest.approx(0.85),
        "clear_f1_standard_error": pytest.approx(0.05),
    }
    none = summarise_covered([])
    assert none.pop("covered_frames") == 0
    assert all(np.isnan(value) for value in none.values())
