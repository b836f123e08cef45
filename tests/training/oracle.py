"""A detector that is told the truth of the frame it is shown."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from engine import Atoms, Frame
from training import evaluate
from training.imaging import Shot
from training.recipes.graphene import graphene


def atoms_at(positions_px: NDArray[np.float64], sigma_pm: float = 5.0) -> Atoms:
    """Atoms at (N, 2) positions, sure of themselves."""
    count = len(positions_px)
    whole, one = np.zeros(count, np.uint8), np.ones(count, np.float32)
    y, x = positions_px.T.astype(np.float32)
    return Atoms(y, x, whole, one, np.float32(sigma_pm) * one, one, whole)


class Oracle:
    """Answers the atoms of the frame drawn last, moved by normal errors, and names the size of these as its sigma."""

    backend = "oracle"
    spec = graphene().spec

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error_pm: float = 0.0, sigma_pm: float = 5.0) -> None:
        self.error_pm, self.sigma_pm = error_pm, sigma_pm
        self.shots: list[Shot] = []
        self._rng = np.random.default_rng(0)
        draw = evaluate.shoot
        monkeypatch.setattr(evaluate, "shoot", lambda *a, **k: self._remember(draw(*a, **k)))
        monkeypatch.setattr(evaluate, "FIELD_A", (22.0, 24.0))

    def detect(self, frame: Frame) -> Atoms:
        shot = self.shots[-1]
        assert frame.pixels is shot.frame.pixels
        truth = shot.positions_px
        inside = truth[np.all((truth > -0.5) & (truth < np.array(frame.shape) - 0.5), axis=1)]
        error_px = self._rng.normal(0, self.error_pm / 100 / shot.view.sampling_A, inside.shape)
        return atoms_at(inside + error_px, self.sigma_pm)

    def _remember(self, shots: list[Shot]) -> list[Shot]:
        self.shots += shots
        return shots
