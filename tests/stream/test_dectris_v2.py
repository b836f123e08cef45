"""DECTRIS Stream V2: recorded messages decode for ever, and whatever else comes is refused with its reason."""

from __future__ import annotations

import json
import struct
from typing import Any

import bitshuffle
import cbor2
import lz4.block
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import FrameError
from stream.accounting import REASONS
from stream.dectris_v2 import decode, split
from stream.header import Message, Rules, SeriesEnd, SeriesStart

# 2 rows of 8 pixels: 0 1 2 ... 14, and one that is masked.
COUNTS = [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14]]
Tag = cbor2.CBORTag

IMAGE = bytes.fromhex(
    "d9d9f7a9647479706565696d616765697365726965735f696407707365726965735f756e697175655f69646430314842"
    "68696d6167655f696403697265616c5f74696d65820118326b7365726965735f64617465c0781b323032332d31312d31"
    "345432323a31333a32302e3030303030305a6a73746172745f74696d6582010a6973746f705f74696d65820318196464"
    "617461a16b7468726573686f6c645f31d82882820208d845d9dcb4836562736c7a340258230000000000000020000020"
    "0000000013adaaaaccccf0f000ff00800200508000800080"
)
IMAGE_LZ4 = bytes.fromhex(
    "a4647479706565696d616765697365726965735f69640768696d6167655f6964036464617461a16b7468726573686f6c"
    "645f31d82882820208d846d9dcb483636c7a3404585200000000000000400000004000000042f0310000000001000000"
    "02000000030000000400000005000000060000000700000008000000090000000a0000000b0000000c0000000d000000"
    "0e000000ffffffff"
)
IMAGE_RAW = bytes.fromhex(
    "a5647479706565696d616765697365726965735f69640768696d6167655f6964036464617461a16b7468726573686f6c"
    "645f31d82882820208d84050000102030405060708090a0b0c0d0eff69757365725f64617461782f7b2273616d706c69"
    "6e67223a20302e322c20226465666f637573223a202d35302c20227374616765223a202261227d"
)
START = bytes.fromhex(
    "d9d9f7b06474797065657374617274697365726965735f696407707365726965735f756e697175655f69646430314842"
    "6861726d5f64617465c074323032332d31312d31345432323a31333a31395a686368616e6e656c73816b746872657368"
    "6f6c645f316c696d6167655f73697a655f78086c696d6167655f73697a655f79026b696d6167655f6474797065667569"
    "6e7431366a636f756e745f74696d65fb3f947ae147ae147b6a6672616d655f74696d65fb3fa47ae147ae147b706e756d"
    "6265725f6f665f696d61676573056c706978656c5f73697a655f78fb3f13a92a305532616c706978656c5f73697a655f"
    "79fb3f13a92a305532617073617475726174696f6e5f76616c756519540d707468726573686f6c645f656e65726779a1"
    "6b7468726573686f6c645f31fb40ba5e800000000069757365725f64617461a26873616d706c696e67fb3fb999999999"
    "999a64646f7365190384"
)
START_OF_A_SIMULATOR = bytes.fromhex(
    "a86474797065657374617274697365726965735f6964076861726d5f6461746574323032332d31312d31345432323a31"
    "333a31395a686368616e6e656c738161316c696d6167655f73697a655f78086c696d6167655f73697a655f79026b696d"
    "6167655f64747970656675696e7431366a636f756e745f74696d65fb3f947ae147ae147b"
)
END = bytes.fromhex("d9d9f7a3647479706563656e64697365726965735f696407707365726965735f756e697175655f69646430314842")


def read(message: bytes, rules: Rules | None = None, start: SeriesStart | None = None) -> Message:
    decoded = decode([message], rules or Rules(), start)
    assert isinstance(decoded, Message)
    return decoded


def begin(message: bytes) -> SeriesStart:
    decoded = decode([message], Rules())
    assert isinstance(decoded, SeriesStart)
    return decoded


def image(array: object = None, **changes: Any) -> bytes:
    """A plain image with these changes; a key changed to ... is left out."""
    array = Tag(40, [[2, 2], Tag(69, b"\1\0\2\0\3\0\4\0")]) if array is None else array
    message = {"type": "image", "series_id": 7, "image_id": 3, "data": {"threshold_1": array}} | changes
    return cbor2.dumps({key: value for key, value in message.items() if value is not ...})


def packed(codec: str, element: int, blob: bytes, shape: tuple[int, int] = (2, 2), tag: int = 69) -> bytes:
    return image(Tag(40, [list(shape), Tag(tag, Tag(56500, [codec, element, blob]))]))


def reason(message: bytes, rules: Rules | None = None) -> str:
    with pytest.raises(FrameError) as caught:
        decode([message], rules or Rules())
    assert caught.value.reason in REASONS
    return caught.value.reason


def counts(message: Message) -> list[list[int]]:
    """The pixels without the masked one, which is the last."""
    assert message.mask is not None
    assert np.argwhere(message.mask).tolist() == [[1, 7]]
    assert message.pixels[1, 7] == np.iinfo(message.pixels.dtype).max
    rows: list[list[int]] = message.pixels.tolist()
    return [rows[0], rows[1][:-1]]


class TestRecorded:
    """Byte for byte as they were sent once."""

    def test_image(self) -> None:
        message = read(IMAGE)
        assert counts(message) == COUNTS
        assert (message.number, message.series, message.pixels.dtype) == (3, 7, np.uint16)
        assert message.timestamp_s == pytest.approx(1_700_000_000 + 3 / 25)
        assert message.header == {"exposure": 0.02}

    def test_image_without_prefix_times_and_date(self) -> None:
        message = read(IMAGE_LZ4)
        assert counts(message) == COUNTS
        assert (message.number, message.series, message.pixels.dtype) == (3, 7, np.uint32)
        assert message.timestamp_s is None

    def test_image_not_compressed_with_an_appendix(self) -> None:
        message = read(IMAGE_RAW)
        assert counts(message) == COUNTS
        assert message.pixels.dtype == np.uint8
        assert (message.sampling_A, message.defocus_A, message.header) == (0.2, (-50,), {"stage": "a"})

    def test_start_holds_for_the_images_of_its_series(self) -> None:
        start = begin(START)
        message = read(IMAGE, start=start)
        assert start.series == 7
        assert (message.sampling_A, message.dose_e_A2, message.frame_interval_s) == (0.1, 900, 0.04)
        assert message.header == {"exposure": 0.02}
        other = read(image(series_id=8), start=start)
        assert other.sampling_A is other.frame_interval_s is None

    def test_an_image_knows_better_than_its_start(self) -> None:
        assert read(IMAGE_RAW, start=begin(START)).sampling_A == 0.2

    def test_start_of_a_simulator(self) -> None:
        """Another channel than in the images, no frame_time, the date a plain text."""
        start = begin(START_OF_A_SIMULATOR)
        message = read(image(stop_time=[1, 2]), start=start)
        assert message.timestamp_s == pytest.approx(1_699_999_999.5)
        assert message.frame_interval_s is None

    def test_end(self) -> None:
        assert decode([END], Rules()) == SeriesEnd(7)

    def test_start_and_first_image_as_one_message_of_a_simulator(self) -> None:
        assert split([START, IMAGE]) == [(START,), (IMAGE,)]


class TestPixels:
    @pytest.mark.parametrize(("tag", "dtype"), [(64, "u1"), (65, ">u2"), (66, ">u4"), (69, "<u2"), (70, "<u4")])
    def test_types(self, tag: int, dtype: str) -> None:
        pixels = np.array([[1, 2, 3], [4, 5, 200]], dtype)
        decoded = read(image(Tag(40, [[2, 3], Tag(tag, pixels.tobytes())]))).pixels
        assert decoded.tolist() == pixels.tolist()
        assert decoded.dtype.isnative

    def test_raw_pixels_are_a_view_of_the_message(self) -> None:
        blob = bytearray(image())
        decoded = decode([memoryview(blob)], Rules())
        assert isinstance(decoded, Message)
        at = blob.index(b"\1\0\2\0\3\0\4\0")
        blob[at] = 9
        assert decoded.pixels[0, 0] == 9

    @pytest.mark.parametrize("element", [1, 2, 4, 8])
    def test_bits_shuffled_need_not_be_those_of_the_type(self, element: int) -> None:
        pixels = np.arange(4000, dtype=np.uint16).reshape(40, 100) % 300
        shuffled = bitshuffle.compress_lz4(np.frombuffer(pixels.tobytes(), f"u{element}")).tobytes()
        blob = struct.pack(">QI", pixels.nbytes, 8192) + shuffled
        assert (read(packed("bslz4", element, blob, (40, 100))).pixels == pixels).all()

    def test_channel_as_configured_else_the_first(self) -> None:
        array = [Tag(40, [[1, 1], Tag(64, bytes((value,)))]) for value in (3, 4)]
        message = image(data={"threshold_1": array[0], "threshold_2": array[1]})
        assert read(message).pixels.tolist() == [[3]]
        assert read(message, Rules(channel="threshold_2")).pixels.tolist() == [[4]]
        assert reason(message, Rules(channel="difference")) == "wrong_key"

    def test_saturated_as_configured(self) -> None:
        mask = read(image(), Rules(saturated_counts=4.0)).mask
        assert mask is not None
        assert np.argwhere(mask).tolist() == [[1, 1]]


class TestLenient:
    """What does not matter is no reason to lose a frame."""

    @pytest.mark.parametrize(
        "changes",
        [
            {"start_time": ..., "stop_time": "late", "real_time": [1, 0], "series_date": 5},
            {"stop_time": [1.5, 2], "series_date": Tag(0, "yesterday")},
            {"stop_time": [2**63, 1], "series_date": Tag(0, "2023-11-14T22:13:20Z")},
            {"series_date": "2023-11-14T22:13:20", "stop_time": [1, 2]},
            {"series_unique_id": ..., "something_new": Tag(4711, {"a": Tag(39, b"b")})},
            {"user_data": "no JSON"},
            {"user_data": b"\xff\xfe"},
            {"user_data": [1, 2]},
            {"user_data": ""},
            {"user_data": {"blob": b"a", 5: Tag(0, "x"), "far": float("inf"), "list": [1, None]}},
        ],
    )
    def test_odd_keys(self, changes: dict[str, Any]) -> None:
        message = read(image(**changes))
        assert message.pixels.tolist() == [[1, 2], [3, 4]]
        assert message.timestamp_s is None
        json.dumps(message.header, allow_nan=False)

    def test_a_text_that_is_no_json_is_passed_on(self) -> None:
        assert read(image(user_data="sample 5")).header == {"user_data": "sample 5"}

    def test_a_user_cannot_change_what_the_detector_counts(self) -> None:
        message = read(image(user_data={"frame": 99, "series": "x", "timestamp": 5.0}))
        assert (message.number, message.series, message.timestamp_s) == (3, 7, 5)


class TestRefused:
    @pytest.mark.parametrize(
        ("expected", "message"),
        [
            ("not_cbor", b""),
            ("not_cbor", b"{}"),
            ("not_cbor", IMAGE[:-1]),
            ("not_cbor", IMAGE + b"\0"),
            ("not_cbor", cbor2.dumps([1, 2])),
            ("missing_key", cbor2.dumps({})),
            ("missing_key", image(type=...)),
            ("missing_key", image(image_id=...)),
            ("missing_key", image(data=...)),
            ("wrong_key", image(type="picture")),
            ("wrong_key", image(type=[1])),
            ("wrong_key", image(image_id=-1)),
            ("wrong_key", image(image_id="3")),
            ("wrong_key", image(series_id=[7])),
            ("wrong_key", image(data={})),
            ("wrong_key", image(data=[1])),
            ("wrong_key", image(b"\1\2")),
            ("wrong_key", image(Tag(40, b"\1\2"))),
            ("wrong_key", image(Tag(40, [[2, 2]]))),
            ("wrong_key", image(Tag(40, [[4], Tag(64, bytes(4))]))),
            ("wrong_key", image(Tag(40, [[1, 2, 2], Tag(64, bytes(4))]))),
            ("wrong_key", image(Tag(40, [[2, -2], Tag(64, bytes(4))]))),
            ("wrong_key", image(Tag(40, [[2, 2.0], Tag(64, bytes(4))]))),
            ("wrong_key", image(Tag(40, [[2, 2], bytes(4)]))),
            ("wrong_key", image(Tag(40, [[2, 2], Tag(64, [1, 2, 3, 4])]))),
            ("wrong_key", image(Tag(40, [[2, 2], Tag(64, Tag(56500, ["lz4", 1]))]))),
            ("wrong_key", image(Tag(40, [[2, 2], Tag(64, Tag(56500, "lz4"))]))),
            ("wrong_key", image(user_data={"sampling": -1})),
            ("wrong_key", image(user_data='{"sampling": "0.1"}')),
            ("unknown_tag", image(Tag(41, [[2, 2], Tag(64, bytes(4))]))),
            ("unknown_tag", image(Tag(40, [[2, 2], Tag(84, bytes(8))]))),
            ("unknown_tag", image(Tag(40, [[2, 2], Tag(64, Tag(56501, ["lz4", 1, b""]))]))),
            ("unknown_encoding", packed("zstd", 2, bytes(20))),
            ("empty_frame", image(Tag(40, [[0, 2], Tag(64, b"")]))),
            ("size_mismatch", image(Tag(40, [[2, 2], Tag(69, bytes(7))]))),
            ("size_mismatch", image(Tag(40, [[2, 3], Tag(69, bytes(8))]))),
            ("too_large", image(Tag(40, [[60_000, 60_000], Tag(69, bytes(8))]))),
            ("too_large", packed("lz4", 2, bytes(20), (60_000, 60_000))),
            ("too_large", packed("lz4", 2, bytes(20), (2**40, 1))),
            ("bad_compression", packed("lz4", 2, b"")),
            ("bad_compression", packed("bslz4", 2, bytes(12))),
            ("bad_compression", packed("bslz4", 0, bytes(20))),
            ("bad_compression", packed("bslz4", 2, struct.pack(">QI", 2**50, 8192) + bytes(20))),
            ("bad_compression", packed("lz4", 2, bytes(20), (8000, 8000))),
        ],
    )
    def test_with_its_reason(self, expected: str, message: bytes) -> None:
        assert reason(message) == expected

    def test_compression_that_does_not_match_the_shape(self) -> None:
        """A bomb: far more zeros than the shape announces."""
        zeros = lz4.block.compress(bytes(4_000_000), store_size=False)
        for size in (8, 4_000_000):
            blob = struct.pack(">QI", size, 4_000_000) + struct.pack(">I", len(zeros)) + zeros
            assert reason(packed("lz4", 2, blob)) == "bad_compression"

    @pytest.mark.parametrize("parts", [[], [IMAGE, IMAGE]])
    def test_another_number_of_parts(self, parts: list[bytes]) -> None:
        with pytest.raises(FrameError) as caught:
            decode(parts, Rules())
        assert caught.value.reason == "wrong_parts"

    def test_limits(self) -> None:
        assert reason(image(), Rules(max_pixels=3)) == "too_large"
        assert reason(image(), Rules(max_bytes=7)) == "too_large"


def fate(message: bytes) -> str:
    """The reason it is refused for; FrameError is all that may come."""
    try:
        decode([message], Rules())
    except FrameError as error:
        return error.reason
    return "stopping"  # any known one


class TestFuzz:
    @settings(max_examples=200)
    @given(st.sampled_from([IMAGE, IMAGE_LZ4, IMAGE_RAW, START, END]), st.data())
    def test_damaged_and_truncated(self, whole: bytes, data: st.DataObject) -> None:
        message = bytearray(whole)
        for at in data.draw(st.lists(st.integers(0, len(message) - 1), max_size=5)):
            message[at] = data.draw(st.integers(0, 255))
        assert fate(bytes(message[: data.draw(st.just(len(whole)) | st.integers(0, len(whole)))])) in REASONS

    @settings(max_examples=200)
    @given(st.data())
    def test_any_value_anywhere(self, data: st.DataObject) -> None:
        scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=4)
        tags = st.sampled_from([0, 2, 4, 40, 64, 69, 56500, 55799, 99])
        any_value = st.recursive(
            scalars | st.binary(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=4), inner, max_size=3)
                | st.builds(Tag, tags, inner)
            ),
            max_leaves=8,
        )
        keys = st.sampled_from(["type", "series_id", "image_id", "data", "user_data", "stop_time", "series_date"])
        changes = data.draw(st.dictionaries(keys, any_value, max_size=3))
        array = data.draw(st.none() | any_value | st.builds(lambda inner: Tag(40, [[2, 2], inner]), any_value))
        assert fate(image(array, **changes)) in REASONS
