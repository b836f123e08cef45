"""One writer a folder, and one line where there can be none."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from engine import FileError
from training.alone import alone


def test_a_second_writer_is_told_of_the_first(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(FileError, match="expected nobody else to write here"), alone(tmp_path):
        pass
    with alone(tmp_path):  # free again
        pass


@pytest.mark.parametrize("code", [errno.EACCES, errno.EMFILE])
def test_a_folder_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("training.alone.os.open", refuse)
    said = f"{tmp_path}: expected a place to write to, got {os.strerror(code)}: choose another --folder"
    with pytest.raises(FileError) as refused, alone(tmp_path):
        pass
    assert str(refused.value) == said
