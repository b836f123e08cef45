"""The native envelope: a JSON header and a blob in, a typed Message out; and results as they travel. No socket here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import FrameError
from stream.compression import Packing, unpack
from stream.header import (
    DTYPES,
    Message,
    Part,
    Rules,
    check_shape,
    check_type,
    describe,
    frame_bytes,
    naming,
    need,
    read_json,
    saturated,
    view,
    wrong,
)

__all__ = [
    "DTYPES",
    "PROTOCOL",
    "Message",
    "Part",
    "Result",
    "Rules",
    "decode",
    "decode_result",
    "encode",
    "encode_result",
]

PROTOCOL = 1
_MAX_RESULT_BYTES = 1_000_000  # of a header: it repeats what a frame's said, some of it at six times the length
HTYPE = "array-1.0"

_KEYS = ("htype", "shape", "type", "endianness", "encoding", "protocol")  # not passed on
_DEFAULT = Rules()
_COLUMN_TYPES = {np.dtype(name).newbyteorder("<").str for name in DTYPES}  # others make NumPy fail in many ways
_PLAIN = ("", "none", "raw")  # what senders write for a blob that is not compressed


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One message of the results: its kind, its header, its arrays by name ("picture" for a preview)."""

    kind: str
    source: str
    header: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def decode(parts: Sequence[Part], rules: Rules = _DEFAULT) -> Message:
    """Read one message.

    Parameters
    ----------
    parts : sequence of bytes or memoryview
        JSON header and blob. The pixels are a view of the blob unless it is compressed.
    rules : Rules

    Raises
    ------
    FrameError
        With the reason it is counted under; nothing else, whatever comes.
    """
    if len(parts) != 2:
        raise FrameError("wrong_parts", f"Expected 2 parts (header, blob), got {len(parts)}: send header and blob")
    header = read_json(parts[0])
    with naming(header):
        pixels = _pixels(header, memoryview(parts[1]), rules)
        return describe(header, pixels, saturated(pixels, rules.saturated_counts), _KEYS)


def encode(pixels: NDArray[Any], **header: Any) -> list[bytes | memoryview]:
    """Parts of one message; `header` holds at least `frame`. The blob is a view where memory order allows it."""
    if pixels.dtype.name not in DTYPES:
        raise FrameError("unknown_dtype", f"Expected pixels of {', '.join(DTYPES)}, got {pixels.dtype}: convert them")
    little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    first = {"htype": HTYPE, "protocol": PROTOCOL, "shape": pixels.shape, "type": pixels.dtype.name}
    return [json.dumps(first | header).encode(), little.data.cast("B")]


def encode_result(kind: str, source: str, header: dict[str, Any], blobs: Sequence[NDArray[Any]] = ()) -> list[Any]:
    """Topic, header, one blob an array; the arrays are C-contiguous and little-endian."""
    first = {"htype": f"atomstream-{kind}-1.0", "protocol": PROTOCOL, "source": source}
    return [f"{kind}/{source}".encode(), json.dumps(first | header).encode(), *blobs]


def decode_result(parts: Sequence[Part]) -> Result:
    """Read one message of the results; FrameError where it is none."""
    if len(parts) < 2:
        raise FrameError("wrong_parts", f"Expected topic and header, got {len(parts)} part: connect to the results")
    kind, _, source = bytes(parts[0]).decode("ascii", "replace").partition("/")
    header = read_json(parts[1], _MAX_RESULT_BYTES)
    if header.get("htype") != f"atomstream-{kind}-1.0":
        raise FrameError("wrong_key", f"Expected htype 'atomstream-{kind}-1.0', got {header.get('htype')!r}: update")
    if header.get("protocol") != PROTOCOL:
        raise wrong("protocol", str(PROTOCOL), header.get("protocol"))
    try:
        if kind == "preview":
            height, width = header["shape"]
            arrays = {"picture": np.frombuffer(parts[2], np.uint8).reshape(height, width)}
        else:
            columns = header.get("columns", [])
            arrays = {
                column["name"]: np.frombuffer(part, _column_type(column["dtype"]))
                for column, part in zip(columns, parts[2:], strict=True)
            }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise FrameError("size_mismatch", f"Expected the blobs of the header, got {error}: update both ends") from None
    return Result(kind, source, header, arrays)


def _column_type(name: str) -> np.dtype[Any]:
    if name not in _COLUMN_TYPES:
        raise ValueError(f"the type {name!r:.80}")
    return np.dtype(name)


def _pixels(header: Mapping[str, Any], blob: memoryview, rules: Rules) -> NDArray[Any]:
    _check_kind(header)
    shape, order = _shape(header, rules), header.get("endianness", "little")
    if order not in ("little", "big"):
        raise wrong("endianness", "'little' or 'big'", order)
    dtype = check_type(need(header, "type"), "<" if order == "little" else ">")
    size, packing = frame_bytes(shape, dtype, blob.nbytes, rules), _packing(header, dtype)
    return view(blob if packing is None else unpack(blob, packing, size), shape, dtype)


def _check_kind(header: Mapping[str, Any]) -> None:
    htype = need(header, "htype")
    if htype != HTYPE and not (isinstance(htype, list) and HTYPE in htype):
        raise wrong("htype", repr(HTYPE), htype)
    if header.get("protocol", PROTOCOL) != PROTOCOL:
        raise wrong("protocol", str(PROTOCOL), header["protocol"])


def _shape(header: Mapping[str, Any], rules: Rules) -> tuple[int, ...]:
    shape = need(header, "shape")
    if not isinstance(shape, list):
        raise wrong("shape", "[height, width]", shape)
    listed = isinstance(header["htype"], list)
    width_first = rules.axis_order == "width_first" or (rules.axis_order == "auto" and listed)
    return check_shape(shape[::-1] if width_first else shape, rules)


def _packing(header: Mapping[str, Any], dtype: np.dtype[Any]) -> Packing | None:
    """How the blob is compressed; areaDetector writes the name of its codec."""
    encoding = header.get("encoding")
    if encoding is None or encoding in _PLAIN:
        return None
    packings = {
        "lz4": Packing("lz4"),
        "bslz4": Packing("bslz4", dtype.itemsize),
        "lz4hdf5": Packing("lz4", framed=True),
    }
    if not isinstance(encoding, str) or encoding not in packings:
        raise FrameError(
            "unknown_encoding",
            f"Expected no encoding or {', '.join(packings)}, got {encoding!r:.80}: send the blob uncompressed",
        )
    return packings[encoding]
