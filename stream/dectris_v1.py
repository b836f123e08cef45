"""DECTRIS Stream V1: JSON and blobs in, a frame or the start or end of a series out. Pure, no socket here.

REF: DECTRIS SIMPLON API, stream interface: dheader-1.0, dimage-1.0, dimage_d-1.0, dconfig-1.0, dseries_end-1.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from numpy.typing import NDArray

from engine.errors import FrameError
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
    read_json,
    read_series,
    saturated,
    view,
    wrong,
)

_ENCODING = re.compile(r"(?:bs(8|16|32|64)-)?(lz4)?([<>])")
_TABLES = ("flatfield-1.0", "pixelmask-1.0", "countrate_table-1.0")  # a blob follows; one simulator leaves out the d
_CONFIG = ("count_time", "frame_time", "bit_depth_image", "detector_number")  # two of them make a configuration
_FIRST = re.compile(rb'"htype"\s*:\s*"(dheader|dimage|dseries_end)-1\.0"')  # what the first part of a message says
_MAX_FIRST = 1024  # bytes of such a part
_NS = 1e-9


def split(parts: Sequence[Part]) -> list[Sequence[Part]]:
    """The messages in what came at once: a simulator sends the header, the configuration and the first image as one."""
    starts, kind = [0], b""
    for at, part in enumerate(parts):
        blob = kind == b"dimage" and at == starts[-1] + 2
        found = None if blob or len(part) > _MAX_FIRST else _FIRST.search(part)
        if found is not None:
            kind = found[1]
            starts += [at] if at else []
    return [parts[begin:end] for begin, end in zip(starts, [*starts[1:], len(parts)], strict=True)]


def decode(parts: Sequence[Part], rules: Rules, start: SeriesStart | None = None) -> Decoded:
    """Read one message.

    Parameters
    ----------
    parts : sequence of bytes or memoryview
        The pixels are a view of the third unless they are compressed.
    rules : Rules
    start : SeriesStart, optional
        Of the series under way, as this function gave it; a receiver that came late has none.

    Raises
    ------
    FrameError
        With the reason it is counted under; nothing else, whatever comes.
    """
    if not parts:
        raise FrameError("wrong_parts", "Expected parts of Stream V1, got none: choose another dialect")
    header = read_json(parts[0])
    kind = header.get("htype")
    if kind == "dimage-1.0":
        series = read_series(header)
        return _image(header, parts, rules, start.keys if start is not None and start.series == series else {})
    if kind == "dseries_end-1.0":
        return SeriesEnd(read_series(header))
    if kind == "dheader-1.0":
        return SeriesStart(read_series(header), _start_keys(parts[1:]))
    if _is_table(header) or (kind is None and _is_configuration(header)):
        return SeriesStart(None, _start_keys(parts))  # of one simulator, which sends the rest as messages of their own
    need(header, "htype")
    raise wrong("htype", "a part of Stream V1", kind)


def _start_keys(parts: Sequence[Part]) -> dict[str, Any]:
    """What the configuration and an appendix say of all images, in our names."""
    keys: dict[str, Any] = {}
    for part in _without_tables(parts):
        said = read_appendix(part)
        keys |= detector_times(said) if _is_configuration(said) else said
    return keys


def _is_configuration(said: Mapping[str, Any]) -> bool:
    """Whether these are the detector's words; a user may have one of them in an appendix."""
    return sum(key in said for key in _CONFIG) > 1


def _without_tables(parts: Sequence[Part]) -> Iterator[Part]:
    """The parts that are neither the header nor the blob of a table (flat field, pixel mask, count rates)."""
    remaining = iter(parts)
    for part in remaining:
        if _is_table(read_appendix(part)):
            next(remaining, None)
        else:
            yield part


def _is_table(header: Mapping[str, Any]) -> bool:
    return str(header.get("htype")).removeprefix("d") in _TABLES


def _image(header: Mapping[str, Any], parts: Sequence[Part], rules: Rules, start_keys: Mapping[str, Any]) -> Message:
    if len(parts) < 3:
        raise FrameError(
            "wrong_parts", f"Expected image, description, blob and times, got {len(parts)} parts: send them as one"
        )
    own = {"frame": header.get("frame"), "series": header.get("series")}
    with naming(own):
        pixels = _pixels(read_json(parts[1]), memoryview(parts[2]), rules)
    times = read_json(parts[3]) if len(parts) > 3 else {}
    appendix = read_appendix(parts[4]) if len(parts) > 4 else {}
    real_ns = times.get("real_time")
    if isinstance(real_ns, int | float) and 0 < real_ns < 1e18:
        own["exposure"] = real_ns * _NS
    merged = {**start_keys, **appendix, **own}
    return describe(merged, pixels, saturated(pixels, rules.saturated_counts, True))


def _pixels(description: Mapping[str, Any], blob: memoryview, rules: Rules) -> NDArray[Any]:
    if description.get("htype") != "dimage_d-1.0":
        raise wrong("htype", "'dimage_d-1.0' in the second part", description.get("htype"))
    announced = need(description, "shape")
    if not isinstance(announced, list) or len(announced) != 2:
        raise wrong("shape", "[width, height]", announced)
    shape = check_shape(announced[::-1], rules)
    packing, order = _packing(need(description, "encoding"))
    dtype = check_type(need(description, "type"), order)
    size = frame_bytes(shape, dtype, blob.nbytes, rules)
    return view(blob if packing is None else unpack(blob, packing, size), shape, dtype)


def _packing(encoding: object) -> tuple[Packing | None, Literal["<", ">"]]:
    """How a blob is compressed, and its byte order; the bits of "bs32-lz4<" need not be those of the type."""
    found = _ENCODING.fullmatch(encoding) if isinstance(encoding, str) else None
    if found is None or (found[1] and not found[2]):
        raise FrameError(
            "unknown_encoding", f"Expected '<', 'lz4<' or 'bs16-lz4<', got {encoding!r:.80}: set the compression"
        )
    order: Literal["<", ">"] = "<" if found[3] == "<" else ">"
    if not found[2]:
        return None, order
    return Packing("bslz4", int(found[1]) // 8, framed=True) if found[1] else Packing("lz4"), order
