"""The fallback network: torch on the CPU here, the same operations on a GPU."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from engine import FrameError, ModelError, torch_network
from engine.errors import DeviceError
from engine.half import halved
from engine.network import OpenVinoNetwork, map_count
from engine.shipped import find_spec, list_models
from engine.spec import ModelSpec
from engine.torch_network import TorchNetwork
from tests.conftest import TINY, tiny_network
from tests.cuda_on_cpu import HostDevice


def pixels(height, width, channels=1):
    return np.random.default_rng(0).normal(size=(1, channels, height, width)).astype(np.float32)


def answers(network, image, maps=6):
    out = np.zeros((1, maps, image.shape[2] // 2, image.shape[3] // 2), np.float32)
    on_cpu = TorchNetwork(HostDevice({}), network, "f32", "cpu")
    on_cpu.ready(image.shape[2:])
    on_cpu.bind(1, image, out)(1)
    return out[0]


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("half", [False, True])
def test_a_shipped_network_answers_as_with_openvino(name, half):
    path = find_spec(name).with_suffix(".onnx")
    spec = ModelSpec.read(path.with_suffix(".json"))
    image = pixels(4 * spec.multiple, 6 * spec.multiple, spec.channels)
    content = path.read_bytes()
    maps = map_count(spec)
    got = answers(halved(content) if half else content, image, maps)
    network = OpenVinoNetwork(path, "f32", channels=spec.channels, maps=maps, threads=1)
    expected = network.infer(image).values
    network.close()
    rest = [0, *range(2, maps)]  # the peak channel may choose the other of two equal neighbours
    np.testing.assert_allclose(got[rest], expected[rest], atol=0.03 if half else 1e-4)
    assert ((got[1] > 0) != (expected[1] > 0)).mean() < 0.002


@pytest.mark.parametrize("changes", [{}, {"channels": 3, "classes": ("A", "B")}])
def test_the_tiny_network_too(build_tiny_model, changes):
    spec, path = replace(TINY, **changes), build_tiny_model(**changes).with_suffix(".onnx")
    maps = 8 if changes else 6
    image = pixels(64, 48, spec.channels)
    network = OpenVinoNetwork(path, "f32", channels=spec.channels, maps=maps, threads=1)
    np.testing.assert_allclose(answers(path.read_bytes(), image, maps)[2:], network.infer(image).values[2:], atol=1e-4)
    network.close()


def test_its_name_says_torch():
    network = TorchNetwork(HostDevice({}), tiny_network(TINY).SerializeToString(), "f16", "cpu")
    assert network.backend == f"torch {torch.__version__} f16"
    assert not network.capturable
    network.close()


def opened(where="cuda:0", memory_MB=None):
    return TorchNetwork(HostDevice({}), tiny_network(TINY).SerializeToString(), "f32", where, memory_MB)


def bound(network):
    return network.bind(1, pixels(16, 16), np.zeros((1, 6, 8, 8), np.float32))


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="expected a torch for CPUs only, found one with CUDA")
@pytest.mark.parametrize("memory_MB", [None, 1000])
def test_a_torch_for_cpus_is_an_error_of_ours(memory_MB):
    with pytest.raises(
        ModelError, match=r"cuda:0: expected .* got Torch not compiled with CUDA enabled: install a torch"
    ):
        opened(memory_MB=memory_MB)


def test_weights_are_laid_out_before_they_go_up(monkeypatch):
    """What runs on the GPU while a network loads is not waited for by the stream that it is used in."""
    moved = []

    class Weight(torch.Tensor):
        def to(self, *where, **layout):
            moved.append(layout or where)
            return super().to(*where, **layout)

    monkeypatch.setattr(torch, "from_numpy", lambda values: torch.tensor(values).as_subclass(Weight))
    there = torch_network._weight(np.zeros((4, 3, 2, 2), np.float32), "meta")
    assert moved == [{"memory_format": torch.channels_last}, ("meta",)]
    assert there.is_contiguous(memory_format=torch.channels_last)


def test_nothing_that_lies_on_the_gpu_is_read_on_the_way():
    """It would be a wait with every frame, and no graph. On "meta" there is nothing to read."""
    for name in list_models():
        spec = ModelSpec.read(find_spec(name))
        content = find_spec(name).with_suffix(".onnx").read_bytes()
        image = torch.zeros(1, spec.channels, 2 * spec.multiple, 3 * spec.multiple, device="meta")
        for network in (content, halved(content)):
            with torch.inference_mode():
                answer = TorchNetwork(HostDevice({}), network, "f32", "meta").run(image)
            assert answer.device.type == "meta"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA error:\nunspecified"), FrameError),
        (RuntimeError("CUDA error:\nunspecified CUDNN_STATUS_ALLOC_FAILED"), FrameError),
        (torch.AcceleratorError("CUDA error: unspecified out of memory\nCompile with TORCH_USE_CUDA_DSA"), FrameError),
        (torch.AcceleratorError("CUDA error: unspecified illegal memory access"), DeviceError),
        (torch.AcceleratorError("CUDA error:\nunspecified"), DeviceError),
        (RuntimeError("CUDA error:\nunspecified cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DeviceError),
    ],
)
def test_errors_of_the_gpu_are_ours_in_one_line(monkeypatch, error, kind):
    def fail(pixels):
        raise error

    network = opened("cpu")
    monkeypatch.setattr(network, "run", fail)
    with pytest.raises(kind, match=r"xpect.*, got CUDA error: unspecified.*: "):
        bound(network)(1)


def test_it_runs_on_its_device(monkeypatch):
    """Which CUDA asks the calling thread for."""
    entered = []

    @contextmanager
    def active():
        entered.append("in")
        yield
        entered.append("out")

    network = opened("cpu")
    monkeypatch.setattr(network._device, "active", active)
    run = network.run
    monkeypatch.setattr(network, "run", lambda there: entered.append("run") or run(there))
    bound(network)(1)
    assert entered == ["in", "out", "in", "run", "out"]


@pytest.mark.parametrize("options", [{"num_outputs": 2}, {}])
def test_a_split_into_parts_or_by_sizes(options):
    sizes = [] if options else ["sizes"]
    nodes = [
        helper.make_node("Split", ["frame", *sizes], ["most", "rest"], axis=1, **options),
        helper.make_node("Concat", ["rest", "most"], ["maps"], axis=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "split",
        [value("frame", 1, ["N", 3, "H", "W"])],
        [value("maps", 1, ["N", 3, "h", "w"])],
        [onnx.numpy_helper.from_array(np.array([2, 1]), "sizes")],
    )
    network = TorchNetwork(HostDevice({}), helper.make_model(graph).SerializeToString(), "f32", "cpu")
    image = torch.from_numpy(pixels(4, 4, 3))
    assert torch.equal(network.run(image), image[:, [2, 0, 1]])  # of three in two parts the last is the smaller


def test_an_operation_it_is_not_told_of_is_named():
    model = tiny_network(TINY)
    model.graph.node[0].op_type = "Banana"
    with pytest.raises(ModelError, match=r"got Banana: install TensorRT"):
        TorchNetwork(HostDevice({}), model.SerializeToString(), "f32", "cpu")


def test_other_names_are_refused():
    model = tiny_network(TINY)
    model.graph.node.append(helper.make_node("Relu", ["maps"], ["other"]))
    model.graph.output[0].name = "other"
    with pytest.raises(ModelError, match="got other names"):
        TorchNetwork(HostDevice({}), model.SerializeToString(), "f32", "cpu")


def test_what_is_no_network_is_refused():
    with pytest.raises(ModelError, match="Expected a network in ONNX"):
        TorchNetwork(HostDevice({}), b"not a network", "f32", "cpu")


def test_a_resize_that_is_not_ours_is_refused():
    nodes = [helper.make_node("Resize", ["frame", "", "scales"], ["maps"], mode="linear")]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("frame", 1, ["N", 1, "H", "W"])],
        [helper.make_tensor_value_info("maps", 1, ["N", 1, "h", "w"])],
        [onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")],
    )
    network = TorchNetwork(HostDevice({}), helper.make_model(graph).SerializeToString(), "f32", "cpu")
    with pytest.raises(ModelError, match="Expected a nearest resize by whole factors"):
        network.run(torch.zeros(1, 1, 4, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="expected a GPU that torch can use, found none")
def test_on_a_gpu_as_on_the_cpu():
    content = halved(find_spec(list_models()[0]).with_suffix(".onnx").read_bytes())
    image = torch.from_numpy(pixels(128, 128))
    with torch.inference_mode():
        here = TorchNetwork(HostDevice({}), content, "f16", "cpu").run(image)
        there = TorchNetwork(HostDevice({}), content, "f16", "cuda:0").run(image.cuda()).cpu()
    np.testing.assert_allclose(there[:, 2:], here[:, 2:], atol=0.03)
