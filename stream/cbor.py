"""A CBOR message in, plain values out (RFC 8949). Pure; byte strings are views of the message, nothing is copied.

Only what messages need: tags are kept and not acted on, so that none can compute, allocate or call anything.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.errors import FrameError

_MAX_DEPTH = 16
_MAX_ITEMS = 20_000
_FLOATS = {25: ">e", 26: ">f", 27: ">d"}
_SIMPLE = {20: False, 21: True, 22: None, 23: None}
_INDEFINITE = 31
_BREAK = 0xFF


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value with its tag."""

    tag: int
    value: Any


def read_cbor(message: memoryview) -> Any:
    """The one item of a message.

    Parameters
    ----------
    message : memoryview of bytes

    Returns
    -------
    int, float, bool, None, str, memoryview, list, dict or Tagged
        Keys of a dict are texts or whole numbers.

    Raises
    ------
    FrameError
        "not_cbor"; nothing else, whatever comes.
    """
    reader = _Reader(message)
    try:
        value = reader.item(0)
    except (ValueError, struct.error) as error:  # text that is not UTF-8, a message that ends early
        raise _bad(str(error)) from None
    if reader.at != message.nbytes:
        raise _bad(f"{message.nbytes - reader.at} bytes too many")
    return value


def _bad(got: str) -> FrameError:
    return FrameError("not_cbor", f"Expected one CBOR item, got {got}: send Stream V2, or choose another dialect")


class _Reader:
    """Where in a message the next item begins."""

    def __init__(self, message: memoryview) -> None:
        self._message = message
        self._items = 0
        self.at = 0

    def item(self, depth: int) -> Any:
        self._items += 1
        if self._items > _MAX_ITEMS or depth > _MAX_DEPTH:
            raise _bad(f"more than {_MAX_ITEMS} items" if depth <= _MAX_DEPTH else f"more than {_MAX_DEPTH} levels")
        first = self._take(1)[0]
        kind, short = first >> 5, first & 0x1F
        if kind == 7:
            return self._simple(short)
        count = None if short == _INDEFINITE else self._count(short)
        if count is None and kind in (0, 1, 6):
            raise _bad(f"the byte {first:#x}")
        return self._of_kind(kind, count, depth + 1)

    def _of_kind(self, kind: int, count: int | None, depth: int) -> Any:
        match kind, count:
            case 0, int():
                return count
            case 1, int():
                return -1 - count
            case 2, int():
                return self._take(count)
            case 2, None:
                return memoryview(b"".join(self._chunks(2)))  # COPY: pieces of a byte string
            case 3, int():
                return str(self._take(count), "utf-8")
            case 3, None:
                return str(b"".join(self._chunks(3)), "utf-8")
            case 4, _:
                return self._several(count, lambda: self.item(depth))
            case 5, _:
                return dict(self._several(count, lambda: (self._key(depth), self.item(depth))))
            case _:
                return Tagged(count or 0, self.item(depth))

    def _take(self, count: int) -> memoryview:
        begin, self.at = self.at, self.at + count
        if self.at > self._message.nbytes:
            raise _bad(f"a message that ends after {self._message.nbytes} bytes")
        return self._message[begin : self.at]

    def _count(self, short: int) -> int:
        if short < 24:
            return short
        if short > 27:
            raise _bad(f"a length of kind {short}")
        return int.from_bytes(self._take(1 << (short - 24)), "big")

    def _several(self, count: int | None, one: Callable[[], Any]) -> list[Any]:
        values: list[Any] = []
        while count != len(values):
            if count is None and self._at_break():
                break
            values.append(one())  # a count that is a lie ends with the message or at the limit of items
        return values

    def _at_break(self) -> bool:
        found = self._message[self.at : self.at + 1] == bytes((_BREAK,))
        self.at += found
        return found

    def _chunks(self, kind: int) -> list[memoryview]:
        chunks: list[memoryview] = []
        while not self._at_break():
            first = self._take(1)[0]
            if first >> 5 != kind or len(chunks) >= _MAX_ITEMS:
                raise _bad(f"a piece of kind {first >> 5} in a string of kind {kind}")
            chunks.append(self._take(self._count(first & 0x1F)))
        return chunks

    def _key(self, depth: int) -> str | int:
        key = self.item(depth)
        if not isinstance(key, str | int):
            raise _bad(f"the key {key!r:.40}")
        return key

    def _simple(self, short: int) -> Any:
        if short in _FLOATS:
            (value,) = struct.unpack(_FLOATS[short], self._take(struct.calcsize(_FLOATS[short])))
            return value
        if short not in _SIMPLE:
            raise _bad(f"the simple value {short}")
        return _SIMPLE[short]
