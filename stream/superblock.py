"""The first bytes of an HDF5 file, where a writer that was killed leaves the mark that it still writes.

HDF5 opens such a file for SWMR readers only. `release` takes the mark off, as `h5clear` does.
"""

# REF: HDF5 File Format Specification, version 3.0, Disk Format Level 0A, superblock version 3.

from __future__ import annotations

import fcntl
import struct
from pathlib import Path

from engine.errors import FileError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_VERSION, _OFFSET_BYTES = 3, 8
_FLAGS_AT, _END_AT, _CHECKSUM_AT = 11, 28, 44
_MASK = 0xFFFFFFFF


def release(path: Path) -> bool:
    """Take the mark of a writer that is gone off; whether there was one.

    Raises
    ------
    FileError
        Not there, no HDF5 file as a recording is one, or one that somebody still writes or reads.
    """
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            block = bytearray(file.read(_CHECKSUM_AT + 4))
            _check(path, block)
            if block[_FLAGS_AT] == 0:
                return False
            file.seek(0, 2)
            block[_FLAGS_AT] = 0
            # The end that the writer noted last may be older than the last chunk; beyond it HDF5 reads nothing.
            block[_END_AT : _END_AT + 8] = struct.pack("<Q", file.tell())
            block[_CHECKSUM_AT:] = struct.pack("<I", lookup3(bytes(block[:_CHECKSUM_AT])))
            file.seek(0)
            file.write(block)
            return True
    except BlockingIOError:
        raise FileError(f"{path}: expected a file that nobody writes, got one in use: end its recorder first") from None
    except OSError as error:
        raise FileError(f"{path}: expected a recording, got {error.strerror}: check the path") from None


def _check(path: Path, block: bytearray) -> None:
    right = (
        len(block) == _CHECKSUM_AT + 4
        and block.startswith(_SIGNATURE)
        and (block[8], block[9], block[10]) == (_VERSION, _OFFSET_BYTES, _OFFSET_BYTES)
        and struct.unpack("<I", block[_CHECKSUM_AT:])[0] == lookup3(bytes(block[:_CHECKSUM_AT]))
    )
    if not right:
        raise FileError(f"{path}: expected an HDF5 file as `atomstream record` writes it, got another: check the path")


def lookup3(data: bytes) -> int:
    """Checksum of HDF5's metadata.

    REF: Bob Jenkins, lookup3.c, hashlittle with an initial value of 0 (public domain).
    """
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    whole = max(0, (len(data) - 1) // 12 * 12)
    for start in range(0, whole, 12):
        words = struct.unpack_from("<III", data, start)
        a, b, c = _mix((a + words[0]) & _MASK, (b + words[1]) & _MASK, (c + words[2]) & _MASK)
    if not data:
        return c
    words = struct.unpack("<III", data[whole:].ljust(12, b"\0"))
    return _final((a + words[0]) & _MASK, (b + words[1]) & _MASK, (c + words[2]) & _MASK)


def _turn(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for bits in (4, 6, 8, 16, 19, 4):
        a = (((a - c) & _MASK) ^ _turn(c, bits)) & _MASK
        c = (c + b) & _MASK
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _turn(b, bits)) & _MASK
        a, b, c = b, c, a
    # Seven turns of three names leave the last one that changed in b.
    return b
