"""What serve and a recorder say to each other, and what neither believes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import FrameError
from stream.recording import Report, decode_record, decode_report, encode_record, encode_report

COLUMNS = [{"name": "y", "dtype": "<f4", "unit": "px"}, {"name": "class_id", "dtype": "|u1", "unit": None}]
ATOMS = (np.array([1.5, 2], np.float32), np.array([0, 1], np.uint8))


def plain(parts: list[Any]) -> list[bytes]:
    return [bytes(memoryview(part).cast("B")) if isinstance(part, np.ndarray) else bytes(part) for part in parts]


def atoms(**changes: Any) -> list[bytes]:
    return plain(encode_record("atoms", "cam", {"columns": COLUMNS, "record": 3} | changes, ATOMS))


class TestReports:
    @pytest.mark.parametrize(
        "report", [Report("me"), Report("me", "run", 12, 1000, {"disk_full": 3}, "expected room, got none")]
    )
    def test_there_and_back(self, report: Report) -> None:
        assert decode_report(encode_report(report)) == report

    def test_a_long_fault_is_cut(self) -> None:
        assert decode_report(encode_report(Report("me", fault="x" * 9999))).fault == "x" * 1000

    @pytest.mark.parametrize(
        "change",
        [
            {"protocol": 2},
            {"recorder": None},
            {"recorder": "x" * 1001},
            {"run": 3},
            {"written": -1},
            {"written": 1.5},
            {"written": True},
            {"window": 2**60},
            {"lost": [1]},
            {"lost": {"disk_full": -1}},
            {"lost": {"aliens": 1}},
            {"fault": {}, "lost": None},
        ],
    )
    def test_what_is_none(self, change: dict[str, Any]) -> None:
        with pytest.raises(FrameError, match="Expected the report of a recorder"):
            decode_report(json.dumps(json.loads(encode_report(Report("me"))) | change).encode())

    @given(st.binary(max_size=200))
    def test_any_bytes(self, part: bytes) -> None:
        with pytest.raises(FrameError):
            decode_report(part)

    def test_one_that_is_too_long_is_not_read(self) -> None:
        with pytest.raises(FrameError, match="Expected at most 4096 bytes"):
            decode_report(b" " * 5000)


class TestRecords:
    def test_atoms_there_and_back(self) -> None:
        record = decode_record(atoms())
        assert (record.kind, record.header["record"], record.pixels) == ("atoms", 3, None)
        assert {name: column.tolist() for name, column in record.columns.items()} == {"y": [1.5, 2], "class_id": [0, 1]}

    @pytest.mark.parametrize("dtype", ["<u2", ">u2", "<f4"])
    def test_pixels_there_and_back(self, dtype: str) -> None:
        pixels = np.arange(12, dtype=dtype).reshape(3, 4)[:, ::-1]
        record = decode_record(plain(encode_record("atoms", "cam", {"columns": COLUMNS}, ATOMS, pixels)))
        assert record.pixels is not None
        assert record.pixels.tolist() == pixels.tolist()
        assert record.pixels.dtype.name == pixels.dtype.name

    def test_a_beginning_describes_columns_but_holds_none(self) -> None:
        assert decode_record(plain(encode_record("begin", "cam", {"columns": COLUMNS}))).columns == {}

    @pytest.mark.parametrize(
        "columns",
        [
            COLUMNS[:1],
            3,
            [{"name": "y"}, COLUMNS[1]],
            [{"name": "y", "dtype": "O"}, COLUMNS[1]],
            [{"name": "y", "dtype": "<f8"}, COLUMNS[1]],
            [{"name": "y", "dtype": "nonsense"}, COLUMNS[1]],
            [{"name": "../y", "dtype": "<f4"}, COLUMNS[1]],
            [{"name": 7, "dtype": "<f4"}, COLUMNS[1]],
        ],
    )
    def test_columns_that_cannot_be(self, columns: Any) -> None:
        with pytest.raises(FrameError, match="Expected the columns of the header"):
            decode_record(atoms(columns=columns))

    @pytest.mark.parametrize(
        "pixels",
        [7, {}, {"shape": [2, 4], "type": "object"}, {"shape": [2, 5], "type": "uint8"}, {"shape": 8, "type": "uint8"}]
        + [{"shape": shape, "type": "uint8"} for shape in ([8], [-2, -4], [2.0, 4], [10**9, 10**9], [1, 1, 2, 4])],
    )
    def test_pixels_that_cannot_be(self, pixels: Any) -> None:
        with pytest.raises(FrameError, match="Expected pixels as described"):
            decode_record([*atoms(pixels=pixels), bytes(8)])

    def test_pixels_that_are_missing(self) -> None:
        with pytest.raises(FrameError):
            decode_record(atoms(pixels={"shape": [2, 4], "type": "uint8"}))

    @given(st.lists(st.binary(max_size=100), max_size=4))
    def test_any_bytes(self, parts: list[bytes]) -> None:
        with pytest.raises(FrameError):
            decode_record(parts)
