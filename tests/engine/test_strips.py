import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine import FrameError
from engine.strips import Strip, cut


@given(
    rows=st.integers(1, 60),
    columns=st.integers(1, 8),
    reach=st.integers(0, 70),
    most=st.integers(1, 40),
    m=st.integers(1, 16),
)
def test_every_row_is_kept_once_and_sees_as_far_as_it_needs(rows, columns, reach, most, m):
    shape = rows * m, columns * m
    most_pixels = most * m * shape[1]
    overlap = -(-reach // m) * m
    assume(most >= rows or most * m > 2 * overlap)
    strips = cut(shape, most_pixels, reach, m)
    assert [strip.first for strip in strips] == [0, *(strip.last for strip in strips[:-1])]
    assert strips[-1].last == shape[0]
    assert len({strip.bottom - strip.top for strip in strips}) == 1  # one engine for all
    for strip in strips:
        assert (strip.bottom - strip.top) * shape[1] <= most_pixels
        assert strip.top % m == strip.bottom % m == strip.first % m == 0
        assert strip.top == 0 or strip.first - strip.top >= reach
        assert strip.bottom == shape[0] or strip.bottom - strip.last >= reach
        assert strip.first < strip.last


def test_what_fits_is_one():
    assert cut((64, 32), 64 * 32, 50, 16) == (Strip(0, 64, 0, 64),)


def test_strips_are_no_higher_than_so_many_have_to_be():
    """At 4096 x 4096, where memory is for 3904 rows, two of these would run nearly twice the frame."""
    strips = cut((4096, 4096), 3904 * 4096, 320, 16)
    assert [(strip.top, strip.bottom) for strip in strips] == [(0, 2368), (1728, 4096)]


def test_too_little_memory_for_any_strip_is_said():
    with pytest.raises(FrameError, match="GPU expects memory for 9216 network pixels, got 4096: allow more") as caught:
        cut((256, 64), 4096, 60, 16)
    assert caught.value.reason == "no_memory"
