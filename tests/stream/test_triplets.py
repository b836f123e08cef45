"""Three frames make a triplet, by every rule and in whatever order; what makes none is given up with its reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import FrameError
from engine.frame import Frame
from stream.accounting import REASONS
from stream.exposure import Exposure
from stream.header import Message
from stream.messages import decode, encode
from stream.triplets import RULES, TripletAssembler

TIMEOUT_S = 5.0


def exposure(
    number: int, arrival_s: float = 0.0, epoch: int = 1, shape: tuple[int, int] = (4, 5), **keys: Any
) -> Exposure:
    message: Message = decode(encode(np.full(shape, number % 60_000, np.uint16), frame=number, **keys))
    frame = Frame(message.pixels, message.sampling_A or 0.2, message.mask, defocus_A=message.defocus_A)
    return Exposure(message, frame, epoch, arrival_s, arrival_s, None, None, None, 0.0)


class Books:
    """An assembler, the numbers of its triplets, and what became of every frame."""

    def __init__(self, rule: str, first: int | None = None) -> None:
        self.assembler = TripletAssembler(rule, TIMEOUT_S, first)
        self.triplets: list[tuple[int, ...]] = []
        self.reasons: list[str] = []
        self.received = self.answered = 0

    def add(self, number: int, arrival_s: float = 0.0, epoch: int = 1, **keys: Any) -> None:
        self.received += 1
        try:
            gathered = self.assembler.add(exposure(number, arrival_s, epoch, **keys))
        except FrameError as error:
            self.reasons.append(error.reason)
            return
        self.reasons += [error.reason for error in gathered.refused]
        self.answered += gathered.answers
        if gathered.members is not None:
            self.triplets.append(tuple(one.message.number for one in gathered.members))

    def expire(self, now_s: float) -> None:
        self.reasons += [error.reason for error in self.assembler.expire(now_s)]

    @property
    def balanced(self) -> bool:
        return self.received == self.answered + len(self.reasons) + self.assembler.waiting


def follow(rule: str, *frames: dict[str, Any] | int, first: int | None = None) -> Books:
    books = Books(rule, first)
    for frame in frames:
        books.add(**(frame if isinstance(frame, dict) else {"number": frame}))
        assert books.balanced
    return books


def member(number: int, series: str | int = "a", **keys: Any) -> dict[str, Any]:
    return {"number": number, "series": series, **keys}


class TestBySeries:
    def test_three_of_one_value(self) -> None:
        books = follow("series", *(member(number, series) for series in "ab" for number in range(3)))
        assert books.triplets == [(0, 1, 2), (0, 1, 2)]
        assert (books.answered, books.reasons) == (6, [])

    def test_in_the_order_of_their_defocus(self) -> None:
        books = follow("series", *(member(number, defocus=defocus) for number, defocus in enumerate((50, -50, 0))))
        assert books.triplets == [(1, 2, 0)]

    @pytest.mark.parametrize("defoci", [(None, -50, 0), (0, 0, 0)])
    def test_by_number_where_the_defocus_does_not_tell(self, defoci: tuple[int | None, ...]) -> None:
        numbered = zip((2, 0, 1), defoci, strict=True)
        assert follow("series", *(member(number, defocus=one) for number, one in numbered)).triplets == [(0, 1, 2)]

    def test_out_of_order_and_interleaved(self) -> None:
        frames = [("a", 2), ("b", 4), ("a", 0), ("b", 3), ("a", 1), ("b", 5)]
        books = follow("series", *(member(number, series) for series, number in frames))
        assert books.triplets == [(0, 1, 2), (3, 4, 5)]
        assert books.reasons == []

    def test_a_repeated_member_is_dropped_before_and_after(self) -> None:
        books = follow("series", *(member(number) for number in (0, 0, 1, 2, 1)))
        assert books.triplets == [(0, 1, 2)]
        assert books.reasons == ["triplet_repeated"] * 2

    def test_more_frames_of_one_series_are_more_triplets(self) -> None:
        assert follow("series", *(member(number) for number in range(6))).triplets == [(0, 1, 2), (3, 4, 5)]

    def test_a_name_may_come_again_later(self) -> None:
        books = Books("series")
        for arrival_s in (0.0, 100.0):
            books.expire(arrival_s)
            for number in range(3):
                books.add(arrival_s=arrival_s, **member(number))
        assert books.triplets == [(0, 1, 2)] * 2

    def test_no_series_is_told(self) -> None:
        with pytest.raises(FrameError, match=r"Expected the key 'series' .* set triplets = 'count'") as caught:
            TripletAssembler("series", 1.0).add(exposure(0))
        assert caught.value.reason == "missing_key"

    def test_series_that_never_become_three_do_not_pile_up(self) -> None:
        books = follow("series", *(member(0, series) for series in range(100)))
        assert books.assembler.waiting == 4
        assert books.reasons == ["triplet_incomplete"] * 96


class TestTimeout:
    @pytest.mark.parametrize("rule", RULES)
    def test_what_lacks_a_member_is_given_up(self, rule: str) -> None:
        books = Books(rule)
        for number, arrival_s in ((0, 10.0), (1, 12.0)):
            books.add(number, arrival_s, series="a", defocus=number)
        books.expire(12.0 + TIMEOUT_S)
        assert books.reasons == []
        books.expire(12.1 + TIMEOUT_S)
        assert books.reasons == ["triplet_incomplete"] * 2
        assert books.balanced
        assert books.assembler.waiting == 0

    def test_the_member_that_comes_too_late_waits_and_is_given_up_as_well(self) -> None:
        books = Books("count")
        books.add(0, 0.0)
        books.add(1, 0.0)
        books.expire(20.0)
        books.add(2, 20.0)
        books.expire(40.0)
        assert books.reasons == ["triplet_incomplete"] * 3
        assert books.triplets == []


class TestByCount:
    @pytest.mark.parametrize("first", [0, 1])
    def test_every_three_from_0_or_1(self, first: int) -> None:
        books = follow("count", *range(first, first + 6))
        assert books.triplets == [(first, first + 1, first + 2), (first + 3, first + 4, first + 5)]

    def test_a_missing_frame_does_not_shift_those_after(self) -> None:
        books = follow("count", 0, 1, 3, 4, 5, 6, 7, 8)
        assert books.triplets == [(3, 4, 5), (6, 7, 8)]
        assert books.assembler.waiting == 2

    def test_met_halfway(self) -> None:
        assert follow("count", 7, 8, 9, 10, 11).triplets == [(9, 10, 11)]
        assert follow("count", 6, 7, 8, 9, 10, first=1).triplets == [(7, 8, 9)]

    def test_a_first_frame_that_was_overtaken(self) -> None:
        books = follow("count", 1, 0, 2, 3, 4, 5)
        assert books.triplets == [(0, 1, 2), (3, 4, 5)]
        assert books.reasons == []

    def test_out_of_order(self) -> None:
        assert follow("count", 0, 2, 1, 3, 5, 4).triplets == [(0, 1, 2), (3, 4, 5)]

    def test_a_new_series_counts_anew(self) -> None:
        frames = [
            {"number": number, "epoch": epoch} for epoch, numbers in ((1, (0, 1)), (2, (1, 2, 3))) for number in numbers
        ]
        assert follow("count", *frames).triplets == [(1, 2, 3)]


class TestByDefocus:
    def cycle(self, *frames: tuple[int, float]) -> Books:
        return follow("defocus", *({"number": number, "defocus": defocus} for number, defocus in frames))

    def test_three_values_in_a_row(self) -> None:
        books = self.cycle(*((number, (50, 0, -50)[number % 3]) for number in range(6)))
        assert books.triplets == [(2, 1, 0), (5, 4, 3)]

    @pytest.mark.parametrize("lost", range(6))
    def test_a_lost_frame_costs_its_own_cycle_only(self, lost: int) -> None:
        books = self.cycle(*((number, (-50, 0, 50)[number % 3]) for number in range(12) if number != lost))
        assert len(books.triplets) == 3
        assert all(max(triplet) - min(triplet) == 2 for triplet in books.triplets)

    def test_two_cycles_are_not_mixed(self) -> None:
        books = self.cycle((0, -50), (1, 0), (8, 50), (9, -50), (10, 0))
        assert books.triplets == [(9, 10, 8)]
        assert books.reasons == ["triplet_incomplete"] * 2

    def test_defoci_are_read_back_with_jitter(self) -> None:
        """A lost frame: what comes in its place is the focus of the first again, a hundredth off."""
        books = self.cycle((0, 0.02), (2, 49.98), (3, 0.03), (4, 25.01), (5, 50.02))
        assert books.triplets == [(3, 4, 5)]
        assert books.reasons == ["triplet_incomplete"] * 2

    def test_a_repeated_frame(self) -> None:
        books = self.cycle((0, -50), (1, 0), (1, 0), (2, 50))
        assert books.triplets == [(0, 1, 2)]
        assert books.reasons == ["triplet_repeated"]

    def test_no_defocus_is_told(self) -> None:
        with pytest.raises(FrameError, match="Expected the key 'defocus'"):
            TripletAssembler("defocus", 1.0).add(exposure(0))


class TestRolling:
    def test_an_answer_with_every_frame_from_the_third_on(self) -> None:
        books = Books("rolling")
        answers = []
        for number in range(6):
            books.add(number, defocus=(50, 0, -50)[number % 3])
            answers.append(books.answered)
        assert books.triplets == [(2, 1, 0), (2, 1, 3), (2, 4, 3), (5, 4, 3)]
        assert answers == [0, 0, 3, 4, 5, 6]

    def test_without_defocus_each_keeps_its_place_in_three(self) -> None:
        assert follow("rolling", 3, 4, 5, 6, 7).triplets == [(3, 4, 5), (6, 4, 5), (6, 7, 5)]

    def test_a_lost_frame_gives_no_answer_until_there_are_three_again(self) -> None:
        books = follow("rolling", *({"number": number, "defocus": number % 3} for number in (0, 1, 2, 4, 5, 6, 7)))
        assert books.triplets == [(0, 1, 2), (6, 4, 5), (6, 7, 5)]
        assert books.reasons == []

    def test_defoci_that_jitter_are_one(self) -> None:
        frames = ({"number": n, "defocus": one} for n, one in enumerate((0.02, 49.98, 50.01, 0.03, 25.0)))
        assert follow("rolling", *frames).triplets == [(3, 4, 2)]

    def test_what_leaves_unanswered_is_given_up(self) -> None:
        books = follow("rolling", *({"number": number, "defocus": number % 2} for number in range(6)))
        assert books.triplets == []
        assert books.reasons == ["triplet_incomplete"] * 3

    @pytest.mark.parametrize("change", [{"shape": (5, 5)}, {"sampling": 0.3}])
    def test_after_a_change_of_the_camera_it_begins_anew(self, change: dict[str, Any]) -> None:
        frames: list[dict[str, Any] | int] = [0, 1, *({"number": number, **change} for number in range(2, 6))]
        books = follow("rolling", *frames)
        assert books.reasons == ["triplet_mismatch"] * 2
        assert len(books.triplets) == 2

    def test_a_new_series_begins_anew(self) -> None:
        books = follow("rolling", 0, 1, *({"number": number, "epoch": 2} for number in range(3)))
        assert books.triplets == [(0, 1, 2)]
        assert books.reasons == ["triplet_incomplete"] * 2


@pytest.mark.parametrize("rule", ["series", "count", "defocus"])
@pytest.mark.parametrize("change", [{"shape": (5, 5)}, {"sampling": 0.3}])
def test_members_that_differ_are_refused(rule: str, change: dict[str, Any]) -> None:
    frames = [{"number": number, "series": "a", "defocus": number} for number in range(3)]
    books = follow(rule, frames[0], frames[1] | change, frames[1], frames[2])
    assert books.reasons == ["triplet_mismatch"]
    assert books.triplets == [(0, 1, 2)]


@given(
    st.sampled_from(RULES),
    st.lists(
        st.tuples(
            st.integers(0, 9),
            st.sampled_from("abc"),
            st.sampled_from([-50, 0, 50]),
            st.sampled_from([0.2, 0.3]),
            st.booleans(),
        ),
        max_size=40,
    ),
)
def test_every_frame_is_accounted_for(rule: str, frames: list[tuple[int, str, int, float, bool]]) -> None:
    books = Books(rule)
    for at, (number, series, defocus, sampling, pause) in enumerate(frames):
        books.add(number, 10.0 * at, "abc".index(series), series=series, defocus=defocus, sampling=sampling)
        if pause:
            books.expire(10.0 * at + 5.5)
        assert books.balanced
        assert books.assembler.waiting <= 12
    assert set(books.reasons) <= {"triplet_incomplete", "triplet_repeated", "triplet_mismatch"} <= set(REASONS)
    assert all(len(set(triplet)) == 3 or rule == "rolling" for triplet in books.triplets)
