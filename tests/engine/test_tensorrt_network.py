"""The run half against a runtime that only keeps what it is told; the build half before it is real where it can be."""

from dataclasses import replace
from threading import Event
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from engine import FrameError, ModelError, tensorrt_network
from engine.device_plan import PLANS
from engine.errors import DeviceError
from engine.tensorrt_build import Built, ShapeRange
from engine.tensorrt_module import Edition
from engine.tensorrt_network import EngineSource, TensorRtNetwork
from tests.conftest import TINY, tiny_network
from tests.cuda_on_cpu import HostDevice

EXACT, ANY = ShapeRange((64, 64), (64, 64), (64, 64)), ShapeRange((16, 16), (64, 64), (256, 256))


class FakeContext:
    """Keeps every call; says no to what is in `refuses`."""

    def __init__(self, calls, refuses):
        self.calls, self.refuses, self.shape = calls, refuses, None

    def set_optimization_profile_async(self, profile, stream):
        self.calls.append(("profile", profile, stream))
        return "profile" not in self.refuses

    def set_input_shape(self, name, shape):
        self.calls.append(("shape", name, shape))
        self.shape = shape
        return "shape" not in self.refuses

    def get_tensor_shape(self, name):
        return (1, 6, self.shape[2] // 2, self.shape[3] // 2)

    def set_tensor_address(self, name, address):
        self.calls.append(("address", name, address))
        return "address" not in self.refuses

    def execute_async_v3(self, stream):
        self.calls.append(("execute", stream))
        return "execute" not in self.refuses


class FakeRuntime:
    """Loads what was built by `fake_build`; nothing else."""

    def __init__(self, logger, calls, refuses):
        self.logger, self.calls, self.refuses = logger, calls, refuses

    def deserialize_cuda_engine(self, content):
        self.calls.append(("load", content))
        if not content.startswith(b"engine") or "load" in self.refuses:
            self.logger.log("error", "magic tag\ndoes not match")
            return None
        context = None if "context" in self.refuses else FakeContext(self.calls, self.refuses)
        return SimpleNamespace(create_execution_context=lambda: context)


@pytest.fixture
def fake(monkeypatch, cache):
    """A source whose builds and runs are kept in `calls`; `refuses` says what fails."""
    calls, refuses = [], set()
    module = ModuleType("tensorrt")
    module.ILogger = type("ILogger", (), {"ERROR": "error", "INTERNAL_ERROR": "internal", "WARNING": "warning"})
    module.Runtime = lambda logger: FakeRuntime(logger, calls, refuses)

    def fake_build(edition, onnx, ranges, **options):
        calls.append(("build", ranges))
        if "build" in refuses:
            raise ModelError("Expected tensorrt 11 to build an engine, got no room: free GPU memory")
        return Built(b"engine for " + repr(ranges).encode(), b"timings")

    monkeypatch.setattr(tensorrt_network, "build", fake_build)
    edition = Edition(module, "tensorrt 11", rtx=False)
    source = EngineSource(edition, "H200 sm_90", b"onnx", "f16", 1, 6, cache)
    return SimpleNamespace(source=source, calls=calls, refuses=refuses, device=HostDevice({}))


def arrays(height=64, width=64):
    return np.zeros((1, 1, height, width), np.float32), np.zeros((1, 6, height // 2, width // 2), np.float32)


class TestRun:
    def test_addresses_shapes_order_and_stream(self, fake):
        network = TensorRtNetwork(fake.device, fake.source, (EXACT, ANY))
        fake.calls.clear()
        pixels, maps = arrays()
        enqueue = network.bind(3, pixels, maps)
        assert fake.calls == [
            ("profile", 0, 1003),
            ("shape", "frame", (1, 1, 64, 64)),
            ("address", "frame", pixels.ctypes.data),
            ("address", "maps", maps.ctypes.data),
        ]
        fake.calls.clear()
        for stream in (3, 4):
            enqueue(stream)
        assert fake.calls == [("execute", 1003), ("execute", 1004)]  # nothing is told to a context that runs
        assert network.backend == "tensorrt 11 f16"

    def test_each_binding_has_a_context_of_its_own_in_the_first_profile_that_fits(self, fake):
        network = TensorRtNetwork(fake.device, fake.source, (EXACT, ANY))
        first = network.bind(3, *arrays())
        network.bind(3, *arrays(128, 128))
        fake.calls.clear()
        first(3)
        assert fake.calls == [("execute", 1003)]
        network.bind(3, *arrays())
        network.bind(3, *arrays(128, 64))
        assert [call[1] for call in fake.calls if call[0] == "profile"] == [0, 1]

    def test_nothing_is_synchronised(self, fake):
        TensorRtNetwork(fake.device, fake.source, (ANY,)).bind(3, *arrays())(3)
        assert fake.device.log == []

    def test_maps_of_another_shape_are_refused_before_a_run(self, fake):
        network = TensorRtNetwork(fake.device, fake.source, (ANY,))
        with pytest.raises(ModelError, match=r"Expected maps of \(1, 6, 16, 16\), got \(1, 6, 32, 32\)"):
            network.bind(3, arrays()[0], arrays(32, 32)[1])
        assert not [call for call in fake.calls if call[0] == "execute"]

    @pytest.mark.parametrize("what", ["profile", "address", "execute"])
    def test_what_the_runtime_refuses_is_a_device_error(self, fake, what):
        network = TensorRtNetwork(fake.device, fake.source, (ANY,))
        fake.refuses.add(what)
        with pytest.raises(DeviceError, match=r"Expected tensorrt 11 to take .*, got no reason: restart"):
            network.bind(3, *arrays())(3)

    def test_no_room_for_a_context_drops_the_frame(self, fake):
        fake.refuses.add("context")
        network = TensorRtNetwork(fake.device, fake.source, (ANY,))
        with pytest.raises(FrameError, match="GPU expects free memory") as caught:
            network.bind(3, *arrays())(3)
        assert caught.value.reason == "no_memory"


class TestCache:
    def test_built_once_then_loaded(self, fake):
        for _ in range(2):
            TensorRtNetwork(fake.device, fake.source, (ANY,))
        assert [call[0] for call in fake.calls] == ["build", "load", "load"]
        assert fake.source.cache.load_timing("H200 sm_90", "tensorrt 11") == b"timings"

    @pytest.mark.parametrize(
        "change",
        [{"gpu": "L4 sm_89"}, {"onnx": b"halved in another way"}, {"workspace_MB": 1024}, {"precision": "f32"}],
    )
    def test_built_again_for_anything_else(self, fake, change):
        for source in (fake.source, replace(fake.source, **change)):
            TensorRtNetwork(fake.device, source, (ANY,))
        assert [call[0] for call in fake.calls].count("build") == 2

    @pytest.mark.parametrize("damage", [lambda content: content[:-3], lambda content: b"", lambda content: b"\0" * 99])
    def test_a_damaged_file_never_reaches_the_runtime(self, fake, damage, caplog):
        TensorRtNetwork(fake.device, fake.source, (ANY,))
        path = fake.source.cache.folder / fake.source.key((ANY,)).file_name
        path.write_bytes(damage(path.read_bytes()))
        TensorRtNetwork(fake.device, fake.source, (ANY,))
        assert [call[0] for call in fake.calls] == ["build", "load", "build", "load"]
        assert len({call for call in fake.calls if call[0] == "load"}) == 1
        assert "built again" in caplog.text

    def test_an_engine_of_another_gpu_in_its_place_is_built_again(self, fake):
        other = replace(fake.source, gpu="L4 sm_89")
        TensorRtNetwork(fake.device, other, (ANY,))
        folder = fake.source.cache.folder
        (folder / other.key((ANY,)).file_name).rename(folder / fake.source.key((ANY,)).file_name)
        TensorRtNetwork(fake.device, fake.source, (ANY,))
        assert [call[0] for call in fake.calls] == ["build", "load", "build", "load"]

    def test_a_cached_engine_that_does_not_load_is_built_again(self, fake, caplog):
        fake.source.cache.store(fake.source.key((ANY,)), b"of another driver")
        TensorRtNetwork(fake.device, fake.source, (ANY,))
        assert [call[0] for call in fake.calls] == ["load", "build", "load"]
        assert "got magic tag does not match" in caplog.text
        assert fake.source.cache.load(fake.source.key((ANY,))).startswith(b"engine")

    def test_one_that_was_built_and_does_not_load_is_an_error(self, fake):
        fake.refuses.add("load")
        with pytest.raises(ModelError, match="Expected tensorrt 11 to load its engine, got magic tag"):
            TensorRtNetwork(fake.device, fake.source, (ANY,))


class TestOtherSizes:
    def test_a_larger_frame_is_refused_while_its_engine_is_built(self, fake):
        network = TensorRtNetwork(fake.device, fake.source, (ANY,))
        network.ready((256, 256))
        with pytest.raises(FrameError, match="an engine for 512 x 256 network pixels, got none yet") as caught:
            network.ready((512, 256))
        assert caught.value.reason == "no_engine"
        network._building.join()
        network.ready((512, 256))
        network.bind(3, *arrays(512, 256))(3)
        network.ready((64, 64))  # the first engine stays
        exact = (ShapeRange((512, 256), (512, 256), (512, 256)),)
        assert fake.source.cache.load(fake.source.key(exact)) is not None  # for the next start too
        assert [call[1] for call in fake.calls if call[0] == "build"] == [(ANY,), exact]

    def test_as_many_large_sizes_are_kept_as_plans(self, fake):
        """Two cameras with frames beyond the first engine would else drive each other's engine out for ever."""
        network = TensorRtNetwork(fake.device, fake.source, (ANY,))
        sizes = [(512 * k, 512) for k in range(1, PLANS + 2)]

        def build(size):
            with pytest.raises(FrameError, match="none yet"):
                network.ready(size)
            network._building.join()
            network.ready(size)

        for size in sizes[:PLANS]:
            build(size)
        for size in sizes[:PLANS]:
            network.ready(size)
        build(sizes[PLANS])  # and they do not pile up
        with pytest.raises(FrameError, match="none yet"):
            network.ready(sizes[0])

    def test_a_build_that_fails_is_told_with_the_frame(self, fake):
        network = TensorRtNetwork(fake.device, fake.source, (ANY,))
        fake.refuses.add("build")
        with pytest.raises(FrameError, match="it is being built"):
            network.ready((512, 512))
        network._building.join()
        for _ in range(3):  # and not tried again with every frame
            with pytest.raises(FrameError, match="got no room: free GPU memory, then restart") as caught:
                network.ready((512, 512))
            assert caught.value.reason == "no_engine"
        assert [call[0] for call in fake.calls].count("build") == 2
        network.ready((64, 64))

    def test_a_size_that_was_not_made_ready_is_no_crash(self, fake):
        network = TensorRtNetwork(fake.device, fake.source, (EXACT,))
        with pytest.raises(ModelError, match="call ready first"):
            network.bind(3, *arrays(128, 128))

    def test_close_waits_for_the_build(self, fake):
        network = TensorRtNetwork(fake.device, fake.source, (EXACT,))
        with pytest.raises(FrameError):
            network.ready((128, 128))
        network.close()
        assert not network._building.is_alive()

    def test_but_not_for_ever(self, fake, monkeypatch, caplog):
        held = Event()
        network = TensorRtNetwork(fake.device, fake.source, (EXACT,))
        monkeypatch.setattr(tensorrt_network, "build", lambda *_, **__: held.wait(30))
        monkeypatch.setattr(tensorrt_network, "_CLOSE_S", 0.01)
        with pytest.raises(FrameError):
            network.ready((128, 128))
        network.close()
        assert network._building.is_alive()
        assert "still being built" in caplog.text
        held.set()
        network.finish()

    @pytest.mark.parametrize("error", [DeviceError, OSError, MemoryError, RuntimeError])
    def test_no_build_is_begun_again_with_every_frame_whatever_ended_it(self, fake, monkeypatch, error):
        network = TensorRtNetwork(fake.device, fake.source, (EXACT,))

        def fail(*_, **__):
            raise error("no such thing")

        monkeypatch.setattr(tensorrt_network, "build", fail)
        with pytest.raises(FrameError, match="none yet"):
            network.ready((128, 128))
        network.finish()
        with pytest.raises(FrameError, match="no such thing, then restart") as caught:
            network.ready((128, 128))
        assert caught.value.reason == "no_engine"


def test_a_real_build_is_kept_and_found_again(edition, cache):
    """Through the source, with the installed TensorRT: only loading the engine needs a GPU."""
    source = EngineSource(edition, "none", tiny_network(TINY).SerializeToString(), "f32", 1, 6, cache)
    engine = source.build((ANY,))
    assert cache.load(source.key((ANY,))) == engine
    assert cache.load(replace(source, precision="f16").key((ANY,))) is None
