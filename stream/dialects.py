"""The dialects that frames come in, by name: what is chosen by the option `dialect`. Decoders are pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stream import dectris_v1, dectris_v2, messages
from stream.compression import require_codecs
from stream.header import Decoded, Part, Rules, SeriesStart

Decoder = Callable[[Sequence[Part], Rules, SeriesStart | None], Decoded]


def find_decoder(dialect: str) -> Decoder:
    """The decoder of a dialect; ConfigError where what it needs is not installed."""
    if dialect != "native":
        require_codecs()
    return _DECODERS[dialect]


def _native(parts: Sequence[Part], rules: Rules, start: SeriesStart | None) -> Decoded:
    return messages.decode(parts, rules)  # each frame says all of itself


_DECODERS: dict[str, Decoder] = {"native": _native, "dectris-v1": dectris_v1.decode, "dectris-v2": dectris_v2.decode}
DIALECTS = tuple(_DECODERS)
