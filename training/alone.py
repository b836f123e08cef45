"""One writer a folder: a second command into it is told so, before anything is done."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine import FileError
from engine.errors import writing


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Only this process writes to a folder that is there; FileError where another one does already, or nobody may."""
    with writing(folder, "a place to write to", "choose another --folder"):
        lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileError(
                f"{folder}: expected nobody else to write here, got another `atomstream-train` that does: "
                "let it end, or choose another --folder"
            ) from None
        except OSError:  # a file system that has no locks, as those of clusters may, goes without
            pass
        yield
    finally:
        os.close(lock)
