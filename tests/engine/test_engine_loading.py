"""Engines on their way: what an interruption does to a build, and that none outlives the process; some for real."""

import signal
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from threading import Event, Timer

import pytest

from engine import ModelError, engine_loading
from engine.engine_loading import Loading, cancel_builds, cancelling

BUILDS = """
import os, signal, sys, threading, time
from engine.engine_loading import Loading
from engine.shipped import find_spec
from engine.tensorrt_build import ShapeRange, build
from engine.tensorrt_module import find_tensorrt

onnx = find_spec("graphene").with_suffix(".onnx").read_bytes()
sizes = ShapeRange((16, 16), (512, 512), (512, 512))

def load(wanted):
    while True:  # one build after the other
        build(find_tensorrt(), onnx, sizes, channels=1, maps=6, wanted=wanted)

loading = Loading(load)
"""
ENDS = "time.sleep(0.5); sys.exit(3)"
IS_INTERRUPTED = """
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    loading.result()
except KeyboardInterrupt:
    sys.exit(4)
"""
STUCK = """
import sys, time
from engine import engine_loading
engine_loading._SILENT_S = 0.01
engine_loading.Loading(lambda wanted: time.sleep(100))
sys.exit(3)
"""


@pytest.fixture
def step():
    """An event that a build waits for before it asks whether it is wanted; set at the end."""
    event = Event()
    yield event
    event.set()


def stubborn(step):
    """What to load with a step that takes as long as the event is not set."""

    def load(wanted):
        step.wait(60)
        if not wanted():
            raise ModelError("Expected tensorrt 11 to build an engine, got BuildCanceled: free GPU memory")
        return "engine"

    return load


def test_an_engine_is_waited_for(step):
    loading = Loading(stubborn(step))
    assert not loading.is_over
    step.set()
    assert loading.result() == "engine"
    assert loading.is_over


@pytest.mark.parametrize("error", [ModelError, OSError, MemoryError])
def test_an_error_is_who_waits_for_its(error):
    def fail(wanted):
        raise error("no such thing")

    with pytest.raises(error, match="no such thing"):
        Loading(fail).result()


def test_an_error_holds_nothing_of_what_was_made():
    """GPU memory, for as long as somebody may still ask for the error; nor does the error that it came from."""
    made = []

    def fail(wanted):
        half = Event()
        made.append(weakref.ref(half))
        try:
            raise MemoryError("Out of memory allocating 512 bytes")
        except MemoryError:
            raise ModelError("Expected an engine, got no memory: free some") from None

    loading = Loading(fail)
    loading.join()
    assert made[0]() is None
    assert "got no memory" in str(loading.error)


def test_whoever_waits_for_a_build_that_is_cancelled_is_interrupted(step):
    """An error would be taken for a missing TensorRT, and torch or the CPU loaded in its place."""
    loading = Loading(stubborn(step))
    timer = Timer(0.05, cancel_builds)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        loading.result()
    assert not loading.is_over  # nor is who waits kept for the step
    timer.join()


def test_what_begins_later_in_a_block_that_is_cancelled_is_not_even_begun():
    begun = []
    with cancelling() as cancel:
        assert Loading(lambda wanted: "engine").result() == "engine"
        cancel()
        loading = Loading(begun.append)
        with pytest.raises(KeyboardInterrupt):
            loading.result()
        loading.join()
    assert not begun
    assert Loading(lambda wanted: "engine").result() == "engine"


def test_an_interruption_is_not_kept_waiting_for_the_step(step):
    loading = Loading(stubborn(step))

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            loading.result()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not loading.is_over
    step.set()
    loading.join()
    assert "BuildCanceled" in str(loading.error)


def test_the_end_of_the_process_waits_and_says_what_for(step, monkeypatch, caplog):
    monkeypatch.setattr(engine_loading, "_SILENT_S", 0.01)
    monkeypatch.setattr(engine_loading, "_EXIT_S", 0.02)
    loading = Loading(stubborn(step))
    engine_loading._end_builds()
    assert "for TensorRT, which ends the build of an engine between two steps only" in caplog.text
    assert not loading.is_over  # not for ever
    caplog.clear()
    monkeypatch.setattr(engine_loading, "_SILENT_S", 60.0)
    step.set()
    engine_loading._end_builds()
    assert loading.is_over
    assert not caplog.records


def test_the_end_of_the_process_waits_no_longer_for_several_builds(step, monkeypatch, caplog):
    monkeypatch.setattr(engine_loading, "_SILENT_S", 0.01)
    monkeypatch.setattr(engine_loading, "_EXIT_S", 0.1)
    waits, join = [], Loading.join
    monkeypatch.setattr(Loading, "join", lambda self, seconds=None: waits.append(seconds) or join(self, seconds))
    builds = [Loading(stubborn(step)) for _ in range(5)]
    engine_loading._end_builds()
    assert len(caplog.messages) == 1
    assert len(waits) >= 2 * len(builds)
    assert sum(waits) < 2 * (0.01 + 0.1)
    assert not any(loading.is_over for loading in builds)


@pytest.mark.parametrize(("then", "status"), [(ENDS, 3), (IS_INTERRUPTED, 4)])
def test_a_process_ends_as_it_wants_to_with_a_build_under_way(edition, then, status):
    """For real: without the wait TensorRT for RTX takes most such processes down, and it swallows an interruption."""
    ended = subprocess.run([sys.executable, "-c", BUILDS + then], capture_output=True, text=True, timeout=60)
    assert ended.returncode == status
    assert all(line.startswith("Waiting up to") for line in ended.stderr.splitlines())


def test_whoever_does_not_want_to_wait_is_not_kept():
    ending = subprocess.Popen([sys.executable, "-c", STUCK], stderr=subprocess.PIPE, text=True)
    try:
        assert "Ctrl-C ends it at once" in ending.stderr.readline()
        began_s = time.monotonic()
        ending.send_signal(signal.SIGINT)
        assert ending.wait(30) == 130
        assert time.monotonic() - began_s < 20
        assert ending.stderr.read() == ""
    finally:
        with suppress(ProcessLookupError):
            ending.kill()
        ending.communicate()
