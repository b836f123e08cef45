"""A preview is shown with the atoms of its own frame, or not at all."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.messages import decode_result
from stream.pictures import Pairing, Picture, pack
from tests.synthetic import atoms_message, preview_message

POSITIONS = np.array([[1.25, 2.5], [3.0, 4.75], [7.5, 0.0]])
PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)


def atoms(**changes):
    return decode_result(atoms_message(POSITIONS, **changes))


def preview(**changes):
    return decode_result(preview_message(PIXELS, **changes))


def unpack(message: bytes):
    """The layout as a browser reads it."""
    size, waited_s = struct.unpack_from("<If", message)
    header = json.loads(message[8 : 8 + size])
    at, columns = 8 + size, {}
    for name, dtype in (("y", "<f4"), ("x", "<f4"), ("score", "<f4"), ("sigma_pm", "<f4")):
        assert at % 4 == 0, "a browser cannot read floats that are not aligned"
        columns[name] = np.frombuffer(message, dtype, header["count"], at)
        at += columns[name].nbytes
    for name in ("class_id", "flags"):
        columns[name] = np.frombuffer(message, np.uint8, header["count"], at)
        at += header["count"]
    picture = np.frombuffer(message, np.uint8, offset=at).reshape(header["preview_shape"])
    return header, waited_s, columns, picture


class TestPack:
    def test_everything_comes_out_again(self):
        header, waited_s, columns, picture = unpack(pack(atoms(frame=7), preview(frame=7)).message(1.5))
        assert (header["frame"], header["series"], header["count"], waited_s) == (7, "sheet", 3, 1.5)
        assert (header["frame_shape"], header["preview_shape"]) == ([512, 512], [3, 4])
        assert (header["model"], header["classes"], header["sampling_A"]) == ("graphene 1", ["C"], 0.12)
        np.testing.assert_array_equal(np.stack([columns["y"], columns["x"]], axis=1), POSITIONS)
        np.testing.assert_array_equal(columns["flags"], [1, 0, 0])
        np.testing.assert_array_equal(picture, PIXELS)

    def test_a_frame_without_atoms(self):
        empty = decode_result(atoms_message(np.empty((0, 2))))
        header, _, columns, picture = unpack(pack(empty, preview()).message(0))
        assert header["count"] == len(columns["y"]) == 0
        np.testing.assert_array_equal(picture, PIXELS)

    @given(st.text(max_size=40))
    def test_floats_stay_aligned_whatever_the_header_says(self, text):
        header, *_ = unpack(pack(atoms(warnings=[text]), preview()).message(0))
        assert header["warnings"] == [text]

    def test_texts_are_bounded(self):
        header, *_ = unpack(pack(atoms(warnings=["w" * 1000] * 40), preview()).message(0))
        assert len(header["warnings"]) == 16
        assert len(header["warnings"][0]) == 300

    @pytest.mark.parametrize(
        "changes",
        [
            {"sampling_A": 0},
            {"sampling_A": None},
            {"shape": [0, 4]},
            {"shape": [4]},
            {"shape": "ab"},
            {"model": "graphene"},
            {"classes": 3},
            {"warnings": None},
        ],
    )
    def test_what_the_page_could_not_draw_is_refused(self, changes):
        with pytest.raises((ValueError, TypeError)):
            pack(atoms(**changes), preview())

    def test_numbers_that_are_none_become_null(self):
        header, *_ = unpack(pack(atoms(latency_ms="soon", dose_e_A2=None), preview()).message(0))
        assert header["latency_ms"] is header["dose_e_A2"] is None

    def test_columns_of_another_kind_are_refused(self):
        parts = atoms_message(POSITIONS)
        parts[1] = parts[1].replace(b'"name": "y", "dtype": "<f4"', b'"name": "y", "dtype": "<i4"')
        with pytest.raises(ValueError, match="column y of int32"):
            pack(decode_result(parts), preview())

    def test_columns_of_different_length_are_refused(self):
        parts = atoms_message(POSITIONS)
        parts[2] = parts[2][:4]
        with pytest.raises(ValueError, match="rows"):
            pack(decode_result(parts), preview())


class TestPairing:
    def frame_of(self, picture: Picture | None):
        return None if picture is None else json.loads(picture.header)["frame"]

    @pytest.mark.parametrize("first", ["atoms", "preview"])
    def test_either_may_come_first(self, first):
        pairing = Pairing()
        pair = [atoms(frame=3), preview(frame=3)]
        early, late = pair if first == "atoms" else pair[::-1]
        assert pairing.take(early) is None
        assert self.frame_of(pairing.take(late)) == 3

    def test_most_frames_have_no_preview(self):
        pairing = Pairing()
        for frame in range(10):
            assert pairing.take(atoms(frame=frame)) is None
        assert self.frame_of(pairing.take(preview(frame=9))) == 9

    def test_atoms_are_never_drawn_over_another_frame(self):
        pairing = Pairing()
        assert pairing.take(preview(frame=1)) is None
        assert pairing.take(atoms(frame=2)) is None
        assert pairing.take(preview(frame=3)) is None

    def test_the_same_number_of_another_series_is_another_frame(self):
        pairing = Pairing()
        assert pairing.take(atoms(frame=1, series="before")) is None
        assert pairing.take(preview(frame=1, series="after")) is None
        assert self.frame_of(pairing.take(atoms(frame=1, series="after"))) == 1

    def test_a_pair_is_given_once(self):
        pairing = Pairing()
        pairing.take(atoms(frame=1))
        assert pairing.take(preview(frame=1)) is not None
        assert pairing.take(atoms(frame=1)) is None

    def test_what_waits_is_bounded(self):
        pairing = Pairing()
        for frame in range(1000):
            pairing.take(atoms(frame=frame))
        assert pairing.take(preview(frame=0)) is None

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=30))
    def test_whatever_comes_in_whatever_order(self, messages):
        pairing, seen = Pairing(), {True: set(), False: set()}
        for is_atoms, frame in messages:
            seen[is_atoms].add(frame)
            shown = self.frame_of(pairing.take(atoms(frame=frame) if is_atoms else preview(frame=frame)))
            assert shown is None or (shown == frame and frame in seen[True] & seen[False])
