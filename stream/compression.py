"""Compressed blobs: LZ4 and bitshuffle-LZ4, with and without the header of HDF5's filters. Pure, no socket here.

The size comes from the announced shape, which was checked against the limits; one inside the blob is never allocated.
Every length inside the blob is checked first, because bitshuffle itself reads wherever they point to.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from engine.errors import ConfigError, FrameError

_MODULES = ("lz4.block", "bitshuffle")
_REMEDY = "pip install 'atomstream[dectris]'"
_HEADER = 12  # uint64 bytes when uncompressed, uint32 bytes of a block; both big-endian
_MAX_BLOCKS = 131_072
_MOST_GAIN = 255  # LZ4 makes no byte into more
_EIGHT = 8  # bitshuffle works on eights of elements; what is left over is stored as it is
_USUAL_BLOCK = 8192  # bytes, bitshuffle's own choice
_MAX_BLOCK = 2**30  # bytes, of elements that are shuffled together


@dataclass(frozen=True, slots=True)
class Packing:
    """How a blob is compressed.

    Attributes
    ----------
    codec : str
        "lz4" or "bslz4".
    element : int
        Bytes of an element that bitshuffle worked on: 1, 2, 4 or 8, whatever the type of a pixel.
    framed : bool
        Whether the 12-byte header of HDF5's filters comes first. One simulator leaves it all zero.
    """

    codec: str
    element: int = 1
    framed: bool = False


def require_codecs() -> None:
    """ConfigError where the packages are not installed; to be asked before frames come."""
    for name in _MODULES:
        try:
            importlib.import_module(name)
        except ImportError:
            raise ConfigError(
                f"dialect: expected the package {name.partition('.')[0]} for compressed frames, got none: {_REMEDY}"
            ) from None


def unpack(blob: memoryview, packing: Packing, size: int) -> NDArray[np.uint8]:
    """Uncompress a blob.

    Parameters
    ----------
    blob : memoryview of bytes
    packing : Packing
    size : int
        Bytes that the pixels take, within the limits.

    Returns
    -------
    (size,) uint8
        Its own memory, or a view of a blob that was not worth compressing.

    Raises
    ------
    FrameError
        "bad_compression" where it is damaged, or holds another number of bytes.
    """
    if size > _MOST_GAIN * blob.nbytes:
        raise _bad(f"{blob.nbytes} bytes, too few for {size}")
    block = size
    if packing.framed:
        block, blob = _read_frame(blob, size), blob[_HEADER:]
    if packing.codec == "bslz4":
        return _unshuffle(blob, size, packing.element, block if packing.framed else 0)
    return _join_lz4(blob, size, block or size) if packing.framed else _lz4(blob, size)


def _bad(got: object) -> FrameError:
    return FrameError("bad_compression", f"Expected compressed pixels of the shape announced, got {got}: send it again")


def _load(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise FrameError(
            "unknown_encoding", f"Expected the package {name.partition('.')[0]}, got none: {_REMEDY}, or send it raw"
        ) from None


def _read_frame(blob: memoryview, size: int) -> int:
    """Bytes of a block, 0 where the header is all zero."""
    if blob.nbytes < _HEADER:
        raise _bad(f"{blob.nbytes} bytes")
    total, block = int.from_bytes(blob[:8], "big"), int.from_bytes(blob[8:_HEADER], "big")
    if total not in (0, size):
        raise _bad(f"{total} bytes where the shape takes {size}")
    return block


def _lz4(blob: memoryview, size: int) -> NDArray[np.uint8]:
    lz4 = _load("lz4.block")
    try:
        out = lz4.decompress(blob, uncompressed_size=size)
    except Exception as error:  # LZ4BlockError, and MemoryError or SystemError from below
        raise _bad(error) from None
    if len(out) != size:
        raise _bad(f"{len(out)} bytes where the shape takes {size}")
    return np.frombuffer(out, np.uint8)


def _join_lz4(blob: memoryview, size: int, block: int) -> NDArray[np.uint8]:
    """HDF5's filter: blocks with their length before them, as they are where compression gained nothing."""
    starts = range(0, size, block)
    if len(starts) > _MAX_BLOCKS:
        raise _bad(f"{len(starts)} blocks")
    if len(starts) == 1:
        [packed] = _spans(blob, 1, 0)
        return np.frombuffer(packed, np.uint8) if packed.nbytes == size else _lz4(packed, size)
    out = np.empty(size, np.uint8)
    for start, packed in zip(starts, _spans(blob, len(starts), 0), strict=True):
        part = out[start : start + block]
        # COPY: each block to its place.
        part[:] = packed if packed.nbytes == part.nbytes else _lz4(packed, part.nbytes)
    return out


def _unshuffle(blob: memoryview, size: int, element: int, block: int) -> NDArray[np.uint8]:
    if element not in (1, 2, 4, 8) or size % element:
        raise _bad(f"elements of {element} bytes where the shape takes {size}")
    elements = size // element
    in_block = (block or _USUAL_BLOCK) // element
    if in_block < _EIGHT or in_block % _EIGHT or in_block * element > _MAX_BLOCK:
        raise _bad(f"blocks of {block} bytes")
    whole, rest = divmod(elements, in_block)
    blocks, loose = whole + (rest >= _EIGHT), rest % _EIGHT * element
    if blocks > _MAX_BLOCKS:
        raise _bad(f"{blocks} blocks")
    for _ in _spans(blob, blocks, loose):
        pass  # each length was checked
    bitshuffle = _load("bitshuffle")
    try:
        out: NDArray[np.generic] = bitshuffle.decompress_lz4(
            np.frombuffer(blob, np.uint8), (elements,), np.dtype(f"u{element}"), in_block
        )
    except Exception as error:
        raise _bad(error) from None
    return out.view(np.uint8)


def _spans(blob: memoryview, blocks: int, loose: int) -> Iterator[memoryview]:
    """The blocks of a blob, each after its big-endian uint32 length; `loose` bytes follow the last one."""
    at, end = 0, blob.nbytes - loose
    for _ in range(blocks):
        start = at + 4
        at = start + int.from_bytes(blob[at:start], "big")
        if not start < at <= end:
            raise _bad("a block that ends elsewhere")
        yield blob[start:at]
    if at != end:
        raise _bad(f"{end - at} bytes too many")
