"""Compressed blobs of every form come back as they were; what is damaged or too much is refused before it is read."""

from __future__ import annotations

import struct
import sys
from typing import Any

import bitshuffle
import lz4.block
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.errors import ConfigError, FrameError
from stream.compression import Packing, require_codecs, unpack

PIXELS = (np.arange(700, dtype=np.uint16) % 50).reshape(20, 35)
PACKINGS = [Packing(codec, element, framed) for codec in ("lz4", "bslz4") for element in (1, 2, 4) for framed in (0, 1)]


def frame(size: int, block: int) -> bytes:
    return struct.pack(">QI", size, block)


def pack(pixels: NDArray[Any], packing: Packing, block: int = 0, header: bytes | None = None) -> bytes:
    """As detectors and HDF5's filters write it; `block` in bytes, 0 for the usual one."""
    content = pixels.tobytes()
    if packing.codec == "bslz4":
        elements = np.frombuffer(content, f"u{packing.element}")
        body = bitshuffle.compress_lz4(elements, block // packing.element).tobytes()
        first = frame(len(content), block or 8192)
    elif packing.framed:
        step = block or len(content)
        parts = [lz4.block.compress(content[at : at + step], store_size=False) for at in range(0, len(content), step)]
        body = b"".join(struct.pack(">I", len(part)) + part for part in parts)
        first = frame(len(content), step)
    else:
        first, body = b"", lz4.block.compress(content, store_size=False)
    return (first if header is None else header) + body if packing.framed else body


def reason(blob: bytes, packing: Packing, size: int = PIXELS.nbytes) -> str:
    with pytest.raises(FrameError) as caught:
        unpack(memoryview(blob), packing, size)
    return caught.value.reason


class TestGood:
    @pytest.mark.parametrize(
        ("packing", "block"),
        [(one, block) for one in PACKINGS for block in ((0, 256) if one.framed else (0,))],
        ids=str,
    )
    def test_comes_back_as_it_was(self, packing: Packing, block: int) -> None:
        out = unpack(memoryview(pack(PIXELS, packing, block)), packing, PIXELS.nbytes)
        assert out.tobytes() == PIXELS.tobytes()

    @pytest.mark.parametrize("packing", [Packing("bslz4", 2, True), Packing("lz4", 1, True)], ids=str)
    def test_a_header_of_zeros(self, packing: Packing) -> None:
        out = unpack(memoryview(pack(PIXELS, packing, header=bytes(12))), packing, PIXELS.nbytes)
        assert out.tobytes() == PIXELS.tobytes()

    def test_fewer_elements_than_bitshuffle_works_on_are_stored_as_they_are(self) -> None:
        few = PIXELS[:1, :5]
        out = unpack(memoryview(pack(few, Packing("bslz4", 2))), Packing("bslz4", 2), few.nbytes)
        assert out.tobytes() == few.tobytes()

    def test_a_block_that_does_not_compress_is_stored_as_it_is(self) -> None:
        noise = np.random.default_rng(1).integers(0, 256, 1000, np.uint8).tobytes()
        for step in (1000, 400):
            blocks = [noise[at : at + step] for at in range(0, 1000, step)]
            blob = frame(1000, step) + b"".join(struct.pack(">I", len(one)) + one for one in blocks)
            assert unpack(memoryview(blob), Packing("lz4", framed=True), 1000).tobytes() == noise


class TestRefused:
    @pytest.mark.parametrize("packing", PACKINGS, ids=str)
    def test_truncated_and_prolonged(self, packing: Packing) -> None:
        good = pack(PIXELS, packing)
        for blob in (good[:-1], good[: len(good) // 2], good[:3], b"", good + b"\0"):
            assert reason(blob, packing) == "bad_compression"

    @pytest.mark.parametrize("packing", PACKINGS, ids=str)
    def test_another_size_than_the_shape_takes(self, packing: Packing) -> None:
        for size in (PIXELS.nbytes - 8, PIXELS.nbytes + 8, 8):
            assert reason(pack(PIXELS, packing), packing, size) == "bad_compression"

    def test_a_size_in_the_header_is_never_allocated(self) -> None:
        for codec in ("lz4", "bslz4"):
            packing = Packing(codec, 2, True)
            blob = pack(PIXELS, packing, header=frame(2**60, 8192))
            assert reason(blob, packing) == "bad_compression"

    def test_a_bomb_of_more_than_its_bytes_can_hold(self) -> None:
        assert reason(bytes(100), Packing("bslz4", 2), 10**12) == "bad_compression"

    @pytest.mark.parametrize("length", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
    def test_lengths_that_point_elsewhere_never_reach_bitshuffle(self, length: int) -> None:
        """They would end the process: it reads wherever they point to."""
        good = pack(PIXELS, Packing("bslz4", 2))
        assert reason(struct.pack(">I", length) + good[4:], Packing("bslz4", 2)) == "bad_compression"

    @pytest.mark.parametrize("block", [1, 2, 14, 17, 2**31, 2**32 - 1])
    def test_blocks_that_cannot_be(self, block: int) -> None:
        blob = pack(PIXELS, Packing("bslz4", 2, True), header=frame(PIXELS.nbytes, block))
        assert reason(blob, Packing("bslz4", 2, True)) == "bad_compression"

    @pytest.mark.parametrize("codec", ["lz4", "bslz4"])
    def test_too_many_blocks(self, codec: str) -> None:
        size = 4_000_000
        blob = frame(size, 8) + bytes(size // 8 * 4)
        assert reason(blob, Packing(codec, 1, True), size) == "bad_compression"

    @pytest.mark.parametrize("element", [0, 3, 16, 1000])
    def test_elements_that_cannot_be(self, element: int) -> None:
        assert reason(pack(PIXELS, Packing("bslz4", 2)), Packing("bslz4", element)) == "bad_compression"

    @settings(max_examples=300)
    @given(st.sampled_from(PACKINGS), st.data())
    def test_damage_is_refused_or_gives_as_many_bytes(self, packing: Packing, data: st.DataObject) -> None:
        blob = bytearray(pack(PIXELS, packing, 256 if packing.framed else 0))
        for at in data.draw(st.lists(st.integers(0, len(blob) - 1), min_size=1, max_size=4)):
            blob[at] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(blob)) | st.just(len(blob)))
        refusal, out = "", None
        try:
            out = unpack(memoryview(bytes(blob[:cut])), packing, PIXELS.nbytes)
        except FrameError as error:
            refusal = error.reason
        assert refusal == "bad_compression" if out is None else out.nbytes == PIXELS.nbytes


class TestWithoutThePackages:
    @pytest.fixture(autouse=True)
    def _missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("lz4", "lz4.block", "bitshuffle"):
            monkeypatch.setitem(sys.modules, name, None)

    def test_it_is_told_before_frames_come(self) -> None:
        with pytest.raises(ConfigError, match=r"expected the package lz4 .* pip install 'atomstream\[dectris\]'"):
            require_codecs()

    @pytest.mark.parametrize("packing", [Packing("lz4"), Packing("bslz4", 2)], ids=str)
    def test_a_compressed_frame_is_a_counted_drop(self, packing: Packing) -> None:
        assert reason(pack(PIXELS, packing), packing) == "unknown_encoding"
