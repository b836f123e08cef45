from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import CONTAMINATED, EDGE, Frame
from engine.network import Maps
from engine.prepare import Prepared
from engine.refine import around, positions, refine

SIZE = 20  # cells along a side: 40 network pixels, 8 A


def flat_maps(classes=0, log_sigma=0.0):
    values = np.zeros((6 + classes, SIZE, SIZE), np.float32)
    values[4] = log_sigma
    return Maps(values)


def point_at(maps, cell, y, x):
    """Let a cell predict an atom at (y, x) network pixels."""
    row, column = cell
    maps.offset[:, row, column] = y - (2 * row + 0.5), x - (2 * column + 0.5)


def far_apart(maps):
    """Every cell predicts an atom far from what its neighbours predict."""
    rows, columns = np.indices(maps.score.shape)
    maps.offset[0], maps.offset[1] = 100.0 * rows, 100.0 * columns


def frame_and_prepared(frame_size=2 * SIZE, sampling_A=0.2):
    frame = Frame(np.zeros((frame_size, frame_size)), sampling_A)
    scale = frame_size / (2 * SIZE)
    return frame, Prepared(np.ones((1, 1, 2 * SIZE, 2 * SIZE), np.float32), (scale, scale), (2 * SIZE, 2 * SIZE))


def refined(maps, cells, spec, frame_size=2 * SIZE, sampling_A=0.2):
    return refine(np.array(cells, np.intp).reshape(-1, 2), maps, *frame_and_prepared(frame_size, sampling_A), spec)


class TestPositions:
    def test_a_cell_alone_gives_its_own(self, tiny_spec):
        maps = flat_maps()
        far_apart(maps)
        point_at(maps, (8, 9), 17.2, 18.1)
        np.testing.assert_allclose(positions(np.array([[8, 9]]), maps, tiny_spec), [[17.2], [18.1]], rtol=1e-6)

    def test_cells_that_agree_are_weighted_with_their_variance(self, tiny_spec):
        maps = flat_maps()
        far_apart(maps)
        point_at(maps, (8, 9), 17.0, 18.0)
        point_at(maps, (9, 10), 18.0, 18.5)
        maps.log_sigma[9, 10] = np.log(2)  # a quarter of the weight
        expected = [[17.2], [18.1]]
        np.testing.assert_allclose(positions(np.array([[8, 9]]), maps, tiny_spec), expected, rtol=1e-6)

    @pytest.mark.parametrize(("distance", "counts"), [(1.99, True), (2.01, False)])
    def test_half_a_separation_is_the_limit(self, tiny_spec, distance, counts):
        maps = flat_maps()
        far_apart(maps)
        point_at(maps, (8, 9), 17.0, 18.0)
        point_at(maps, (8, 8), 17.0, 18.0 - distance)
        x = positions(np.array([[8, 9]]), maps, tiny_spec)[1, 0]
        assert x == pytest.approx(18 - distance / 2 if counts else 18)

    @pytest.mark.parametrize("cell", [(0, 0), (0, SIZE - 1), (SIZE - 1, 5), (SIZE - 1, SIZE - 1)])
    def test_cells_beyond_the_border_do_not_count_twice(self, tiny_spec, cell):
        maps = flat_maps()
        y, x = 2 * cell[0] + 0.5, 2 * cell[1] + 0.5
        for row in range(SIZE):
            for column in range(SIZE):
                point_at(maps, (row, column), y, x)
        point_at(maps, cell, y + 0.4, x)
        inner = [2 if 0 < index < SIZE - 1 else 1 for index in cell]
        cells = (1 + inner[0]) * (1 + inner[1])
        np.testing.assert_allclose(positions(np.array([cell]), maps, tiny_spec), [[y + 0.4 / cells], [x]], atol=1e-5)

    @pytest.mark.parametrize("log_sigma", [-1e3, 1e3])
    def test_a_sigma_beyond_all_sense_stays_finite(self, tiny_spec, log_sigma):
        maps = flat_maps(log_sigma=log_sigma)
        assert np.isfinite(positions(np.array([[8, 9]]), maps, tiny_spec)).all()
        assert np.isfinite(refined(maps, [[8, 9]], tiny_spec).sigma_pm).all()


class TestRefine:
    def test_no_peaks_give_no_atoms(self, tiny_spec):
        assert len(refined(flat_maps(), [], tiny_spec)) == 0

    @pytest.mark.parametrize(("frame_size", "sampling_A"), [(40, 0.2), (80, 0.1), (20, 0.4), (30, 8 / 30)])
    def test_frame_coordinates(self, tiny_spec, frame_size, sampling_A):
        maps = flat_maps()
        far_apart(maps)
        point_at(maps, (8, 9), 17.2, 18.1)
        atoms = refined(maps, [[8, 9]], tiny_spec, frame_size, sampling_A)
        # From the frame's outer edge, in angstrom, both are the same place.
        np.testing.assert_allclose((atoms.positions[0] + 0.5) * sampling_A, np.array([17.7, 18.6]) * 0.2, rtol=1e-5)

    @given(sigma_px=st.floats(0.01, 10))
    def test_sigma_in_picometre(self, tiny_spec, sigma_px):
        atoms = refined(flat_maps(log_sigma=np.log(sigma_px)), [[8, 9]], tiny_spec, 80, 0.1)
        assert atoms.sigma_pm[0] == pytest.approx(sigma_px * 20, rel=1e-4)  # 0.2 A per network pixel

    def test_score_agreement_and_dtypes(self, tiny_spec):
        maps = flat_maps()
        maps.score[8, 9] = 0.75
        atoms = refined(maps, [[8, 9]], tiny_spec)
        assert (atoms.score[0], atoms.agreement[0]) == (0.75, 1)
        surer = refined(maps, [[8, 9]], replace(tiny_spec, chance=(0.0, 2.0)))
        assert surer.score[0] == pytest.approx(0.9)
        assert [column.dtype.str for column in atoms.columns().values()] == [
            *("<f4", "<f4", "|u1", "<f4", "<f4", "<f4", "|u1"),
        ]

    def test_the_most_probable_class(self, tiny_spec):
        maps = flat_maps(classes=3)
        maps.classes[:, 8, 9] = 0.2, 0.5, 0.3
        maps.classes[:, 12, 3] = 0.2, 0.1, 0.7
        spec = replace(tiny_spec, classes=("Mo", "S", "S2"))
        assert refined(maps, [[8, 9], [12, 3]], spec).class_id.tolist() == [1, 2]
        assert refined(flat_maps(), [[8, 9]], tiny_spec).class_id.tolist() == [0]

    def test_covered_by_contamination(self, tiny_spec):
        maps = flat_maps()
        maps.contamination[:], maps.contamination[:, :12] = 0.2, 1.0
        atoms = refined(maps, [[8, 5], [12, 14]], replace(tiny_spec, covered=0.7))
        assert atoms.flags.tolist() == [CONTAMINATED, 0]
        assert atoms.uncovered().positions.tolist() == atoms.positions[1:].tolist()

    def test_contamination_counts_as_a_mean_of_what_is_around_within_the_map(self):
        rng = np.random.default_rng(0)
        contamination = rng.random((30, 21)).astype(np.float32)
        means = around(contamination, np.array([[0, 0], [15, 10], [29, 3]]), 8)
        expected = [contamination[:9, :9], contamination[7:24, 2:19], contamination[21:, :12]]
        np.testing.assert_allclose(means, [part.mean() for part in expected], rtol=1e-5)

    @pytest.mark.parametrize(("y_A", "flag"), [(1.9, EDGE), (2.1, 0), (5.9, 0), (6.1, EDGE)])
    @pytest.mark.parametrize("turned", [False, True])
    def test_closer_to_the_edge_than_two_angstrom(self, tiny_spec, y_A, flag, turned):
        maps = flat_maps()
        far_apart(maps)
        y, x = y_A / 0.2 - 0.5, 4 / 0.2 - 0.5
        cell = (round((y - 0.5) / 2), 10)
        if turned:
            y, x, cell = x, y, cell[::-1]
        point_at(maps, cell, y, x)
        assert refined(maps, [cell], tiny_spec).flags.tolist() == [flag]

    @pytest.mark.parametrize(
        ("y", "x", "inside"),
        [(-0.4, 3, True), (-0.6, 3, False), (3, -0.6, False), (39.4, 3, True), (39.6, 3, False), (3, 39.6, False)],
    )
    def test_what_lies_outside_the_frame_is_left_out(self, tiny_spec, y, x, inside):
        maps = flat_maps()
        far_apart(maps)
        point_at(maps, (5, 5), y, x)
        assert len(refined(maps, [[5, 5]], tiny_spec)) == inside

    def test_a_position_that_is_no_number_is_left_out(self, tiny_spec):
        maps = flat_maps()
        maps.offset[:, 5, 5] = np.nan
        assert len(refined(maps, [[5, 5], [15, 15]], tiny_spec)) == 1

    def test_sorted_by_y_then_x(self, tiny_spec):
        maps = flat_maps()
        far_apart(maps)
        for cell, place in {(3, 3): (9, 6), (3, 8): (7, 17), (3, 12): (7, 15), (10, 2): (2, 5)}.items():
            point_at(maps, cell, *place)
        atoms = refined(maps, [(3, 3), (3, 8), (3, 12), (10, 2)], tiny_spec)
        np.testing.assert_allclose(atoms.positions, [[2, 5], [7, 15], [7, 17], [9, 6]], atol=1e-5)

    @given(down=st.integers(-4, 4), right=st.integers(-4, 4))
    def test_shifted_maps_shift_the_atoms(self, tiny_spec, down, right):
        rng = np.random.default_rng(3)
        maps = Maps(rng.uniform(-0.4, 0.4, (6, SIZE, SIZE)).astype(np.float32))
        cells = np.array([[6, 6], [8, 13], [13, 7]])
        moved = Maps(np.roll(maps.values, (down, right), axis=(1, 2)))
        before = refined(maps, cells, tiny_spec)
        after = refined(moved, cells + np.array([down, right]), tiny_spec)
        np.testing.assert_allclose(after.positions - before.positions, [[2 * down, 2 * right]] * 3, atol=1e-4)
        np.testing.assert_array_equal(after.sigma_pm, before.sigma_pm)
