"""What every dialect reads alike: the values a message becomes, and the keys of a header, checked. No socket here.

What comes in is hostile: limits hold before anything is allocated, keys that are not used are kept and passed on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.errors import FrameError

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")

_MAX_HEADER_BYTES = 65_536
_MAX_AXIS = 65_536
_MAX_TEXT = 256
_MAX_INT = 2**53  # beyond it a JSON reader in a browser no longer counts
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
_ESCAPED = b"\\ud"  # how half of a surrogate pair is written
_USED = ("frame", "series", "defocus", *_LEAST)

Part = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Rules:
    """How the frames of one source are read."""

    max_bytes: int = 256_000_000
    max_pixels: int = 67_108_864
    axis_order: str = "auto"
    saturated_counts: float | None = None
    channel: str | None = None


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


@dataclass(frozen=True, slots=True)
class SeriesStart:
    """A detector begins a series, or says more of one begun.

    Attributes
    ----------
    series : str, int or None
        None where the message does not say which: the one begun last.
    keys : dict
        What holds for each of its frames whose own header leaves it out.
    """

    series: str | int | None
    keys: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SeriesEnd:
    """A detector has ended a series. May come twice."""

    series: str | int | None


Decoded = Message | SeriesStart | SeriesEnd


class NamedFrameError(FrameError):
    """A frame that cannot be read but says which it is: it came, and is not missing."""

    def __init__(self, reason: str, message: str, series: str | int | None, number: int) -> None:
        super().__init__(reason, message)
        self.series = series
        self.number = number


@contextmanager
def naming(header: Mapping[str, Any]) -> Iterator[None]:
    """Errors inside are those of the frame that this header names, where it names one."""
    try:
        yield
    except FrameError as error:
        try:
            series, number = read_series(header), _frame_number(header)
        except FrameError:
            raise error from None
        raise NamedFrameError(error.reason, str(error), series, number) from None


def describe(
    header: Mapping[str, Any], pixels: NDArray[Any], mask: NDArray[np.bool_] | None, unused: Collection[str] = ()
) -> Message:
    """The message of these pixels: our keys of the header checked, the others passed on but for the `unused`."""
    return Message(
        number=_frame_number(header),
        pixels=pixels,
        mask=mask,
        series=read_series(header),
        timestamp_s=_number(header, "timestamp"),
        frame_interval_s=_number(header, "frame_interval"),
        sampling_A=_number(header, "sampling"),
        dose_e_A2=_number(header, "dose"),
        defocus_A=_defocus(header, 1 if pixels.ndim == 2 else len(pixels)),
        voltage_V=_number(header, "voltage"),
        gain=_number(header, "gain"),
        offset=_number(header, "offset"),
        header={key: value for key, value in header.items() if key not in _USED and key not in unused},
    )


def read_json(part: Part, most: int = _MAX_HEADER_BYTES) -> dict[str, Any]:
    """A JSON object of plain, finite values; FrameError "not_json" or, of more than `most` bytes, "too_large"."""
    if len(part) > most:
        raise FrameError("too_large", f"Expected at most {most} bytes of header, got {len(part)}: send fewer keys")
    text = bytes(part)
    try:
        header = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        cause = "nesting too deep" if isinstance(error, RecursionError) else str(error)
        raise FrameError("not_json", f"Expected a JSON header, got {cause}: send plain JSON first") from None
    if not isinstance(header, dict):
        raise FrameError("not_json", f"Expected a JSON object, got {type(header).__name__}: send keys and values")
    if _ESCAPED in text.lower() and not _is_text(header):
        raise FrameError("not_json", "Expected text in the JSON header, got half of a surrogate pair: send UTF-8")
    return header


def _is_text(header: dict[str, Any]) -> bool:
    """JSON may hold halves of surrogate pairs, that no file of text can."""
    try:
        json.dumps(header, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def read_appendix(content: object) -> dict[str, Any]:
    """What a user attached to a series or an image: an object, or JSON of one, else a text that is passed on."""
    if isinstance(content, memoryview | bytes):
        content = str(content[:_MAX_HEADER_BYTES], "utf-8", "replace")
    if isinstance(content, str):
        try:
            return read_json(content.encode())
        except FrameError:
            return {"user_data": content[:_MAX_TEXT]} if content else {}
    plain = _plain(content)
    return plain if isinstance(plain, dict) else {}


def detector_times(said: Mapping[str, Any]) -> dict[str, Any]:
    """What DECTRIS calls frame_time and count_time in our names; what is no time is left out."""
    times = {"frame_interval": said.get("frame_time"), "exposure": said.get("count_time")}
    return {key: time for key, time in times.items() if isinstance(time, int | float) and 1e-6 <= time < 1e9}


def need(header: Mapping[str, Any], key: str) -> Any:
    """The value of a key that must be there."""
    if header.get(key) is None:
        raise FrameError(
            "missing_key", f"Expected the key {key!r}, got {sorted(map(str, header))!s:.200}: add it to the header"
        )
    return header[key]


def wrong(key: str, expected: str, got: object) -> FrameError:
    """The error for a key with a value that cannot be."""
    return FrameError("wrong_key", f"Expected {key} to be {expected}, got {got!r:.80}: correct the header")


def check_shape(shape: Sequence[Any], rules: Rules) -> tuple[int, ...]:
    """(H, W) or (3, H, W), within the limits."""
    if not all(type(size) is int and size >= 0 for size in shape):
        raise wrong("shape", "[height, width]", shape)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != 3):
        raise wrong("shape", "[height, width], or [3, height, width] for a defocus triplet", shape)
    if 0 in shape:
        raise FrameError("empty_frame", f"Expected pixels, got the shape {shape}: send whole frames")
    if max(shape) > _MAX_AXIS or math.prod(shape) > rules.max_pixels:
        raise FrameError(
            "too_large", f"Expected at most {rules.max_pixels} pixels, got {shape}: raise the limit or bin"
        )
    return tuple(shape)


def check_type(name: object, order: Literal["<", ">"]) -> np.dtype[Any]:
    """The type of a pixel by its numpy name and byte order."""
    if name not in DTYPES:
        raise FrameError(
            "unknown_dtype", f"Expected a type of {', '.join(DTYPES)}, got {name!r:.80}: convert the pixels"
        )
    return np.dtype(str(name)).newbyteorder(order)


def frame_bytes(shape: tuple[int, ...], dtype: np.dtype[Any], blob_bytes: int, rules: Rules) -> int:
    """How many bytes the pixels take; to be asked before they are allocated."""
    size = math.prod(shape) * dtype.itemsize
    if max(size, blob_bytes) > rules.max_bytes:
        raise FrameError("too_large", f"Expected at most {rules.max_bytes} bytes, got {size}: raise the limit or bin")
    return size


def view(blob: memoryview | NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The blob as pixels in this machine's byte order."""
    size = math.prod(shape) * dtype.itemsize
    if blob.nbytes != size:
        raise FrameError(
            "size_mismatch",
            f"Expected {size} bytes for {shape} {dtype.name}, got {blob.nbytes}: send shape and blob that agree",
        )
    pixels = np.frombuffer(blob, dtype).reshape(shape)
    # COPY: only where the sender's byte order is not ours.
    return pixels if dtype.isnative else pixels.astype(dtype.newbyteorder("="))


def saturated(pixels: NDArray[Any], counts: float | None, bytes_too: bool = False) -> NDArray[np.bool_] | None:
    """Where a pixel holds no measurement: from `counts` up, else at the largest value of an integer type.

    255 of an 8-bit picture is content, the end of a wider type is not; `bytes_too` for detectors that mark it so.
    """
    if counts is None:
        if pixels.dtype.kind == "f" or (pixels.dtype.itemsize == 1 and not bytes_too):
            return None
        counts = np.iinfo(pixels.dtype).max
    # An exact maximum is faster than a comparison of all pixels, and nearly always says no.
    # Beside a NaN, whose maximum is NaN, only the comparison can tell.
    if counts == 0 or pixels.max() < counts:
        return None
    mask: NDArray[np.bool_] = pixels >= counts
    return mask if mask.ndim == 2 else np.any(mask, axis=0)


def read_series(header: Mapping[str, Any]) -> str | int | None:
    """The name or number of a series, None where there is none."""
    series = header.get("series")
    if series is None or (type(series) is int and abs(series) < _MAX_INT):
        return series
    if isinstance(series, str) and len(series) <= _MAX_TEXT:
        return series
    raise wrong("series", f"a whole number or a text of at most {_MAX_TEXT} characters", series)


def _refuse(text: str) -> None:
    raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]}, which no float holds")
    return value


def _plain(value: object) -> Any:
    """What JSON can say of a value; None for the rest."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float) else None


def _frame_number(header: Mapping[str, Any]) -> int:
    number = need(header, "frame")
    if type(number) is not int or not 0 <= number < _MAX_INT:
        raise wrong("frame", "a whole number from 0 up", number)
    return number


def _number(header: Mapping[str, Any], key: str) -> float | None:
    value = header.get(key)
    if value is None:
        return None
    # bool is an int to Python; and the bounds come before float(), which cannot take every int.
    if type(value) not in (int, float) or not _LEAST[key] <= value <= _MOST:
        raise wrong(key, f"a number from {_LEAST[key]:g} to {_MOST:g}", value)
    return float(value)


def _defocus(header: Mapping[str, Any], images: int) -> tuple[float, ...] | None:
    value = header.get("defocus")
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    if len(values) != images or not all(type(one) in (int, float) and abs(one) <= _MOST for one in values):
        raise wrong("defocus", f"{images} number(s) in A", value)
    return tuple(float(one) for one in values)
