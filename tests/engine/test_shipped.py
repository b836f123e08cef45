import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import Frame, ModelError, ModelSpec, list_models, load_detector, model_card, shipped
from engine.shipped import find_spec, verified_weights


@pytest.fixture
def tiny_is_shipped(tiny_model, monkeypatch):
    monkeypatch.setattr(shipped, "_FOLDER", tiny_model.parent)


@pytest.mark.parametrize("name", list_models())
def test_every_shipped_model_runs_and_has_a_card(name):
    assert name in model_card(name)
    with load_detector(name) as detector:
        assert detector.spec.name == name
        sampling_A = detector.spec.sampling_A
        pixels = np.zeros((detector.spec.channels, 128, 128), np.float32)
        assert len(detector.detect(Frame(pixels.squeeze(), sampling_A))) == 0


def test_without_any_model_the_list_is_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "_FOLDER", tmp_path / "none")
    assert list_models() == ()
    with pytest.raises(ModelError, match="no model is installed"):
        find_spec("graphene")


@pytest.mark.usefixtures("tiny_is_shipped")
def test_a_name_an_unknown_name_and_a_path(tiny_model):
    assert list_models() == ("tiny",)
    assert find_spec("tiny") == tiny_model
    assert find_spec(str(tiny_model)) == find_spec(tiny_model) == tiny_model
    with pytest.raises(
        ModelError, match=r"Expected a shipped model \(tiny\) or a path to a spec \.json, got 'graphite'"
    ):
        find_spec("graphite")


@pytest.mark.parametrize("name", ["../tiny", "", "tiny.onnx", "/etc/passwd"])
@pytest.mark.usefixtures("tiny_is_shipped")
def test_a_name_is_no_way_out_of_the_folder(name):
    with pytest.raises(ModelError):
        find_spec(name)


def test_a_card_says_all_of_the_spec(tiny_spec, tmp_path):
    spec = replace(
        tiny_spec,
        classes=("Mo", "S"),
        channels=3,
        data={"specimens": {"count": 320, "strain": 0.02}},
        notes="verified on simulation only",
        measured={"f1": {"1e4": 0.951234, "1e5": 0.99}, "frames": 50},
        wall_time_min={"simulate": 31.5, "fit": 340.0},
        sha256={"tiny.onnx": "ab" * 32},
    )
    spec.write(tmp_path / "tiny.json")
    card = model_card(tmp_path / "tiny.json")
    for said in (
        "tiny 1",
        "BSD-3-Clause",
        "verified on simulation only",
        "3 images of a defocus series, resampled to 0.2 A/px",
        "Mo, S",
        "0.05 to 0.75 A",
        "1000 to 100000 e/A^2",
        "60 to 100 kV",
        "count              320",
        "simulate 31.5 min, fit 340 min",
        "0.9512",
        "ab" * 32,
    ):
        assert said in card
    assert len({len(line) - len(line.lstrip()) for line in card.splitlines()}) == 4  # nested figures are indented


def test_figures_of_each_precision_are_a_table_of_doses(tiny_spec, tmp_path):
    int8 = {"10000 e/A^2": {"f1": 0.9887, "frames": 55}, "1000 e/A^2": {"f1": 0.8121, "bound_pm": 39.21, "frames": 55}}
    f32 = {"10000 e/A^2": {"f1": 0.9893, "frames": 55}, "30000 e/A^2, in dirt": {"clear_f1": 0.99}}
    replace(tiny_spec, measured={"int8": int8, "f32": f32}).write(tmp_path / "tiny.json")
    card = model_card(tmp_path / "tiny.json").splitlines()
    assert card[card.index("  measured") + 1 : card.index("  sha256")] == [
        "    int8",
        "                       f1  frames  bound_pm",
        "      10000 e/A^2  0.9887      55         -",
        "      1000 e/A^2   0.8121      55     39.21",
        "    f32",
        "      10000 e/A^2",
        "        f1                 0.9893",
        "        frames             55",
        "      30000 e/A^2, in dirt",
        "        clear_f1           0.99",
    ]


def test_a_card_of_a_model_not_measured_says_so(tiny_model):
    assert "nothing yet" in model_card(tiny_model)


class TestVerifiedWeights:
    def test_the_path_of_files_that_are_as_they_should_be(self, build_tiny_model):
        path = build_tiny_model(int8=True)
        spec = ModelSpec.read(path)
        assert verified_weights(spec, path.parent, ".onnx") == path.with_suffix(".onnx")
        assert verified_weights(spec, path.parent, ".int8.xml") == path.with_suffix(".int8.xml")

    @pytest.mark.parametrize("damaged", ["tiny.int8.xml", "tiny.int8.bin"])
    def test_both_files_of_ir_are_checked(self, build_tiny_model, damaged):
        path = build_tiny_model(int8=True)
        with (path.parent / damaged).open("ab") as file:
            file.write(b"\0")
        with pytest.raises(ModelError, match=f"{damaged}: expected sha256"):
            verified_weights(ModelSpec.read(path), path.parent, ".int8.xml")

    def test_a_missing_file(self, build_tiny_model):
        path = build_tiny_model()
        path.with_suffix(".onnx").unlink()
        with pytest.raises(ModelError, match=r"tiny\.onnx: expected a weight file, got No such file"):
            verified_weights(ModelSpec.read(path), path.parent, ".onnx")

    def test_a_file_whose_hash_the_spec_does_not_hold(self, build_tiny_model):
        path = build_tiny_model()
        raw = json.loads(path.read_text())
        Path(path).write_text(json.dumps(raw | {"sha256": {}}))
        with pytest.raises(ModelError, match="no hash in the spec"):
            verified_weights(ModelSpec.read(path), path.parent, ".onnx")
