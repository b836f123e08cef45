import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.network import Maps
from engine.peaks import find_peaks


def maps_of(peak):
    """Maps in which only the peak channel says something."""
    values = np.zeros((6, *peak.shape), np.float32)
    values[1] = peak
    return Maps(values)


def brute_force(peak, threshold, radius):
    """From the highest down, of equal ones in reading order: take it unless one taken before is too close."""
    cells = [cell for cell in np.ndindex(peak.shape) if peak[cell] >= threshold]
    taken = []
    for cell in sorted(cells, key=lambda cell: (-peak[cell], cell)):
        if all(math.dist(cell, other) > radius for other in taken):
            taken.append(cell)
    return np.array(sorted(taken), np.intp).reshape(-1, 2)


# Few values make many ties; exact in float32.
scores = arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 0.25, 0.5, 1])
)


@given(peak=scores, threshold=st.sampled_from([0.25, 0.5, 0.75]), radius=st.sampled_from([0.5, 1, 1.5, 2, 2.5, 3.6]))
def test_the_same_as_brute_force(peak, threshold, radius):
    rows = find_peaks(maps_of(peak), threshold, radius)
    np.testing.assert_array_equal(rows, brute_force(peak, threshold, radius))


@pytest.mark.parametrize("shape", [(5, 5), (1, 7), (0, 0), (0, 4)])
def test_no_peaks_gives_no_rows(shape):
    rows = find_peaks(maps_of(np.zeros(shape, np.float32)), 0.5, 2)
    assert rows.shape == (0, 2)
    assert rows.dtype == np.intp


def test_the_threshold_itself_counts_and_nan_does_not():
    peak = np.array([[0.5, 0, 0, 0.499, 0, 0, np.nan, 0, 0, 0.7]], np.float32)
    assert find_peaks(maps_of(peak), 0.5, 2).tolist() == [[0, 0], [0, 9]]


def test_of_a_plateau_the_first_in_reading_order_stays():
    peak = np.zeros((8, 8), np.float32)
    peak[2:4, 2:4] = 0.9
    peak[6, 6] = 0.9
    assert find_peaks(maps_of(peak), 0.5, 2).tolist() == [[2, 2], [6, 6]]


def test_a_chain_of_equals_is_thinned_not_emptied():
    peak = np.zeros((1, 9), np.float32)
    peak[0, ::2] = 0.8
    assert find_peaks(maps_of(peak), 0.5, 2).tolist() == [[0, 0], [0, 4], [0, 8]]


def test_the_end_of_a_row_is_no_neighbour_of_the_next():
    peak = np.zeros((3, 5), np.float32)
    peak[0, 4] = peak[1, 0] = 0.8
    assert find_peaks(maps_of(peak), 0.5, 2).tolist() == [[0, 4], [1, 0]]
