"""Peers that cannot be had: their tests skip and say why, or fail where peers are required."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import peers


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peers, "CACHE", tmp_path)
    monkeypatch.delenv("ATOMSTREAM_PEERS", raising=False)


def ends(code: int, told: list[list[str]]) -> Any:
    def run(command: list[object], **_: object) -> subprocess.CompletedProcess[str]:
        told.append([str(word) for word in command])
        Path(command[-1] if "venv" in command else "/").mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, code, "", "some\nNo matching distribution found")

    return run


def test_what_cannot_be_installed_is_skipped_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", ends(1, []))
    with pytest.raises(pytest.skip.Exception, match="expected this>1 to install, got No matching distribution found"):
        peers.install("this", "this>1")


def test_and_fails_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", ends(1, []))
    monkeypatch.setenv("ATOMSTREAM_PEERS", "required")
    with pytest.raises(pytest.fail.Exception, match="expected this to install"):
        peers.install("this", "this")
    with pytest.raises(pytest.fail.Exception, match="expected one of no-such-program on the PATH"):
        peers.find("no-such-program")


def test_it_is_made_once_and_again_for_other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", ends(0, told))
    for requirement in ("this==1", "this==1", "this==2"):
        assert peers.install("this", requirement).name == "python"
    assert [command[-1] for command in told if "pip" in command] == ["this==1", "this==2"]
