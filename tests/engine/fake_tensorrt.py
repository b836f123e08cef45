"""A stand-in for TensorRT that keeps what it is told, and the source of engines that its tests load."""

from threading import Event
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from engine import ModelError, tensorrt_engine
from engine.tensorrt_build import Built, ShapeRange
from engine.tensorrt_engine import EngineSource
from engine.tensorrt_module import Edition
from tests.cuda_on_cpu import HostDevice

EXACT, ANY = ShapeRange((64, 64), (64, 64), (64, 64)), ShapeRange((16, 16), (64, 64), (256, 256))
BYTES_PER_PIXEL = 100  # of the activations of the stand-in


class FakeContext:
    """Keeps every call; says no to what is in `refuses`, whose value it logs."""

    def __init__(self, runtime):
        self.runtime, self.calls, self.shape, self.memory = runtime, runtime.calls, None, 0

    def set_optimization_profile_async(self, profile, stream):
        self.calls.append(("profile", profile, stream))
        if not self.runtime.takes("profile"):
            raise RuntimeError("Error in set optimization profile.")
        return True

    def set_input_shape(self, name, shape):
        self.calls.append(("shape", name, shape))
        self.shape = shape
        return self.runtime.takes("shape")

    def get_tensor_shape(self, name):
        return (1, 6, self.shape[2] // 2, self.shape[3] // 2)

    def update_device_memory_size_for_shapes(self):
        return BYTES_PER_PIXEL * self.shape[2] * self.shape[3]

    def set_device_memory(self, address, size):
        self.calls.append(("memory", address, size))
        self.memory = size

    def set_tensor_address(self, name, address):
        self.calls.append(("address", name, address))
        return self.runtime.takes("address")

    def execute_async_v3(self, stream):
        self.calls.append(("execute", stream))
        enough = self.memory >= self.update_device_memory_size_for_shapes()
        self.runtime.compiled.add(self.shape)
        return enough and self.runtime.takes("execute")


class FakeConfig:
    """Of a run with TensorRT for RTX."""

    def __init__(self, runtime):
        self.runtime, self.strategy, self.cuda_graph_strategy, self.cache = runtime, "static", None, None

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

    def create_runtime_cache(self):
        return SimpleNamespace(deserialize=self._deserialize, serialize=self._serialize)

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True

    def _deserialize(self, content):
        self.runtime.calls.append(("kernels", content))
        return True

    def _serialize(self):
        return repr(sorted(self.runtime.compiled)).encode() if self.runtime.compiled else None


class FakeRuntime:
    """Loads what was built by `fake_build`; nothing else. It is its own engine."""

    def __init__(self, logger, calls, refuses):
        self.logger, self.calls, self.refuses, self.compiled = logger, calls, refuses, set()
        if not self.takes("runtime"):
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def takes(self, what):
        if what in self.refuses:
            self.logger.log("error", self.refuses[what])
        return what not in self.refuses

    def deserialize_cuda_engine(self, content):
        self.calls.append(("load", content))
        if not content.startswith(b"engine") or "load" in self.refuses:
            self.logger.log("error", "magic tag\ndoes not match")
            return None
        return self

    def create_runtime_config(self):
        return FakeConfig(self)

    def create_execution_context(self, how="static"):
        strategy = how.strategy if isinstance(how, FakeConfig) else how
        assert strategy == "ours"  # else it takes what the largest size needs, where we cannot count it
        assert not isinstance(how, FakeConfig) or how.cache is not None
        return FakeContext(self) if self.takes("context") else None


@pytest.fixture
def fake(monkeypatch, cache):
    """A source whose builds and runs are kept in `calls`; `refuses` says what fails and what is logged then."""
    calls, refuses = [], {}
    module = ModuleType("tensorrt")
    module.ILogger = type("ILogger", (), {"ERROR": "error", "INTERNAL_ERROR": "internal", "WARNING": "warning"})
    module.Runtime = lambda logger: FakeRuntime(logger, calls, refuses)
    module.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="ours")
    module.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")

    def fake_build(edition, onnx, sizes, **options):
        calls.append(("build", sizes))
        if "build" in refuses:
            raise ModelError(f"Expected tensorrt 11 to build an engine, got {refuses['build']}: free GPU memory")
        return Built(b"engine for " + repr(sizes).encode(), b"timings")

    monkeypatch.setattr(tensorrt_engine, "build", fake_build)
    edition = Edition(module, "tensorrt 11", rtx=False)
    source = EngineSource(edition, "H200 sm_90", b"onnx", "f16", 1, 6, cache)
    return SimpleNamespace(source=source, calls=calls, refuses=refuses, device=HostDevice({}))


@pytest.fixture
def held(fake, monkeypatch):
    """An event that builds wait for, or until they are not wanted any more."""
    event = Event()

    def build(edition, onnx, sizes, wanted, **options):
        while wanted() and not event.wait(0.01):
            pass
        if not wanted():
            raise ModelError("Expected tensorrt 11 to build an engine, got BuildCanceled: free GPU memory")
        return Built(b"engine for " + repr(sizes).encode(), b"")

    def hold():
        monkeypatch.setattr(tensorrt_engine, "build", build)
        return event

    yield hold
    event.set()


def arrays(height=64, width=64):
    return np.zeros((1, 1, height, width), np.float32), np.zeros((1, 6, height // 2, width // 2), np.float32)
