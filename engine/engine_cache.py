"""Built engines on disk: each under its key, trusted only where key, content and owner are right, else built anew.

A file is a line of JSON (the key and a hash of what follows) and the engine, or the kernels that were compiled as it
ran. Both are code for the GPU: a file that somebody else could have written is not loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.errors import FileError
from engine.tensorrt_build import ShapeRange

ENGINE, KERNELS = "engine", "kernels"  # what is kept under a key

_FORMAT = 4  # of the key, and of what `build` asks for whatever the key
_MOST_BYTES = 4 << 30  # no engine of ours; keeps a file that is no cache from filling the memory
_LOG = logging.getLogger("atomstream")


@dataclass(frozen=True, slots=True)
class EngineKey:
    """All that an engine depends on.

    Attributes
    ----------
    gpu : str
        Name and architecture.
    tensorrt : str
        Module and version.
    network_sha256 : str
        Of the ONNX file as it is compiled, in its precision.
    sizes : ShapeRange
        That it takes.
    precision : str
        "f32", "f16" or "int8".
    workspace_MB : float
        Most that a layer may work in: it decides which kernels are chosen.
    """

    gpu: str
    tensorrt: str
    network_sha256: str
    sizes: ShapeRange
    precision: str
    workspace_MB: float

    def as_json(self) -> str:
        """The key as one line."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True)

    @property
    def file_name(self) -> str:
        """The engine's file: another key is another file."""
        return self.file_of(ENGINE)

    def file_of(self, part: str) -> str:
        """The name of the file that a part is kept in."""
        return f"{hashlib.sha256(self.as_json().encode()).hexdigest()[:24]}.{part}"


class EngineCache:
    """A folder of engines, private to its user.

    Parameters
    ----------
    folder : Path, optional
        `atomstream/engines` in the user's cache folder unless told.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = default_folder() if folder is None else folder

    def load(self, key: EngineKey, part: str = ENGINE) -> bytes | None:
        """The engine of this key, or its kernels; None where none can be trusted, and the log says why."""
        path = self.folder / key.file_of(part)
        try:
            content = _read_private(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            _LOG.warning("%s: expected a cached %s, got %s: built again", path, part, error.strerror or error)
            return None
        header, _, kept = content.partition(b"\n")
        if header != _header(key, part, kept):
            _LOG.warning("%s: expected the %s of this GPU and model, got another or damaged: built again", path, part)
            return None
        return kept

    def store(self, key: EngineKey, content: bytes, part: str = ENGINE) -> None:
        """Keep an engine, or its kernels; a folder that cannot be written to is said and costs it at the next start."""
        self._write(key.file_of(part), _header(key, part, content) + b"\n" + content)

    def load_timing(self, gpu: str, tensorrt: str) -> bytes:
        """What builds on this GPU have learnt; empty where nothing can be trusted. TensorRT checks it once more."""
        try:
            content = _read_private(self.folder / _timing_name(gpu, tensorrt))
        except OSError:
            return b""
        digest, _, timing = content.partition(b"\n")
        return timing if digest == hashlib.sha256(timing).hexdigest().encode() else b""

    def store_timing(self, gpu: str, tensorrt: str, timing: bytes) -> None:
        """Keep it for the next build."""
        if timing:
            self._write(_timing_name(gpu, tensorrt), hashlib.sha256(timing).hexdigest().encode() + b"\n" + timing)

    def _write(self, name: str, content: bytes) -> None:
        """Whole or not at all: two processes may build the same engine at once."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.folder)  # readable by its owner only
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                Path(temporary).replace(self.folder / name)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            _LOG.warning("%s: expected to keep the engine there, got %s: it is not kept", self.folder, error.strerror)


def default_folder() -> Path:
    """Where engines are kept unless told; FileError where the user has no home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "atomstream" / "engines"
    except RuntimeError as error:
        raise FileError(f"Expected a home folder for built engines, got {error}: set XDG_CACHE_HOME") from None


def _read_private(path: Path) -> bytes:
    """Content of a regular file that its user alone may write to; PermissionError otherwise."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        for status in (os.fstat(file.fileno()), os.stat(path.parent)):
            if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise PermissionError(0, "a file or folder that others may write to")
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise PermissionError(0, "something that is no engine")
        return file.read()


def _header(key: EngineKey, part: str, content: bytes) -> bytes:
    return json.dumps({"key": key.as_json(), "part": part, "sha256": hashlib.sha256(content).hexdigest()}).encode()


def _timing_name(gpu: str, tensorrt: str) -> str:
    return f"{hashlib.sha256(f'{gpu} {tensorrt}'.encode()).hexdigest()[:24]}.timing"
