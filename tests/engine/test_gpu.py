"""Putting a model onto a GPU: what is chosen, what is refused, with a device and runtimes that are stand-ins."""

import sys
from types import SimpleNamespace

import pytest

from engine import FileError, FrameError, ModelError, detector, gpu, load_detector
from engine.device_plan import DeviceNetwork
from engine.gpu import build_ahead, first_range, load_on_gpu, network_bytes, open_tensorrt, open_torch
from engine.half import halved
from engine.network import map_count
from engine.spec import ModelSpec, file_sha256
from tests.cuda_on_cpu import HostDevice

RUNS = SimpleNamespace(try_once=lambda: None, keep=lambda: None)  # an engine that no GPU is needed for


class Idle:
    """A DeviceNetwork that is never run."""

    capturable = False

    def __init__(self, backend):
        self.backend = backend

    def close(self):
        pass


@pytest.fixture
def machine(monkeypatch):
    """A GPU machine with TensorRT and torch; `says` is what was opened, `errors` what is missing."""
    state = SimpleNamespace(opened=[], errors={}, indices=[], memory_MB=None)

    def device(index, memory_MB):
        state.indices.append(index)
        state.memory_MB = memory_MB
        if "device" in state.errors:
            raise ModelError(state.errors["device"])
        return HostDevice({})

    def opener(name):
        def open_network(device, *arguments) -> DeviceNetwork:
            if name in state.errors:
                raise ModelError(state.errors[name])
            precision = next(part for part in arguments if isinstance(part, str))
            state.opened.append(arguments)
            return Idle(f"{name} {precision}")

        return open_network

    monkeypatch.setattr(gpu, "obstacle", lambda: state.errors.get("obstacle"))
    monkeypatch.setattr(gpu, "usable_gpus", lambda: (0, 2))
    monkeypatch.setattr(gpu, "CupyDevice", device)
    monkeypatch.setattr(gpu, "open_tensorrt", opener("tensorrt"))
    monkeypatch.setattr(gpu, "open_torch", opener("torch"))
    return state


class TestChoice:
    def test_a_user_without_a_home_gets_torch_and_else_the_cpu(self, machine, tiny_model, monkeypatch, caplog):
        def homeless(*arguments):
            raise FileError("Expected a home folder for built engines, got none: set XDG_CACHE_HOME")

        monkeypatch.setattr(gpu, "open_tensorrt", homeless)
        with load_detector(tiny_model, device="auto") as loaded:
            assert loaded.backend == "torch f16, CPU sm_0"
        assert "set XDG_CACHE_HOME; torch runs the network instead" in caplog.text
        monkeypatch.setattr(gpu, "open_torch", homeless)
        with load_detector(tiny_model, device="auto") as loaded:
            assert loaded.backend.startswith("openvino")
        with pytest.raises(FileError, match="set XDG_CACHE_HOME"):
            load_detector(tiny_model, backend="tensorrt")

    @pytest.mark.parametrize("device", ["cuda", "auto"])
    def test_tensorrt_in_half_is_the_first_choice(self, machine, tiny_model, device, caplog):
        with caplog.at_level("INFO"), load_detector(tiny_model, device=device, memory_MB=1000, kinds=5) as loaded:
            assert loaded.backend == "tensorrt f16, CPU sm_0"
        assert ("Computing with tensorrt f16, CPU sm_0: device is auto" in caplog.text) == (device == "auto")
        assert machine.memory_MB == 1000
        assert machine.opened[0][-2:] == (1000, 5)  # as many engines are kept as plans

    def test_torch_is_the_second_and_that_is_said(self, machine, tiny_model, caplog):
        machine.errors["tensorrt"] = "Expected TensorRT, got none: pip install it"
        with load_detector(tiny_model, device="cuda") as loaded:
            assert loaded.backend == "torch f16, CPU sm_0"
        assert "pip install it; torch runs the network instead" in caplog.text

    def test_where_neither_works_both_are_told_in_one_line(self, machine, tiny_model, caplog):
        machine.errors |= {"tensorrt": "Expected TensorRT, got none: install it", "torch": "Expected CUDA: mend torch"}
        said = "Expected TensorRT, got none: install it; nor can torch run the network: Expected CUDA: mend torch"
        with pytest.raises(ModelError) as caught:
            load_detector(tiny_model, device="cuda")
        assert str(caught.value) == said
        assert "torch runs" not in caplog.text
        with load_detector(tiny_model, device="auto") as loaded:
            assert loaded.backend.startswith("openvino")
        with pytest.raises(ModelError, match=r"^Expected CUDA: mend torch$"):
            load_detector(tiny_model, backend="torch")

    @pytest.mark.parametrize("backend", ["auto", "tensorrt"])
    def test_every_gpu_that_can_be_used(self, machine, tiny_model, backend):
        with load_detector(tiny_model, backend=backend, device="cuda:all") as loaded:
            assert loaded.backend == "2 x tensorrt f16, CPU sm_0"
        assert machine.indices == [0, 2]

    @pytest.mark.parametrize(
        ("options", "backend"),
        [
            ({"backend": "torch"}, "torch f16"),
            ({"backend": "tensorrt"}, "tensorrt f16"),
            ({"backend": "torch", "device": "auto"}, "torch f16"),
            ({"device": "cuda", "precision": "f32"}, "tensorrt f32"),
        ],
    )
    def test_what_is_named_is_taken(self, machine, tiny_model, options, backend):
        with load_detector(tiny_model, **options) as loaded:
            assert loaded.backend == f"{backend}, CPU sm_0"

    def test_what_is_named_is_not_given_up(self, machine, tiny_model):
        machine.errors["tensorrt"] = "Expected TensorRT, got none: pip install it"
        for device in ("cuda", "auto"):
            with pytest.raises(ModelError, match="Expected TensorRT, got none"):
                load_detector(tiny_model, backend="tensorrt", device=device)

    @pytest.mark.parametrize(("driver", "said"), [(None, False), (object(), True)])
    @pytest.mark.parametrize("part", ["obstacle", "device"])
    def test_auto_falls_to_the_cpu_and_says_why_where_a_gpu_may_be(
        self, machine, tiny_model, monkeypatch, caplog, part, driver, said
    ):
        monkeypatch.setattr(detector, "cpu_precisions", lambda: ("f32",))
        monkeypatch.setattr("engine.gpu_probe.load_driver", lambda: driver)
        machine.errors[part] = "driver: none: install it"
        with caplog.at_level("INFO"), load_detector(tiny_model, device="auto") as loaded:
            assert loaded.backend == "openvino f32"
        assert ("Computing on the CPU. " in caplog.text) == said
        assert ("driver: none: install it" in caplog.text) == said

    def test_auto_falls_to_the_cpu_where_the_gpu_is_full(self, machine, tiny_model, monkeypatch):
        def full(*arguments):
            raise FrameError("no_memory", "GPU expects free memory, got none: free some")

        monkeypatch.setattr(gpu, "CupyDevice", full)
        with load_detector(tiny_model, device="auto") as loaded:
            assert loaded.backend.startswith("openvino")
        with pytest.raises(FrameError, match="GPU expects free memory"):
            load_detector(tiny_model, device="cuda")

    @pytest.mark.parametrize("part", ["obstacle", "device"])
    def test_cuda_does_not(self, machine, tiny_model, part):
        machine.errors[part] = "driver: none: install it"
        with pytest.raises(ModelError, match="driver: none: install it"):
            load_detector(tiny_model, device="cuda")

    def test_the_cpu_is_what_nothing_said_means(self, machine, tiny_model):
        with load_detector(tiny_model) as loaded:
            assert loaded.backend.startswith("openvino")
        assert machine.opened == []

    def test_a_detector_by_auto_has_something_to_fall_back_to(self, machine, tiny_model):
        for device, has in (("auto", True), ("cuda", False)):
            with load_detector(tiny_model, device=device) as loaded:
                assert (loaded._fallback is not None) == has
        with load_detector(tiny_model, device="cuda:all") as loaded:
            assert loaded._fallback is not None  # one for all: none of them needs a CPU while another GPU works
            assert all(member._fallback is None for member in loaded._members)
        with load_detector(tiny_model, device="auto") as loaded, loaded._fallback() as other:
            assert other.backend.startswith("openvino")

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"device": "gpu"}, "Expected a device of auto, cpu, cuda, cuda:all, got 'gpu'"),
            ({"backend": "cudnn"}, "Expected a backend of auto, openvino, tensorrt, torch, got 'cudnn'"),
            ({"backend": "torch", "device": "cpu"}, "Expected device 'cuda' with backend 'torch', got 'cpu'"),
            ({"backend": "openvino", "device": "cuda"}, "Expected device 'cpu' with backend 'openvino', got 'cuda'"),
            ({"device": "cuda", "precision": "bf16"}, "Expected a precision of auto, f32, f16, int8, got 'bf16'"),
            ({"device": "cuda", "precision": "int8"}, "has no INT8 weights for GPUs"),
        ],
    )
    def test_what_cannot_be_is_said(self, machine, tiny_model, options, said):
        with pytest.raises(ModelError, match=said):
            load_detector(tiny_model, **options)


class TestNetwork:
    def test_torch_may_take_half_of_the_memory_as_tensorrt_may(self, monkeypatch):
        torch_network = pytest.importorskip("engine.torch_network")
        told = []
        monkeypatch.setattr(torch_network, "TorchNetwork", lambda *arguments: told.append(arguments[1:]))
        open_torch(HostDevice({}), 2, b"network", "f16", 3000)
        assert told == [(b"network", "f16", "cuda:2", 1500)]

    def test_half_is_made_of_the_file_that_was_verified(self, tiny_model):
        spec = ModelSpec.read(tiny_model)
        content = tiny_model.with_suffix(".onnx").read_bytes()
        assert network_bytes(spec, tiny_model.parent, "f32") == content
        assert network_bytes(spec, tiny_model.parent, "f16") == halved(content)

    def test_damaged_weights_are_refused(self, build_tiny_model):
        path = build_tiny_model()
        with path.with_suffix(".onnx").open("ab") as file:
            file.write(b"\0")
        with pytest.raises(ModelError, match="damaged"):
            network_bytes(ModelSpec.read(path), path.parent, "f16")

    def test_int8_is_a_file_of_its_own(self, build_tiny_model):
        path = build_tiny_model()
        quantised = path.with_suffix(".int8.onnx")
        quantised.write_bytes(b"quantised")
        spec = ModelSpec.read(path)
        spec.sha256[quantised.name] = file_sha256(quantised)
        assert network_bytes(spec, path.parent, "int8") == b"quantised"

    def test_channels_and_sizes_follow_the_spec(self, build_tiny_model):
        spec = ModelSpec.read(build_tiny_model(classes=("A", "B"), multiple=48))
        assert map_count(spec) == 8
        size_range = first_range(spec)
        assert (size_range.least, size_range.best, size_range.most) == ((48, 48), (480, 480), (2016, 2016))

    def test_an_engine_is_built_under_the_name_of_gpu_model_and_precision(
        self, edition, tiny_model, cache, monkeypatch
    ):
        """For real with the installed TensorRT, up to the point where a GPU is needed."""
        spec = ModelSpec.read(tiny_model)
        network = network_bytes(spec, tiny_model.parent, "f16")
        seen = []

        def load(device, source, engine, sizes):
            seen.append(engine)
            return RUNS

        monkeypatch.setattr("engine.tensorrt_engine.Engine", load)
        for _ in range(2):
            opened = open_tensorrt(HostDevice({}), spec, network, "f16", 2000, cache=cache)
            assert opened.backend == f"{edition.name} f16"
        assert seen[0] == seen[1]
        assert len(list(cache.folder.glob("*.engine"))) == 1


class TestAhead:
    """Engines are built for real by the installed TensorRT; only to load them takes a GPU."""

    @pytest.fixture(autouse=True)
    def gpus(self, edition, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(gpu, "obstacle", lambda: None)
        monkeypatch.setattr(gpu, "usable_gpus", lambda: (0, 1))
        monkeypatch.setattr(gpu, "CupyDevice", lambda index, memory_MB: HostDevice({}))
        monkeypatch.setattr("engine.tensorrt_engine.Engine", lambda *arguments: RUNS)

    def test_what_was_built_ahead_is_what_is_loaded_later(self, tiny_model, tmp_path, monkeypatch):
        built = build_ahead(tiny_model)
        assert list(built) == [HostDevice.name]  # one engine for two GPUs of a kind
        assert built[HostDevice.name].parent == tmp_path / "atomstream" / "engines"
        assert built[HostDevice.name].stat().st_size > 1000

        def refuse(*arguments, **options):
            raise AssertionError("built once more")

        monkeypatch.setattr("engine.tensorrt_engine.build", refuse)
        with load_on_gpu(ModelSpec.read(tiny_model), tiny_model.parent) as loaded:
            assert loaded.backend.endswith("f16, CPU sm_0")
        assert build_ahead(tiny_model) == built
        with pytest.raises(AssertionError, match="built once more"):  # another precision is another engine
            build_ahead(tiny_model, "f32")

    def test_a_cache_that_cannot_be_written_to_is_an_error(self, tiny_model, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with pytest.raises(FileError, match="expected to keep the engine there, got none"):
            build_ahead(tiny_model)

    def test_without_a_gpu_or_tensorrt_it_says_so(self, tiny_model, monkeypatch):
        for name in ("tensorrt", "tensorrt_rtx"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ModelError, match=r"Expected TensorRT, got .*: pip install"):
            build_ahead(tiny_model)
        monkeypatch.setattr(gpu, "obstacle", lambda: "driver: none: install it")
        with pytest.raises(ModelError, match="Expected a GPU that can be used, got driver: none: install it"):
            build_ahead(tiny_model)


@pytest.mark.gpu
def test_a_real_gpu_finds_the_same_atoms(tiny_model, draw_frame):
    from engine.gpu_probe import obstacle

    if reason := obstacle():
        pytest.skip(f"expected a GPU that can be used, got {reason}")
    frame = draw_frame((512, 512), [(60.3 + 30 * k, 50.8 + 25 * k) for k in range(12)])
    spec = ModelSpec.read(tiny_model)
    with (
        load_on_gpu(spec, tiny_model.parent, precision="f32") as there,
        load_detector(tiny_model, precision="f32") as here,
    ):
        for _ in range(8):  # the second round of each place runs as a graph
            atoms, expected = there.detect(frame), here.detect(frame)
            assert len(atoms) == len(expected) == 12
            assert abs(atoms.positions - expected.positions).max() < 0.02
