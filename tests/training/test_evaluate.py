"""The figures of an evaluation, of answers that are known to be right, wrong or unsure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.atoms import CONTAMINATED
from tests.training.oracle import Oracle, atoms_at
from tests.training.specimens import ROUND
from training.evaluate import (
    Result,
    away_share,
    by_label,
    confusion,
    errors_over_classical,
    evaluate,
    evaluation_ranges,
    judge,
    sigma_ratio,
    summarise,
)
from training.exit_waves import Specimen
from training.imaging import Shot, shoot
from training.ranges import DOSES_E_A2, ImageRanges

RANGES = replace(ROUND, sampling_A=(0.15, 0.25))


@pytest.fixture(scope="module")
def shot(specimens: list[Specimen]) -> Shot:
    return shoot(specimens[0], RANGES, (20.0, 22.0), np.random.default_rng(0), 1e4)[0]


def inner(shot: Shot) -> np.ndarray:
    """True positions well inside the frame."""
    truth, size = shot.positions_px, np.array(shot.frame.shape)
    return truth[np.all((truth > 15) & (truth < size - 16), axis=1)]


def perfect(shot: Shot, dose: float = 1e4, bound_pm: float = 8.0) -> Result:
    return judge(shot, atoms_at(shot.positions_px), 0, dose, bound_pm)


class TestEvaluate:
    def test_perfect_answers(self, specimens: list[Specimen], monkeypatch: pytest.MonkeyPatch) -> None:
        oracle, done = Oracle(monkeypatch), []
        results = evaluate(oracle, specimens, RANGES, 5, 2, progress=done.append)
        assert done == [1, 2]
        assert [(r.number, r.dose_e_A2) for r in results] == [(n, d) for n in range(2) for d in DOSES_E_A2]
        assert {r.score.f1 for r in results} == {1.0}
        np.testing.assert_allclose([r.score.rmse_pm for r in results], 0, atol=0.01)
        for row in summarise(results).values():
            assert (row["frames"], row["f1"], row["worst_f1"], row["undecidable"]) == (2, 1, 1, 0)

    def test_a_frame_at_every_dose_is_the_same_but_for_its_noise(
        self, specimens: list[Specimen], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        oracle = Oracle(monkeypatch)
        bright, faint = evaluate(oracle, specimens, RANGES, 5, 1, doses=(1e5, 1e3))
        assert bright.shot.optics == faint.shot.optics
        assert bright.shot.view == faint.shot.view
        np.testing.assert_allclose(bright.shot.ideal, 100 * faint.shot.ideal, rtol=1e-5)
        assert faint.bound_pm == pytest.approx(10 * bright.bound_pm)

    def test_frame_k_depends_on_seed_and_k_alone(
        self, specimens: list[Specimen], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        oracle = Oracle(monkeypatch)
        _, second = evaluate(oracle, specimens, RANGES, 5, 2, doses=(1e4,))
        (again,) = evaluate(oracle, specimens[1:], RANGES, 5, 1, doses=(1e4,))
        assert second.shot.optics != again.shot.optics
        third = evaluate(oracle, specimens, RANGES, 5, 2, doses=(3e4, 1e4))[3]
        np.testing.assert_array_equal(third.shot.frame.pixels, second.shot.frame.pixels)

    def test_the_detector_gets_no_more_than_a_camera_gives(
        self, specimens: list[Specimen], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        oracle, seen = Oracle(monkeypatch), []
        real = oracle.detect
        monkeypatch.setattr(oracle, "detect", lambda frame: (seen.append(frame), real(frame))[1])
        evaluate(oracle, specimens, RANGES, 5, 1, doses=(1e4,))
        assert (seen[0].dose_e_A2, seen[0].defocus_A, seen[0].mask) == (None, None, None)

    def test_a_sigma_that_is_meant(self, specimens: list[Specimen], monkeypatch: pytest.MonkeyPatch) -> None:
        for error_pm, sigma_pm in ((6.0, 6.0), (6.0, 3.0)):
            results = evaluate(Oracle(monkeypatch, error_pm, sigma_pm), specimens, RANGES, 5, 1, doses=(1e5,))
            assert results[0].score.rmse_pm == pytest.approx(error_pm, rel=0.15)
            assert sigma_ratio(results) == pytest.approx(error_pm / sigma_pm, rel=0.15)

    def test_clear_atoms_that_count_as_contaminated_are_missing_and_told_of(
        self, specimens: list[Specimen], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        oracle = Oracle(monkeypatch)
        flagged = np.uint8(CONTAMINATED) * (np.arange(10_000) % 4 == 0)
        real = oracle.detect
        monkeypatch.setattr(oracle, "detect", lambda frame: replace(found := real(frame), flags=flagged[: len(found)]))
        (result,) = evaluate(oracle, specimens, RANGES, 5, 1, doses=(1e4,))
        assert summarise([replace(result, decidable=True)])["10000"]["left_out"] == pytest.approx(0.25, abs=0.01)
        assert result.score.recall == pytest.approx(0.75, abs=0.08)

    def test_what_has_no_bound_is_left_out(self) -> None:
        ranges = evaluation_ranges(ImageRanges())
        assert ranges.contamination_chance == ranges.uneven_focus_chance == ranges.eight_bit_chance == 0
        assert ranges.defocus_A == ImageRanges().defocus_A


class TestSummarise:
    def test_undecidable_frames_are_counted_apart(self, shot: Shot) -> None:
        lost = replace(judge(shot, atoms_at(np.empty((0, 2))), 1, 1e4, 8.0), decidable=False)
        row = summarise([perfect(shot), lost])["10000"]
        assert (row["frames"], row["f1"], row["worst_f1"]) == (1, 1, 1)
        assert (row["undecidable"], row["undecidable_f1"]) == (1, 0)

    def test_figures_of_a_dose(self, shot: Shot) -> None:
        half = judge(shot, atoms_at(inner(shot)[::2]), 1, 1e4, 30.0)
        row = summarise([perfect(shot), half])["10000"]
        assert row["precision"] == 1
        assert row["recall"] == pytest.approx((1 + half.score.recall) / 2)
        assert row["f1"] == pytest.approx((1 + half.score.f1) / 2)
        assert row["worst_f1"] == half.score.f1 < 0.7
        assert row["worst_f1_bound_20_pm"] == 1
        assert row["bound_pm"] == pytest.approx(np.sqrt((8**2 + 30**2) / 2))

    def test_the_standard_error_of_f1_is_that_of_the_settings(self, shot: Shot) -> None:
        f1 = np.tile([0.8, 1.0], 50)
        good = perfect(shot)
        rows = [replace(good, score=replace(good.score, f1=one)) for one in f1]
        lost = replace(good, score=replace(good.score, f1=0.0), decidable=False)
        # Of 100 settings that lie 0.1 to either side of their mean.
        assert summarise([*rows, lost])["10000"]["f1_standard_error"] == pytest.approx(0.01, rel=0.01)
        assert np.isnan(summarise([good])["10000"]["f1_standard_error"])

    def test_errors_are_per_axis_and_against_the_bound(self, shot: Shot) -> None:
        moved = inner(shot) + np.array([0.03, 0.04]) / shot.view.sampling_A
        row = summarise([judge(shot, atoms_at(moved, 5.0), 0, 1e4, 7.0)])["10000"]
        assert row["rmse_pm"] == pytest.approx(np.sqrt((3**2 + 4**2) / 2), rel=1e-3)
        assert row["error_over_bound_median"] == pytest.approx(row["rmse_pm"] / 7)

    def test_a_shift_of_the_whole_frame_is_no_scatter(self, shot: Shot) -> None:
        moved = inner(shot) + np.array([0.03, 0.04]) / shot.view.sampling_A
        moved[::2, 0] += 0.02 / shot.view.sampling_A
        row = summarise([judge(shot, atoms_at(moved, 5.0), 0, 1e4, 7.0)])["10000"]
        assert row["scatter_pm"] == pytest.approx(1 / np.sqrt(2), rel=0.02)  # 1 pm either way along one of two axes
        assert row["scatter_over_bound_median"] == pytest.approx(row["scatter_pm"] / 7)

    def test_doses_from_high_to_low(self, shot: Shot) -> None:
        assert list(summarise([perfect(shot, dose) for dose in (3e3, 1e5, 1e4)])) == ["100000", "10000", "3000"]

    def test_nothing_to_measure_is_not_a_number(self, shot: Shot) -> None:
        row = summarise([replace(perfect(shot), decidable=False)])["10000"]
        assert row["frames"] == 0
        for key in ("f1", "worst_f1", "rmse_pm", "error_over_bound_median", "error_over_sigma"):
            assert np.isnan(row[key])

    def test_what_is_found_where_nothing_is(self, shot: Shot) -> None:
        step = np.array([0.0, 1.0]) / shot.view.sampling_A  # of 1 A: wrong, but near what is there
        far, truth = np.array(shot.frame.shape) / 2, inner(shot)
        some = truth[np.hypot(*(truth - far).T) * shot.view.sampling_A > 4][:10]
        alone = replace(shot, positions_px=some, class_id=shot.class_id[: len(some)])
        found = np.concatenate([some[:3], some[3:4] + step, [far]])
        assert away_share([judge(alone, atoms_at(found), 0, 1e4, 8.0)]) == pytest.approx(1 / 5)
        assert np.isnan(away_share([]))

    def test_columns_that_lean_have_an_error_apart(self, shot: Shot) -> None:
        moved = shot.positions_px.copy()
        lean_A = np.where(np.arange(len(moved)) % 2, 1.0, 0.2).astype(np.float32)
        moved[lean_A > 0.5] += 0.06 / shot.view.sampling_A
        result = replace(judge(shot, atoms_at(moved), 0, 1e4, 8.0), lean_A=lean_A)
        row = summarise([result])["10000"]
        assert row["upright_rmse_pm"] < 0.01
        assert row["rmse_pm"] == pytest.approx(6 / np.sqrt(2), rel=0.1)
        assert np.isnan(summarise([perfect(shot)])["10000"]["upright_rmse_pm"])

    def test_kinds_of_specimens_whole_and_in_parts(self, shot: Shot) -> None:
        poor = judge(shot, atoms_at(np.empty((0, 2))), 1, 1e4, 8.0)
        labels = ("[110] on CeO2", "[110] on carbon", "[100] on carbon")
        rows = [replace(r, label=label) for r, label in zip((perfect(shot), perfect(shot), poor), labels, strict=True)]
        table = {kind: row["10000"] for kind, row in by_label(rows).items()}
        assert {kind: row["f1"] for kind, row in table.items()} == {
            **{"CeO2": 1, "[100]": 0, "[110]": 1, "carbon": 0.5},
            **{"[100] on carbon": 0, "[110] on CeO2": 1, "[110] on carbon": 1},
        }
        assert {kind: row["frames"] for kind, row in table.items() if "on" not in kind.split()} == {
            **{"CeO2": 1, "[100]": 1, "[110]": 2, "carbon": 2},
        }
        assert table["carbon"]["f1_standard_error"] == pytest.approx(0.5)
        assert np.isnan(table["CeO2"]["f1_standard_error"])
        assert by_label([perfect(shot)]) == {}
        assert repr(by_label([*rows, perfect(shot)])) == repr(by_label(rows))  # one of no label is of no kind

    def test_poor_frames_do_not_tell_of_sigma(self, shot: Shot) -> None:
        poor = judge(shot, atoms_at(inner(shot)[::3], 0.001), 0, 1e4, 8.0)
        assert poor.score.f1 < 0.9
        assert np.isnan(sigma_ratio([poor]))


def test_the_classical_way_where_it_is_asked_for(specimens: list[Specimen], monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = Oracle(monkeypatch)
    (without,) = evaluate(oracle, specimens, RANGES, 5, 1, doses=(1e5,))
    (beside,) = evaluate(oracle, specimens, RANGES, 5, 1, doses=(1e5,), classical=True)
    assert without.classical is None
    assert beside.classical is not None
    assert 0.1 < beside.classical.f1 < beside.score.f1
    row = summarise([beside])["100000"]
    assert row["classical_f1"] == beside.classical.f1
    assert row["errors_over_classical"] == 0
    half = replace(
        beside, score=replace(beside.score, missed=3), classical=replace(beside.score, missed=4, wrong=np.arange(2))
    )
    assert errors_over_classical([half, half]) == 0.5
    assert np.isnan(errors_over_classical([without]))


def test_above_a_threshold_only_the_surer_atoms_count(shot: Shot) -> None:
    atoms = atoms_at(inner(shot))
    atoms.score[::2] = 0.3
    result = judge(shot, atoms, 3, 1e4, 8.0)
    surer = result.above(0.5)
    assert len(surer.atoms) == len(atoms) // 2
    assert surer.score.recall < result.score.recall
    assert (surer.number, surer.dose_e_A2, surer.bound_pm) == (3, 1e4, 8.0)
    assert len(result.above(0.3).atoms) == len(atoms)


def test_classes_are_held_against_each_other(shot: Shot) -> None:
    # Every other site is of the second class; one atom is not found, one found as the other class.
    kinds = np.arange(len(shot.positions_px), dtype=np.uint8) % 2
    of_two = replace(shot, class_id=kinds)
    margin, (height, width) = 3.0 / shot.view.sampling_A, shot.frame.shape
    y, x = shot.positions_px.T
    rows = np.flatnonzero((y > margin) & (y < height - margin) & (x > margin) & (x < width - margin))
    missing, mistaken = rows[kinds[rows] == 0][0], rows[kinds[rows] == 1][0]
    kept = np.delete(np.arange(len(kinds)), missing)
    answer = kinds.copy()
    answer[mistaken] = 0
    result = judge(of_two, replace(atoms_at(shot.positions_px[kept]), class_id=answer[kept]), 0, 1e4, 8.0)
    table = confusion([result, replace(result, decidable=False)], ("C", "N"))
    scored = [result.score.counts[k][3] for k in (0, 1)]
    assert table["C"] == {"C": scored[0] - 1, "N": 0, "missed": 1}
    assert table["N"] == {"C": 1, "N": scored[1] - 1, "missed": 0}
