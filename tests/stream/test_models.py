"""The list of models and the card of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stream import models
from stream.cli import main


def test_the_list_has_a_line_for_each(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    monkeypatch.setattr(models, "find_spec", lambda name: tiny_model)
    assert models.model_list(("tiny",)).split() == ["tiny", "1", "test", "C", "0.05", "to", "0.75", "A/px"]


def test_columns_stand_below_each_other(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, build_tiny_model: Callable[..., Path]
) -> None:
    found = {"tiny": tiny_model, "alloy": build_tiny_model(name="alloy", classes=("Mo", "S", "vacancy_Mo"))}
    monkeypatch.setattr(models, "find_spec", lambda name: found[name])
    one, other = models.model_list(("tiny", "alloy")).splitlines()
    assert one.index("0.05 to") == other.index("0.05 to")


def test_none_is_said() -> None:
    assert "No model is installed" in models.model_list(())


def test_the_card_of_one(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", str(tiny_model)]) == 0
    card = capsys.readouterr().out
    assert "tiny 1" in card
    assert "sampling_A" in card


def test_an_unknown_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "grafene"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'grafene'" in line
