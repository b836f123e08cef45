"""The script for DigitalMicrograph, in a DigitalMicrograph made of a few lines: what it sends is what `serve` reads."""

import ast
import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import zmq

from stream import messages
from stream.header import DTYPES

SCRIPT = Path(__file__).parents[2] / "deploy/digitalmicrograph/atomstream_bridge.py"
ANY_PORT = "tcp://127.0.0.1:*"


class Image:
    """As DigitalMicrograph shows one to Python: its memory, its calibrations, its tags."""

    def __init__(self, pixels, size=0.0125, unit="nm", tags=None, intensity=(1.0, "", 0.0)):
        self.pixels, self.calibrations = pixels, [(0.0, size, unit)] * 2
        self.tags, self.intensity = tags or {}, intensity

    def GetName(self):
        return "Live"

    def GetNumArray(self):
        return self.pixels

    def GetDimensionCalibration(self, axis, style):
        return self.calibrations[axis]

    def GetTagGroup(self):
        return self

    def GetTagAsFloat(self, path):
        return (path in self.tags, self.tags.get(path, 0.0))

    def GetIntensityScale(self):
        return self.intensity[0]

    def GetIntensityUnitString(self):
        return self.intensity[1]

    def GetIntensityOrigin(self):
        return self.intensity[2]


class DigitalMicrograph(ModuleType):
    """The module; `front` is the image in front."""

    def __init__(self, front=None):
        super().__init__("DigitalMicrograph")
        self.front, self.listeners = front, []
        listeners = self.listeners

        class ScriptObject:
            def __del__(self):
                pass

            def ImageHandleDataChangedEvent(self, image, plugin):
                listeners.append(self)

            def WindowHandleWindowClosedEvent(self, window, plugin):
                pass

            def UnregisterAllListeners(self):
                listeners.remove(self)

        self.Py_ScriptObject = ScriptObject

    def GetFrontImage(self):
        if self.front is None:
            raise RuntimeError("no image")
        return self.front

    def GetFrontImageDocument(self):
        return self

    def GetWindow(self):
        return "window"

    def DoEvents(self):
        pass

    def change(self):
        """The camera has written another frame."""
        for listener in list(self.listeners):
            listener.HandleDataChangedEvent(0, self.front)


def execute(monkeypatch, microscope=None, endpoint=ANY_PORT):
    """The script as the button runs it; without a microscope only its functions are there."""
    monkeypatch.setitem(sys.modules, "DigitalMicrograph", microscope)
    source = SCRIPT.read_text(encoding="ascii").replace('"tcp://127.0.0.1:5555"', repr(endpoint))
    module = ModuleType("atomstream_bridge")
    exec(compile(source, str(SCRIPT), "exec"), vars(module))
    return module


def test_without_pyzmq_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "zmq", None)
    execute(monkeypatch, DigitalMicrograph(Image(np.zeros((4, 4), np.uint8))))
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert said.startswith("Atomstream: expected pyzmq in DigitalMicrograph's Python, got none: ")
    assert said.endswith("pip install pyzmq\n")


@pytest.fixture
def script(monkeypatch):
    return execute(monkeypatch)


@pytest.fixture
def receive():
    """A function (endpoint) -> a subscriber."""
    with zmq.Context() as context:
        sockets = []

        def connect(endpoint):
            socket = context.socket(zmq.SUB)
            sockets.append(socket)
            socket.linger, socket.rcvtimeo, socket.rcvhwm = 0, 20_000, 1
            socket.subscribe(b"")
            socket.connect(endpoint)
            return socket

        yield connect
        for socket in sockets:
            socket.close()


def noise(seed, shape=(6, 8), dtype=np.uint16):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def wait(bridge):
    """For a receiver to come or to go."""
    assert bridge._socket.poll(20_000)


class TestItsEncoder:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_serve_reads_what_it_writes(self, script, dtype):
        pixels = noise(0, dtype=dtype)
        for given in (pixels, pixels.astype(pixels.dtype.newbyteorder(">")), pixels[:, ::2]):
            message = messages.decode(script.encode(given, frame=7, sampling=0.125, timestamp=5.0, more="kept"))
            np.testing.assert_array_equal(message.pixels, given)
            assert message.pixels.dtype == dtype
            assert (message.number, message.sampling_A, message.timestamp_s) == (7, 0.125, 5.0)
            assert message.header == {"more": "kept"}

    def test_it_writes_what_our_own_senders_write(self, script):
        pixels = noise(0)
        ours, its = messages.encode(pixels, frame=1, dose=3.0), script.encode(pixels, frame=1, dose=3.0)
        assert json.loads(its[0]) == json.loads(ours[0])
        assert bytes(its[1]) == bytes(ours[1])

    def test_every_type_that_travels(self, script):
        assert script.DTYPES == DTYPES


class TestWhatItKnows:
    @pytest.mark.parametrize(
        ("size", "unit", "expected"),
        [
            (0.0125, "nm", 0.125),
            (12.5, b"pm", 0.125),
            (1.25e-5, b"\xb5m", 0.125),
            (0.125, "Å", 0.125),
            (0.1, "1/nm", None),
            (1.0, "", None),
            (float("nan"), "nm", None),
        ],
    )
    def test_pixel_size(self, script, size, unit, expected):
        said = script.describe(Image(noise(0), size, unit))
        assert said.get("sampling") == (expected and pytest.approx(expected))

    def test_axes_that_differ_are_no_pixel_size(self, script):
        image = Image(noise(0))
        image.calibrations = [(0, 0.0125, "nm"), (0, 0.0126, "nm")]
        assert "sampling" not in script.describe(image)

    def test_exposure_voltage_and_electrons(self, script):
        tags = {"DataBar:Exposure Time (s)": 0.5, "Microscope Info:Voltage": 80_000.0}
        image = Image(noise(0), tags=tags, intensity=(0.02, "e-", 100.0))
        assert script.describe(image) == {
            "sampling": 0.125,
            "exposure": 0.5,
            "voltage": 80_000,
            "gain": 50,
            "offset": 100,
        }
        image.tags["Acquisition:Parameters:High Level:Exposure (s)"] = 0.04
        assert script.describe(image)["exposure"] == 0.04

    def test_what_another_edition_does_not_have_is_left_out(self, script):
        class Old(Image):
            GetIntensityScale = GetTagAsFloat = None

        assert script.describe(Old(noise(0))) == {"sampling": 0.125}


class TestBridge:
    @pytest.fixture
    def bridge(self, script):
        bridge = script.Bridge(ANY_PORT)
        yield bridge
        bridge.close()

    def test_only_new_frames_each_with_a_number(self, bridge, receive):
        bridge.offer(Image(noise(0)))
        socket = receive(bridge.endpoint)
        wait(bridge)
        for _ in range(4):
            bridge.offer(Image(noise(1)))
        last = Image(noise(2), tags={"Microscope Info:Voltage": 8e4})
        bridge.offer(last)
        first, second = (messages.decode(socket.recv_multipart()) for _ in range(2))
        assert (first.number, second.number) == (1, 2)
        np.testing.assert_array_equal(second.pixels, last.pixels)
        assert (second.sampling_A, second.voltage_V, second.header["source"]) == (0.125, 8e4, "digitalmicrograph")
        assert first.series == second.series is not None
        assert 0 <= time.time() - second.timestamp_s < 100
        assert bridge.counts == {"no_receiver": 1, "sent": 2, "unchanged": 3}

    def test_the_live_buffer_may_be_written_to_at_once(self, bridge, receive):
        image, socket = Image(noise(0, (600, 800))), receive(bridge.endpoint)
        wait(bridge)
        bridge.offer(image)
        kept = image.pixels.copy()
        image.pixels[:] = 0
        np.testing.assert_array_equal(messages.decode(socket.recv_multipart()).pixels, kept)

    def test_a_slow_receiver_costs_frames_not_time(self, bridge, receive):
        socket = receive(bridge.endpoint)
        wait(bridge)
        for seed in range(200):  # far more than fit into the system's own buffers
            bridge.offer(Image(noise(seed, (1000, 1000))))
        sent = bridge.counts["sent"]
        assert bridge.counts == {"sent": sent, "receiver_slow": 200 - sent}
        assert 2 <= sent < 100
        numbers = [messages.decode(socket.recv_multipart()).number for _ in range(sent)]
        assert numbers == sorted(set(numbers))
        assert numbers[0] == 0

    def test_a_receiver_that_goes_is_noticed(self, bridge, receive):
        socket = receive(bridge.endpoint)
        wait(bridge)
        bridge.offer(Image(noise(0)))
        socket.close()
        wait(bridge)
        bridge.offer(Image(noise(1)))
        assert bridge.counts == {"sent": 1, "no_receiver": 1}

    @pytest.mark.parametrize(
        "pixels", [np.zeros((2, 3, 4), np.uint16), np.zeros((3, 4), np.complex64), np.zeros((0, 4), np.uint16)]
    )
    def test_what_is_no_frame_is_counted(self, bridge, pixels):
        bridge.offer(Image(pixels))
        assert bridge.counts == {"no_frame": 1}

    def test_no_error_gets_out(self, bridge, capsys):
        for _ in range(2):
            bridge.offer(None)
        assert bridge.counts == {"failed": 2}
        assert capsys.readouterr().out.count("Traceback") == 1

    def test_what_is_stated_comes_first(self, script, receive):
        bridge = script.Bridge(ANY_PORT, sampling_A=0.2, dose_e_A2=900.0)
        socket = receive(bridge.endpoint)
        wait(bridge)
        bridge.offer(Image(noise(0)))
        message = messages.decode(socket.recv_multipart())
        bridge.close()
        assert (message.sampling_A, message.dose_e_A2) == (0.2, 900)


class TestInside:
    def test_executed_twice_it_starts_and_stops(self, monkeypatch, capsys, receive):
        microscope = DigitalMicrograph(Image(noise(0)))
        execute(monkeypatch, microscope)
        (listener,) = microscope.listeners
        socket = receive(listener.bridge.endpoint)
        wait(listener.bridge)
        microscope.change()
        np.testing.assert_array_equal(messages.decode(socket.recv_multipart()).pixels, microscope.front.pixels)
        execute(monkeypatch, microscope)
        assert microscope.listeners == []
        microscope.change()
        listener.HandleDataChangedEvent(0, microscope.front)  # one that was under way
        told = capsys.readouterr().out
        assert "Atomstream: sends Live at tcp://127.0.0.1:" in told
        assert "Atomstream: stopped. 1 sent" in told
        execute(monkeypatch, microscope)
        assert len(microscope.listeners) == 1
        microscope.listeners[0].stop()

    def test_it_stops_with_the_window(self, monkeypatch, capsys):
        microscope = DigitalMicrograph(Image(noise(0)))
        execute(monkeypatch, microscope)
        (listener,) = microscope.listeners
        for _ in range(2):
            listener.HandleWindowClosedEvent(0, "window")
        assert microscope.listeners == []
        assert listener.image is None
        assert capsys.readouterr().out.count("stopped. no frame came") == 1

    def test_its_endpoint_is_free_afterwards(self, monkeypatch, capsys):
        microscope = DigitalMicrograph(Image(noise(0)))
        execute(monkeypatch, microscope)
        endpoint = microscope.listeners[0].bridge.endpoint
        other = DigitalMicrograph(Image(noise(0)))
        execute(monkeypatch, other, endpoint)
        assert other.listeners == []
        assert f"expected a free endpoint, got {endpoint}" in capsys.readouterr().out
        execute(monkeypatch, microscope)
        execute(monkeypatch, other, endpoint)
        assert len(other.listeners) == 1
        other.listeners[0].stop()

    def test_what_is_missing_is_told(self, monkeypatch, capsys):
        execute(monkeypatch, DigitalMicrograph())
        assert "expected a live view in front, got no image" in capsys.readouterr().out
        microscope = DigitalMicrograph(Image(noise(0), unit=""))
        execute(monkeypatch, microscope)
        microscope.listeners[0].stop()
        assert "the image has no pixel size" in capsys.readouterr().out


class TestTheFile:
    tree = ast.parse(SCRIPT.read_text(encoding="ascii"), feature_version=(3, 7))  # of GMS 3.4; its editor is not UTF-8

    def test_it_needs_what_is_there_and_pyzmq(self):
        imported = {alias.name for node in ast.walk(self.tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module for node in ast.walk(self.tree) if isinstance(node, ast.ImportFrom)}
        assert imported - sys.stdlib_module_names == {"numpy", "zmq", "DigitalMicrograph"}

    def test_it_is_open_to_this_computer_only(self, script):
        spec = importlib.util.spec_from_file_location("bridge", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.ENDPOINT.startswith("tcp://127.0.0.1:")
