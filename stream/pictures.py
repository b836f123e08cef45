"""A preview and the atoms of the same frame in, one picture for the browser out.

Pure: nothing here waits or keeps a socket. The overlay's thread.
"""

from __future__ import annotations

import json
import math
import struct
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.messages import Result

COLUMNS = {"y": "<f4", "x": "<f4", "score": "<f4", "sigma_pm": "<f4", "class_id": "|u1", "flags": "|u1"}
_ATOMS_KEPT = 16  # frames whose preview may still come; the publisher sends both in one go
_MAX_CLASSES = 256
_MAX_WARNINGS = 16
_MAX_TEXT = 300  # characters of a name or a warning


@dataclass(frozen=True, slots=True)
class Picture:
    """One message of the WebSocket, but for the time it waited.

    Layout, little-endian: uint32 bytes of JSON, float32 seconds it waited here, the JSON padded with spaces to a
    multiple of 4, then for each atom float32 y, x, score, sigma_pm and uint8 class_id, flags (column after column),
    then the uint8 pixels of the preview. So a browser reads every column in place.
    """

    header: bytes
    body: bytes

    def message(self, waited_s: float) -> bytes:
        """The bytes to send."""
        return struct.pack("<If", len(self.header), waited_s) + self.header + self.body  # COPY: once a browser


class Pairing:
    """Holds the previews and atoms of one source until both of a frame are here."""

    def __init__(self) -> None:
        self._atoms: deque[Result] = deque(maxlen=_ATOMS_KEPT)
        self._preview: Result | None = None

    def take(self, result: Result) -> Picture | None:
        """The picture that this result completes. Raises ValueError for a result that cannot be shown."""
        if result.kind == "preview":
            self._preview = result
            atoms = next((each for each in reversed(self._atoms) if _frame(each) == _frame(result)), None)
        else:
            self._atoms.append(result)
            atoms = result
        preview = self._preview
        if atoms is None or preview is None or _frame(atoms) != _frame(preview):
            return None
        self._preview = None
        return pack(atoms, preview)


def pack(atoms: Result, preview: Result) -> Picture:
    """Preview and atoms of one frame as the browser takes them.

    Raises
    ------
    ValueError
        A value is missing or cannot be: the page would stand still over it.
    """
    columns = [_column(atoms, name) for name in COLUMNS]
    if len({len(column) for column in columns}) != 1:
        raise ValueError(f"columns of {[len(column) for column in columns]} rows")
    header = json.dumps(_header(atoms, preview, len(columns[0]))).encode()
    padded = header + b" " * (-len(header) % 4)
    return Picture(padded, b"".join([*(column.tobytes() for column in columns), preview.arrays["picture"].tobytes()]))


def _frame(result: Result) -> tuple[Any, Any]:
    return result.header.get("series"), result.header.get("frame")


def _column(atoms: Result, name: str) -> NDArray[Any]:
    column = atoms.arrays[name]
    if column.dtype != np.dtype(COLUMNS[name]):
        raise ValueError(f"column {name} of {column.dtype}, expected {COLUMNS[name]}")
    return column


def _header(atoms: Result, preview: Result, count: int) -> dict[str, Any]:
    head = atoms.header
    sampling_A = head["sampling_A"]
    if not (_is_number(sampling_A) and sampling_A > 0):
        raise ValueError(f"sampling_A {sampling_A!r}")
    series = head.get("series")
    return {
        "source": atoms.source,
        "series": series if series is None else _text(series),
        "frame": int(head["frame"]),
        "timestamp": _number(head.get("timestamp")),
        "frame_shape": _shape(head["shape"]),
        "preview_shape": _shape(preview.header["shape"]),
        "sampling_A": sampling_A,
        "count": count,
        "classes": [_text(name) for name in head["classes"][:_MAX_CLASSES]],
        "model": " ".join(_text(head["model"][key]) for key in ("name", "version")),
        "dose_e_A2": _number(head.get("dose_e_A2")),
        "latency_ms": _number(head.get("latency_ms")),
        "frame_interval_ms": _number(head.get("frame_interval_ms")),
        "warnings": [_text(text) for text in head.get("warnings", [])[:_MAX_WARNINGS]],
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: Any) -> float | None:
    return value if _is_number(value) else None


def _shape(value: Any) -> list[int]:
    height, width = (int(size) for size in value)
    if height < 1 or width < 1:
        raise ValueError(f"shape {value!r}")
    return [height, width]


def _text(value: object) -> str:
    return str(value)[:_MAX_TEXT]
