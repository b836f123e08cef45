import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import FileError, ModelError, ModelSpec
from engine.spec import file_sha256


def test_read_gives_back_what_was_written(tiny_spec, tmp_path):
    spec = replace(
        tiny_spec, classes=("Mo", "S"), bonds=(3, 1.8), measured={"f1": {"1e4": 0.95}}, sha256={"tiny.onnx": "ab"}
    )
    spec.write(tmp_path / "tiny.json")
    assert ModelSpec.read(tmp_path / "tiny.json") == spec


def test_bonds_and_what_was_measured_may_be_missing(tiny_spec, tmp_path):
    path = tmp_path / "tiny.json"
    tiny_spec.write(path)
    raw = json.loads(path.read_text())
    del raw["chance"], raw["bonds"], raw["measured"], raw["sha256"]
    path.write_text(json.dumps(raw))
    assert ModelSpec.read(path) == tiny_spec


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "expected a model spec in JSON"),
        ("[1, 2]", "missing ['channels'"),
        ('{"name": "x", "colour": "red"}', "unknown ['colour']"),
        ("\x80", "expected a model spec in JSON"),
    ],
)
def test_a_damaged_spec_says_what_is_wrong(tmp_path, content, said):
    path = tmp_path / "bad.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ModelError) as caught:
        ModelSpec.read(path)
    assert said in str(caught.value)
    assert "bad.json" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trained", {"sampling_A": 3}),
        ("trained", {"sampling_A": [1, "much"]}),
        ("trained", []),
        ("classes", []),
        ("classes", "C"),
        ("classes", 3),
        ("sampling_A", "fine"),
        ("sampling_A", 0),
        ("channels", 1.5),
        ("threshold", 0),
        ("name", "../other"),
        ("sha256", []),
        ("chance", [0.5]),
        ("chance", [0.5, 0]),
        ("chance", ["even", 1]),
        ("bonds", [3]),
        ("bonds", [0, 1.8]),
        ("bonds", [3, 1e9]),
        ("wall_time_min", {"fit": -1}),
        ("wall_time_min", {"fit": "an hour"}),
    ],
)
def test_a_value_that_cannot_be_is_named(tiny_spec, tmp_path, key, value):
    path = tmp_path / "bad.json"
    tiny_spec.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ModelError, match=key):
        ModelSpec.read(path)


def test_the_chance_of_a_score(tiny_spec):
    score = np.array([0.0, 0.2, 0.5, 0.8, 1.0], np.float32)
    assert tiny_spec.chance_of(score) is score
    chance = replace(tiny_spec, chance=(0.5, 2.0)).chance_of(score)
    np.testing.assert_allclose(chance[1:4], 1 / (1 + np.exp(-0.5) * np.array([16, 1, 1 / 16])), rtol=1e-5)
    assert (chance.dtype, chance[0] < 1e-6, chance[4] > 1 - 1e-6) == (np.float32, True, True)
    assert (np.diff(chance) > 0).all()


def test_a_missing_spec_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match=r"none\.json: expected a model spec"):
        ModelSpec.read(tmp_path / "none.json")


def test_a_write_that_fails_leaves_the_spec_as_it_was(tiny_spec, tmp_path, monkeypatch):
    path = tmp_path / "tiny.json"
    tiny_spec.write(path)

    def half(self, content):
        with self.open("wb") as file:
            file.write(content[:9])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", half)
        with pytest.raises(FileError, match=r"tiny\.json: expected a place .*, got No space left on device: free some"):
            replace(tiny_spec, notes="other").write(path)
    assert ModelSpec.read(path) == tiny_spec
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.json"]


def test_a_place_that_is_not_there_is_a_file_error(tiny_spec, tmp_path):
    with pytest.raises(FileError, match="got No such file or directory"):
        tiny_spec.write(tmp_path / "none" / "tiny.json")


def test_hash_of_a_file(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert file_sha256(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
