import numpy as np
import pytest

from engine import Atoms

DTYPES = {
    "y": "<f4",
    "x": "<f4",
    "class_id": "|u1",
    "score": "<f4",
    "sigma_pm": "<f4",
    "agreement": "<f4",
    "flags": "|u1",
}


@pytest.fixture
def three():
    numbers = np.arange(3)
    return Atoms(**{name: (numbers + 10 * i).astype(dtype) for i, (name, dtype) in enumerate(DTYPES.items())})


def test_none_has_the_columns_of_any_other(three):
    none = Atoms.none()
    assert len(none) == 0
    assert none.positions.shape == (0, 2)
    for atoms in (none, three):
        assert {name: column.dtype.str for name, column in atoms.columns().items()} == DTYPES
        assert list(atoms.columns()) == list(DTYPES)


def test_positions_are_y_then_x(three):
    assert three.positions.tolist() == [[0, 10], [1, 11], [2, 12]]


@pytest.mark.parametrize("rows", [np.array([True, False, True]), np.array([0, 2])])
def test_select_takes_the_same_rows_of_every_column(three, rows):
    some = three.select(rows)
    assert len(some) == 2
    for name, column in some.columns().items():
        np.testing.assert_array_equal(column, three.columns()[name][[0, 2]])


def test_select_gives_the_order_asked_for(three):
    assert three.select(np.array([2, 0, 1])).y.tolist() == [2, 0, 1]
