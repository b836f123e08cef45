"""Found atoms against known ones: by hand, and against the definition every test and benchmark shares."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from training.score import BORDER_A, TOLERANCE_A, match, score

DEFINITION = Path(__file__).parents[3] / "shared" / "tools" / "score.py"
SHAPE = (100, 120)


def rows(*positions: tuple[float, float]) -> NDArray[np.float64]:
    return np.array(positions, np.float64).reshape(-1, 2)


class TestMatch:
    def test_nearest_first(self) -> None:
        # The found atom at 11 lies nearer to the second; the first is left with the other.
        pairs = match(rows((10, 10), (12, 10)), rows((11.2, 10), (9, 10)), 3)
        assert sorted(map(tuple, pairs.tolist())) == [(0, 1), (1, 0)]

    def test_each_pairs_once(self) -> None:
        assert match(rows((10, 10)), rows((10.5, 10), (10.2, 10)), 2).tolist() == [[0, 1]]

    def test_too_far_is_no_pair(self) -> None:
        assert match(rows((10, 10)), rows((13.1, 10)), 3).shape == (0, 2)

    @pytest.mark.parametrize(("truth", "found"), [(0, 0), (0, 3), (3, 0)])
    def test_nothing_gives_no_pairs(self, truth: int, found: int) -> None:
        assert match(np.ones((truth, 2)), np.ones((found, 2)), 1).shape == (0, 2)


class TestScore:
    def test_perfect_answers(self) -> None:
        truth = rows((30, 30), (40, 50), (60, 90))
        judged = score(truth, truth[::-1], 0.1, SHAPE)
        assert (judged.precision, judged.recall, judged.f1, judged.rmse_pm) == (1, 1, 1, 0)
        np.testing.assert_array_equal(truth[::-1][judged.row], truth[judged.truth_row])

    def test_precision_recall_and_error(self) -> None:
        truth = rows((30, 30), (50, 50), (70, 70), (70, 90))
        found = rows((31, 30), (50, 48), (40, 90))
        judged = score(truth, found, 0.1, SHAPE)
        assert judged.precision == pytest.approx(2 / 3)
        assert judged.recall == pytest.approx(1 / 2)
        assert (judged.missed, judged.wrong.tolist()) == (2, [2])
        assert judged.f1 == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
        errors = dict(zip(judged.truth_row.tolist(), judged.error_pm.tolist(), strict=True))
        assert errors == {0: pytest.approx([10, 0]), 1: pytest.approx([0, -20])}  # found minus true
        assert judged.rmse_pm == pytest.approx(np.sqrt((100 + 400) / 4))

    def test_the_tolerance_is_half_an_angstrom(self) -> None:
        truth = rows((50, 50))
        just_in, just_out = (rows((50, 50 + (TOLERANCE_A + d) / 0.1)) for d in (-0.01, 0.01))
        assert score(truth, just_in, 0.1, SHAPE).f1 == 1
        assert score(truth, just_out, 0.1, SHAPE).f1 == 0

    def test_a_doubled_atom_is_a_wrong_one(self) -> None:
        judged = score(rows((50, 50)), rows((50, 50), (50, 51)), 0.1, SHAPE)
        assert (judged.precision, judged.recall) == (0.5, 1)

    def test_the_border_is_left_out_on_both_sides(self) -> None:
        edge = BORDER_A / 0.1
        truth = rows((50, 50), (edge - 1, 60), (SHAPE[0] - edge, 60))
        judged = score(truth, rows((50, 50), (60, edge - 1)), 0.1, SHAPE)
        assert (judged.precision, judged.recall, len(judged.error_pm)) == (1, 1, 1)

    def test_a_pair_across_the_border_is_right_on_the_side_inside(self) -> None:
        judged = score(rows((19.5, 50)), rows((20.5, 50)), 0.1, SHAPE)
        assert (judged.precision, judged.recall, len(judged.error_pm)) == (1, 1, 0)

    def test_empty(self) -> None:
        none = rows()
        assert score(none, none, 0.1, SHAPE).f1 == 1
        assert np.isnan(score(none, none, 0.1, SHAPE).rmse_pm)
        assert score(rows((50, 50)), none, 0.1, SHAPE).recall == 0
        assert score(none, rows((50, 50)), 0.1, SHAPE).precision == 0
        assert score(rows((50, 50)), none, 0.1, SHAPE).f1 == 0


@pytest.fixture(scope="module")
def definition() -> ModuleType:
    if not DEFINITION.exists():
        pytest.skip("the shared definition of the score, ../shared/tools/score.py, is not here")
    spec = importlib.util.spec_from_file_location("definition_of_score", DEFINITION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_definition_that_all_share(definition: ModuleType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sampling_A = rng.uniform(0.05, 0.5)
    truth = rng.uniform(-5, 120, (rng.integers(0, 150), 2))
    kept = truth[rng.random(len(truth)) < 0.8]
    found = np.concatenate([kept + rng.normal(0, 0.3 / sampling_A, kept.shape), rng.uniform(0, 100, (20, 2))])
    theirs = definition.score(truth, found, sampling_A, SHAPE)
    ours = score(truth, found, sampling_A, SHAPE)
    for key in ("precision", "recall", "f1", "rmse_pm"):
        assert getattr(ours, key) == pytest.approx(theirs[key], nan_ok=True)
    assert len(ours.row) == theirs["matched"]
