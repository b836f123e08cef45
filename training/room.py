"""What a command that goes on where it stopped expects of a disk, and what to do where that is full. Needs no torch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from engine.errors import writing


def room(path: Path) -> AbstractContextManager[None]:
    """FileError where there is none for what is written to a path."""
    return writing(path, "room", "free some, and run it again; it goes on")
