"""The dialects that frames come in, by name: what is chosen by the option `dialect`. Pure functions, no socket here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stream import dectris_v1, dectris_v2, messages
from stream.compression import require_codecs
from stream.header import Decoded, Part, Rules, SeriesStart


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a source writes.

    Attributes
    ----------
    split : callable
        The messages that came as the parts of one of ZeroMQ's: a simulator sends whatever it has at once. Never raises.
    decode : callable
        One of these messages; FrameError with its reason, and nothing else.
    """

    split: Callable[[Sequence[Part]], list[Sequence[Part]]]
    decode: Callable[[Sequence[Part], Rules, SeriesStart | None], Decoded]


def find_dialect(name: str) -> Dialect:
    """A dialect by its name; ConfigError where what it needs is not installed."""
    if name != "native":
        require_codecs()
    return _DIALECTS[name]


def _decode_native(parts: Sequence[Part], rules: Rules, start: SeriesStart | None) -> Decoded:
    return messages.decode(parts, rules)  # each frame says all of itself


_DIALECTS = {
    "native": Dialect(lambda parts: [parts], _decode_native),
    "dectris-v1": Dialect(dectris_v1.split, dectris_v1.decode),
    "dectris-v2": Dialect(dectris_v2.split, dectris_v2.decode),
}
