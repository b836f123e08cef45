"""Frames as the bench decodes them: both ways give the same pixels; and frames are really received."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from bench.decoding import messages, receive
from bench.recording import record
from bench.report import rows
from stream.messages import decode


def test_packed_and_as_it_is_are_the_same_frame() -> None:
    pixels = np.random.default_rng(0).poisson(50, (64, 48)).astype(np.uint16)
    raw, packed = messages(pixels)
    assert len(packed[1]) < len(raw[1])
    for parts in (raw, packed):
        np.testing.assert_array_equal(decode(parts).pixels, pixels)


def test_frames_come_and_the_cores_are_given_back(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    assert receive(record(tmp_path, (64, 64), 0.2), 0.1) > 10
    assert os.sched_getaffinity(0) == before


def test_rows_say_what_is_asked() -> None:
    received = {"fps": 900.0, "range": [800.0, 1000.0]}
    result = {"raw_ms": 0.05, "bslz4_ms": 1.5, "packed_share": 0.4, "received": received}
    table = list(rows({"decoding": result}))
    assert [row[3] for row in table] == [None, True, False]
