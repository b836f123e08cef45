"""Focus that runs through zero contrast: where it lies, what is judged, and that right answers are told from wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine import Atoms, Frame
from tests.training.oracle import atoms_at
from tests.training.specimens import ROUND
from training import focus_ramp
from training.decidable import FIRST_ORDER_A
from training.exit_waves import Specimen
from training.focus_ramp import _FOCI, Ramp, _f1_where, _position, ramps, summarise_ramps, zero_contrast_A
from training.imaging import between
from training.optics import Optics, wavelength_A
from training.view import View

VIEW = View(0.2, (101, 101), (10.0, 10.0), 0.0)
ALL = np.ones(_FOCI, bool)


class Finds:
    """A detector that finds these positions in every frame."""

    def __init__(self, positions: np.ndarray) -> None:
        self.positions = positions

    def detect(self, frame: Frame) -> Atoms:
        return atoms_at(self.positions)


@pytest.mark.parametrize("Cs_A", [-2e5, 0.0, 2e5])
def test_zero_contrast_is_where_defocus_and_Cs_balance_at_the_first_order(Cs_A: float) -> None:
    optics = Optics(voltage_kV=80.0, defocus_A=50.0, Cs_A=Cs_A)
    alpha = wavelength_A(80.0) / FIRST_ORDER_A
    assert zero_contrast_A(optics) == pytest.approx(Cs_A * alpha**2 / 2, abs=1.5)


def test_the_ramp_is_linear_between_foci_and_runs_over_the_whole_field() -> None:
    rows, columns = np.indices(VIEW.shape)
    at = _position(rows, columns, VIEW, 0.7)
    assert (at.min(), at.max()) == pytest.approx((0, _FOCI - 1))
    images = np.arange(_FOCI)[:, None, None] * np.ones((1, *VIEW.shape))
    np.testing.assert_allclose(between(images, at), at)


def test_only_what_lies_between_clear_foci_is_judged() -> None:
    grid = np.stack(np.meshgrid(np.arange(12.0, 90, 8), np.arange(12.0, 90, 8), indexing="ij"), -1).reshape(-1, 2)
    left = grid[grid[:, 1] < 50]  # found on the left alone; the ramp runs from left to right
    on_the_left, on_the_right = np.arange(_FOCI) <= _FOCI // 2, np.arange(_FOCI) > _FOCI // 2
    assert _f1_where(on_the_left, grid, left, VIEW, 0.0)[0] == 1
    assert _f1_where(on_the_right, grid, left, VIEW, 0.0)[0] == 0
    f1, share = _f1_where(ALL, grid, left, VIEW, 0.0)
    assert 0 < f1 < 1
    assert share == 1


def test_nothing_found_and_the_same_again_from_the_same_seed(
    specimens: list[Specimen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(focus_ramp, "FIELD_A", (22.0, 24.0))
    ranges, nothing = replace(ROUND, sampling_A=(0.15, 0.25)), Finds(np.empty((0, 2)))
    first, again = (ramps(nothing, specimens, ranges, 5, 2) for _ in range(2))  # type: ignore[arg-type]
    assert first == again
    assert len(first) == 2
    assert {ramp.uniform_f1 for ramp in first} == {0.0}
    assert all(ramp.decidable_f1 == 0 for ramp in first if ramp.decidable)


def test_frames_without_atoms_anybody_could_decide_do_not_count() -> None:
    some, none = Ramp(0.5, 0.9, 0.95, 0.6), Ramp(0.0, 1.0, 1.0, 0.0)
    assert summarise_ramps([some, none]) == {
        "ramp_frames": 1,
        "ramp_f1": 0.5,
        "ramp_decidable_f1": 0.9,
        "ramp_uniform_f1": 0.95,
        "ramp_decidable": 0.6,
    }
    assert summarise_ramps([none]) == {"ramp_frames": 0}
