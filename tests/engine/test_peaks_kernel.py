"""kernels/peaks.cu, on the CPU and where there is one on a GPU, against engine.peaks and engine.refine."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine import Frame
from engine.atoms import CONTAMINATED
from engine.bonds import allowed
from engine.candidates import CANDIDATE, CROWDED, parameters, peak_radius, to_atoms, winners
from engine.network import Maps
from engine.peaks import find_peaks
from engine.prepare import Prepared
from engine.refine import refine
from tests.cuda_on_cpu import fetched


def candidates(device, maps, spec, frame_shape=None, scale=(1.0, 1.0), cells=None, thresholds=None, capacity=None):
    """What the kernel finds, without its counter, and the counter."""
    padded = maps.score.shape
    cells = cells or padded
    frame_shape = frame_shape or tuple(size * spec.stride for size in cells)
    capacity = cells[0] * cells[1] if capacity is None else capacity
    found = device.zeros(((1 + capacity) * CANDIDATE.itemsize,), np.uint8)
    values = parameters(
        spec,
        cells=cells,
        padded=padded,
        frame_shape=frame_shape,
        scale=scale,
        sampling_A=spec.sampling_A / scale[0],
        capacity=capacity,
    )
    each = thresholds or (spec.threshold,) * len(spec.classes)
    arguments = np.ascontiguousarray(maps.values), np.array(each, np.float32), np.ones(1, np.int32), values
    # Held until all is fetched: a launch does not wait, and memory that is let go may be another's while it runs.
    there, contrast = [device.constant(one) for one in arguments], device.zeros((1,), np.int32)
    stream = device.stream()
    device.launch(stream, "begin", 1, contrast, found)
    device.launch(stream, "peaks", cells[0] * cells[1], *there, found)
    rows = fetched(device, stream, found).view(CANDIDATE)
    count = int(rows[0]["cell"])
    return rows[1 : 1 + min(count, capacity)], count


def in_reading_order(found, shape, radius):
    kept = found[winners(found, shape, radius)]
    return kept[np.argsort(kept["cell"])]


def cells_of(rows, width):
    return np.stack(np.divmod(rows["cell"].astype(np.intp), width), axis=1)


def expect_same(device, maps, spec, frame_shape=None, scale=(1.0, 1.0), cells=None, thresholds=None):
    """Bit-equal cells, and atoms that differ by the last bits of exp only, before and after chemistry has its say."""
    padded = maps.score.shape
    cells = cells or padded
    cropped = Maps(maps.values[:, : cells[0], : cells[1]])
    frame_shape = frame_shape or tuple(size * spec.stride for size in cells)
    found, _ = candidates(device, maps, spec, frame_shape, scale, cells, thresholds)
    radius, sampling_A, any_number = peak_radius(spec), spec.sampling_A / scale[0], replace(spec, bonds=None)
    peaks = find_peaks(cropped, thresholds or spec.threshold, radius)
    np.testing.assert_array_equal(cells_of(in_reading_order(found, cells, radius), cells[1]), peaks)

    frame = Frame(np.zeros(frame_shape, np.uint8), spec.sampling_A / scale[0])
    prepared = Prepared(np.ones((1, 1, 1, 1), np.float32), scale, (0, 0))
    inside = 0
    # One peak at a time: two that lie together within a bit may be sorted either way.
    for peak, row in zip(peaks, in_reading_order(found, cells, radius), strict=True):
        with np.errstate(invalid="ignore"):
            expected = refine(peak[None], cropped, frame, prepared, spec)
        atom = to_atoms(row[None], cells, sampling_A, any_number)
        assert len(atom) == len(expected)
        inside += len(atom)
        np.testing.assert_allclose(atom.positions, expected.positions, rtol=1e-6, atol=1e-4)
        np.testing.assert_allclose(atom.sigma_pm, expected.sigma_pm, rtol=1e-5)
        for name in ("class_id", "score", "agreement", "flags"):
            np.testing.assert_array_equal(atom.columns()[name], expected.columns()[name])
            assert atom.columns()[name].dtype == expected.columns()[name].dtype

    atoms = to_atoms(found, cells, sampling_A, any_number)
    assert len(atoms) == inside
    np.testing.assert_array_equal(np.lexsort((atoms.x, atoms.y)), np.arange(inside))
    np.testing.assert_array_equal(
        to_atoms(found, cells, sampling_A, spec).positions, allowed(atoms, sampling_A, spec).positions
    )
    return atoms


def random_maps(shape, seed, classes=0):
    """Scores of few values, so that many tie; offsets of any size a network gives."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1.5, (6 + classes, *shape)).astype(np.float32)
    values[0] = rng.integers(0, 9, shape) / 8
    values[1] = np.where(rng.random(shape) < 0.4, values[0], 0)
    values[5:] = rng.random((1 + classes, *shape))
    return Maps(values)


shapes = st.tuples(st.integers(1, 23), st.integers(1, 23))


class TestCandidates:
    @given(shape=shapes, seed=st.integers(0, 10**6), separation_A=st.sampled_from([0.2, 0.4, 0.8, 1.0, 1.44, 2.2]))
    def test_random_and_tied_maps(self, device, tiny_spec, shape, seed, separation_A):
        expect_same(device, random_maps(shape, seed), replace(tiny_spec, separation_A=separation_A))

    @given(peak=arrays(np.float32, shapes, elements=st.sampled_from([0, 0.25, 0.5, 1])), radius_A=st.floats(0.2, 1.6))
    def test_few_values_make_chains_of_rivals(self, device, tiny_spec, peak, radius_A):
        values = np.zeros((6, *peak.shape), np.float32)
        values[:2] = peak
        expect_same(device, Maps(values), replace(tiny_spec, separation_A=radius_A))

    @pytest.mark.parametrize("shape", [(1, 1), (7, 5), (32, 48)])
    @pytest.mark.parametrize("value", [0.0, 0.9])
    def test_empty_and_full_maps(self, device, tiny_spec, shape, value):
        values = np.zeros((6, *shape), np.float32)
        values[:2] = value
        atoms = expect_same(device, Maps(values), tiny_spec)
        assert (len(atoms) > 0) == (value > 0)

    @given(seed=st.integers(0, 10**6), cells=st.tuples(st.integers(1, 16), st.integers(1, 24)))
    def test_padding_is_not_looked_at(self, device, tiny_spec, seed, cells):
        expect_same(device, random_maps((16, 24), seed), tiny_spec, cells=cells)

    @given(
        seed=st.integers(0, 10**6),
        scale=st.floats(0.3, 4),
        thresholds=st.tuples(*[st.sampled_from([0.25, 0.5, 1.0])] * 3),
    )
    def test_classes_each_with_its_threshold(self, device, tiny_spec, seed, scale, thresholds):
        spec = replace(tiny_spec, classes=("Mo", "S", "S2"), chance=(0.4, 1.7))
        shape = (round(26 * scale), round(38 * scale))
        scales = (shape[0] / 26, shape[1] / 38)
        maps = random_maps((13, 19), seed, classes=3)
        expect_same(device, maps, spec, shape, scales, thresholds=thresholds)

    @given(seed=st.integers(0, 10**6))
    def test_of_equally_probable_classes_the_first_and_nan_above_all(self, device, tiny_spec, seed):
        maps = random_maps((9, 11), seed, classes=3)
        maps.values[6:] = np.random.default_rng(seed).choice([0, 0.5, 1, np.nan], (3, 9, 11))
        expect_same(device, maps, replace(tiny_spec, classes=("Mo", "S", "S2")))

    @given(
        seed=st.integers(0, 10**6),
        scale=st.floats(0.3, 4),
        most=st.integers(0, 4),
        reach_A=st.sampled_from([0.5, 1.0, 1.8]),
        spread=st.sampled_from([0.3, 1.5, 4]),
    )
    def test_atoms_with_too_many_neighbours_go_as_on_the_cpu(
        self, device, tiny_spec, seed, scale, most, reach_A, spread
    ):
        maps = random_maps((14, 18), seed)
        maps.values[2:4] *= spread / 1.5
        shape = (round(28 * scale), round(36 * scale))
        spec = replace(tiny_spec, bonds=(most, reach_A))
        expect_same(device, maps, spec, shape, (shape[0] / 28, shape[1] / 36))

    @pytest.mark.parametrize(("apart", "crowded"), [(5, False), (4, True)])
    def test_only_where_there_may_be_too_many_are_neighbours_looked_for(self, device, tiny_spec, apart, crowded):
        values = np.zeros((6, 21, 21), np.float32)
        values[:2, ::apart, ::apart] = 0.9  # cells of 0.4 A
        found, _ = candidates(device, Maps(values), replace(tiny_spec, bonds=(3, 1.7)))
        assert bool((found["flags"] & CROWDED).any()) is crowded

    def test_contamination_around_an_atom_is_a_mean_in_double(self, device, tiny_spec):
        values = np.zeros((6, 40, 40), np.float32)
        values[:2, ::4, ::4] = 0.9
        values[5] = 0.22  # added up in float32 it would be more in some places
        found, _ = candidates(device, Maps(values), tiny_spec)
        assert set(found["covered"].tolist()) == {float(np.float32(0.22))}

    def test_atoms_under_a_patch_and_beside_it(self, device, tiny_spec):
        values = np.zeros((6, 20, 160), np.float32)
        values[:2, ::4, ::4] = 0.9
        values[5, :, :60], values[5, :, 60:] = 0.9, 0.3  # 24 A of a patch; suspicion, believed for 16 A more
        covered = (expect_same(device, Maps(values), replace(tiny_spec, covered=0.2)).flags & CONTAMINATED) > 0
        assert 0.5 < covered.mean() < 0.75

    def test_the_threshold_itself_counts_and_nan_does_not(self, device, tiny_spec):
        values = np.zeros((6, 1, 10), np.float32)
        values[1] = [0.5, 0, 0, 0.499, 0, 0, np.nan, 0, 0, 0.7]
        found, count = candidates(device, Maps(values), tiny_spec)
        assert (sorted(found["cell"].tolist()), count) == ([0, 9], 2)

    @given(seed=st.integers(0, 10**6), where=st.integers(2, 4))
    def test_nan_beside_a_peak_spoils_what_it_spoils_in_numpy(self, device, tiny_spec, seed, where):
        maps = random_maps((9, 9), seed)
        maps.values[where, 4, 4] = np.nan
        expect_same(device, maps, tiny_spec)

    def test_a_plateau_across_a_strip_of_equals_keeps_every_other(self, device, tiny_spec):
        values = np.zeros((6, 1, 9), np.float32)
        values[:2, 0, ::2] = 0.8
        assert len(expect_same(device, Maps(values), tiny_spec)) == 3

    def test_beyond_the_capacity_is_counted_not_written(self, device, tiny_spec):
        values = np.full((6, 8, 8), 0.9, np.float32)
        found, count = candidates(device, Maps(values), tiny_spec, capacity=5)
        assert (len(found), count) == (5, 64)

    def test_a_frame_without_contrast_has_none(self, device, tiny_spec):
        stream, found = device.stream(), device.zeros((10 * CANDIDATE.itemsize,), np.uint8)
        values = parameters(
            tiny_spec, cells=(3, 3), padded=(3, 3), frame_shape=(6, 6), scale=(1, 1), sampling_A=0.2, capacity=9
        )
        arguments = np.ones((6, 3, 3), np.float32), np.array([0.5], np.float32), np.zeros(1, np.int32), values
        there = [device.constant(one) for one in arguments]  # held until all is fetched
        device.launch(stream, "peaks", 9, *there, found)
        assert not fetched(device, stream, found).any()


def test_atoms_of_one_y_are_sorted_by_x_then_cell(tiny_spec):
    found = np.zeros(5, CANDIDATE)
    found["y"], found["x"], found["cell"] = [2, 1, 1, 1, 0], [0, 5, 3, 3, 9], [9, 8, 7, 6, 5]
    found["score"] = found["cell"]
    assert to_atoms(found, (3, 5), 0.2, tiny_spec).score.tolist() == [5, 6, 7, 8, 9]
