"""Triplets of the bench: a drift that is known, and three images a message through the whole path."""

from types import SimpleNamespace

import numpy as np
import pytest

from bench import triplets as part
from bench.drift import Measured, measure, measure_f1, summarise, triplets
from bench.report import rows
from bench.setting import Setting
from engine import ModelSpec
from tests.training.specimens import thin_sites
from training.recipes.mos2 import mos2
from training.structures.mos2 import Mos2Ranges

CELL_A = 56.0
IMAGES = mos2().images


@pytest.fixture(scope="module")
def specimen():
    return thin_sites(Mos2Ranges(cell_A=CELL_A).draw(np.random.default_rng(4)).sites, CELL_A)


@pytest.fixture(scope="module")
def model(build_tiny_model):
    return build_tiny_model(name="three", channels=3, classes=("Mo", "S"))


def setting_of(model, folder):
    return Setting(str(model), "f32", ModelSpec.read(model), 1, folder, 1, 0.2, latency_s=0.5, triplets=2, drifts=2)


def test_the_same_settings_with_drift_and_without(specimen):
    (moved,), (still,) = (list(triplets([specimen], IMAGES, 1, 3, most)) for most in (8.0, 0.0))
    assert moved.images.shape == still.images.shape == (3, 512, 512)
    assert moved.shot.optics == still.shot.optics
    assert not moved.drift_px[1].any()
    assert np.hypot(*(moved.drift_px - still.drift_px).T).max() > 1
    assert measure(moved).error_px < 1


def test_summary_of_errors_and_slips():
    lefts = [(0.05, False), (0.3, True), (9.0, True), (9.0, False)]
    told = summarise([Measured(np.array([[0.02, 0.0], [0.0, left]]), doubted) for left, doubted in lefts])
    assert (told["slips"], told["slips_untold"], told["doubted"]) == (2, 1, 2)
    assert told["error_px"]["median"] == pytest.approx(0.175)
    assert told["within_0.1_px"] == 0.5
    assert told["one_sigma_px"] == pytest.approx(np.percentile([0.02, 0, 0, 0.05, 0.02, 0, 0, 0.3], 68.27), abs=1e-3)


def test_all_of_it(tmp_path, specimen, model, monkeypatch):
    monkeypatch.setattr(part, "make_specimens", lambda count: [specimen] * count)
    monkeypatch.setattr(part, "EDGES", (2, 2))
    result = part.measure_triplets(setting_of(model, tmp_path))
    assert result["model"] == "three 1"
    assert result["path"]["fps"] > 0
    assert result["drift"]["triplets"] == 2
    assert set(result["f1"]) == {"f1", "f1_still", "difference"}
    assert len(list(rows({"triplets": result}))) == 7


def test_without_a_model_drift_is_measured_all_the_same(tmp_path, specimen, tiny_model, monkeypatch):
    monkeypatch.setattr(part, "make_specimens", lambda count: [specimen] * count)
    monkeypatch.setattr(part, "list_models", lambda: ("graphene",))
    result = part.measure_triplets(setting_of(tiny_model, tmp_path))
    table = list(rows({"triplets": result}))
    assert "no model of three images ships" in table[0][1]
    assert len(table) == 4


def test_the_shipped_model_where_the_bench_has_another(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(part, "list_models", lambda: ("graphene", "mos2"))
    assert part.find_model(setting_of(tiny_model, tmp_path)) == "mos2"


def test_f1_is_of_what_the_detector_finds(specimen):
    (moved,) = triplets([specimen], IMAGES, 1, 3)
    truth = moved.shot.positions_px
    truth = truth[np.all((truth > 0) & (truth < moved.images.shape[1] - 1), axis=1)].astype(np.float32)
    answers = iter([SimpleNamespace(positions=truth), SimpleNamespace(positions=truth[::2])])
    measured = measure_f1(SimpleNamespace(detect=lambda frame: next(answers)), [moved], [moved])
    assert measured["f1"] == pytest.approx(1, abs=0.01)
    assert measured["f1_still"] == pytest.approx(2 / 3, abs=0.02)
    assert measured["difference"] == pytest.approx(measured["f1"] - measured["f1_still"], abs=1e-3)


@pytest.mark.parametrize(
    ("slips", "untold", "error_px", "reached"),
    [(0, 0, 0.09, [True, True]), (1, 0, 0.09, [True, False]), (0, 0, 0.2, [False, True])],
)
def test_rows_say_what_is_asked(slips, untold, error_px, reached):
    drift = {"triplets": 100, "slips": slips, "slips_untold": untold, "doubted": 3}
    drift |= {"error_px": {"median": error_px, "p90": 0.3}, "within_0.1_px": 0.6, "one_sigma_px": 0.08}
    table = list(rows({"triplets": {"drift": drift, "path": None}}))
    assert [row[3] for row in table] == [None, True, *reached]
