"""Growth between two moments."""

import pytest

from bench.memory import growth


def test_growth_is_from_a_tenth_of_the_frames_to_their_end():
    sizes_MB = {frame: 100.0 + frame / 1000 for frame in range(0, 10_000, 20)}
    told = growth(sizes_MB, 10_000)
    assert told["early_MB"] == pytest.approx(101.1, abs=0.05)
    assert told["late_MB"] == pytest.approx(109.9, abs=0.05)
    assert told["growth"] == pytest.approx(109.9 / 101.1 - 1, abs=1e-3)
    assert told["largest_MB"] == pytest.approx(110.0, abs=0.05)


def test_a_moments_peak_is_the_largest_but_no_growth():
    sizes_MB = dict.fromkeys(range(0, 10_000, 20), 100.0) | {9_900: 150.0}
    assert growth(sizes_MB, 10_000) == {"early_MB": 100.0, "late_MB": 100.0, "largest_MB": 150.0, "growth": 0.0}
