"""The exit waves that the simulated camera plays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import ConfigError
from training import decay
from training.decay import SAMPLING_A
from training.playback import write_playback
from training.recipes.gold import gold
from training.recipes.graphene import graphene
from training.recipes.mos2 import mos2

SHAPES = {"graphene": (43, 49), "mos2": (55, 63)}
Stored = dict[str, NDArray[np.generic]]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stored]:
    """What a camera would play of small cells and three stages."""
    folder = tmp_path_factory.mktemp("specimens")
    played = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decay, "_GRAPHENE_CELLS", (2, 4))
        patch.setattr(decay, "_MOS2_CELLS", (2, 4))
        patch.setattr(decay, "STAGES", 3)
        for recipe in (graphene(), mos2()):
            path = folder / f"{recipe.spec.name}.npz"
            write_playback(path, recipe)
            with np.load(path, allow_pickle=False) as arrays:
                played[recipe.spec.name] = dict(arrays)
    return played


def phases(stored: Stored) -> NDArray[np.float64]:
    return np.angle(stored["real"] + 1j * stored["imag"])


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_stored(stored: dict[str, Stored], name: str) -> None:
    arrays = stored[name]
    assert set(arrays) == {"real", "imag", "scale", "sampling_A", "voltage_kV"}
    assert arrays["real"].dtype == arrays["imag"].dtype == np.int16
    assert arrays["real"].shape == arrays["imag"].shape == (3, *SHAPES[name])
    assert (float(arrays["sampling_A"]), float(arrays["voltage_kV"])) == (SAMPLING_A, 80.0)


@pytest.mark.parametrize("name", SHAPES)
def test_waves_of_modulus_one(stored: dict[str, Stored], name: str) -> None:
    arrays = stored[name]
    modulus = np.hypot(arrays["real"], arrays["imag"], dtype=np.float64) * float(arrays["scale"])
    assert modulus.mean() == pytest.approx(1, abs=0.01)


def test_atoms_are_lost_stage_by_stage(stored: dict[str, Stored]) -> None:
    total = phases(stored["graphene"]).sum(axis=(1, 2))  # counts atoms
    left = 32 * total / total[0]
    np.testing.assert_allclose(left, np.rint(left), atol=0.05)
    assert (np.diff(left) < -0.5).all()
    assert left[-1] > 16


def test_mos2_loses_less_phase_with_every_stage(stored: dict[str, Stored]) -> None:
    total = phases(stored["mos2"]).sum(axis=(1, 2))
    assert (np.diff(total) < 0).all()
    assert total[-1] > 0.85 * total[0]


def test_a_specimen_that_does_not_decay_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plays \(graphene, mos2\) with --playback, got 'gold'"):
        write_playback(tmp_path / "gold.npz", gold())
    assert not list(tmp_path.iterdir())
