"""CBOR as another program writes it comes back as it was; whatever else comes is refused."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import FrameError
from stream.cbor import Tagged, read_cbor

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.integers(0, 300), inner),
    max_leaves=20,
)


def plain(value: Any) -> Any:
    """Views as bytes, so that they can be compared."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, Tagged):
        return Tagged(value.tag, plain(value.value))
    return bytes(value) if isinstance(value, memoryview) else value


def read(message: bytes) -> Any:
    return plain(read_cbor(memoryview(message)))


def refused(message: bytes) -> str:
    with pytest.raises(FrameError) as caught:
        read_cbor(memoryview(message))
    assert caught.value.reason == "not_cbor"
    return str(caught.value)


@given(values)
def test_what_cbor2_writes(value: Any) -> None:
    assert read(cbor2.dumps(value)) == value


@given(values)
def test_and_of_indefinite_length(value: Any) -> None:
    assert read(cbor2.dumps(value, indefinite_containers=True)) == value


@pytest.mark.parametrize(
    ("message", "value"),
    [
        ("f93e00", 1.5),
        ("fa47c35000", 100000.0),
        ("f7", None),
        ("3903e7", -1000),
        ("5f42010243030405ff", b"\1\2\3\4\5"),
        ("7f657374726561646d696e67ff", "streaming"),
        ("9f018202039f0405ffff", [1, [2, 3], [4, 5]]),
        ("bf6346756ef563416d7421ff", {"Fun": True, "Amt": -2}),
        ("c11a514b67b0", Tagged(1, 1363896240)),
        ("d9d9f7d8404101", Tagged(55799, Tagged(64, b"\1"))),
    ],
)
def test_examples_of_the_specification(message: str, value: Any) -> None:
    """RFC 8949, appendix A, but for the last."""
    assert read(bytes.fromhex(message)) == value


def test_a_byte_string_is_a_view_of_the_message() -> None:
    message = bytearray(cbor2.dumps({"blob": bytes(100)}))
    blob = read_cbor(memoryview(message))["blob"]
    message[-1] = 9
    assert blob[-1] == 9


class TestRefused:
    @pytest.mark.parametrize(
        "message",
        [
            b"",
            b"\x18",
            b"\x1c",
            b"\x1f",
            b"\x43\1\2",
            b"\x5b" + b"\xff" * 8,
            b"\x7b\xff" + bytes(7),
            b"\x62\xff\xfe",
            b"\x82\1",
            b"\x9b" + b"\xff" * 8,
            b"\xbb" + b"\xff" * 8 + b"\1\1",
            b"\xa1\x80\1",
            b"\xa1\xf9\x3e\0\1",
            b"\xdf\1",
            b"\xff",
            b"\xf8\x20",
            b"\x5f\x61a\xff",
            b"\x5f\x5f\xff\xff",
            b"\x9f\1",
            b"\1\1",
        ],
        ids=bytes.hex,
    )
    def test_what_is_none(self, message: bytes) -> None:
        refused(message)

    def test_limits(self) -> None:
        assert "levels" in refused(b"\x81" * 100_000)
        assert "levels" in refused(b"\xc1" * 100_000)
        assert "items" in refused(b"\x9f" + b"\1" * 100_000)
        assert "items" in refused(b"\x9b\0\0\0\1\0\0\0\0" + b"\1" * 100_000)

    def test_no_tag_is_acted_on(self) -> None:
        """To cbor2 these are a date, a large number, a power of two, a pattern and a reference."""
        for tag, value in ((0, "no date"), (2, b"\xff" * 99), (5, [2**60, 1]), (35, "("), (29, 7)):
            assert read(cbor2.dumps(cbor2.CBORTag(tag, value))) == Tagged(tag, value)

    @settings(max_examples=300)
    @given(st.binary(max_size=60))
    def test_random_bytes_are_read_or_refused(self, message: bytes) -> None:
        refusal = "not_cbor"
        try:
            read_cbor(memoryview(message))
        except FrameError as error:
            refusal = error.reason
        assert refusal == "not_cbor"

    @given(values, st.data())
    def test_truncated(self, value: Any, data: st.DataObject) -> None:
        message = cbor2.dumps(value)
        refused(message[: data.draw(st.integers(0, len(message) - 1))])
