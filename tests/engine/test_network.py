import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from engine import ModelError
from engine.network import Maps, OpenVinoNetwork, cpu_precisions


@pytest.fixture
def network(tiny_model):
    network = OpenVinoNetwork(tiny_model.with_suffix(".onnx"), "f32", channels=1, maps=6)
    yield network
    network.close()


def pixels(height, width, seed=0):
    return np.random.default_rng(seed).normal(size=(1, 1, height, width)).astype(np.float32)


class CountingCore:
    """Counts compilations and keeps what they were told."""

    def __init__(self, core):
        self.core, self.shapes, self.options = core, [], []

    def compile_model(self, model, device, options):
        self.shapes.append(tuple(model.inputs[0].shape))
        self.options.append(options)
        return self.core.compile_model(model, device, options)


def test_maps_name_their_channels():
    values = np.arange(8, dtype=np.float32)[:, None, None] * np.ones((2, 3), np.float32)
    maps = Maps(values)
    named = (maps.score, maps.peak, *maps.offset, maps.log_sigma, maps.contamination, *maps.classes)
    assert [part.shape for part in named] == [(2, 3)] * 8
    assert [part[0, 0] for part in named] == list(range(8))
    assert Maps(values[:6]).classes.shape == (0, 2, 3)


@pytest.mark.parametrize(("shape", "cells"), [((8, 8), (4, 4)), ((7, 5), (4, 3)), ((1, 2), (1, 1))])
def test_crop_keeps_every_cell_that_holds_some_of_the_frame(shape, cells):
    assert Maps(np.zeros((6, 4, 4), np.float32)).crop(shape, 2).score.shape == cells


def test_infer_gives_one_cell_a_stride(network):
    maps = network.infer(pixels(32, 48))
    assert maps.values.shape == (6, 16, 24)
    assert maps.values.dtype == np.float32
    assert network.backend == "openvino f32"
    peaks = maps.peak > 0
    assert 0 < peaks.sum() < peaks.size
    np.testing.assert_array_equal(maps.peak[peaks], maps.score[peaks])


def test_an_answer_is_not_overwritten_by_the_next(network):
    first = network.infer(pixels(32, 32, seed=1)).values
    kept = first.copy()
    network.infer(pixels(32, 32, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_only_a_shape_that_stays_is_compiled_for_itself(network):
    core = network._core = CountingCore(network._core)
    for side in (16, 32, 16, 48, 16, 32, 48):
        network.infer(pixels(side, side))
    assert core.shapes == []
    image = pixels(32, 32)
    answers = [network.infer(image).values for _ in range(4)]
    network._settling.join()
    answers.append(network.infer(image).values)
    assert [shape[-1] for shape in core.shapes] == [32]
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], atol=1e-5)


def test_shapes_that_alternate_do_not_drive_each_other_out(network):
    network.settle((1, 1, 16, 16))
    core = network._core = CountingCore(network._core)
    for side in (16, 32) * 6:
        network.infer(pixels(side, side))
    assert network._settling is None
    assert core.shapes == []


class FailingCore(CountingCore):
    """Compiles for any shape, and for none in particular."""

    def compile_model(self, model, device, options):
        self.shapes.append(tuple(model.inputs[0].partial_shape))
        raise RuntimeError("Exception from src/core:\n[CPU] no room\n")


def test_a_shape_that_does_not_compile_is_told_once_and_runs_all_the_same(network, caplog):
    core = network._core = FailingCore(network._core)
    image = pixels(32, 32)
    answers = []
    for _ in range(9):
        answers.append(network.infer(image).values)
        if network._settling is not None:
            network._settling.join()
    network.settle((1, 1, 32, 32))
    assert len(core.shapes) == 1
    (told,) = caplog.messages
    assert told.startswith("Expected the network to compile for 1 x 1 x 32 x 32, got [CPU] no room: ")
    for answer in answers:
        np.testing.assert_array_equal(answer, answers[0])
    network.settle((1, 1, 16, 16))
    assert len(core.shapes) == len(caplog.messages) == 2


def test_a_closed_network_says_so(tiny_model):
    network = OpenVinoNetwork(tiny_model.with_suffix(".onnx"), "f32", channels=1, maps=6)
    network.infer(pixels(32, 32))
    network.close()
    network.close()
    with pytest.raises(ModelError, match="Expected a network that is open, got one that was closed: load"):
        network.infer(pixels(32, 32))


def test_the_answer_does_not_depend_on_the_shapes_before(network):
    image = pixels(32, 32)
    first = network.infer(image).values
    for side in (16, 48, 64):
        network.infer(pixels(side, side))
    np.testing.assert_array_equal(network.infer(image).values, first)


def test_precision_latency_and_threads_are_said_and_nothing_is_cached(tiny_model, monkeypatch):
    monkeypatch.setattr("engine.network.usable_cores", lambda: 4)
    network = OpenVinoNetwork(tiny_model.with_suffix(".onnx"), "f32", channels=1, maps=6, threads=1)
    core = network._core = CountingCore(network._core)
    network.settle((1, 1, 16, 16))
    asked = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
    assert core.options == [asked | {"ENABLE_CPU_PINNING": False}]
    with network.request((1, 1, 16, 16)) as request:
        compiled = request.get_compiled_model()
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert core.core.get_property("CPU", "CACHE_DIR") == ""


@pytest.mark.parametrize(("threads", "bound"), [(1, False), (2, False), (4, True), (None, None)])
def test_threads_are_bound_to_cores_only_where_they_take_all(tiny_model, monkeypatch, threads, bound):
    """Else those of two networks are bound to the same ones."""
    monkeypatch.setattr("engine.network.usable_cores", lambda: 4)
    network = OpenVinoNetwork(tiny_model.with_suffix(".onnx"), "f32", channels=1, maps=6, threads=threads)
    with network.request((1, 1, 64, 64)) as request:
        said = request.get_compiled_model().get_property("ENABLE_CPU_PINNING")
    assert bound is None or said is bound


def test_threads_side_by_side_get_their_own_answers(tiny_model):
    images = [pixels(32, 32, seed=seed) for seed in range(12)]
    network = OpenVinoNetwork(tiny_model.with_suffix(".onnx"), "f32", channels=1, maps=6, threads=2, at_once=2)
    expected = [network.infer(image).values for image in images]
    with ThreadPoolExecutor(6) as pool:  # more than it was loaded for: they wait
        for _ in range(5):
            for want, got in zip(expected, pool.map(network.infer, images), strict=True):
                np.testing.assert_allclose(got.values, want, atol=1e-5)
    network.close()


def test_ir_answers_as_onnx_does(build_tiny_model, network):
    path = build_tiny_model(int8=True).with_suffix(".int8.xml")
    ir = OpenVinoNetwork(path, "int8", channels=1, maps=6)
    assert ir.backend == "openvino int8"
    np.testing.assert_allclose(ir.infer(pixels(32, 32)).values, network.infer(pixels(32, 32)).values, atol=0.02)


def test_every_cpu_computes_in_f32():
    assert "f32" in cpu_precisions()


@pytest.mark.parametrize(("channels", "maps"), [(3, 6), (1, 8)])
def test_other_channels_are_refused(tiny_model, channels, maps):
    with pytest.raises(ModelError, match=rf"expected one input \(N, {channels}, H, W\) and one output \(N, {maps}"):
        OpenVinoNetwork(tiny_model.with_suffix(".onnx"), "f32", channels=channels, maps=maps)


@pytest.mark.parametrize("name", ["broken.onnx", "broken.xml", "missing.onnx"])
def test_a_file_that_is_no_network_is_refused_in_one_line(tmp_path: Path, name):
    if name.startswith("broken"):
        (tmp_path / name).write_bytes(b"not a network")
    with pytest.raises(ModelError, match="expected a network in ONNX or OpenVINO IR") as caught:
        OpenVinoNetwork(tmp_path / name, "f32", channels=1, maps=6)
    assert "\n" not in str(caught.value)


def test_ctrl_c_is_survived_after_networks_were_freed(tiny_model):
    """Cores that OpenVINO frees in the order they were made leave a signal stack behind that is no longer there."""
    code = (
        "import os, signal, sys; from engine.detector import load_detector\n"
        "first = load_detector(sys.argv[1], precision='f32'); second = load_detector(sys.argv[1], precision='f32')\n"
        "import numpy as np; image = np.zeros((1, 1, 32, 32), np.float32)\n"
        "first._network.infer(image); second._network.infer(image); first.close(); second.close(); del first, second\n"
        "try: os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt: print('survived')"
    )
    done = subprocess.run([sys.executable, "-c", code, tiny_model], capture_output=True, text=True, timeout=100)
    assert done.stdout == "survived\n", done.stderr
