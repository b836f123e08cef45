"""Which files of a folder are new and complete, in the order in which they were finished. Opens none of them.

It looks when it is asked to; programs that write files say nothing, and no system tells of changes on a network share.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import FileError


@dataclass(frozen=True, slots=True)
class State:
    """What tells one state of a file from another, and from other files."""

    inode: tuple[int, int]
    size: int
    modified_ns: int

    def same_content(self, other: State) -> bool:
        """Nobody wrote to it in between. Some network shares give a file another inode now and then."""
        return (self.size, self.modified_ns) == (other.size, other.modified_ns)


@dataclass(frozen=True, slots=True)
class Mark:
    """How much of a file was dealt with: frames, and what tells the last of them from others."""

    frames: int
    checksum: int


@dataclass(slots=True)
class _Entry:
    state: State
    changed_s: float  # when it was first seen like this
    due_s: float  # when to try it; inf: not before it changes
    wait_s: float  # from one try to the next
    mark: Mark | None = None


class Folder:
    """The files below a folder. Links to folders and hidden names are left alone.

    Parameters
    ----------
    root : Path
    settle_s : float
        A file is complete once it has not changed for so long; it still has to open.
    patience_s : float
        One that does not open is tried again for so long.
    everything : bool
        Also what is there already.
    clock : function
        Seconds, from any start.
    """

    def __init__(
        self, root: Path, settle_s: float, patience_s: float, everything: bool, clock: Callable[[], float]
    ) -> None:
        self.root, self._settle_s, self._patience_s, self._clock = root, settle_s, patience_s, clock
        if not root.is_dir():
            got = "a file" if root.exists() else "nothing of that name"
            raise FileError(f"{root}: expected a folder to follow, got {got}: check the path")
        self._identity = _identity(root)
        self._entries: dict[Path, _Entry] = {}
        self._took_s = 0.0
        self.look()
        if not everything:
            for path in self._entries:
                self.done(path)

    @property
    def pause_s(self) -> float:
        """How long to wait before the next look: never are more than half of the seconds spent on looking."""
        return max(self._settle_s / 2, self._took_s)

    @property
    def waiting(self) -> int:
        """Files that are not complete yet, or to be tried again."""
        return sum(entry.due_s < math.inf for entry in self._entries.values())

    def look(self) -> list[Path]:
        """Files to try now. Every one is to be answered by `done` or `retry`."""
        now_s = self._clock()
        if not self._is_there():
            return []
        found = dict(self._scan())
        self._note(found, now_s)
        self._forget(found)
        self._took_s = self._clock() - now_s
        due = [path for path in found if self._entries[path].due_s <= now_s]
        return sorted(due, key=lambda path: (self._entries[path].state.modified_ns, _natural(path)))

    def unchanged(self, path: Path) -> bool:
        """Whether the file is still as the last look found it."""
        state = _state(path)
        return state is not None and state.same_content(self._entries[path].state)

    def mark(self, path: Path) -> Mark | None:
        """What was noted of this file last, also under another name and before it changed."""
        return self._entries[path].mark

    def note(self, path: Path, mark: Mark) -> None:
        """Keep for this file how much of it was dealt with."""
        self._entries[path].mark = mark

    def done(self, path: Path) -> None:
        """Leave this file until it changes."""
        self._entries[path].due_s = math.inf

    def retry(self, path: Path) -> bool:
        """Try this file again later; False once that has been done for long enough."""
        entry, now_s = self._entries[path], self._clock()
        if now_s - entry.changed_s >= self._patience_s:
            self.done(path)
            return False
        # Ever more seldom: what takes long to fail must not be all that is done.
        entry.due_s, entry.wait_s = now_s + entry.wait_s, 2 * entry.wait_s
        return True

    def _is_there(self) -> bool:
        """Not while a share is unmounted: what its empty place does not hold is not gone."""
        try:
            return _identity(self.root) == self._identity
        except OSError:
            return False

    def _scan(self) -> Iterator[tuple[Path, State]]:
        folders = [self.root]
        while folders:
            try:
                with os.scandir(folders.pop()) as entries:
                    # Links last: what they lead to is known by its own name, if that is here too.
                    for entry in sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name)):
                        if entry.name.startswith("."):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(Path(entry.path))
                        elif (state := _state(Path(entry.path))) is not None:
                            yield Path(entry.path), state
            except OSError:  # a folder that went, or that is not ours to read
                continue

    def _note(self, found: dict[Path, State], now_s: float) -> None:
        paths = {entry.state: path for path, entry in self._entries.items()}
        for path, state in found.items():
            entry, other = self._entries.get(path), paths.setdefault(state, path)
            if entry is not None and entry.state.same_content(state):
                continue
            # Renamed; but what only now gets a name that can be read is a new file.
            if entry is None and other not in found and other.suffix == path.suffix:
                self._entries[path] = self._entries.pop(other)
                continue
            mark = None if entry is None else entry.mark
            self._entries[path] = _Entry(state, now_s, now_s + self._settle_s, self._settle_s, mark)
            if other != path and other in found:
                self.done(path)  # another name of the same file

    def _forget(self, found: dict[Path, State]) -> None:
        for path in [path for path in self._entries if path not in found and _is_gone(path)]:
            del self._entries[path]


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _state(path: Path) -> State | None:
    """Of a file or what a link leads to; None for what has no content of its own, or is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for who writes to it
        return None
    return State((status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns)


def _is_gone(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # not ours to see at the moment
        return False
    return False


def _natural(path: Path) -> list[tuple[str, int]]:
    """Frame_10 after Frame_9."""
    return [(text, int(digits or -1)) for text, digits in re.findall(r"(\D*)(\d*)", str(path))]
