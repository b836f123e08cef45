"""One model on several GPUs: frames are dealt round, and every step of a frame goes to the GPU that has it.

Atoms come in the order they are asked for, whichever GPU is first. A frame whose GPU is lost on its way is dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

import numpy as np

from engine.atoms import Atoms
from engine.detector import Detector
from engine.errors import DeviceError, FrameError, one_line
from engine.frame import Frame
from engine.gpu_detector import GpuDetector, hand_over
from engine.network import Maps
from engine.prepare import Prepared

_Result = TypeVar("_Result")
_LOG = logging.getLogger("atomstream")


@dataclass(frozen=True, slots=True, eq=False)
class DealtPrepared(Prepared):
    """A frame prepared by one of the group."""

    member: Detector
    inner: Prepared


class GpuGroup(Detector):
    """Detectors of one model, each on a GPU of its own; closed with the group. Every step is for any thread.

    Parameters
    ----------
    members : sequence of GpuDetector
        Without fallbacks of their own, and replaceable.
    fallback : callable, optional
        Gives the detector that takes over when the last of them is lost; without one that is an error.
    """

    def __init__(self, members: Sequence[GpuDetector], fallback: Callable[[], Detector] | None = None) -> None:
        self.spec = members[0].spec
        self._members = tuple(members)
        # Those whose GPU is not lost; after the last, what has taken over. Replaced, never changed.
        self._working: tuple[Detector, ...] = self._members
        self._fallback = fallback
        self._next, self._dealing = 0, Lock()

    @property
    def backend(self) -> str:
        """Of those that still compute on a GPU, how many there are and what they run; the CPU's once none is left."""
        working = self._working
        return working[0].backend if len(working) == 1 else f"{len(working)} x {working[0].backend}"

    @property
    def places(self) -> int:
        """On all GPUs that are not lost."""
        return sum(member.places for member in self._working)

    def take(self, frame: Frame) -> Frame:
        """As the GPU takes it that the pixels lie on, else the one whose turn it is."""
        return self._deal(frame, lambda member: member.take(frame))[1]

    def prepare(self, frame: Frame) -> Prepared:
        """Upload a frame to the GPU whose turn it is; pixels that lie on one of them stay there."""
        member, inner = self._deal(frame, lambda member: member.prepare(member.take(frame)), turns=1)
        return DealtPrepared(inner.pixels, inner.scale, inner.shape, member, inner)

    def infer(self, prepared: Prepared) -> Maps:
        """Enqueue the frame's computation where it was uploaded to."""
        return self._on_its_gpu(prepared, lambda dealt: dealt.member.infer(dealt.inner))

    def locate(self, frame: Frame, prepared: Prepared, maps: Maps) -> Atoms:
        """Wait for the GPU that has this frame."""
        return self._on_its_gpu(prepared, lambda dealt: dealt.member.locate(frame, dealt.inner, maps))

    def settle(self, frame: Frame) -> None:
        """On each of them, and on what takes over meanwhile."""
        before = self._working
        for member in before:
            try:
                member.settle(frame)
            except DeviceError as error:
                self._lose(member, error)
        for member in self._working:
            if member not in before:
                member.settle(frame)

    def close(self) -> None:
        """Free every member, and what has taken over."""
        for member in {*self._members, *self._working}:
            member.close()

    def _on_its_gpu(self, prepared: Prepared, step: Callable[[DealtPrepared], _Result]) -> _Result:
        """A later step of a frame. Dropped where its GPU is lost: to deal it anew could wait for a place for ever."""
        if not isinstance(prepared, DealtPrepared):
            raise ValueError("Expected a frame that this group prepared, got another's: use its own prepare")
        try:
            return step(prepared)
        except DeviceError as error:
            self._lose(prepared.member, error)
            raise FrameError("internal", f"{error}; {self.backend} takes over") from None

    def _deal(self, frame: Frame, step: Callable[[Detector], _Result], turns: int = 0) -> tuple[Detector, _Result]:
        """Whose frame this is, and what a step gives there; where a GPU is lost with it, on the next."""
        while True:
            member = self._holder(frame) or self._turn(turns)
            try:
                return member, step(member)
            except DeviceError as error:
                self._lose(member, error)

    def _holder(self, frame: Frame) -> Detector | None:
        """Whose GPU the pixels lie on."""
        if isinstance(frame.pixels, np.ndarray):
            return None
        on_gpus = (member for member in self._working if isinstance(member, GpuDetector))
        return next((member for member in on_gpus if member.holds(frame)), None)

    def _turn(self, turns: int) -> Detector:
        """Whose turn it is; so many turns are over with it."""
        with self._dealing:
            member = self._working[self._next % len(self._working)]
            self._next += turns
        return member

    def _lose(self, member: Detector, error: DeviceError) -> None:
        """Deal no more frames to a member; after the last the fallback takes over, or the error is the group's."""
        with self._dealing:
            if member not in self._working:  # another thread's frame found it lost first
                return
            rest = tuple(other for other in self._working if other is not member)
            if rest:
                _LOG.error("%s; GPUs that go on: %d", one_line(error), len(rest))
            self._working = rest or (hand_over(self._fallback, error),)
        if isinstance(member, GpuDetector):
            member.free()
