"""Frame in, Atoms out on a GPU: only raw pixels go up, only candidates come down.

`prepare` and `infer` enqueue and return, `locate` waits. Every step is for any thread: frame n + 1 is uploaded while
frame n is computed as soon as two threads have a frame each, or one prepares while another locates.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Lock, RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.atoms import Atoms
from engine.candidates import CANDIDATE, to_atoms
from engine.detector import Detector
from engine.device import Device
from engine.device_plan import PLACES, PLANS, DeviceNetwork, Kind, Ledger, Place, Plan, candidates_in
from engine.device_prepare import device_dtype, stage
from engine.errors import AtomstreamError, DeviceError, FrameError, one_line
from engine.frame import Frame
from engine.network import Maps
from engine.prepare import Prepared, network_shape
from engine.spec import ModelSpec

_BYTES_PER_PIXEL = 64  # of activations, a network pixel
_LOG = logging.getLogger("atomstream")


class Ticket:
    """A frame's right to its place; given back once, by `release` or when nobody holds the frame any more."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
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
            self.plan.free.put(place)

    def __del__(self) -> None:
        if hasattr(self, "_place"):
            self.release()


@dataclass(frozen=True, slots=True, eq=False)
class DevicePrepared(Prepared):
    """`pixels` lie on the device, shared by all frames, and hold this one only while it is computed."""

    ticket: Ticket


@dataclass(frozen=True, slots=True, eq=False)
class DeviceMaps(Maps):
    """`values` lie on the device, shared by all frames, and hold this one's only while it is computed."""

    ticket: Ticket


class GpuDetector(Detector):
    """A model on one device.

    Parameters
    ----------
    network : DeviceNetwork
        Is closed with the detector.
    memory_MB : float
        Of the device, roughly; a quarter of it is for the network's activations, larger frames run in strips.
    fallback : callable, optional
        Gives the detector that takes over when the device is lost; without one that is an error.
    """

    def __init__(
        self,
        spec: ModelSpec,
        device: Device,
        network: DeviceNetwork,
        *,
        memory_MB: float = 4096,
        fallback: Callable[[], Detector] | None = None,
    ) -> None:
        self.spec = spec
        self._device, self._device_network = device, network
        self._memory_MB = memory_MB
        self._budget_pixels = int(memory_MB * 1e6 / 4 / _BYTES_PER_PIXEL)
        self._most_pixels = self._budget_pixels  # of a strip; halved where memory runs out
        self._plans: OrderedDict[Kind, Plan] = OrderedDict()
        self._uploads, self._computes, self._fetches = device.stream(), device.stream(), device.stream()
        self._order = RLock()  # of what goes into the streams
        # The lock is never held while waiting for a place, and for the device only where buffers are freed.
        self._fallback, self._handing_over = fallback, Lock()
        self._cpu: Detector | None = None

    @property
    def backend(self) -> str:
        """Runtime, precision and GPU; the other detector's once that has taken over."""
        cpu = self._cpu
        return f"{self._device_network.backend}, {self._device.name}" if cpu is None else cpu.backend

    @property
    def lost(self) -> bool:
        """Whether another detector has taken over."""
        return self._cpu is not None

    @property
    def places(self) -> int:
        """Each is given back by `locate` alone; `prepare` waits where none is free."""
        return 0 if self.lost else PLACES

    def take(self, frame: Frame) -> Frame:
        """The frame with its pixels as an array of this GPU, where they lie there already; else as NumPy's."""
        if isinstance(frame.pixels, np.ndarray):
            return frame
        there = self._device.adopt(frame.pixels)
        return super().take(frame) if there is None else replace(frame, pixels=there)

    def prepare(self, frame: Frame) -> Prepared:
        """Upload a frame; waits only where as many frames are on their way as there are places."""
        if self._cpu is not None:
            return self._cpu.prepare(frame)
        try:
            with self._order:
                plan = self._plan_for(frame)
            ticket = Ticket(plan)
            self._upload(frame, ticket.place)
        except DeviceError as error:
            return self._take_over(error).prepare(frame)
        return DevicePrepared(plan.input, plan.scale, plan.kind.to, ticket)

    def infer(self, prepared: Prepared) -> Maps:
        """Enqueue all that the device does for a frame; does not wait for it."""
        if not isinstance(prepared, DevicePrepared):
            return self._other().infer(prepared)
        plan, place = prepared.ticket.plan, prepared.ticket.place
        try:
            with self._order:
                if not plan.bound:
                    self._device_network.ready(plan.strip_size)
                self._device.wait(self._computes, place.uploaded)
                plan.run(self._computes, place)
                self._device.record(place.done, self._computes)
        except DeviceError as error:
            self._take_over(error)
            raise FrameError("internal", f"{error}; the CPU takes over") from None
        except FrameError as error:
            with suppress(DeviceError):  # the next frame finds it lost
                self._shrink(error, plan)
            raise
        return DeviceMaps(plan.maps[0], prepared.ticket)

    def locate(self, frame: Frame, prepared: Prepared, maps: Maps) -> Atoms:
        """Wait for the frame's candidates and make atoms of them."""
        if not isinstance(maps, DeviceMaps):
            return self._other().locate(frame, prepared, maps)
        ticket, place = maps.ticket, maps.ticket.place
        try:
            self._device.synchronize(place.done)  # SYNC: the one place where the CPU waits for the GPU
            place.located = True
            found = self._found(place).copy()  # COPY: the place is for another frame while atoms are made of these
            cells = (ticket.plan.cells[0], ticket.plan.cells[1])
            ticket.release()
            return to_atoms(found, cells, frame.sampling_A, self.spec)
        except DeviceError as error:
            return self._take_over(error).detect(frame)
        finally:
            ticket.release()

    def settle(self, frame: Frame) -> None:
        """Make the buffers for frames of this kind, and wait for an engine of their size where one has to be built."""
        try:
            self.detect(frame)
        except FrameError as error:  # it is told with the frames that come
            if error.reason == "no_engine":
                self._device_network.finish()
        if self._cpu is not None:
            self._cpu.settle(frame)

    def close(self) -> None:
        """Free the network, the buffers and what has taken over."""
        with suppress(DeviceError):  # of one that is lost nothing runs any more
            self._finish()
        self._plans.clear()
        self._device_network.close()
        if self._cpu is not None:
            self._cpu.close()

    def _plan_for(self, frame: Frame) -> Plan:
        """Of frames like this one; made when the first of them comes."""
        pixels = frame.pixels
        shape = (pixels.shape[0] if pixels.ndim == 3 else 1, *frame.shape)
        dtype = device_dtype(pixels.dtype).name
        kind = Kind(shape, network_shape(frame, self.spec), dtype, frame.mask is not None, frame.sampling_A)
        plan = self._plans.get(kind)
        if plan is None:
            if len(self._plans) >= PLANS:
                self._finish()
                self._plans.popitem(last=False)
            plan = self._plans[kind] = self._make_plan(kind)
        self._plans.move_to_end(kind)
        return plan

    def _make_plan(self, kind: Kind) -> Plan:
        try:
            return self._plan(self._device, kind)
        except FrameError as error:
            failed = error
        if self._plans:
            self._finish()
            self._plans.clear()  # the buffers of other frames may be what is in the way
            try:
                return self._plan(self._device, kind)
            except FrameError as error:
                failed = error
        raise self._no_room(kind, failed) from None

    def _plan(self, device: Device | Ledger, kind: Kind) -> Plan:
        on: Any = device
        return Plan(on, self.spec, self._device_network, kind, self._most_pixels, self._budget_pixels)

    def _no_room(self, kind: Kind, failed: FrameError) -> AtomstreamError:
        """What to raise where the buffers found no memory; of the device's end where no lower strip is left to try."""
        if failed.reason != "no_memory":
            return failed
        ledger, said, lower = Ledger(), str(failed), False
        with suppress(FrameError):  # strips that cannot be cut: that is what failed
            plan = self._plan(ledger, kind)
            said = (
                f"GPU expects {ledger.bytes / 1e6:.0f} MB for buffers of {kind.shape[1]} x {kind.shape[2]} frames "
                f"with a limit of {self._memory_MB:g} MB, got {one_line(failed)}; or raise the limit"
            )
            lower = self._shrink(failed, plan)
        return FrameError("no_memory", said) if lower or self._fallback is None else DeviceError(said)

    def _finish(self) -> None:
        """Wait for all that was enqueued: it may be at work on buffers that are to be freed."""
        for stream in (self._uploads, self._computes, self._fetches):
            done = self._device.event()
            self._device.record(done, stream)
            self._device.synchronize(done)  # SYNC: where buffers are freed, so never in mid-stream

    def _upload(self, frame: Frame, place: Place) -> None:
        if not place.located:
            self._device.synchronize(place.uploaded)  # SYNC: only after a frame that was dropped on its way
            self._device.wait(self._uploads, place.done)
        place.located = False
        there = None if isinstance(frame.pixels, np.ndarray) else self._device.adopt(frame.pixels)
        if there is None:
            stage(frame.pixels, place.raw_host)
        if frame.mask is not None and place.mask_host is not None:
            stage(frame.mask, place.mask_host)
        with self._order:
            if there is None:
                self._device.upload(self._uploads, place.raw, place.raw_host)
            else:
                self._device.follow(self._uploads)
                self._device.copy(self._uploads, place.raw, there)  # COPY: within the GPU
            if place.mask_host is not None:
                self._device.upload(self._uploads, place.mask, place.mask_host)
            self._device.record(place.uploaded, self._uploads)

    def _found(self, place: Place) -> NDArray[Any]:
        """The candidates of a place that is done."""
        count, rows = candidates_in(place.found_host)
        if count <= len(rows):
            return rows
        # More than one cell in eight: plateaus. Rare enough for memory of its own and a wait of its own.
        everything = self._device.pinned(((1 + count) * CANDIDATE.itemsize,), np.uint8)
        arrived = self._device.event()
        with self._order:
            self._device.download(self._fetches, everything, place.found[: everything.size])
            self._device.record(arrived, self._fetches)
        self._device.synchronize(arrived)  # SYNC: for the rest of a map that is full of plateaus
        return candidates_in(everything)[1]

    def _shrink(self, error: FrameError, plan: Plan) -> bool:
        """After a frame that found no memory: strips of half the size from the next on, if they can be lower."""
        ran = math.prod(plan.strip_size)
        if error.reason != "no_memory" or ran <= plan.least_pixels:
            return False
        with self._order:
            self._most_pixels = min(self._most_pixels, ran) // 2
            self._finish()
            self._plans.clear()
        _LOG.warning("Out of GPU memory: strips of about %d network pixels from now on", self._most_pixels)
        return True

    def _take_over(self, error: DeviceError) -> Detector:
        """What goes on after the device is lost; the error where nothing may."""
        with self._handing_over:
            if self._fallback is None:
                raise error
            if self._cpu is None:
                _LOG.error("%s; the CPU takes over", one_line(error))
                try:
                    self._cpu = self._fallback()
                except AtomstreamError as failed:
                    raise DeviceError(f"{error}; nor can the CPU take over: {failed}") from None
                with self._order:
                    self._plans.clear()
            return self._cpu

    def _other(self) -> Detector:
        if self._cpu is None:
            raise ValueError("Expected a frame that this detector prepared, got another's: use its own prepare")
        return self._cpu
