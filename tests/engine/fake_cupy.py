"""A stand-in for CuPy that keeps what it is told."""

import sys
from types import ModuleType, SimpleNamespace

import pytest


class StatusError(RuntimeError):
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def fake_cupy(calls):
    """The parts of CuPy that are called, writing down in which order."""

    class Context:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            calls.append(("enter", self.name))

        def __exit__(self, *trace):
            calls.append(("exit", self.name))

    class Stream(Context):
        ptr = 77

        def __init__(self, non_blocking):
            assert non_blocking  # the default stream would wait for, and hold back, all others
            super().__init__("stream")

        def begin_capture(self, mode=None):
            assert mode is None  # relaxed, unless told: in others what another thread allocates ends the capture
            calls.append(("begin_capture",))

        def end_capture(self):
            calls.append(("end_capture",))
            return SimpleNamespace(launch=lambda stream: calls.append(("graph", stream)))

        def wait_event(self, event):
            calls.append(("wait_event", event))

    class Event(tuple):
        def __new__(cls, *values):
            return super().__new__(cls, values)

        def record(self, stream):
            calls.append(("record", stream))

    class Array(tuple):
        """Of GPU 0 unless told."""

        device = SimpleNamespace(id=0)

        def __new__(cls, *values):
            return super().__new__(cls, values)

    class Module:
        def __init__(self, code, options):
            calls.append(("module", code, options))

        def get_function(self, name):
            return lambda grid, block, arguments: calls.append((name, grid, block, arguments))

    errors = {name: type(name, (StatusError,), {}) for name in ("CUDARuntimeError", "CUDADriverError")}
    properties = {"name": b"H200", "major": 9, "minor": 0}
    made = ModuleType("cupy")
    made.RawModule = Module
    pool = SimpleNamespace(
        set_limit=lambda size: calls.append(("limit", size)),
        malloc="malloc of the pool",
        free_all_blocks=lambda: calls.append(("trim",)),
    )
    pinned = SimpleNamespace(
        malloc=lambda size: calls.append(("pinned", size)) or bytearray(size),
        free_all_blocks=lambda: calls.append(("trim pinned",)),
    )
    made.ndarray = Array
    made.asarray = lambda values: calls.append(("asarray",)) or Array("device", values)
    made.zeros = lambda shape, dtype: calls.append(("zeros",)) or ("device", shape)
    made.from_dlpack = lambda values: Array("dlpack", values)
    made.cuda = SimpleNamespace(
        Device=lambda index: Context(f"device {index}"),
        Stream=Stream,
        Event=lambda block=False, disable_timing=False: Event(block, disable_timing),
        MemoryPool=lambda: pool,
        using_allocator=Context,
        get_current_stream=lambda: SimpleNamespace(synchronize=lambda: calls.append(("settle",))),
        PinnedMemoryPool=lambda: pinned,
        runtime=SimpleNamespace(
            getDeviceProperties=lambda index: properties,
            memGetInfo=lambda: (5_000, 9_000),
            CUDARuntimeError=errors["CUDARuntimeError"],
        ),
        driver=SimpleNamespace(CUDADriverError=errors["CUDADriverError"]),
        memory=SimpleNamespace(OutOfMemoryError=type("OutOfMemoryError", (MemoryError,), {})),
        compiler=SimpleNamespace(CompileException=type("CompileException", (Exception,), {})),
    )
    return made


@pytest.fixture
def cupy(monkeypatch):
    """A stand-in for CuPy with `calls`."""
    calls = []
    made = fake_cupy(calls)
    made.calls = calls
    monkeypatch.setitem(sys.modules, "cupy", made)
    return made
