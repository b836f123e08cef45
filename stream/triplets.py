"""Frames of three defoci in, triplets out, whatever order they come in. Pure: time is that of their arrival.

By `series`: three messages of one value are a triplet. By `count`: every three by number. By `defocus`: three values in
a row. `rolling`: with every frame the newest three. Each frame is answered for by one triplet, or dropped by reason.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from engine.errors import FrameError
from stream.exposure import Exposure

RULES = ("series", "count", "defocus", "rolling")

_SIZE = 3
_MAX_OPEN = 4  # triplets that may wait for members at once
_MAX_DONE = 64  # triplets remembered, so that a repeated member is known as one
_SAME_A = 1.0  # defoci that are nearer to each other are one; a focal series goes in steps of some nm
_MAX_SPAN = 4  # numbers that the members of one cycle of defoci may be apart


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """What one more frame led to.

    Attributes
    ----------
    members : tuple of Exposure, or None
        Three, or one of three images. By rising defocus where all say it, else by number.
    answers : int
        Frames that the triplet answers for: those that no other did.
    refused : tuple of FrameError
        One for each frame that no triplet will answer for.
    """

    members: tuple[Exposure, ...] | None = None
    answers: int = 0
    refused: tuple[FrameError, ...] = ()


@dataclass(slots=True, eq=False)
class _Group:
    """A triplet that waits for members."""

    members: list[Exposure] = field(default_factory=list)
    newest_s: float = 0.0


class TripletAssembler:
    """Gathers the frames of one source. For one thread.

    Parameters
    ----------
    rule : str
        One of RULES.
    timeout_s : float
        What lacks a member so long after its last one is dropped.
    first : int, optional
        By `count`, the number of some frame that a triplet begins with; else it is 1 where a sender's first frame is,
        and 0.
    """

    def __init__(self, rule: str, timeout_s: float, first: int | None = None) -> None:
        self._rule = rule
        self._timeout_s = timeout_s
        self._open: OrderedDict[Hashable, _Group] = OrderedDict()
        self._done: OrderedDict[Hashable, tuple[frozenset[int], str, float]] = OrderedDict()
        self._first = first
        self._firsts: tuple[int, int] = (0, 0)  # epoch, and the number its counting begins with
        self._window: list[tuple[Exposure, bool]] = []  # the newest frames, and whether each was answered

    def add(self, exposure: Exposure) -> Gathered:
        """One more frame; FrameError where it cannot be a member."""
        if self._rule == "rolling":
            return self._roll(exposure)
        key = self._key(exposure)
        refused: tuple[FrameError, ...] = ()
        if self._rule == "defocus" and key in self._open and not _continues(self._open[key].members, exposure):
            refused = self._give_up(key)
        self._check_new(key, exposure)
        group = self._open.setdefault(key, _Group())
        group.members.append(exposure)
        group.newest_s = exposure.arrival_s
        if len(group.members) == _SIZE:
            self._finish(key, "triplet_repeated")
            return Gathered(_in_order(group.members), _SIZE, refused)
        while len(self._open) > _MAX_OPEN:
            refused += self._give_up(next(iter(self._open)))
        return Gathered(refused=refused)

    def check_repeated(self, key: Hashable, number: int) -> None:
        """FrameError for a frame that came before; by `series` that is the key."""
        numbers, reason, _ = self._done.get(key, (frozenset(), "", 0.0))
        if number in numbers:
            raise FrameError(
                reason, f"Expected a frame of a new triplet, got frame {number} of {key!r:.80}, which is over"
            )
        if key in self._open and any(number == one.message.number for one in self._open[key].members):
            raise FrameError("triplet_repeated", f"Expected each frame once, got {number} of {key!r:.80} again")

    def expire(self, now_s: float) -> tuple[FrameError, ...]:
        """Give up what has waited for too long; one error for each frame that waited."""
        late = [key for key, group in self._open.items() if now_s - group.newest_s > self._timeout_s]
        refused = tuple(error for key in late for error in self._give_up(key))
        for key in [key for key, (_, _, done_s) in self._done.items() if now_s - done_s > self._timeout_s]:
            del self._done[key]
        if self._window and now_s - self._window[-1][0].arrival_s > self._timeout_s:
            refused += self._empty_window("triplet_incomplete", "the next frame did not come in time")
        return refused

    @property
    def waiting(self) -> int:
        """Frames that no triplet has answered for yet."""
        return sum(len(group.members) for group in self._open.values()) + sum(not done for _, done in self._window)

    def _key(self, exposure: Exposure) -> Hashable:
        message = exposure.message
        if self._rule == "series":
            if message.series is None:
                raise _missing("series", "or set triplets = 'count', 'defocus' or 'rolling'")
            return message.series
        if self._rule == "defocus":
            if message.defocus_A is None:
                raise _missing("defocus", "or set triplets = 'count'")
            return exposure.epoch
        if self._first is not None:
            self._firsts = (exposure.epoch, self._first)
        elif self._firsts[0] != exposure.epoch or message.number == 0:
            # Who counts from 1 begins a triplet there, unless a 0 follows that was overtaken; of a sender met halfway
            # only the number itself can tell.
            self._firsts = (exposure.epoch, 1 if message.number == 1 else 0)
        return exposure.epoch, (message.number - self._firsts[1]) // _SIZE

    def _check_new(self, key: Hashable, exposure: Exposure) -> None:
        """Refuse a frame that its triplet has already, or cannot take."""
        self.check_repeated(key, exposure.message.number)
        if key in self._open:
            _check_alike(self._open[key].members[0], exposure)

    def _finish(self, key: Hashable, reason: str) -> _Group:
        group = self._open.pop(key)
        self._done[key] = (frozenset(one.message.number for one in group.members), reason, group.newest_s)
        while len(self._done) > _MAX_DONE:
            self._done.popitem(last=False)
        return group

    def _give_up(self, key: Hashable) -> tuple[FrameError, ...]:
        group = self._finish(key, "triplet_incomplete")
        numbers = [one.message.number for one in group.members]
        return tuple(_incomplete(f"frames {numbers} of {key!r:.80}") for _ in numbers)

    def _roll(self, exposure: Exposure) -> Gathered:
        refused: tuple[FrameError, ...] = ()
        if self._window:
            last = self._window[-1][0]
            try:
                _check_alike(last, exposure)
            except FrameError as error:
                refused = self._empty_window(error.reason, str(error))
            if last.epoch != exposure.epoch:
                refused += self._empty_window("triplet_incomplete", "a new series began")
        self._window.append((exposure, False))
        if len(self._window) > _SIZE:
            oldest, answered = self._window.pop(0)
            refused += () if answered else (_incomplete(f"frame {oldest.message.number}"),)
        if len(self._window) < _SIZE or not _is_cycle([one for one, _ in self._window]):
            return Gathered(refused=refused)
        answers = sum(not answered for _, answered in self._window)
        self._window = [(one, True) for one, _ in self._window]
        return Gathered(_in_order([one for one, _ in self._window], rolling=True), answers, refused)

    def _empty_window(self, reason: str, why: str) -> tuple[FrameError, ...]:
        waited = [one.message.number for one, answered in self._window if not answered]
        self._window.clear()
        return tuple(FrameError(reason, f"Expected three frames in a row, got {number}: {why}") for number in waited)


def _missing(key: str, remedy: str) -> FrameError:
    return FrameError(
        "missing_key", f"Expected the key {key!r} in each frame of a triplet, got none: send it, {remedy}"
    )


def _incomplete(got: str) -> FrameError:
    return FrameError(
        "triplet_incomplete", f"Expected three frames of a triplet, got {got}: raise triplet_timeout, or send all"
    )


def _check_alike(first: Exposure, other: Exposure) -> None:
    """Members are of one shape and one sampling."""
    said = [(one.frame.shape, one.frame.sampling_A) for one in (first, other)]
    if said[0] != said[1]:
        (height, width), sampling_A = said[0]
        (other_height, other_width), other_A = said[1]
        raise FrameError(
            "triplet_mismatch",
            f"Expected a member of {height} x {width} at {sampling_A:g} A/px, got {other_height} x {other_width} "
            f"at {other_A:g} A/px: change the camera between triplets only",
        )


def _continues(members: Sequence[Exposure], exposure: Exposure) -> bool:
    """Whether a frame is of the same cycle: a defocus that it lacks, or one that it has under the same number."""
    numbers = {one.message.number: one.message.defocus_A for one in members}
    number, defocus_A = exposure.message.number, exposure.message.defocus_A
    if number in numbers:
        return True  # the same frame again
    return differ([*numbers.values(), defocus_A]) and max(abs(number - one) for one in numbers) <= _MAX_SPAN


def differ(defoci: Sequence[tuple[float, ...] | None]) -> bool:
    """Whether all that are known are different; a microscope reads back what it set to some hundredths."""
    known = sorted(one[0] for one in defoci if one)
    return all(above - below >= _SAME_A for below, above in pairwise(known))


def _is_cycle(members: Sequence[Exposure]) -> bool:
    """What must differ between the newest three: the defocus, where it is known, else where in a count of three."""
    defoci = [one.message.defocus_A for one in members]
    if None not in defoci:
        return differ(defoci)
    return len({one.message.number % _SIZE for one in members}) == _SIZE


def _in_order(members: Sequence[Exposure], rolling: bool = False) -> tuple[Exposure, ...]:
    """By rising defocus; by number where not all say it. A rolling triplet keeps the place of each in its three."""
    defoci = [one.message.defocus_A for one in members]
    by_number = sorted(members, key=lambda one: one.message.number % _SIZE if rolling else one.message.number)
    if None in defoci or not differ(defoci):
        return tuple(by_number)
    return tuple(sorted(by_number, key=lambda one: one.message.defocus_A or ()))
