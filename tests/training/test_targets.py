"""What the network should answer, cell by cell."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.targets import HEAT_A, REACH_A, Targets, targets

SAMPLING_A = 0.2
SHAPE = (32, 48)
CLEAR = np.zeros(SHAPE, np.float32)


def of(positions: list[tuple[float, float]], covered: NDArray[np.float32] = CLEAR) -> Targets:
    at = np.array(positions, np.float64).reshape(-1, 2)
    return targets(at, np.arange(len(at), dtype=np.uint8), covered, 2, SAMPLING_A)


def centres() -> NDArray[np.float64]:
    """(2, h, w) cell centres in network pixels."""
    return 2 * np.mgrid[: SHAPE[0] // 2, : SHAPE[1] // 2] + 0.5


def test_heat_is_one_at_an_atom_and_falls_as_a_gaussian() -> None:
    atom = (10.5, 20.5)  # the centre of cell (5, 10)
    heat = of([atom]).heat
    assert heat.shape == (16, 24)
    assert heat[5, 10] == 1
    distance_A = np.hypot(*(centres() - np.reshape(atom, (2, 1, 1)))) * SAMPLING_A
    near = distance_A < 3 * HEAT_A
    np.testing.assert_allclose(heat[near], np.exp(-0.5 * (distance_A[near] / HEAT_A) ** 2), rtol=1e-5)
    assert not heat[distance_A > 4 * HEAT_A].any()


def test_offsets_point_from_the_cell_to_the_nearest_atom() -> None:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(4, 30, 7), np.arange(5, 46, 7), indexing="ij"), axis=-1).reshape(-1, 2)
    atoms = grid + rng.uniform(-1, 1, grid.shape)
    maps = of(atoms.tolist())
    near = maps.near > 0
    pointed = (centres() + maps.offset)[:, near].T
    distance = np.hypot(*(centres()[:, near].T[:, None] - atoms[None]).transpose(2, 0, 1))
    np.testing.assert_allclose(pointed, atoms[distance.argmin(axis=1)], atol=1e-4)
    assert distance.min(axis=1).max() * SAMPLING_A < REACH_A
    assert near.sum() > 4 * len(atoms)


def test_cells_out_of_reach_learn_no_position() -> None:
    maps = of([(10.5, 20.5)])
    distance_A = np.hypot(*(centres() - np.reshape([10.5, 20.5], (2, 1, 1)))) * SAMPLING_A
    np.testing.assert_array_equal(maps.near, distance_A < REACH_A)


def test_without_atoms_nothing_is_hot_and_that_counts() -> None:
    maps = of([])
    for silent in (maps.heat, maps.offset, maps.near, maps.covered):
        assert not silent.any()
    assert maps.weight.all()


def test_atoms_beyond_the_border_warm_the_cells_inside() -> None:
    assert of([(-0.5, 20.5)]).heat[0, 10] == pytest.approx(np.exp(-0.5 * (SAMPLING_A / HEAT_A) ** 2), rel=1e-5)
    assert not of([(-40.0, 20.5)]).heat.any()


def test_what_contamination_hides_does_not_count() -> None:
    covered = CLEAR.copy()
    covered[:, :24] = 1
    maps = of([(10.5, 10.5), (10.5, 40.5)], covered)
    assert maps.near[5, 20] == 1
    assert not maps.near[:, :12].any()
    assert not maps.weight[:, :12].any()
    assert maps.weight[:, 12:].all()
    np.testing.assert_array_equal(maps.covered[0], np.repeat([1, 0], 12))


def test_thin_contamination_still_counts() -> None:
    maps = of([(10.5, 20.5)], np.full(SHAPE, 0.4, np.float32))
    assert maps.weight.all()
    assert maps.near.any()
    np.testing.assert_allclose(maps.covered, 1)
    np.testing.assert_allclose(of([], np.full(SHAPE, 0.05, np.float32)).covered, 0.25, rtol=1e-6)


def test_each_cell_is_told_the_class_of_its_nearest_site() -> None:
    maps = of([(10.5, 20.5), (10.5, 28.5), (20.5, 24.5)])
    assert [maps.class_id[y, x] for y, x in ((5, 10), (5, 11), (5, 14), (5, 13), (10, 12))] == [0, 0, 1, 1, 2]
    assert not of([]).class_id.any()


def test_every_map_is_float32() -> None:
    maps = of([(3.0, 4.0)])
    assert {m.dtype for m in (maps.heat, maps.offset, maps.near, maps.covered, maps.weight)} == {np.dtype(np.float32)}
