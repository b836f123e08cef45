"""Checkpoints: whole ones come back, all others are one line, and a full disk leaves the one before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine import FileError
from training.checkpoint import describe_fit, load_checkpoint, save_checkpoint, steps_done

STATE = {"step": 42, "seconds": 600.0, "network": {"w": torch.ones(50_000)}, "average": {}, "optimiser": {}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)
    return path


def test_what_was_saved_comes_back(path: Path) -> None:
    assert torch.equal(load_checkpoint(path)["network"]["w"], STATE["network"]["w"])
    assert steps_done(path) == 42
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize(
    ("all_steps", "said"), [(42, "fit: 42 steps"), (40, "fit: 42 steps"), (100, "42 of 100 steps")]
)
def test_a_fit_that_is_not_at_its_end_says_so(path: Path, all_steps: int, said: str) -> None:
    assert describe_fit(path, all_steps).endswith(said)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"garbage" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:-500]),
        lambda path: torch.save({"step": 42}, path),
        lambda path: torch.save([1, 2], path),
    ],
)
def test_a_damaged_one_is_one_line(path: Path, spoil: Callable[[Path], object]) -> None:
    spoil(path)
    for read in (load_checkpoint, steps_done, lambda path: describe_fit(path, 100)):
        with pytest.raises(
            FileError, match=r"checkpoint\.pt: expected a whole checkpoint, got a damaged one"
        ) as raised:
            read(path)
        assert "\n" not in str(raised.value)
        assert "remove it, and run `atomstream-train fit` again" in str(raised.value)


def test_a_full_disk_leaves_the_one_before(path: Path) -> None:
    partial = path.with_suffix(".part")
    partial.symlink_to("/dev/full")
    with pytest.raises(
        FileError, match=r"checkpoint\.pt: expected room, got .*: free some, and run it again; it goes on"
    ):
        save_checkpoint(path, STATE | {"step": 43})
    assert load_checkpoint(path)["step"] == 42
    assert not partial.is_symlink()
