"""DECTRIS Stream V2: one CBOR message in, a frame or the start or end of a series out. Pure, no socket here.

REF: DECTRIS Stream V2 and its CBOR tag 56500; typed arrays are those of RFC 8746.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from numpy.typing import NDArray

from engine.errors import FrameError
from stream.cbor import Tagged, read_cbor
from stream.compression import Packing, unpack
from stream.header import (
    Decoded,
    Message,
    Part,
    Rules,
    SeriesEnd,
    SeriesStart,
    check_shape,
    check_type,
    describe,
    detector_times,
    frame_bytes,
    naming,
    need,
    read_appendix,
    read_series,
    saturated,
    view,
    wrong,
)

_SELF_DESCRIBED, _DATE, _ARRAY, _COMPRESSED = 55799, 0, 40, 56500
_TYPES: dict[int, tuple[str, Literal["<", ">"]]] = {
    64: ("uint8", "<"),
    65: ("uint16", ">"),
    66: ("uint32", ">"),
    67: ("uint64", ">"),
    68: ("uint8", "<"),
    69: ("uint16", "<"),
    70: ("uint32", "<"),
    71: ("uint64", "<"),
    72: ("int8", "<"),
    73: ("int16", ">"),
    74: ("int32", ">"),
    77: ("int16", "<"),
    78: ("int32", "<"),
    81: ("float32", ">"),
    85: ("float32", "<"),
}
_MOST_S = 1e9
_ARMED = "armed_s"  # key of a start for its images: seconds since 1970 that their times count from


def split(parts: Sequence[Part]) -> list[Sequence[Part]]:
    """Each part is a message: a simulator sends the start and the first image as one of two parts."""
    return [(part,) for part in parts]


def decode(parts: Sequence[Part], rules: Rules, start: SeriesStart | None = None) -> Decoded:
    """Read one message.

    Parameters
    ----------
    parts : sequence of one bytes or memoryview
        The pixels are a view of it unless they are compressed.
    rules : Rules
    start : SeriesStart, optional
        Of the series under way, as this function gave it; a receiver that came late has none.

    Raises
    ------
    FrameError
        With the reason it is counted under; nothing else, whatever comes.
    """
    if len(parts) != 1:
        raise FrameError("wrong_parts", f"Expected 1 part of CBOR, got {len(parts)}: is this Stream V1?")
    message = read_cbor(memoryview(parts[0]))
    while isinstance(message, Tagged) and message.tag == _SELF_DESCRIBED:
        message = message.value
    if not isinstance(message, dict):
        raise FrameError("not_cbor", f"Expected a CBOR map, got {type(message).__name__}: send Stream V2")
    series, kind = read_series({"series": message.get("series_id")}), need(message, "type")
    if kind == "image":
        return _image(message, series, rules, start.keys if start is not None and start.series == series else {})
    if kind == "start":
        return SeriesStart(series, _start_keys(message))
    if kind == "end":
        return SeriesEnd(series)
    raise wrong("type", "'start', 'image' or 'end'", kind)


def _start_keys(message: Mapping[str, Any]) -> dict[str, Any]:
    """What a start says of all its images, in our names."""
    appendix = read_appendix(message.get("user_data"))
    return detector_times(message) | appendix | {_ARMED: _seconds(message.get("arm_date"))}


def _image(
    message: Mapping[str, Any], series: str | int | None, rules: Rules, start_keys: Mapping[str, Any]
) -> Message:
    header = {"frame": need(message, "image_id"), "series": series}
    with naming(header):
        pixels = _pixels(_channel(need(message, "data"), rules), rules)
    armed_s = _seconds(message.get("series_date")) or start_keys.get(_ARMED)
    stop_s, real_s = (_rational(message.get(key)) for key in ("stop_time", "real_time"))
    if armed_s is not None and stop_s is not None:
        header["timestamp"] = armed_s + stop_s
    if real_s is not None:
        header["exposure"] = real_s
    merged = {**start_keys, **header, **read_appendix(message.get("user_data")), "frame": header["frame"]}
    return describe(merged | {"series": series}, pixels, saturated(pixels, rules.saturated_counts, True), (_ARMED,))


def _channel(data: object, rules: Rules) -> object:
    """The array of the channel asked for, else of the first: a simulator names it otherwise than its start does."""
    if not isinstance(data, dict) or not data:
        raise wrong("data", "a map of channels", data)
    if rules.channel is None:
        return next(iter(data.values()))
    if rules.channel not in data:
        raise wrong("data", f"a map with the channel {rules.channel!r}", sorted(map(str, data)))
    return data[rules.channel]


def _pixels(array: object, rules: Rules) -> NDArray[Any]:
    match _tagged(array, (_ARRAY,), "an array").value:
        case [[_, _] as announced, contents]:
            shape, typed = check_shape(announced, rules), _tagged(contents, tuple(_TYPES), "a typed array")
        case other:
            raise wrong("data", "[[height, width], typed array]", other)
    dtype = check_type(*_TYPES[typed.tag])
    blob, packing = _blob(typed.value)
    size = frame_bytes(shape, dtype, blob.nbytes, rules)
    return view(blob if packing is None else unpack(blob, packing, size), shape, dtype)


def _blob(value: object) -> tuple[memoryview, Packing | None]:
    """The bytes of a typed array, and how they are compressed."""
    if isinstance(value, memoryview):
        return value, None
    packed = _tagged(value, (_COMPRESSED,), "compressed bytes").value
    match packed:
        case ["bslz4", int() as element, memoryview() as blob]:
            return blob, Packing("bslz4", element, framed=True)
        case ["lz4", _, memoryview() as blob]:
            return blob, Packing("lz4", framed=True)
        case [str() as name, _, memoryview()]:
            raise FrameError("unknown_encoding", f"Expected 'bslz4' or 'lz4', got {name!r:.80}: set the compression")
    raise wrong("data", "[codec, element size, bytes] under tag 56500", packed)


def _tagged(value: object, tags: Sequence[int], what: str) -> Tagged:
    if not isinstance(value, Tagged):
        raise wrong("data", f"{what} under a tag", value)
    if value.tag not in tags:
        raise FrameError("unknown_tag", f"Expected {what} under a tag of {tags}, got {value.tag}: send integers")
    return value


def _rational(value: object) -> float | None:
    """Seconds of [numerator, denominator]; None for what is no such thing: it matters for nothing but the clock."""
    match value:
        case [int() as above, int() as below] if 0 <= above < 2**64 and 0 < below < 2**64:
            return above / below if above / below < _MOST_S else None
    return None


def _seconds(date: object) -> float | None:
    """Since 1970, of an RFC 3339 date: under its tag, or as the plain text that a simulator sends."""
    text = date.value if isinstance(date, Tagged) and date.tag == _DATE else date
    if not isinstance(text, str) or len(text) > 64:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return None if moment.tzinfo is None else max(0.0, moment.timestamp())
    except (ValueError, OverflowError):
        return None
