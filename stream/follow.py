"""Publish the frames of every file that appears in a folder: for acquisition software that only writes files."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, FileError
from stream.files import KINDS, Recording, pixel_size_A, read_frames
from stream.folder import Folder, Mark
from stream.journal import Journal
from stream.sender import Exposure, add_sender_arguments, run_sender

HELP = "publish every frame that other software writes into a folder"

_LONGEST_NAME = 256  # what a header holds of a path


class Follower:
    """Frames of the files of a folder, as these are completed. Iterable, without end.

    Parameters
    ----------
    folder : Folder
    sampling_A : float or None
        For files that do not say it, or say it wrongly.
    header : mapping
        What the header says of every frame.
    sleep, clock : functions
        As of `time`.
    """

    def __init__(
        self,
        folder: Folder,
        sampling_A: float | None,
        header: Mapping[str, Any],
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._sampling_A, self._header, self._sleep = folder, sampling_A, header, sleep
        self._journal = Journal(lambda reason, message: None, clock, "follow")
        self._unknown: set[str] = set()
        self.files = 0
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Exposure]:
        while True:
            for path in self._folder.look():
                yield from self._file(path)
            self._sleep(self._folder.pause_s)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.skipped.items()))
        waiting = f", {self._folder.waiting} not complete yet" if self._folder.waiting else ""
        return f"{self.files} files sent, skipped: {reasons or 'none'}{waiting}"

    def _file(self, path: Path) -> Iterator[Exposure]:
        """What is new in a file. One that cannot be read is tried again, for it may not be complete, or is skipped."""
        if path.suffix.lower() not in KINDS:
            self._skip_unknown(path)
            return
        try:
            with read_frames(path) as recording:
                if recording.elsewhere:  # and each of those files is sent by itself
                    self._folder.done(path)
                    self.skipped["names_others"] += 1
                else:
                    yield from self._frames(path, recording)
        except ConfigError as error:
            self._skip(path, "no_reader", error)
        except FileError as error:
            if not path.exists():
                self._skip(path, "gone", error)
            elif not self._folder.retry(path):
                self._skip(path, "unreadable", error)

    def _frames(self, path: Path, recording: Recording) -> Iterator[Exposure]:
        try:
            sampling_A = pixel_size_A(recording, self._sampling_A)
        except FileError as error:
            self._skip(path, "no_sampling", error)
            return
        said = {**self._header, "sampling": sampling_A, "file": self._name(path)}
        first = self._first_new(path, recording)
        for number in range(first, len(recording)):
            pixels = recording[number]
            if not self._folder.unchanged(path):
                return  # somebody still writes to it: the next look begins to wait for the end of that
            yield pixels, {**said, "image": number}
            self._folder.note(path, Mark(number + 1, zlib.crc32(pixels.data)))
        self._folder.done(path)
        self.files += len(recording) > first

    def _first_new(self, path: Path, recording: Recording) -> int:
        """After the last frame that was sent, where that is still in its place; else the file was written anew."""
        mark = self._folder.mark(path)
        if mark is None or mark.frames > len(recording):
            return 0
        return mark.frames if zlib.crc32(recording[mark.frames - 1].data) == mark.checksum else 0

    def _name(self, path: Path) -> str:
        """Below the folder; a name that is no text would break those who keep the header."""
        return os.fsencode(path.relative_to(self._folder.root)).decode("utf-8", "replace")[-_LONGEST_NAME:]

    def _skip(self, path: Path, reason: str, error: Exception | str) -> None:
        self._folder.done(path)
        self.skipped[reason] += 1
        self._journal.fault(reason, error)

    def _skip_unknown(self, path: Path) -> None:
        """Notes beside the frames are no fault to repeat: each kind is told once."""
        self._folder.done(path)
        self.skipped["unknown_kind"] += 1
        if path.suffix not in self._unknown:
            self._unknown.add(path.suffix)
            kinds = ", ".join(KINDS)
            told = f"{path}: expected a name in {kinds}, got {path.suffix!r}: left out, as all others of this kind"
            print(told, file=sys.stderr, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `atomstream follow`."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="and the folders in it")
    parser.add_argument("--all", action="store_true", help="also the files that are there already, oldest first")
    parser.add_argument("--sampling", type=_positive, help="A/px, for files that do not say it or say it wrongly")
    add_sender_arguments(parser, rate_Hz=0.0)
    settle = "seconds without a change after which a file is taken to be complete (0.2)"
    parser.add_argument("--settle", type=_positive, default=0.2, help=settle)
    patience = "seconds for which a file that cannot be read is tried again (10)"
    parser.add_argument("--patience", type=_positive, default=10.0, help=patience)
    parser.add_argument("--dose", type=_positive, help="e/A^2 in a frame, if known")
    parser.add_argument("--source", default="follow", metavar="NAME", help="what the header calls the sender (follow)")


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"expected a number over 0, got {text}")
    return number


def run(options: argparse.Namespace, sleep: Callable[[float], None] = time.sleep) -> int:
    """Send what appears until Ctrl-C, then say what was sent and what was not."""
    folder = Folder(options.folder, options.settle, options.patience, options.all, time.monotonic)
    header: dict[str, Any] = {"source": options.source}
    if options.dose is not None:
        header["dose"] = options.dose
    follower = Follower(folder, options.sampling, header, sleep)
    status = run_sender(follower, options)
    print(follower, file=sys.stderr, flush=True)
    return status
