"""`export --tensorrt`: of which model the engine is built ahead, with which limits; and one line for mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.test_cli import complaint
from training.cli import main


class TestEngineAhead:
    """`export --tensorrt`; what it builds, and that it is what serve loads, is tested in tests/engine/test_gpu.py."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, str, float]]:
        asked: list[tuple[object, str, float]] = []

        def build(model: object, precision: str, memory_MB: float) -> dict[str, Path]:
            asked.append((model, precision, memory_MB))
            return {"H200 sm_90": Path("cache/0.engine")}

        monkeypatch.setattr("engine.gpu.build_ahead", build)
        return asked

    def test_of_what_was_exported_else_of_the_shipped_model(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, asked: list[tuple[object, str, float]]
    ) -> None:
        command = ["export", "graphene", "--folder", str(tmp_path), "--tensorrt"]
        assert main(command) == 0
        exported = tmp_path / "export" / "graphene.json"
        exported.parent.mkdir()
        exported.touch()
        assert main(command) == 0
        assert main([*command, "--model", "mine.json", "--precision", "int8", "--memory-MB", "900"]) == 0
        assert asked == [("graphene", "auto", 4096), (exported, "auto", 4096), ("mine.json", "int8", 900)]
        assert capsys.readouterr().out.splitlines()[0] == "cache/0.engine: engine of graphene for H200 sm_90"
        assert [path.name for path in tmp_path.rglob("*")] == ["export", "graphene.json"]  # nothing else is written

    def test_without_a_gpu_it_is_one_line(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("engine.gpu.obstacle", lambda: "driver: no NVIDIA driver: install driver 580 or newer")
        said = complaint(capsys, "export", "graphene", "--folder", str(tmp_path), "--tensorrt")
        assert "Expected a GPU that can be used, got driver: no NVIDIA driver" in said

    def test_its_options_need_it(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        said = complaint(capsys, "export", "graphene", "--folder", str(tmp_path), "--precision", "int8")
        assert "add --tensorrt" in said
