"""DECTRIS Stream V1: recorded messages decode for ever, and whatever else comes is refused with its reason."""

from __future__ import annotations

import json
from typing import Any

import lz4.block
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import FrameError
from stream.accounting import REASONS
from stream.dectris_v1 import decode, split
from stream.header import Decoded, Message, Rules, SeriesEnd, SeriesStart

# 2 rows of 8 pixels: 0 1 2 ... 14, and one that is masked.
COUNTS = [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14]]

RAW = bytes.fromhex("00000100020003000400050006000700080009000a000b000c000d000e00ffff")
LZ4 = bytes.fromhex("f01100000100020003000400050006000700080009000a000b000c000d000e00ffff")
BS16 = bytes.fromhex("000000000000002000002000" + "00000013adaaaaccccf0f000ff00800200508000800080")
BS16_OF_A_SIMULATOR = bytes(12) + BS16[12:]
BS32 = bytes.fromhex("000000000000002000002000" + "0000001a5700aaccf0000100f001ffaaccf0808080808080808080808080")

HEADER = b'{"htype":"dheader-1.0","series":7,"header_detail":"basic"}'
CONFIG = (
    b'{"auto_summation":true,"bit_depth_image":16,"count_time":0.02,"description":"Dectris ELA","frame_time":0.04,'
    b'"nimages":5,"x_pixels_in_detector":8,"y_pixels_in_detector":2}'
)
FLATFIELD = [b'{"htype":"dflatfield-1.0","shape":[8,2],"type":"float32"}', bytes(64)]
MASK = [b'{"htype":"dpixelmask-1.0","shape":[8,2],"type":"uint32"}', bytes(64)]
COUNT_RATES = [b'{"htype":"dcountrate_table-1.0","shape":[2,2],"type":"float32"}', bytes(16)]
FIRST = b'{"htype":"dimage-1.0","series":7,"frame":3,"hash":"fc67f000d08fe6b380ea9434b8362d22"}'
SECOND = b'{"htype":"dimage_d-1.0","shape":[8,2],"type":"uint16","encoding":"%s","size":%d}'
TIMES = b'{"htype":"dconfig-1.0","start_time":834759834759,"stop_time":834779834759,"real_time":20000000}'
END = b'{"htype":"dseries_end-1.0","series":7}'


def image(encoding: bytes, blob: bytes, *more: bytes) -> list[bytes]:
    return [FIRST, SECOND % (encoding, len(blob)), blob, TIMES, *more]


IMAGES = [
    image(b"<", RAW),
    image(b"lz4<", LZ4),
    image(b"bs16-lz4<", BS16),
    image(b"bs16-lz4<", BS16_OF_A_SIMULATOR),
    image(b"bs32-lz4<", BS32),
]


def read(parts: list[bytes], start: SeriesStart | None = None, rules: Rules | None = None) -> Message:
    decoded = decode(parts, rules or Rules(), start)
    assert isinstance(decoded, Message)
    return decoded


def begin(*parts: bytes) -> SeriesStart:
    decoded = decode(parts, Rules())
    assert isinstance(decoded, SeriesStart)
    return decoded


def changed(which: int, **keys: Any) -> list[bytes]:
    """The raw image with other keys in one of its parts; a key changed to ... is left out."""
    parts = image(b"<", RAW)
    header = {key: value for key, value in (json.loads(parts[which]) | keys).items() if value is not ...}
    parts[which] = json.dumps(header).encode()
    return parts


def reason(parts: list[bytes], rules: Rules | None = None) -> str:
    with pytest.raises(FrameError) as caught:
        decode(parts, rules or Rules())
    assert caught.value.reason in REASONS
    return caught.value.reason


class TestRecorded:
    """Byte for byte as they were sent once."""

    @pytest.mark.parametrize("parts", IMAGES, ids=["raw", "lz4", "bs16", "header of zeros", "bs32 of uint16"])
    def test_image(self, parts: list[bytes]) -> None:
        message = read(parts)
        rows = message.pixels.tolist()
        assert [rows[0], rows[1][:-1]] == COUNTS
        assert message.mask is not None
        assert np.argwhere(message.mask).tolist() == [[1, 7]]
        assert (message.number, message.series, message.pixels.dtype) == (3, 7, np.uint16)
        assert message.header == {"exposure": pytest.approx(0.02)}

    def test_image_with_an_appendix(self) -> None:
        message = read(image(b"<", RAW, b'{"sampling": 0.2, "defocus": -50, "stage": "a"}'))
        assert (message.sampling_A, message.defocus_A, message.header["stage"]) == (0.2, (-50,), "a")
        assert read(image(b"<", RAW, b"sample 5")).header["user_data"] == "sample 5"

    def test_image_without_times(self) -> None:
        assert read(IMAGES[0][:3]).number == 3

    def test_a_masked_pixel_of_8_bits(self) -> None:
        parts = changed(1, type="uint8", shape=[2, 1])
        parts[2] = b"\1\xff"
        mask = read(parts).mask
        assert mask is not None
        assert mask.tolist() == [[False, True]]

    def test_header_and_configuration_as_one_message_or_as_two(self) -> None:
        for start in (begin(HEADER, CONFIG), begin(CONFIG)):
            assert start.keys == {"frame_interval": 0.04, "exposure": 0.02}
        assert begin(HEADER).series == 7
        assert begin(CONFIG).series is None

    def test_detail_all(self) -> None:
        start = begin(HEADER, CONFIG, *FLATFIELD, *MASK, *COUNT_RATES, b'{"sampling": 0.1}')
        assert start.keys == {"frame_interval": 0.04, "exposure": 0.02, "sampling": 0.1}

    @pytest.mark.parametrize("word", ["description", "nimages", "count_time"])
    def test_a_word_of_the_detector_makes_no_configuration_of_an_appendix(self, word: str) -> None:
        start = begin(HEADER, CONFIG, json.dumps({"sampling": 0.1, word: "MoS2"}).encode())
        assert (start.keys["sampling"], start.keys[word], start.keys["frame_interval"]) == (0.1, "MoS2", 0.04)

    @pytest.mark.parametrize("table", [FLATFIELD, MASK, COUNT_RATES, [FLATFIELD[0].replace(b"dflat", b"flat"), b"\0"]])
    def test_tables_as_messages_of_their_own(self, table: list[bytes]) -> None:
        assert begin(*table) == SeriesStart(None, {})

    def test_detail_none(self) -> None:
        assert begin(HEADER) == SeriesStart(7, {})

    def test_start_holds_for_the_images_of_its_series(self) -> None:
        start = begin(HEADER, CONFIG, b'{"sampling": 0.1, "dose": 900}')
        message = read(IMAGES[0], start)
        assert (message.sampling_A, message.dose_e_A2, message.frame_interval_s) == (0.1, 900, 0.04)
        other = read(changed(0, series=8), start)
        assert other.sampling_A is other.frame_interval_s is None

    def test_end(self) -> None:
        assert decode([END], Rules()) == SeriesEnd(7)


class TestSplit:
    """A simulator sends whatever it has at once."""

    def test_header_configuration_and_first_image_as_one(self) -> None:
        assert split([HEADER, CONFIG, *IMAGES[3]]) == [[HEADER, CONFIG], IMAGES[3]]

    def test_everything_as_one(self) -> None:
        whole = [[HEADER, CONFIG, *FLATFIELD, *MASK, *COUNT_RATES, b"{}"], IMAGES[0], [*IMAGES[4], b"{}"], [END], [END]]
        assert split([part for parts in whole for part in parts]) == whole

    def test_what_is_one_stays_one(self) -> None:
        for parts in ([HEADER], [CONFIG], FLATFIELD, IMAGES[2], IMAGES[2][:2], [END], [b"?"]):
            assert split(parts) == [parts]

    def test_pixels_that_read_like_a_header_are_none(self) -> None:
        parts = image(b"<", END)
        assert split([*parts, END]) == [parts, [END]]


class TestPixels:
    def test_raw_pixels_are_a_view_of_the_message(self) -> None:
        blob = bytearray(RAW)
        decoded: Decoded = decode([*IMAGES[0][:2], memoryview(blob)], Rules())
        assert isinstance(decoded, Message)
        blob[0] = 9
        assert decoded.pixels[0, 0] == 9

    def test_big_endian(self) -> None:
        parts = changed(1, encoding=">")
        parts[2] = np.frombuffer(RAW, "<u2").astype(">u2").tobytes()
        assert read(parts).pixels[1, 6] == 14

    @pytest.mark.parametrize("keys", [{"real_time": "long"}, {"real_time": -1}, {"real_time": ..., "more": 1}])
    def test_times_that_are_none_do_not_matter(self, keys: dict[str, Any]) -> None:
        assert read(changed(3, **keys)).header == {}


class TestRefused:
    @pytest.mark.parametrize(
        ("expected", "parts"),
        [
            ("wrong_parts", []),
            ("wrong_parts", IMAGES[0][:1]),
            ("wrong_parts", IMAGES[0][:2]),
            ("not_json", [b""]),
            ("not_json", [b"\xd9\xd9\xf7"]),
            ("not_json", [*IMAGES[0][:3], b"?"]),
            ("not_json", [FIRST, b"[]", RAW, TIMES]),
            ("missing_key", [b"{}"]),
            ("wrong_key", [b'{"htype": "dmonitor-1.0"}']),
            ("wrong_key", [b'{"htype": ["dimage-1.0"]}']),
            ("wrong_key", [FIRST, FIRST, RAW, TIMES]),
            ("wrong_key", [b'{"htype": "dseries_end-1.0", "series": [1]}']),
            ("missing_key", changed(0, frame=...)),
            ("wrong_key", changed(0, frame="3")),
            ("wrong_key", changed(0, series=1.5)),
            ("missing_key", changed(1, shape=...)),
            ("missing_key", changed(1, type=...)),
            ("missing_key", changed(1, encoding=...)),
            ("wrong_key", changed(1, shape=[16])),
            ("wrong_key", changed(1, shape=[8, 2, 1])),
            ("wrong_key", changed(1, shape="ab")),
            ("wrong_key", changed(1, shape=[8, -2])),
            ("unknown_dtype", changed(1, type="float16")),
            ("unknown_dtype", changed(1, type=5)),
            ("unknown_encoding", changed(1, encoding="bs16<")),
            ("unknown_encoding", changed(1, encoding="bs12-lz4<")),
            ("unknown_encoding", changed(1, encoding="zstd<")),
            ("unknown_encoding", changed(1, encoding=5)),
            ("empty_frame", changed(1, shape=[8, 0])),
            ("size_mismatch", changed(1, shape=[8, 3])),
            ("size_mismatch", changed(1, type="uint32")),
            ("too_large", changed(1, shape=[60_000, 60_000], encoding="lz4<")),
            ("bad_compression", changed(1, encoding="lz4<")),
            ("bad_compression", changed(1, encoding="bs16-lz4<")),
            ("bad_compression", [*image(b"bs16-lz4<", BS16[:-1])]),
            ("bad_compression", [*image(b"lz4<", LZ4[:-1])]),
            ("bad_compression", [*image(b"lz4<", lz4.block.compress(bytes(4_000_000), store_size=False))]),
            ("wrong_key", image(b"<", RAW, b'{"sampling": 0}')),
        ],
    )
    def test_with_its_reason(self, expected: str, parts: list[bytes]) -> None:
        assert reason(parts) == expected

    def test_limits(self) -> None:
        assert reason(IMAGES[0], Rules(max_pixels=15)) == "too_large"
        assert reason(IMAGES[0], Rules(max_bytes=31)) == "too_large"


class TestFuzz:
    @settings(max_examples=300)
    @given(st.sampled_from([*IMAGES, [HEADER, CONFIG, *FLATFIELD, b'{"sampling": 0.1}'], [CONFIG], [END]]), st.data())
    def test_damaged_and_truncated(self, whole: list[bytes], data: st.DataObject) -> None:
        parts = [bytearray(part) for part in whole]
        for _ in range(data.draw(st.integers(0, 4))):
            part = parts[data.draw(st.integers(0, len(parts) - 1))]
            part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(parts) - 1))
        parts[cut] = parts[cut][: data.draw(st.just(len(parts[cut])) | st.integers(0, len(parts[cut])))]
        parts = parts[: data.draw(st.just(len(parts)) | st.integers(0, len(parts)))]
        refusal = "stopping"  # any known one
        try:
            for message in split([bytes(part) for part in parts]):
                decode(message, Rules())
        except FrameError as error:
            refusal = error.reason
        assert refusal in REASONS
