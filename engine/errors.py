"""The errors a user of Atomstream can see.

AtomstreamError
+-- ConfigError      an option or a combination of options that cannot work
+-- ModelError       a model that is unknown, damaged or not fit for this machine
|   +-- DeviceError  a GPU that does not answer any more, or never did
+-- FrameError       a frame that cannot be processed; carries the reason it is counted under
+-- FileError        a file that cannot be read or written

Each message says what was expected, what came, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

_Error = TypeVar("_Error", bound=BaseException)


class AtomstreamError(Exception):
    """Base of every error that is told to the user in one line."""


class ConfigError(AtomstreamError):
    """An option or a combination of options that cannot work."""


class ModelError(AtomstreamError):
    """A model that is unknown, damaged or not fit for this machine."""


class DeviceError(ModelError):
    """A GPU that does not answer any more, or never did."""


class FileError(AtomstreamError):
    """A file that cannot be read or written."""


class FrameError(AtomstreamError):
    """A frame that cannot be processed.

    ``reason`` is the label it is counted under, for example ``"no_sampling"``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@contextmanager
def writing(path: Path, expected: str, remedy: str) -> Iterator[None]:
    """FileError, one line with the remedy, where the disk is full or nothing can be written there."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or one_line(error)[:80]
        raise FileError(f"{path}: expected {expected}, got {cause}: {remedy}") from None


def write_whole(path: Path, content: bytes, expected: str, remedy: str) -> None:
    """In the place of what is there, whole or not at all; FileError where that fails, as `writing` has it."""
    partial = path.with_name(f".{path.name}.part")
    try:
        with writing(path, expected, remedy):
            partial.write_bytes(content)
            partial.replace(path)
    except FileError:
        with suppress(OSError):
            partial.unlink()
        raise


def one_line(error: BaseException) -> str:
    """What a library says, without its line ends."""
    return " ".join(str(error).split())


def emptied(error: _Error) -> _Error:
    """The error, without what its traceback and those of the errors it came from hold on to: the locals of each step.

    For an error that is kept while there is another try: what was made of the first may be GPU memory.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
