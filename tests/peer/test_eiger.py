"""The simulated EIGER of Diamond Light Source, through its REST interface: frames arrive as the detector has them."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import ExitStack, contextmanager
from urllib.request import Request, urlopen

import bitshuffle
import numpy as np
import pytest
import zmq

from stream.config import ServeConfig
from stream.messages import decode_result
from stream.service import Service
from tests.peer.browser import wait_until
from tests.peer.test_prometheus import free_port, process
from tests.stream.fakes import FakeDetector

pytestmark = [pytest.mark.peer, pytest.mark.timeout(900)]

PATIENCE_S = 120.0
IMAGES = 4
SHAPE = (4362, 4148)  # of an EIGER2 16M
MODULE, GAP = (512, 1028), (38, 12)  # its modules along y and x in pixels, and what lies between two
# As `python -m tickit`, but that its PUSH socket is not connected to itself beside being bound (seen in tickit 0.4.3):
# until ZeroMQ gives that connection up, every other message goes there and is lost.
START = """
import sys, aiozmq
create = aiozmq.create_zmq_stream
async def bind(kind, *, connect, bind): return await create(kind, bind=bind)
aiozmq.create_zmq_stream = bind
from tickit.cli import main
main(["all", sys.argv[1]])
"""
# The compressed image that the simulator sends with every frame of Stream V1, and that of V2.
SAMPLE_V1 = """
import sys, tickit_devices.eiger.data.dummy_image as image
sys.stdout.buffer.write(image.dummy_image_blob())
"""
SAMPLE_V2 = """
import sys, tickit_devices.eiger.stream.eiger_stream_2 as stream
_, image, _ = stream._load_messages()
_, typed = image["data"]["threshold_1"].value
sys.stdout.buffer.write(typed.value.value[2])
"""


class Detector:
    """The REST interface of a detector."""

    def __init__(self, address):
        self.address = address

    def put(self, path, value=None):
        body = b"" if value is None else json.dumps({"value": value}).encode()
        request = Request(f"{self.address}/{path}", body, {"Content-Type": "application/json"}, method="PUT")
        with urlopen(request, timeout=PATIENCE_S) as answer:
            assert answer.status == 200

    def set_up(self, form, detail):
        self.put("detector/api/1.8.0/command/initialize")
        for key, value in (("mode", "enabled"), ("format", form), ("header_detail", detail)):
            self.put(f"stream/api/1.8.0/config/{key}", value)
        for key, value in (("nimages", IMAGES), ("ntrigger", 1), ("trigger_mode", "ints"), ("frame_time", 0.2)):
            self.put(f"detector/api/1.8.0/config/{key}", value)

    def take_series(self):
        for command in ("arm", "trigger", "disarm"):
            self.put(f"detector/api/1.8.0/command/{command}")

    def answers(self):
        try:
            with urlopen(f"{self.address}/detector/api/1.8.0/status/state", timeout=5):
                return True
        except OSError:  # not listening yet, or too busy to answer in time
            return False


@contextmanager
def simulated(python, folder):
    """A detector with ports of its own; its REST interface and the ports of Stream V1 and V2."""
    rest, legacy, cbor = (free_port() for _ in range(3))
    configuration = {"name": "eiger", "inputs": {}, "host": "127.0.0.1", "port": rest}
    configuration |= {"type": "tickit_devices.eiger.Eiger", "stream_legacy_port": legacy, "stream_cbor_port": cbor}
    (folder / "eiger.yaml").write_text(json.dumps([configuration]))  # JSON is YAML
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("w"))
        command = (python, "-c", START, folder / "eiger.yaml")
        stack.enter_context(process(*command, stdout=log, stderr=log, env=environment))
        detector = Detector(f"http://127.0.0.1:{rest}")
        wait_until(detector.answers, PATIENCE_S)
        yield detector, {"legacy": legacy, "cbor": cbor}


def receive(port, dialect, detector, form, series, detail="basic"):
    """What the engine saw of so many series, the books, and the headers of the results."""
    config = ServeConfig(
        input=f"tcp://127.0.0.1:{port}",
        output="tcp://127.0.0.1:*",
        socket="pull",
        policy="lossless",
        dialect=dialect,
        sampling=0.2,
        metrics_port=0,
        preview_rate=0.0,
    )
    engine = FakeDetector()
    detector.set_up(form, detail)
    headers = []
    with Service([config], [engine]) as service, zmq.Context() as context, context.socket(zmq.SUB) as results:
        results.linger, results.rcvtimeo = 0, round(PATIENCE_S * 1000)
        results.subscribe(b"")
        results.connect(service.endpoint)
        decode_result(results.recv_multipart())  # the subscription has arrived
        (source,) = service.sources
        for number in range(1, series + 1):
            detector.take_series()
            wait_until(lambda expected=number * IMAGES: source.accounting.totals().processed >= expected, PATIENCE_S)
        while len(headers) < series * IMAGES:
            result = decode_result(results.recv_multipart())
            headers += [result.header] if result.kind == "atoms" else []
        books = source.accounting.totals()
    return engine.seen, books, headers


def check(frames, books, headers, series):
    numbers = [(header["series"] - headers[0]["series"], header["frame"]) for header in headers]
    assert numbers == [(one, number) for one in range(series) for number in range(IMAGES)]
    assert (books.received, books.processed, books.dropped, books.missing) == (series * IMAGES,) * 2 + ({}, 0)
    assert [frame.shape for frame in frames] == [SHAPE] * (series * IMAGES)
    for frame in frames:
        rows, columns = frame.mask.all(axis=1), frame.mask.all(axis=0)
        # What lies between two modules is masked over the whole width, or height.
        assert [int(np.flatnonzero(line)[0]) for line in (rows, columns)] == list(MODULE)
        assert rows[MODULE[0] : MODULE[0] + GAP[0]].all()
        assert not rows[MODULE[0] + GAP[0]]
        assert columns[MODULE[1] : MODULE[1] + GAP[1]].all()
        assert not columns[MODULE[1] + GAP[1]]


def check_pixels(frames, python, sample):
    blob = subprocess.run([python, "-c", sample], capture_output=True, check=True).stdout
    block = int.from_bytes(blob[8:12]) // 2
    pixels = bitshuffle.decompress_lz4(np.frombuffer(blob[12:], np.uint8), SHAPE, np.dtype(np.uint16), block)
    for frame in frames:
        np.testing.assert_array_equal(frame.pixels, pixels)


@pytest.mark.parametrize("detail", ["basic", "all", "none"])
def test_stream_v1(tickit, tmp_path, detail):
    with simulated(tickit, tmp_path) as (detector, ports):
        frames, books, headers = receive(ports["legacy"], "dectris-v1", detector, "legacy", 2, detail)
    check(frames, books, headers, 2)
    assert detail == "none" or headers[-1]["frame_interval_ms"] == 200
    check_pixels(frames, tickit, SAMPLE_V1)


@pytest.mark.parametrize("detail", ["basic", "none"])
def test_stream_v2(tickit, tmp_path, detail):
    with simulated(tickit, tmp_path) as (detector, ports):
        frames, books, headers = receive(ports["cbor"], "dectris-v2", detector, "cbor", 2, detail)
    check(frames, books, headers, 2)
    check_pixels(frames, tickit, SAMPLE_V2)
