"""The exit waves that the simulated camera plays."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from training import playback
from training.playback import SAMPLING_A, periodic_sheet, write_playback
from training.structures.graphene import BOND_A


def test_the_sheet_is_graphene_across_its_borders() -> None:
    atoms, cell_A = periodic_sheet()
    np.testing.assert_allclose(np.array(cell_A) / SAMPLING_A, np.rint(np.array(cell_A) / SAMPLING_A))
    distance, _ = cKDTree(atoms % cell_A, boxsize=cell_A).query(atoms % cell_A, k=5)
    np.testing.assert_allclose(distance[:, 1:4], BOND_A, rtol=0.01)
    assert distance[:, 4].min() > 1.6 * BOND_A


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.generic]]:
    """What a camera of a small cell and three stages would play."""
    path = tmp_path_factory.mktemp("specimens") / "small.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(playback, "_REPEATS", (2, 4))
        patch.setattr(playback, "STAGES", 3)
        write_playback(path, 80.0, seed=1)
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def phases(stored: dict[str, NDArray[np.generic]]) -> NDArray[np.float64]:
    return np.angle(stored["real"] + 1j * stored["imag"])


def test_what_is_stored(stored: dict[str, NDArray[np.generic]]) -> None:
    assert set(stored) == {"real", "imag", "scale", "sampling_A", "voltage_kV"}
    assert stored["real"].dtype == stored["imag"].dtype == np.int16
    assert stored["real"].shape == stored["imag"].shape == (3, 43, 49)
    assert (float(stored["sampling_A"]), float(stored["voltage_kV"])) == (SAMPLING_A, 80.0)


def test_waves_of_modulus_one(stored: dict[str, NDArray[np.generic]]) -> None:
    modulus = np.hypot(stored["real"], stored["imag"], dtype=np.float64) * float(stored["scale"])
    assert modulus.mean() == pytest.approx(1, abs=0.01)


def test_atoms_are_lost_stage_by_stage(stored: dict[str, NDArray[np.generic]]) -> None:
    total = phases(stored).sum(axis=(1, 2))  # counts atoms
    left = 32 * total / total[0]
    np.testing.assert_allclose(left, np.rint(left), atol=0.05)
    assert (np.diff(left) < -0.5).all()
    assert left[-1] > 16


def test_the_beam_takes_atoms_with_fewer_bonds_first() -> None:
    atoms, cell_A = periodic_sheet()
    torn = np.delete(atoms, 100, axis=0)
    beside = set(cKDTree(torn % cell_A, boxsize=cell_A).query_ball_point(atoms[100] % cell_A, 1.3 * BOND_A))
    rng = np.random.default_rng(0)
    next_to_go = [playback._next_to_go(torn, cell_A, rng) for _ in range(60)]
    share = 3 * 60 / (3 * 60 + 0.3 * (len(torn) - 3))  # of the three with two bonds left
    assert np.mean([atom in beside for atom in next_to_go]) == pytest.approx(share, abs=0.2)
