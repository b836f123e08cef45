"""The native envelope: recorded messages decode for ever, and whatever else comes is refused with its reason."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from engine.errors import FrameError
from stream.accounting import REASONS
from stream.messages import DTYPES, Rules, decode, decode_result, encode, encode_result

HEADER: dict[str, Any] = {"htype": "array-1.0", "shape": [2, 3], "type": "uint16", "frame": 7}
BLOB = b"\x01\x00\x02\x00\x03\x00\x04\x00\x05\x00\x00\x01"  # 1 2 3 / 4 5 256
PIXELS = [[1, 2, 3], [4, 5, 256]]
BITSHUFFLED = bytes.fromhex("000000129eaaaaccccf0f000ff000100500000000000")  # 0 1 2 ... 15


def parts(blob: bytes = BLOB, /, **changes: Any) -> list[bytes]:
    """The header above with these changes; a key changed to ... is left out."""
    header = {key: value for key, value in (HEADER | changes).items() if value is not ...}
    return [json.dumps(header).encode(), blob]


def reason(message: list[bytes], rules: Rules | None = None) -> str:
    with pytest.raises(FrameError) as caught:
        decode(message, rules or Rules())
    return caught.value.reason


class TestRecorded:
    """Byte for byte as they were sent once."""

    def test_plain_array_1_0(self) -> None:
        header = b'{"htype": "array-1.0", "type": "uint16", "shape": [2, 3], "frame": 7}'
        message = decode([header, BLOB])
        assert message.number == 7
        assert message.pixels.tolist() == PIXELS
        assert message.pixels.dtype == np.uint16
        assert message.header == {}
        assert message.sampling_A is message.dose_e_A2 is message.timestamp_s is message.series is None

    def test_areadetector_up_to_1_3(self) -> None:
        """htype is a list, and the fastest axis comes first."""
        header = (
            b'{"htype":["array-1.0"],"type":"uint16","shape":[3,2],"frame":7,"timeStamp":1.5,"encoding":"",'
            b'"ndattr":{"Gain":2}}'
        )
        message = decode([header, BLOB])
        assert message.pixels.tolist() == PIXELS
        assert message.header == {"timeStamp": 1.5, "ndattr": {"Gain": 2}}

    def test_areadetector_from_1_4(self) -> None:
        """htype is a text, the slowest axis comes first, and the codec of ADCompression is named."""
        header = (
            b'{"htype":"array-1.0","type":"uint16","shape":[2,3],"frame":7,"timeStamp":1.5,"encoding":"lz4",'
            b'"ndattr":{}}'
        )
        blob = bytes.fromhex("c0010002000300040005000001")
        message = decode([header, blob])
        assert message.pixels.tolist() == PIXELS
        assert message.header == {"timeStamp": 1.5, "ndattr": {}}

    def test_areadetector_bitshuffled(self) -> None:
        header = b'{"htype":"array-1.0","type":"uint16","shape":[2,8],"frame":7,"encoding":"bslz4"}'
        message = decode([header, BITSHUFFLED])
        assert message.pixels.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]]

    def test_every_optional_key(self) -> None:
        header = (
            b'{"htype": "array-1.0", "protocol": 1, "type": "uint16", "shape": [2, 3], "frame": 7, "sampling": 0.1, '
            b'"defocus": -50, "dose": 1e4, "exposure": 0.04, "frame_interval": 0.05, "timestamp": 1700000000.25, '
            b'"series": "a", "voltage": 80000, "gain": 2, "offset": 100, "source": "cam", "endianness": "little", '
            b'"stage": {"alpha": 0.5}}'
        )
        message = decode([header, BLOB])
        assert (message.sampling_A, message.defocus_A, message.dose_e_A2) == (0.1, (-50.0,), 1e4)
        assert (message.frame_interval_s, message.timestamp_s, message.series) == (0.05, 1700000000.25, "a")
        assert (message.voltage_V, message.gain, message.offset) == (80000, 2, 100)
        assert message.header == {"exposure": 0.04, "source": "cam", "stage": {"alpha": 0.5}}


class TestPixels:
    @pytest.mark.parametrize("name", DTYPES)
    def test_every_dtype_survives_the_way(self, name: str) -> None:
        pixels = np.arange(6, dtype=name).reshape(2, 3)
        decoded = decode(encode(pixels, frame=1)).pixels
        assert decoded.dtype == pixels.dtype
        assert (decoded == pixels).all()

    def test_big_endian(self) -> None:
        pixels = decode(parts(np.array(PIXELS, ">u2").tobytes(), endianness="big")).pixels
        assert pixels.tolist() == PIXELS
        assert pixels.dtype.isnative

    def test_pixels_are_a_view_of_the_message(self) -> None:
        blob = bytearray(BLOB)
        pixels = decode([parts()[0], memoryview(blob)]).pixels
        blob[0] = 9
        assert pixels[0, 0] == (9 if sys.byteorder == "little" else 1)

    @pytest.mark.parametrize(("order", "shape"), [("height_first", [2, 3]), ("width_first", [3, 2])])
    def test_axis_order_as_configured(self, order: str, shape: list[int]) -> None:
        for htype in ("array-1.0", ["array-1.0"]):
            assert decode(parts(shape=shape, htype=htype), Rules(axis_order=order)).pixels.tolist() == PIXELS

    def test_triplet(self) -> None:
        message = decode(parts(BLOB * 3, shape=[3, 2, 3], defocus=[-20, 0, 20]))
        assert message.pixels.shape == (3, 2, 3)
        assert message.defocus_A == (-20, 0, 20)

    def test_sender_refuses_what_no_receiver_takes(self) -> None:
        with pytest.raises(FrameError, match="complex64"):
            encode(np.zeros((2, 3), np.complex64), frame=0)

    def test_transposed_pixels_are_sent_in_order(self) -> None:
        pixels = np.arange(6, dtype=np.uint16).reshape(3, 2).T
        assert (decode(encode(pixels, frame=0)).pixels == pixels).all()


class TestSaturated:
    def test_the_largest_of_a_wide_integer_holds_no_measurement(self) -> None:
        for name in ("uint16", "int16", "uint32", "int32", "uint64", "int64"):
            pixels = np.array([[0, 1, 2], [3, 4, np.iinfo(name).max]], name)
            mask = decode(encode(pixels, frame=0)).mask
            assert mask is not None
            assert mask.tolist() == [[False, False, False], [False, False, True]]

    def test_white_of_an_8_bit_picture_is_content(self) -> None:
        assert decode(encode(np.full((2, 3), 255, np.uint8), frame=0)).mask is None

    @pytest.mark.parametrize(("counts", "masked"), [(5.0, 2), (0.0, 0), (300.0, 0)])
    def test_as_configured(self, counts: float, masked: int) -> None:
        mask = decode(parts(), Rules(saturated_counts=counts)).mask
        assert (0 if mask is None else mask.sum()) == masked

    def test_a_nan_hides_no_saturated_pixel(self) -> None:
        pixels = np.array([[np.nan, 9, 1]], np.float32)
        mask = decode(encode(pixels, frame=0), Rules(saturated_counts=5.0)).mask
        assert mask is not None
        assert mask.tolist() == [[False, True, False]]

    def test_a_triplet_has_one_mask(self) -> None:
        pixels = np.zeros((3, 2, 3), np.uint16)
        pixels[1, 0, 2] = 65535
        mask = decode(encode(pixels, frame=0)).mask
        assert mask is not None
        assert np.argwhere(mask).tolist() == [[0, 2]]


class TestRefused:
    @pytest.mark.parametrize(
        ("expected", "message"),
        [
            ("wrong_parts", []),
            ("wrong_parts", [parts()[0]]),
            ("wrong_parts", [*parts(), b""]),
            ("not_json", [b"", BLOB]),
            ("not_json", [b"\xff\xfe\x00", BLOB]),
            ("not_json", [b"{", BLOB]),
            ("not_json", [b"[]", BLOB]),
            ("not_json", [b"null", BLOB]),
            ("not_json", [b"[" * 60_000, BLOB]),
            ("not_json", [b'{"frame": ' + b"9" * 5000 + b"}", BLOB]),
            ("not_json", [json.dumps(HEADER | {"dose": float("nan")}).encode(), BLOB]),
            ("not_json", [b'{"x": 1e999}', BLOB]),
            ("not_json", [b'{"series": "a\\uD800"}', BLOB]),
            ("too_large", [b" " * 100_000, BLOB]),
            ("too_large", parts(shape=[100_000, 2])),
            ("too_large", parts(shape=[60_000, 60_000])),
            ("missing_key", parts(htype=...)),
            ("missing_key", parts(shape=...)),
            ("missing_key", parts(type=...)),
            ("missing_key", parts(frame=...)),
            ("missing_key", parts(frame=None)),
            ("wrong_key", parts(htype="dimage-1.0")),
            ("wrong_key", parts(htype=["dimage-1.0"])),
            ("wrong_key", parts(protocol=2)),
            ("wrong_key", parts(shape=6)),
            ("wrong_key", parts(shape="ab")),
            ("wrong_key", parts(shape=[6])),
            ("wrong_key", parts(shape=[2, -3])),
            ("wrong_key", parts(shape=[2, 3.0])),
            ("wrong_key", parts(shape=[True, 6])),
            ("wrong_key", parts(shape=[2, 1, 3])),
            ("wrong_key", parts(shape=[1, 1, 2, 3])),
            ("wrong_key", parts(frame="7")),
            ("wrong_key", parts(frame=-1)),
            ("wrong_key", parts(frame=7.5)),
            ("wrong_key", parts(frame=True)),
            ("wrong_key", parts(frame=10**30)),
            ("wrong_key", parts(endianness="middle")),
            ("wrong_key", parts(series=[1])),
            ("wrong_key", parts(series="x" * 1000)),
            ("wrong_key", parts(series=10**40)),
            ("wrong_key", parts(sampling=0)),
            ("wrong_key", parts(sampling="0.1")),
            ("wrong_key", parts(sampling=True)),
            ("wrong_key", parts(dose=-1)),
            ("wrong_key", parts(gain=0)),
            ("wrong_key", parts(timestamp=10**400)),
            ("wrong_key", parts(defocus=[1, 2, 3])),
            ("wrong_key", parts(defocus=["far"])),
            ("unknown_dtype", parts(type="float16")),
            ("unknown_dtype", parts(type="object")),
            ("unknown_dtype", parts(type="O")),
            ("unknown_dtype", parts(type=["uint16"])),
            ("unknown_encoding", parts(encoding="lz4<")),
            ("unknown_encoding", parts(encoding="jpeg")),
            ("bad_compression", parts(encoding="lz4")),
            ("bad_compression", parts(BLOB[:-1], encoding="bslz4")),
            ("bad_compression", parts(encoding="lz4hdf5")),
            ("too_large", parts(b"", encoding="lz4", shape=[60_000, 60_000])),
            ("unknown_encoding", parts(encoding=["none"])),
            ("size_mismatch", parts(BLOB[:-1])),
            ("size_mismatch", parts(BLOB + b"\0")),
            ("size_mismatch", parts(b"")),
            ("size_mismatch", parts(type="float64")),
            ("empty_frame", parts(b"", shape=[0, 3])),
            ("empty_frame", parts(shape=[2, 0])),
        ],
    )
    def test_with_its_reason(self, expected: str, message: list[bytes]) -> None:
        assert reason(message) == expected
        assert expected in REASONS

    def test_limits(self) -> None:
        assert reason(parts(), Rules(max_pixels=5)) == "too_large"
        assert reason(parts(), Rules(max_bytes=11)) == "too_large"
        assert reason(parts(b"x" * 100), Rules(max_bytes=50)) == "too_large"
        assert decode(parts(), Rules(max_bytes=12, max_pixels=6)).number == 7

    def test_the_message_says_what_was_expected_and_what_came(self) -> None:
        with pytest.raises(FrameError, match=r"Expected 12 bytes for \(2, 3\) uint16, got 11: "):
            decode(parts(BLOB[:-1]))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["array-1.0", "uint16"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
OPTIONAL = ("endianness", "encoding", "protocol", "series", "timestamp", "sampling", "dose", "defocus", "voltage")
keys = st.sampled_from([*HEADER, *OPTIONAL, "gain", "offset", "frame_interval", "other"])


class TestFuzz:
    @given(st.lists(st.binary(max_size=40), max_size=4))
    def test_random_bytes(self, message: list[bytes]) -> None:
        with pytest.raises(FrameError):
            decode(message)

    @settings(max_examples=300)
    @given(st.dictionaries(keys, json_values, max_size=4), st.binary(max_size=24) | st.just(BLOB))
    def test_random_headers_decode_or_are_refused(self, changes: dict[str, Any], blob: bytes) -> None:
        refused, message = "", None
        try:
            message = decode([json.dumps(HEADER | changes).encode(), blob])
        except FrameError as error:
            refused = error.reason
        assert (message is None) == (refused in REASONS)
        if message is not None:
            json.dumps(message.header, allow_nan=False)


class TestResults:
    COLUMNS = ({"name": "y", "dtype": "<f4", "unit": "px"}, {"name": "flags", "dtype": "|u1", "unit": None})

    def test_columns_come_back_by_name(self) -> None:
        y, flags = np.array([1.5, 2.5], np.float32), np.array([0, 1], np.uint8)
        sent = encode_result("atoms", "cam", {"frame": 3, "columns": self.COLUMNS}, [y, flags])
        result = decode_result([bytes(part) for part in sent])
        assert (result.kind, result.source) == ("atoms", "cam")
        assert (result.header["protocol"], result.header["frame"]) == (1, 3)
        assert result.arrays["y"].tolist() == [1.5, 2.5]
        assert result.arrays["flags"].dtype == np.uint8

    def test_preview_is_a_picture(self) -> None:
        picture = np.arange(6, dtype=np.uint8).reshape(2, 3)
        sent = encode_result("preview", "cam", {"shape": picture.shape}, [picture])
        assert (decode_result([bytes(part) for part in sent]).arrays["picture"] == picture).all()

    @given(st.text(max_size=8))
    @example("01x")  # of which NumPy makes a SyntaxError
    def test_types_that_no_column_has_are_refused(self, dtype: str) -> None:
        header = {"htype": "atomstream-atoms-1.0", "protocol": 1, "columns": [{"name": "y", "dtype": dtype}]}
        assume(dtype not in {np.dtype(name).str for name in DTYPES})
        with pytest.raises(FrameError, match="the type ") as caught:
            decode_result([b"atoms/c", json.dumps(header).encode(), bytes(8)])
        assert caught.value.reason == "size_mismatch"

    @pytest.mark.parametrize(
        ("expected", "message"),
        [
            ("wrong_parts", [b"atoms/cam"]),
            ("not_json", [b"atoms/cam", b"?"]),
            ("wrong_key", [b"atoms/cam", b'{"htype": "atomstream-atoms-2.0"}']),
            ("wrong_key", [b"atoms/cam", b'{"htype": "atomstream-atoms-1.0", "protocol": 99, "columns": []}']),
            ("too_large", [b"atoms/cam", b" " * 1_000_001]),
            ("size_mismatch", [b"preview/cam", b'{"htype": "atomstream-preview-1.0", "protocol": 1, "shape": [2, 3]}']),
            (
                "size_mismatch",
                [b"preview/cam", b'{"htype": "atomstream-preview-1.0", "protocol": 1, "shape": [2, 3]}', b"12345"],
            ),
            (
                "size_mismatch",
                [b"atoms/c", b'{"htype": "atomstream-atoms-1.0", "protocol": 1, "columns": [{"name": "y"}]}', b""],
            ),
            ("size_mismatch", [b"atoms/c", b'{"htype": "atomstream-atoms-1.0", "protocol": 1, "columns": 5}', b""]),
            (
                "size_mismatch",
                [
                    b"atoms/c",
                    b'{"htype": "atomstream-atoms-1.0", "protocol": 1, "columns": [{"name": "y", "dtype": "O"}]}',
                    b"12345678",
                ],
            ),
        ],
    )
    def test_what_is_no_result_is_refused(self, expected: str, message: list[bytes]) -> None:
        with pytest.raises(FrameError) as caught:
            decode_result(message)
        assert caught.value.reason == expected
