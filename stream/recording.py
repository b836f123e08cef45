"""What serve and a recorder say to each other: `Report` one way, `Record` the other. Pure functions, no socket here.

serve sends topic, JSON header and one blob a column, as in its results, and the pixels as the last blob where they are
recorded. A recorder answers with reports: what is on its disk, what it lost, how much may be on the way to it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import FrameError
from stream.accounting import GAPS
from stream.messages import DTYPES, PROTOCOL, Part, encode_result

MAX_REPORT_BYTES = 4096

_MAX_HEADER_BYTES = 1_000_000
_MAX_COLUMNS = 64
_MAX_PIXELS = 67_108_864
_MAX_INT = 2**53
_MAX_TEXT = 1000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Report:
    """A recorder's state, said at least twice a second.

    Attributes
    ----------
    recorder : str
        Tells one recorder from another.
    run : str or None
        The run of serve that it records; None while it knows none.
    written : int
        Number of the last message that is on its disk.
    window : int
        Bytes that may be on the way to it.
    lost : dict
        Results it could not write since the last report, by reason.
    fault : str or None
        Why, for people.
    """

    recorder: str
    run: str | None = None
    written: int = 0
    window: int = 1
    lost: dict[str, int] = field(default_factory=dict)
    fault: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One message of serve: kind "begin", "atoms", "end" or "replaced", its header, its columns, the pixels if any."""

    kind: str
    header: dict[str, Any]
    columns: dict[str, NDArray[Any]]
    pixels: NDArray[Any] | None = None


def encode_report(report: Report) -> bytes:
    """One part of JSON."""
    fault = report.fault[:_MAX_TEXT] if report.fault else None
    return json.dumps(asdict(report) | {"protocol": PROTOCOL, "fault": fault}).encode()


def decode_report(part: Part) -> Report:
    """FrameError for what is none."""
    raw = _read_json(part, MAX_REPORT_BYTES)
    lost = raw.get("lost", {})
    counts = [raw.get("written"), raw.get("window"), *(lost.values() if isinstance(lost, dict) else [None])]
    texts = [raw.get("recorder"), raw.get("run") or "", raw.get("fault") or ""]
    if (
        raw.get("protocol") != PROTOCOL
        or not all(type(count) is int and 0 <= count < _MAX_INT for count in counts)
        or not all(isinstance(text, str) and len(text) <= _MAX_TEXT for text in texts)
        or not set(lost) <= set(GAPS)
    ):
        raise FrameError("wrong_key", f"Expected the report of a recorder, got {raw!r:.200}: update both ends")
    return Report(raw["recorder"], raw.get("run"), raw["written"], raw["window"], lost, raw.get("fault"))


def encode_record(
    kind: str,
    source: str,
    header: dict[str, Any],
    columns: Sequence[NDArray[Any]] = (),
    pixels: NDArray[Any] | None = None,
) -> list[Any]:
    """Parts of one message; columns and pixels are views, and travel as little-endian."""
    if pixels is None:
        return encode_result(kind, source, header, columns)
    little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    described = {"shape": little.shape, "type": little.dtype.name}
    return encode_result(kind, source, header | {"pixels": described}, [*columns, little])


def decode_record(parts: Sequence[Part]) -> Record:
    """FrameError for what is none: every size is checked, nothing but views is made."""
    if len(parts) < 2:
        raise FrameError("wrong_parts", f"Expected topic and header, got {len(parts)} part: connect to serve's record")
    kind = bytes(parts[0][:64]).partition(b"/")[0].decode("ascii", "replace")
    header = _read_json(parts[1], _MAX_HEADER_BYTES)
    if header.get("htype") != f"atomstream-{kind}-1.0":
        raise FrameError("wrong_key", f"Expected the htype of {kind!r}, got {header.get('htype')!r:.80}: update it")
    described = header.get("pixels")
    blobs = [memoryview(part) for part in parts[2:]]
    pixels = None if described is None else _pixels(described, blobs.pop() if blobs else memoryview(b""))
    return Record(kind, header, _columns(header.get("columns", []) if kind == "atoms" else [], blobs), pixels)


def _read_json(part: Part, most: int) -> dict[str, Any]:
    if len(part) > most:
        raise FrameError("too_large", f"Expected at most {most} bytes of header, got {len(part)}: send fewer keys")
    try:
        header = json.loads(bytes(part))
    except (ValueError, RecursionError) as error:
        raise FrameError("not_json", f"Expected a JSON header, got {type(error).__name__}: update both ends") from None
    if not isinstance(header, dict):
        raise FrameError("not_json", f"Expected a JSON object, got {type(header).__name__}: update both ends")
    return header


def _columns(described: Any, blobs: Sequence[memoryview]) -> dict[str, NDArray[Any]]:
    """Columns of one length, by name."""
    try:
        if len(described) != len(blobs) or len(blobs) > _MAX_COLUMNS:
            raise ValueError(f"{len(blobs)} blobs for {len(described)} columns")
        columns = {}
        for column, blob in zip(described, blobs, strict=True):
            name, dtype = column["name"], np.dtype(column["dtype"])
            if not _NAME.fullmatch(name) or dtype.name not in DTYPES:
                raise ValueError(f"a column {name!r:.80} of {dtype}")
            columns[name] = np.frombuffer(blob, dtype)
        if len({len(values) for values in columns.values()}) > 1:
            raise ValueError("columns of different lengths")
    except (KeyError, TypeError, ValueError) as error:
        cause = f"Expected the columns of the header, got {error}: update both ends"
        raise FrameError("size_mismatch", cause) from None
    return columns


def _pixels(described: Any, blob: memoryview) -> NDArray[Any]:
    shape, name = (described.get("shape"), described.get("type")) if isinstance(described, dict) else (None, None)
    if (
        name not in DTYPES
        or not isinstance(shape, list)
        or len(shape) not in (2, 3)
        or not all(type(size) is int and 0 < size <= _MAX_PIXELS for size in shape)
        or math.prod(shape) > 3 * _MAX_PIXELS
        or math.prod(shape) * np.dtype(name).itemsize != blob.nbytes
    ):
        raise FrameError(
            "size_mismatch",
            f"Expected pixels as described, got {described!r:.80}, {blob.nbytes} bytes: update both ends",
        )
    return np.frombuffer(blob, np.dtype(name).newbyteorder("<")).reshape(shape)
