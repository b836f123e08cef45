import numpy as np
import pytest

from engine import Frame


@pytest.mark.parametrize("leading", [(), (3,)])
def test_shape_and_field_are_those_of_one_image(leading):
    frame = Frame(np.zeros((*leading, 20, 30)), sampling_A=0.1)
    assert frame.shape == (20, 30)
    assert frame.field_A == pytest.approx((2.0, 3.0))


def test_what_is_not_known_is_none():
    frame = Frame(np.zeros((2, 2)), 0.1)
    assert (frame.mask, frame.dose_e_A2, frame.defocus_A, frame.voltage_kV) == (None, None, None, None)
