"""One model on several GPUs: frames are dealt round, and every step of a frame goes to the GPU that has it.

Atoms come in the order they are asked for, whichever GPU is first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from engine.atoms import Atoms
from engine.detector import Detector
from engine.frame import Frame
from engine.gpu_detector import GpuDetector
from engine.network import Maps
from engine.prepare import Prepared


@dataclass(frozen=True, slots=True, eq=False)
class DealtPrepared(Prepared):
    """A frame prepared by one of the group."""

    member: Detector
    inner: Prepared


@dataclass(frozen=True, slots=True, eq=False)
class DealtMaps(Maps):
    """Maps of one of the group."""

    inner: Maps


class GpuGroup(Detector):
    """Detectors of one model, each on a GPU of its own; closed with the group. Every step is for any thread."""

    def __init__(self, members: Sequence[GpuDetector]) -> None:
        self.spec = members[0].spec
        self._members = tuple(members)
        self._next, self._dealing = 0, Lock()

    @property
    def backend(self) -> str:
        """Of those that still compute on a GPU, how many there are and what they run."""
        working = self._working()
        return working[0].backend if len(working) == 1 else f"{len(working)} x {working[0].backend}"

    @property
    def places(self) -> int:
        """On all GPUs that are not lost."""
        return sum(member.places for member in self._members)

    def take(self, frame: Frame) -> Frame:
        """As the GPU takes it whose turn it is."""
        return self._turn().take(frame)

    def prepare(self, frame: Frame) -> Prepared:
        """Upload a frame to the GPU whose turn it is."""
        with self._dealing:
            member = self._turn()
            self._next += 1
        inner = member.prepare(frame)
        return DealtPrepared(inner.pixels, inner.scale, inner.shape, member, inner)

    def infer(self, prepared: Prepared) -> Maps:
        """Enqueue the frame's computation where it was uploaded to."""
        if not isinstance(prepared, DealtPrepared):
            raise ValueError("Expected a frame that this group prepared, got another's: use its own prepare")
        inner = prepared.member.infer(prepared.inner)
        return DealtMaps(inner.values, inner)

    def locate(self, frame: Frame, prepared: Prepared, maps: Maps) -> Atoms:
        """Wait for the GPU that has this frame."""
        if not isinstance(prepared, DealtPrepared) or not isinstance(maps, DealtMaps):
            raise ValueError("Expected a frame that this group prepared, got another's: use its own prepare")
        return prepared.member.locate(frame, prepared.inner, maps.inner)

    def settle(self, frame: Frame) -> None:
        """On each of them."""
        for member in self._working():
            member.settle(frame)

    def close(self) -> None:
        """Free every member."""
        for member in self._members:
            member.close()

    def _turn(self) -> GpuDetector:
        working = self._working()
        return working[self._next % len(working)]

    def _working(self) -> tuple[GpuDetector, ...]:
        """Those whose GPU is not lost; once all are, the CPU that has taken over for them."""
        return tuple(member for member in self._members if not member.lost) or self._members[:1]
