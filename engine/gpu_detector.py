"""Frame in, Atoms out on a GPU: only raw pixels go up, only candidates come down.

`prepare` and `infer` enqueue and return, `locate` waits. Every step is for any thread: frame n + 1 is uploaded while
frame n is computed as soon as two threads have a frame each, or one prepares while another locates.
"""

from __future__ import annotations

import logging
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
from engine.device import KINDS, Device
from engine.device_plan import PLACES, DeviceNetwork, Place, Plan, candidates_in
from engine.device_prepare import stage
from engine.errors import AtomstreamError, DeviceError, FrameError, emptied, one_line
from engine.frame import Frame
from engine.network import Maps
from engine.plans import Plans, Ticket
from engine.prepare import Prepared
from engine.spec import ModelSpec

_LOG = logging.getLogger("atomstream")


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
    memory_MB, kinds
        See `Plans`.
    fallback : callable, optional
        Gives the detector that takes over when the device is lost; without one that is an error.
    replaceable : bool
        Whether the caller has another detector to go on with after such an error.
    """

    def __init__(
        self,
        spec: ModelSpec,
        device: Device,
        network: DeviceNetwork,
        *,
        memory_MB: float = 4096,
        kinds: int = KINDS,
        fallback: Callable[[], Detector] | None = None,
        replaceable: bool = False,
    ) -> None:
        self.spec = spec
        self._device, self._device_network = device, network
        self._uploads, self._computes, self._fetches = streams = device.stream(), device.stream(), device.stream()
        replaceable = replaceable or fallback is not None
        self._plans = Plans(device, spec, network, streams, memory_MB=memory_MB, kinds=kinds, replaceable=replaceable)
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
        """Of each kind of frames; given back by `locate` alone, and `prepare` waits where none is free."""
        return 0 if self.lost else PLACES

    def take(self, frame: Frame) -> Frame:
        """The frame with its pixels as an array of this GPU, where they lie there already; else as NumPy's."""
        if self._cpu is not None:
            return self._cpu.take(frame)
        if isinstance(frame.pixels, np.ndarray):
            return frame
        try:
            there = self._device.adopt(frame.pixels)
        except DeviceError as error:
            return self._take_over(error).take(frame)
        return super().take(frame) if there is None else replace(frame, pixels=there)

    def holds(self, frame: Frame) -> bool:
        """Whether the pixels lie on this GPU, and it can still be asked."""
        if isinstance(frame.pixels, np.ndarray):
            return False
        try:
            return self._device.adopt(frame.pixels) is not None
        except (FrameError, DeviceError):
            return False

    def prepare(self, frame: Frame) -> Prepared:
        """Upload a frame; waits only where as many frames are on their way as there are places."""
        cpu = self._cpu
        try:
            if cpu is None:
                return self._prepare(frame)
        except DeviceError as error:
            cpu = self._take_over(error)
        return cpu.prepare(cpu.take(frame))  # pixels that were taken while there was a GPU are not the CPU's

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
                self._run(plan, place)
                self._device.record(place.done, self._computes)
        except DeviceError as error:
            self._take_over(error)
            raise FrameError("internal", f"{error}; the CPU takes over") from None
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

    def free(self) -> None:
        """Let go of all buffers, once nothing runs on them."""
        with suppress(DeviceError), self._order:  # of one that is lost nothing runs any more
            self._plans.free()

    def close(self) -> None:
        """Free the network, the buffers and what has taken over."""
        self.free()
        self._device_network.close()
        if self._cpu is not None:
            self._cpu.close()

    def _prepare(self, frame: Frame) -> Prepared:
        with self._order:
            plan = self._plans.of(frame)
        ticket = self._plans.ticket(plan)
        self._upload(frame, ticket.place)
        return DevicePrepared(plan.input, plan.scale, plan.kind.to, ticket)

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

    def _run(self, plan: Plan, place: Place) -> None:
        """Put a frame into the stream; where it finds no memory again, for as long as some was freed for it since."""
        while True:
            try:
                return plan.run(self._computes, place)
            except FrameError as error:
                failed = emptied(error)  # else it holds on to what was taken, which is not freed then
            self._plans.make_room(failed, plan)

    def _found(self, place: Place) -> NDArray[Any]:
        """The candidates of a place that is done."""
        count, rows = candidates_in(place.found_host)
        if count <= len(rows):
            return rows
        # More than one cell in eight: plateaus. Rare enough to come in pieces, through the same memory: page-locked
        # memory of every size that ever came would stay.
        everything = np.empty((1 + count) * CANDIDATE.itemsize, np.uint8)
        step, arrived = place.found_host.size, self._device.event()
        everything[:step] = place.found_host
        for start in range(step, everything.size, step):
            part = place.found[start : min(start + step, everything.size)]
            here = place.found_host[: part.size]
            with self._order:
                self._device.download(self._fetches, here, part)
                self._device.record(arrived, self._fetches)
            self._device.synchronize(arrived)  # SYNC: for the rest of a map that is full of plateaus
            everything[start : start + part.size] = here
        return candidates_in(everything)[1]

    def _take_over(self, error: DeviceError) -> Detector:
        """What goes on after the device is lost; the error where nothing may."""
        with self._handing_over:
            if self._cpu is None:
                self._cpu = hand_over(self._fallback, error)
                self.free()
            return self._cpu

    def _other(self) -> Detector:
        if self._cpu is None:
            raise ValueError("Expected a frame that this detector prepared, got another's: use its own prepare")
        return self._cpu


def hand_over(fallback: Callable[[], Detector] | None, error: DeviceError) -> Detector:
    """The detector that goes on after the last device is lost; the error where there is none."""
    if fallback is None:
        raise error
    _LOG.error("%s; the CPU takes over", one_line(error))
    try:
        return fallback()
    except AtomstreamError as failed:
        raise DeviceError(f"{error}; nor can the CPU take over: {failed}") from None
