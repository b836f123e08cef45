"""Sends the live view of Gatan DigitalMicrograph to Atomstream. Runs inside DigitalMicrograph's Python (GMS 3.4 on).

Bring the live view to the front and press Execute: every new frame goes out from then on. Execute again, or close the
window: it stops and says what went out. Needs numpy, which is there, and pyzmq; docs/sources.md has the steps.
"""

from __future__ import annotations

import collections
import json
import math
import time
import traceback

import numpy as np

try:
    import zmq
except ImportError:  # not part of what GMS installs: said when it is executed
    zmq = None
try:
    import DigitalMicrograph as DM  # noqa: N817 - its name everywhere
except ImportError:  # outside of it, where only the functions can be used
    DM = None

ENDPOINT = "tcp://127.0.0.1:5555"  # this computer alone; "tcp://*:5555" is for the whole network, without a password
SAMPLING_A = None  # A/px, where the calibration of the image is wrong
DOSE_E_A2 = None  # e/A^2 in a frame, where it is known
QUEUE_FRAMES = 2  # what may wait for a receiver that is slow; beyond it frames are dropped and counted

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")
LENGTHS_A = {"A": 1.0, "\u00c5": 1.0, "pm": 0.01, "nm": 10.0, "um": 1e4, "\u00b5m": 1e4, "\u03bcm": 1e4}
ELECTRONS = ("e", "e-", "electrons")
EXPOSURE_TAGS = ("Acquisition:Parameters:High Level:Exposure (s)", "DataBar:Exposure Time (s)")
VOLTAGE_TAGS = ("Microscope Info:Voltage",)
SLOT = "atomstream_listener"  # where the one that runs is kept: DigitalMicrograph outlives the script
MOST_REQUESTS = 100  # of receivers, read with one frame


def encode(pixels, **header):
    """Header and pixels of one message of `array-1.0`; a view of the pixels where memory order allows it."""
    little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    first = {"htype": "array-1.0", "protocol": 1, "shape": list(pixels.shape), "type": pixels.dtype.name}
    return [json.dumps({**first, **header}, allow_nan=False).encode(), memoryview(little).cast("B")]


def describe(image):
    """What DigitalMicrograph knows of an image, in the names and units of the header."""
    known = {
        "sampling": _try(sampling_A, image),
        "exposure": first_tag(image, EXPOSURE_TAGS),
        "voltage": first_tag(image, VOLTAGE_TAGS),
    }
    known.update(_try(electrons, image) or {})
    return {key: float(value) for key, value in known.items() if value is not None and math.isfinite(value)}


def sampling_A(image):
    """Pixel size, where both axes agree on a length; None for a diffraction pattern or an image without calibration."""
    sizes = []
    for axis in (0, 1):
        _, scale, unit = image.GetDimensionCalibration(axis, 0)
        sizes.append(scale * LENGTHS_A.get(_text(unit), 0.0))
    return sizes[0] if sizes[0] > 0 and abs(sizes[0] - sizes[1]) <= 1e-3 * sizes[0] else None


def electrons(image):
    """Counts per electron, and counts without any, where the intensity is calibrated in electrons."""
    scale = image.GetIntensityScale()
    if _text(image.GetIntensityUnitString()) not in ELECTRONS or not scale > 0:
        return {}
    return {"gain": 1 / scale, "offset": image.GetIntensityOrigin()}


def first_tag(image, paths):
    """The number over 0 in the first of these tags that holds one."""
    for path in paths:
        found, value = _try(lambda tag: image.GetTagGroup().GetTagAsFloat(tag), path) or (False, 0.0)
        if found and value > 0:
            return value
    return None


def _text(unit):
    """DigitalMicrograph gives a unit with a character beyond ASCII as bytes."""
    return (unit.decode("latin-1") if isinstance(unit, bytes) else unit).strip()


def _try(ask, argument):
    """None where this edition of DigitalMicrograph does not know what it is asked: the frame goes all the same."""
    try:
        return ask(argument)
    except Exception:
        return None


class Bridge:
    """The socket, and what became of every change of the image. Nothing in it waits."""

    def __init__(self, endpoint=ENDPOINT, sampling_A=SAMPLING_A, dose_e_A2=DOSE_E_A2, queue_frames=QUEUE_FRAMES):
        self.stated = {"sampling": sampling_A, "dose": dose_e_A2}
        self.stated = {key: value for key, value in self.stated.items() if value is not None}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)  # a PUB that hears of its receivers
        self._socket.linger = 0
        self._socket.sndhwm = queue_frames
        self._socket.maxmsgsize = 1024  # of what receivers ask for
        self._socket.setsockopt(zmq.XPUB_NODROP, 1)  # a full queue is an error to count, not silence
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError:
            self.close()
            raise
        self.endpoint = self._socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self.counts = collections.Counter()
        self._series = time.strftime("%Y-%m-%d %H:%M:%S")
        self._number = 0
        self._last = None
        self._topics = set()

    def offer(self, image):
        """Send the image if it is a new frame; called by DigitalMicrograph, to which no error may get."""
        try:
            outcome = self._offer(image)
        except Exception:
            outcome = "failed"
            if not self.counts[outcome]:
                print(traceback.format_exc())
        self.counts[outcome] += 1

    def close(self):
        """What has not left yet is dropped."""
        self._socket.close()
        self._context.term()

    def __str__(self):
        return ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.counts.items())) or "no frame came"

    def _offer(self, image):
        now_s = time.time()
        pixels = image.GetNumArray()  # the memory of the image itself, (H, W): not to be kept
        if pixels.ndim != 2 or not pixels.size or pixels.dtype.name not in DTYPES:
            return "no_frame"
        sample = self._sample(pixels)
        if sample == self._last:
            return "unchanged"
        self._last = sample
        number, self._number = self._number, self._number + 1  # of those that are dropped too: the gap shows
        if not self._has_receiver():
            return "no_receiver"
        header = {"source": "digitalmicrograph", "series": self._series, "timestamp": now_s}
        parts = encode(pixels, frame=number, **dict(header, **dict(describe(image), **self.stated)))
        try:
            # COPY: ZeroMQ takes the pixels before this returns; afterwards DigitalMicrograph may write the next frame.
            self._socket.send_multipart(parts, zmq.NOBLOCK, copy=True)
        except zmq.Again:
            return "receiver_slow"
        return "sent"

    def _sample(self, pixels):
        """Some thousand pixels: in two frames of a camera they are never alike."""
        rows, columns = (max(1, size // 64) for size in pixels.shape)
        return pixels.shape, pixels[::rows, ::columns].tobytes()

    def _has_receiver(self):
        for _ in range(MOST_REQUESTS):
            try:
                request = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            if request[:1] == b"\x01":
                self._topics.add(request[1:])
            elif request[:1] == b"\x00":
                self._topics.discard(request[1:])
        return bool(self._topics)


class Listener(DM.Py_ScriptObject if DM else object):
    """What DigitalMicrograph calls when the image changes and when its window closes."""

    def __init__(self, image, bridge):
        DM.Py_ScriptObject.__init__(self)
        self.image, self.bridge = image, bridge

    def __del__(self):
        DM.Py_ScriptObject.__del__(self)

    def HandleDataChangedEvent(self, flags, image):
        if self.bridge is not None:
            self.bridge.offer(self.image)

    def HandleWindowClosedEvent(self, flags, window):
        self.stop()

    def stop(self):
        """Let go of the image and the socket, say what went out."""
        if self.bridge is None:
            return
        bridge, self.bridge, self.image = self.bridge, None, None
        try:
            DM.DoEvents()
            self.UnregisterAllListeners()
        finally:
            bridge.close()
            setattr(DM, SLOT, None)
            print(f"Atomstream: stopped. {bridge}")


def execute():
    """Start with the image in front, or stop what runs."""
    if zmq is None:
        print(
            "Atomstream: expected pyzmq in DigitalMicrograph's Python, got none: "
            "in an Anaconda prompt as administrator, activate GMS_VENV_PYTHON, then pip install pyzmq"
        )
        return
    running = getattr(DM, SLOT, None)
    if running is not None:
        running.stop()
        return
    try:
        image, window = DM.GetFrontImage(), DM.GetFrontImageDocument().GetWindow()
    except Exception:
        print("Atomstream: expected a live view in front, got no image: start the camera's view, then execute again")
        return
    try:
        bridge = Bridge()
    except zmq.ZMQError as error:
        print(f"Atomstream: expected a free endpoint, got {ENDPOINT} ({error}): choose another in the script")
        return
    listener = Listener(image, bridge)
    setattr(DM, SLOT, listener)
    listener.WindowHandleWindowClosedEvent(window, "pythonplugin")
    listener.ImageHandleDataChangedEvent(image, "pythonplugin")
    print(f"Atomstream: sends {image.GetName()} at {bridge.endpoint}. Execute again, or close its window, to stop.")
    if "sampling" not in {**describe(image), **bridge.stated}:
        print("Atomstream: the image has no pixel size: calibrate it, or set SAMPLING_A in the script")


if DM is not None:
    execute()
