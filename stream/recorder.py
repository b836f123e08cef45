"""The recorder's side of a recording: records in, a growing file out, reports back. No socket here, one thread.

What it reports as written is in the file for whoever opens it, at most a moment after it came.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import FileError, FrameError
from stream.archive import Archive
from stream.journal import log
from stream.messages import Part
from stream.recording import Record, Report, decode_record

SETTLE_S = 0.25  # from flush to flush: with what is on its way, well within the last second

_WINDOW = 64_000_000  # bytes on their way, or collected
_SETTLE_BYTES = _WINDOW // 4


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a recording."""

    output: str
    frames: int
    atoms: int
    gaps: dict[str, int]
    images_left_out: int


class Recorder:
    """One recording of one run of serve.

    Parameters
    ----------
    path : Path
        The file; it is there from the first result on.
    reserve_bytes : int
        What stays free on the disk: below it results are gaps, and the file waits for room.
    """

    def __init__(
        self, path: Path, compression: str, reserve_bytes: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._compression = compression
        self._reserve = reserve_bytes
        self._now = now
        self._name = uuid.uuid4().hex
        self._begin: dict[str, Any] | None = None
        self._archive: Archive | None = None
        self._expected = 1
        self._written = 0
        self._unreadable = 0
        self._room = self._free()
        self._collected = 0
        self._early: list[tuple[int, int, str, float]] = []  # gaps from before the file
        self._gaps: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()  # since the last report
        self._fault: str | None = None
        self._full = False
        self._settled_s = now()
        self.ended: str | None = None  # why, once it has

    def take(self, parts: Sequence[Part]) -> None:
        """One message of serve."""
        try:
            record = decode_record(parts)
        except FrameError as error:
            self._refuse(error)
            return
        if record.kind == "begin":
            self._take_begin(record.header)
        elif record.kind == "atoms" and self._begin is not None:
            self._take_atoms(record, sum(memoryview(part).nbytes for part in parts))
        elif record.kind == "end" and self._begin is not None:
            last = record.header.get("last")
            self._miss(self._expected, last + 1 if type(last) is int else self._expected, "stopping")
            self.ended = "serve has ended"
        elif record.kind == "replaced":
            self.ended = "another recorder took its place"

    @property
    def due(self) -> bool:
        """It is time to settle and to report."""
        return self._now() - self._settled_s >= SETTLE_S or self._collected >= _SETTLE_BYTES

    def settle(self) -> Report:
        """Bring what was collected into the file, look how much room is left, and say so."""
        self._settled_s = self._now()
        if self._archive is not None:
            self._archive.flush()
        self._written = self._expected - 1
        self._collected = 0
        self._room = self._free()
        # Once it was full, room for a while: at the edge it would be lost and gone on with several times a second.
        if self._full and self._room >= _SETTLE_BYTES:
            self._full = False
            self._tell(f"{self._path}: there is room on the disk again, recording goes on")
        run = None if self._begin is None else self._begin["run"]
        report = Report(self._name, run, self._written, _WINDOW, dict(self._lost), self._fault)
        self._lost.clear()
        self._fault = None
        return report

    def failed(self, error: FileError) -> Report:
        """The last report of a recorder that cannot go on: what it wrote before stays written."""
        return Report(self._name, None if self._begin is None else self._begin["run"], self._written, 1, {}, str(error))

    def finish(self) -> Summary:
        """Close the file."""
        archive = self._archive
        if archive is None and self._begin is not None:
            archive = self._archive = self._open(None)
        if archive is None:
            return Summary(str(self._path), 0, 0, {}, 0)
        archive.close()
        return Summary(str(self._path), archive.frames, archive.atoms, dict(self._gaps), archive.images_left_out)

    def _take_begin(self, header: dict[str, Any]) -> None:
        if self._begin is not None:
            self.ended = "serve was started anew"
            return
        first, run = header.get("first"), header.get("run")
        if type(first) is not int or first < 1 or not isinstance(run, str):
            self._refuse(FrameError("wrong_key", f"Expected a run and a first number, got {run!r:.80}, {first!r:.80}"))
            return
        self._begin = header
        self._expected = first

    def _take_atoms(self, record: Record, size: int) -> None:
        number = record.header.get("record")
        if type(number) is not int or number < self._expected:
            return  # sent again after a connection was lost
        self._miss(self._expected, number, "buffer_full")
        self._expected = number + 1
        if self._full or self._collected + size > self._room:
            self._lose_to_full_disk(number)
            return
        self._collected += size
        if self._archive is None:
            self._archive = self._open(record)
        left_out = self._archive.images_left_out
        try:
            self._archive.add(record)
        except FrameError as error:
            self._refuse(error)
            self._unreadable -= 1
            self._miss(number, number + 1, "unreadable")
        if left_out == 0 < self._archive.images_left_out and record.pixels is not None:
            self._tell(
                f"{self._path}: expected frames like the first, got {record.pixels.shape} {record.pixels.dtype}: "
                "their atoms are recorded, their pixels are not; begin another recording"
            )

    def _miss(self, first: int, stop: int, reason: str) -> None:
        """Results from `first` up to before `stop` are missing; those that could not be read are told apart."""
        unreadable = min(self._unreadable, max(0, stop - first)) if reason == "buffer_full" else 0
        self._unreadable -= unreadable
        for start, count, why in (
            (first, unreadable, "unreadable"),
            (first + unreadable, stop - first - unreadable, reason),
        ):
            if count <= 0:
                continue
            self._gaps[why] += count
            if why in ("unreadable", "disk_full"):  # of the others serve knows
                self._lost[why] += count
            if self._archive is None:
                self._early.append((start, count, why, time.time()))
            else:
                self._archive.gap(start, count, why, time.time())

    def _open(self, first: Record | None) -> Archive:
        assert self._begin is not None
        archive = Archive(self._path, self._begin, first, self._compression)
        for gap in self._early:
            archive.gap(*gap)
        self._early.clear()
        return archive

    def _lose_to_full_disk(self, number: int) -> None:
        self._miss(number, number + 1, "disk_full")
        if not self._full:
            self._full = True
            self._tell(
                f"{self._path}: expected {self._reserve / 1e6:g} MB to stay free on the disk, got less: "
                "results are lost until there is room; free some, or record elsewhere"
            )

    def _refuse(self, error: FrameError) -> None:
        self._unreadable += 1
        self._tell(str(error))

    def _tell(self, message: str) -> None:
        log.warning("%s", message)
        self._fault = message

    def _free(self) -> int:
        try:
            return shutil.disk_usage(self._path.parent).free - self._reserve
        except OSError as error:
            raise FileError(
                f"{self._path}: expected a folder to record to, got {error.strerror}: make it, or choose another"
            ) from None
