"""Frames over and over."""

import numpy as np

from bench.sender import repeat


def test_frames_come_round_and_the_last_waits():
    pixels, slept = np.arange(3), []
    sent = [(int(one), list(slept)) for one, _ in repeat(pixels, {"sampling": 0.1}, 5, 0.5, sleep=slept.append)]
    assert sent == [(0, []), (1, []), (2, []), (0, []), (1, [0.5])]


def test_without_a_pause_nothing_waits():
    assert len(list(repeat(np.arange(2), {}, 3, sleep=lambda seconds: 1 / 0))) == 3
