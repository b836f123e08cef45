"""What is done of an analysis: one file a block in a folder beside the table, so that a killed one goes on."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import FileError
from stream.blocks import Rows

_PLAN = "plan.json"


class Parts:
    """The folder of one analysis; FileError where it holds parts of another one.

    Parameters
    ----------
    plan : mapping
        All that the rows depend on: files, model, options.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self._folder = folder
        text = json.dumps(plan, indent=1)
        with _writing(folder):
            folder.mkdir(exist_ok=True)
            written = folder / _PLAN
            known = written.read_text(encoding="utf-8") if written.exists() else None
            if known is not None and known != text and any(folder.glob("*.npz")):
                raise FileError(
                    f"{folder}: expected the parts of this analysis, got those of other files, another model or other "
                    "options: give the ones of before, remove the folder, or choose another --output"
                )
            if known != text:
                _replace(written, text.encode())

    def done(self, blocks: int) -> set[int]:
        """Numbers of the blocks that are there."""
        return {number for number in range(blocks) if self._path(number).exists()}

    def save(self, number: int, rows: Rows) -> None:
        """A block is there whole, or not at all."""
        with _writing(self._folder):
            part = self._path(number)
            new = part.with_suffix(".new")
            with new.open("wb") as file:
                np.savez(file, **rows)  # type: ignore[arg-type]
            os.replace(new, part)

    def load(self, number: int) -> Rows:
        """Its rows as they were saved."""
        try:
            with np.load(self._path(number), allow_pickle=False) as part:
                return dict(part)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise FileError(f"{self._path(number)}: expected a part, got {error}: remove it, and run again") from None

    def remove(self) -> None:
        """The table is there: the parts are no longer needed."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.npz"


def _replace(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    os.replace(new, path)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some, and run again; it goes on" if full else "choose an --output that can be written"
        raise FileError(f"{folder}: expected room for the parts, got {error.strerror}: {remedy}") from None
