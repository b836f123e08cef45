"""The native envelope: a JSON header and a blob in, a typed Message out; and results as they travel. No socket here.

What comes in is hostile: limits hold before anything is allocated, keys that are not used are kept and passed on.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import FrameError

PROTOCOL = 1
HTYPE = "array-1.0"
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")

_MAX_HEADER_BYTES = 65_536
_MAX_AXIS = 65_536
_MAX_TEXT = 256
_MAX_INT = 2**53  # beyond it a JSON reader in a browser no longer counts
_PLAIN = (None, "", "none", "raw")  # what senders write for a blob that is not compressed
_KEYS = ("htype", "shape", "type", "endianness", "encoding", "protocol", "frame", "series", "defocus")
_LEAST = {  # keys of one number, and the smallest each can be
    "timestamp": 0.0,
    "frame_interval": 1e-6,
    "sampling": 1e-6,
    "dose": 0.0,
    "voltage": 0.0,
    "gain": 1e-12,
    "offset": -1e12,
}
_MOST = 1e12

Part = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Rules:
    """How the frames of one source are read."""

    max_bytes: int = 256_000_000
    max_pixels: int = 67_108_864
    axis_order: str = "auto"
    saturated_counts: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """A frame as its sender described it.

    Attributes
    ----------
    number : int
        The sender's own frame number.
    pixels : (H, W) or (3, H, W) array
        A view of the message's memory, or a copy in this machine's byte order.
    mask : (H, W) bool array or None
        True where a pixel is saturated or masked by the detector; None where none is.
    header : dict
        The keys that are not used here.
    """

    number: int
    pixels: NDArray[Any]
    mask: NDArray[np.bool_] | None
    series: str | int | None
    timestamp_s: float | None
    frame_interval_s: float | None
    sampling_A: float | None
    dose_e_A2: float | None
    defocus_A: tuple[float, ...] | None
    voltage_V: float | None
    gain: float | None
    offset: float | None
    header: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One message of the results: its kind, its header, its arrays by name ("picture" for a preview)."""

    kind: str
    source: str
    header: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def decode(parts: Sequence[Part], rules: Rules = Rules()) -> Message:
    """Read one message.

    Parameters
    ----------
    parts : sequence of bytes or memoryview
        JSON header and blob. The pixels are a view of the blob.
    rules : Rules

    Raises
    ------
    FrameError
        With the reason it is counted under; nothing else, whatever comes.
    """
    if len(parts) != 2:
        raise FrameError("wrong_parts", f"Expected 2 parts (header, blob), got {len(parts)}: send header and blob")
    header, blob = _read_json(parts[0]), memoryview(parts[1])
    _check_kind(header)
    shape = _shape(header, rules)
    pixels = _pixels(header, blob, shape, rules)
    return Message(
        number=_frame_number(header),
        pixels=pixels,
        mask=_saturated(pixels, rules.saturated_counts),
        series=_series(header),
        timestamp_s=_number(header, "timestamp"),
        frame_interval_s=_number(header, "frame_interval"),
        sampling_A=_number(header, "sampling"),
        dose_e_A2=_number(header, "dose"),
        defocus_A=_defocus(header, 1 if len(shape) == 2 else shape[0]),
        voltage_V=_number(header, "voltage"),
        gain=_number(header, "gain"),
        offset=_number(header, "offset"),
        header={key: value for key, value in header.items() if key not in _KEYS and key not in _LEAST},
    )


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
    header = _read_json(parts[1])
    if header.get("htype") != f"atomstream-{kind}-1.0":
        raise FrameError("wrong_key", f"Expected htype 'atomstream-{kind}-1.0', got {header.get('htype')!r}: update")
    try:
        if kind == "preview":
            height, width = header["shape"]
            arrays = {"picture": np.frombuffer(parts[2], np.uint8).reshape(height, width)}
        else:
            columns = header.get("columns", [])
            arrays = {
                column["name"]: np.frombuffer(part, np.dtype(column["dtype"]))
                for column, part in zip(columns, parts[2:], strict=True)
            }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise FrameError("size_mismatch", f"Expected the blobs of the header, got {error}: update both ends") from None
    return Result(kind, source, header, arrays)


def _read_json(part: Part) -> dict[str, Any]:
    if len(part) > _MAX_HEADER_BYTES:
        raise FrameError(
            "too_large", f"Expected at most {_MAX_HEADER_BYTES} bytes of header, got {len(part)}: send fewer keys"
        )
    try:
        header = json.loads(bytes(part), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        cause = "nesting too deep" if isinstance(error, RecursionError) else str(error)
        raise FrameError("not_json", f"Expected a JSON header, got {cause}: send plain JSON first") from None
    if not isinstance(header, dict):
        raise FrameError("not_json", f"Expected a JSON object, got {type(header).__name__}: send keys and values")
    return header


def _refuse(text: str) -> None:
    raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]}, which no float holds")
    return value


def _need(header: dict[str, Any], key: str) -> Any:
    if header.get(key) is None:
        raise FrameError("missing_key", f"Expected the key {key!r}, got {sorted(header)!s:.200}: add it to the header")
    return header[key]


def _wrong(key: str, expected: str, got: object) -> FrameError:
    return FrameError("wrong_key", f"Expected {key} to be {expected}, got {got!r:.80}: correct the header")


def _check_kind(header: dict[str, Any]) -> None:
    htype = _need(header, "htype")
    if htype != HTYPE and not (isinstance(htype, list) and HTYPE in htype):
        raise _wrong("htype", repr(HTYPE), htype)
    if header.get("protocol", PROTOCOL) != PROTOCOL:
        raise _wrong("protocol", str(PROTOCOL), header["protocol"])
    encoding = header.get("encoding")
    if encoding not in _PLAIN:
        raise FrameError("unknown_encoding", f"Expected no encoding, got {encoding!r:.80}: send the blob uncompressed")


def _shape(header: dict[str, Any], rules: Rules) -> tuple[int, ...]:
    shape = _need(header, "shape")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise _wrong("shape", "[height, width]", shape)
    listed = isinstance(header["htype"], list)
    if rules.axis_order == "width_first" or (rules.axis_order == "auto" and listed):
        shape = shape[::-1]
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != 3):
        raise _wrong("shape", "[height, width], or [3, height, width] for a defocus triplet", shape)
    if 0 in shape:
        raise FrameError("empty_frame", f"Expected pixels, got the shape {shape}: send whole frames")
    if max(shape) > _MAX_AXIS or math.prod(shape) > rules.max_pixels:
        raise FrameError(
            "too_large", f"Expected at most {rules.max_pixels} pixels, got {shape}: raise the limit or bin"
        )
    return tuple(shape)


def _pixels(header: dict[str, Any], blob: memoryview, shape: tuple[int, ...], rules: Rules) -> NDArray[Any]:
    name, order = _need(header, "type"), header.get("endianness", "little")
    if name not in DTYPES:
        raise FrameError(
            "unknown_dtype", f"Expected a type of {', '.join(DTYPES)}, got {name!r:.80}: convert the pixels"
        )
    if order not in ("little", "big"):
        raise _wrong("endianness", "'little' or 'big'", order)
    dtype = np.dtype(name).newbyteorder("<" if order == "little" else ">")
    size = math.prod(shape) * dtype.itemsize
    if max(size, blob.nbytes) > rules.max_bytes:
        raise FrameError("too_large", f"Expected at most {rules.max_bytes} bytes, got {size}: raise the limit or bin")
    if blob.nbytes != size:
        raise FrameError(
            "size_mismatch",
            f"Expected {size} bytes for {shape} {name}, got {blob.nbytes}: send shape and blob that agree",
        )
    pixels = np.frombuffer(blob, dtype).reshape(shape)
    # COPY: only where the sender's byte order is not ours.
    return pixels if order == sys.byteorder else pixels.astype(dtype.newbyteorder("="))


def _saturated(pixels: NDArray[Any], counts: float | None) -> NDArray[np.bool_] | None:
    """Where a pixel holds no measurement. 255 of an 8-bit picture is content, the end of a wider type is not."""
    if counts is None:
        if pixels.dtype.kind == "f" or pixels.dtype.itemsize == 1:
            return None
        counts = np.iinfo(pixels.dtype).max
    # An exact maximum is faster than a comparison of all pixels, and nearly always says no.
    # Beside a NaN, whose maximum is NaN, only the comparison can tell.
    if counts == 0 or pixels.max() < counts:
        return None
    mask: NDArray[np.bool_] = pixels >= counts
    return mask if mask.ndim == 2 else np.any(mask, axis=0)


def _frame_number(header: dict[str, Any]) -> int:
    number = _need(header, "frame")
    if type(number) is not int or not 0 <= number < _MAX_INT:
        raise _wrong("frame", "a whole number from 0 up", number)
    return number


def _series(header: dict[str, Any]) -> str | int | None:
    series = header.get("series")
    if series is None or (type(series) is int and abs(series) < _MAX_INT):
        return series
    if isinstance(series, str) and len(series) <= _MAX_TEXT:
        return series
    raise _wrong("series", f"a whole number or a text of at most {_MAX_TEXT} characters", series)


def _number(header: dict[str, Any], key: str) -> float | None:
    value = header.get(key)
    if value is None:
        return None
    # bool is an int to Python; and the bounds come before float(), which cannot take every int.
    if type(value) not in (int, float) or not _LEAST[key] <= value <= _MOST:
        raise _wrong(key, f"a number from {_LEAST[key]:g} to {_MOST:g}", value)
    return float(value)


def _defocus(header: dict[str, Any], images: int) -> tuple[float, ...] | None:
    value = header.get("defocus")
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    if len(values) != images or not all(type(one) in (int, float) and abs(one) <= _MOST for one in values):
        raise _wrong("defocus", f"{images} number(s) in A", value)
    return tuple(float(one) for one in values)
