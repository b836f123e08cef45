"""The plans of one detector, by the kind of their frames: made with the first of them, those that ran last are kept.

Freed once nothing runs on them: their memory may be another's at once. All but `ticket` is for one thread at a time.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from engine.device import KINDS, Device, Stream
from engine.device_plan import DeviceNetwork, Kind, Ledger, Place, Plan
from engine.device_prepare import device_dtype
from engine.errors import AtomstreamError, DeviceError, FrameError, emptied, one_line
from engine.frame import Frame
from engine.prepare import network_shape
from engine.spec import ModelSpec

_BYTES_PER_PIXEL = 64  # of activations, a network pixel
_MOMENT_S, _AGAIN_S = 10.0, 600.0  # more kinds than are kept that come within a moment: told, and when again
_LOG = logging.getLogger("atomstream")


class Ticket:
    """A frame's right to its place; given back once, by `release` or when nobody holds the frame any more."""

    def __init__(self, plan: Plan, dropped: set[Plan]) -> None:
        self.plan, self._dropped = plan, dropped
        self._place: Place | None = plan.free.get()

    @property
    def place(self) -> Place:
        """Its memory."""
        if self._place is None:
            raise ValueError("Expected a frame on its way, got one whose atoms were already located: prepare it again")
        return self._place

    def release(self) -> None:
        """Let another frame have the place. What was enqueued for this one runs before what will be for that."""
        place, self._place = self._place, None
        if place is not None:
            if not place.located:  # what was enqueued may still run, on buffers that nobody else may hold any more
                self._dropped.add(self.plan)
            self.plan.free.put(place)

    def __del__(self) -> None:
        if hasattr(self, "_place"):
            self.release()


class Plans:
    """Plans for the kinds of frames that ran last.

    Parameters
    ----------
    streams : sequence of Stream
        All that the plans' buffers are used in.
    memory_MB : float
        Of the device, roughly; a quarter of it is for the network's activations, larger frames run in strips.
    kinds : int
        How many are kept.
    replaceable : bool
        Whether frames that find no room for their buffers are another detector's: DeviceError where no strip helps.
    """

    def __init__(
        self,
        device: Device,
        spec: ModelSpec,
        network: DeviceNetwork,
        streams: Sequence[Stream],
        *,
        memory_MB: float,
        kinds: int = KINDS,
        replaceable: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device, self._spec, self._network, self._streams = device, spec, network, streams
        self._memory_MB, self._kinds, self._replaceable, self._clock = memory_MB, kinds, replaceable, clock
        self._budget_pixels = int(memory_MB * 1e6 / 4 / _BYTES_PER_PIXEL)
        self.most_pixels = self._budget_pixels  # of a strip; halved where memory runs out
        self.kept: OrderedDict[Kind, Plan] = OrderedDict()
        self._dropped: set[Plan] = set()  # of frames that nobody waited for, until the device is waited for
        # Beside those that are kept, those that a frame on its way still holds.
        self._alive: WeakSet[Plan] = WeakSet()
        self._evicted_s = self._told_s = self._freed_s = -math.inf

    def of(self, frame: Frame) -> Plan:
        """For frames like this one; made, and one that ran longest ago freed, when the first of them comes."""
        pixels = frame.pixels
        shape = (pixels.shape[0] if pixels.ndim == 3 else 1, *frame.shape)
        dtype = device_dtype(pixels.dtype).name
        kind = Kind(shape, network_shape(frame, self._spec), dtype, frame.mask is not None, frame.sampling_A)
        plan = self.kept.get(kind)
        if plan is None:
            if len(self.kept) >= self._kinds:
                self._note_eviction(kind)
                self.free([next(iter(self.kept))])
            plan = self.kept[kind] = self._make(kind)
            self._alive.add(plan)
        self.kept.move_to_end(kind)
        return plan

    def ticket(self, plan: Plan) -> Ticket:
        """A place for a frame; waits where all are taken, so without a lock around it."""
        return Ticket(plan, self._dropped)

    def make_room(self, error: FrameError, plan: Plan) -> None:
        """After a frame that found no memory to run in: return where it can be tried again now, else raise what it did.

        Strips of half the size, from the next frame on, while they can be lower; then what is kept for other kinds is
        freed for this one. Where neither can be, the error names what is in the way.
        """
        if error.reason != "no_memory" or self._shrink(plan):
            raise FrameError(error.reason, str(error))
        if not self._free_others(plan.kind):
            raise self._explained(error, plan.kind)

    def _explained(self, error: FrameError, kind: Kind) -> FrameError:
        """What to raise: an error that names the others that have the memory there was none of.

        A new one in any case: one that is in a local of who raises it would hold on to itself, and so to the frame.
        """
        others = sorted({str(plan.kind) for plan in self._alive if plan.kind != kind})
        if error.reason != "no_memory" or not others:
            return FrameError(error.reason, str(error))
        said = f"no room for {kind} beside {' and '.join(others)}"
        return FrameError("no_memory", f"GPU expects free memory, got {said}: {self._remedy}")

    def _shrink(self, plan: Plan) -> bool:
        """Whether strips can be lower than those of a plan: they are from the next frame on."""
        ran = math.prod(plan.strip_size)
        if ran <= plan.least_pixels:
            return False
        if ran // 2 < self.most_pixels:  # else another frame that ran in as large ones was here first
            self.most_pixels = ran // 2
            self.free()
            _LOG.warning("Out of GPU memory: strips of about %d network pixels from now on", self.most_pixels)
        return True

    def free(self, kinds: Collection[Kind] | None = None) -> None:
        """Let go of what is kept for these kinds, or all, once nothing runs on it; what that frees is the driver's."""
        try:
            self._finish()
        finally:  # on a device that is lost nothing runs any more
            for kind in list(self.kept) if kinds is None else kinds:
                del self.kept[kind]
            self._dropped.clear()
        self._device.trim()

    def _free_others(self, wanting: Kind) -> bool:
        """Whether memory was freed for a kind: what is kept for others, where none of their frames is on its way.

        To give up what a frame on its way holds would free nothing: the next of its kind would find no room either.
        """
        idle = [kind for kind, plan in self.kept.items() if kind != wanting and plan.is_idle]
        if not idle and not self._dropped:
            return False
        now_s = self._clock()
        if idle and now_s - self._freed_s > _AGAIN_S:
            self._freed_s = now_s
            _LOG.warning(
                "Out of GPU memory: the buffers of %s are freed for %s; where they take turns each change waits for "
                "the whole GPU: %s",
                " and ".join(map(str, idle)),
                wanting,
                self._remedy,
            )
        self.free(idle)
        return True

    def _finish(self) -> None:
        """Wait for all that was enqueued: it may be at work on buffers that are to be freed."""
        for stream in self._streams:
            done = self._device.event()
            self._device.record(done, stream)
            self._device.synchronize(done)  # SYNC: where buffers are freed, so never in mid-stream

    def _make(self, kind: Kind) -> Plan:
        self._device.trim()  # a frame that failed still held its plan when the others were freed
        try:
            return self._plan(self._device, kind)
        except FrameError as error:
            failed = emptied(error)  # else it holds on to the buffers that were made
        if self._free_others(kind):
            try:
                return self._plan(self._device, kind)
            except FrameError as error:
                failed = emptied(error)
        raise self._no_room(kind, failed) from None

    def _plan(self, device: Any, kind: Kind) -> Plan:
        return Plan(device, self._spec, self._network, kind, self.most_pixels, self._budget_pixels)

    def _no_room(self, kind: Kind, failed: FrameError) -> AtomstreamError:
        """What to raise where the buffers found no memory; of the device's end where no lower strip is left to try."""
        if failed.reason != "no_memory" or self._alive:  # a frame on its way holds buffers: it is over in a moment
            return self._explained(failed, kind)
        ledger, said, lower = Ledger(), str(failed), False
        with suppress(FrameError):  # strips that cannot be cut: that is what failed
            plan = self._plan(ledger, kind)
            said = (
                f"GPU expects {ledger.bytes / 1e6:.0f} MB for buffers of {kind}, "
                f"with a limit of {self._memory_MB:g} MB, got {one_line(failed)}; or raise the limit"
            )
            lower = self._shrink(plan)
        return FrameError("no_memory", said) if lower or not self._replaceable else DeviceError(said)

    @property
    def _remedy(self) -> str:
        return f"allow more than {self._memory_MB:g} MB, bin, or send fewer shapes, types and samplings"

    def _note_eviction(self, kind: Kind) -> None:
        """Say so where kinds of frames push each other out all the time: each frame then waits for the whole GPU."""
        now_s = self._clock()
        often = now_s - self._evicted_s < _MOMENT_S
        self._evicted_s = now_s
        if often and now_s - self._told_s > _AGAIN_S:
            self._told_s = now_s
            _LOG.warning(
                "GPU expects frames of at most %d kinds in turn, got another of %s: each change of kind waits for the "
                "whole GPU; send fewer shapes, types and samplings, or run one serve for each",
                self._kinds,
                kind,
            )
