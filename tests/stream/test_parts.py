"""What is done of an analysis: there whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import FileError
from stream.parts import Parts

ROWS = {"y": np.arange(3, dtype=np.float32), "notes": np.frombuffer(b"[]", np.uint8)}


def test_saved_and_loaded(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "p", {"a": 1})
    assert parts.done(3) == set()
    parts.save(1, ROWS)
    again = Parts(tmp_path / "p", {"a": 1})
    assert again.done(3) == {1}
    loaded = again.load(1)
    assert {name: column.tolist() for name, column in loaded.items()} == {
        name: column.tolist() for name, column in ROWS.items()
    }
    again.remove()
    assert not (tmp_path / "p").exists()


def test_those_of_another_plan_are_refused(tmp_path: Path) -> None:
    Parts(tmp_path / "p", {"a": 1}).save(0, {"y": np.zeros(1)})
    with pytest.raises(FileError, match="expected the parts of this analysis"):
        Parts(tmp_path / "p", {"a": 2})


def test_a_folder_without_any_is_taken_over(tmp_path: Path) -> None:
    Parts(tmp_path / "p", {"a": 1})
    Parts(tmp_path / "p", {"a": 2}).save(0, {"y": np.zeros(1)})
    with pytest.raises(FileError, match="expected the parts of this analysis"):
        Parts(tmp_path / "p", {"a": 1})


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "p", {})
    np.savez(tmp_path / "p/000000.npz", y=np.array([{}], object))
    with pytest.raises(FileError, match="expected a part, got "):
        parts.load(0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_no_half_part(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "p", {})
    (tmp_path / "p/000000.new").symlink_to("/dev/full")
    with pytest.raises(FileError, match="expected room for the parts, got No space left on device"):
        parts.save(0, {"y": np.zeros(100_000)})
    assert parts.done(1) == set()


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="expected room for the parts, got No such file"):
        Parts(tmp_path / "absent" / "p", {})
