"""Bytes, operations and floors: counted from a graph, reckoned by hand."""

import ctypes

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.gpu_limits import Properties, limits, properties, timed
from bench.roofline import Layer, Limits, Stage, convolutions, floor_s, stages
from engine import Frame
from engine.errors import DeviceError
from engine.gpu_detector import GpuDetector
from engine.shipped import find_spec, list_models
from engine.spec import ModelSpec
from engine.torch_network import TorchNetwork
from tests.conftest import TINY, tiny_network
from tests.cuda_on_cpu import HostDevice

A100 = Properties((8, 0), 108, 1.41e9, 1.215e9, 5120)
LIMITS = Limits(memory_B_s=1e12, operations_s={"f32": 1e12, "f16": 2e12, "int8": 4e12}, up_B_s=5e10, down_B_s=2e10)


class TestOperations:
    def test_of_one_convolution_by_hand(self):
        """8 x 8 windows of stride 2, one image to three maps."""
        (layer,) = convolutions(tiny_network(TINY).SerializeToString(), (1, 64, 96))
        assert layer == Layer(2 * 3 * 8 * 8 * 32 * 48, 64 * 96 + 3 * 64 + 3 * 32 * 48)

    @pytest.mark.parametrize("name", list_models())
    def test_of_a_shipped_network_as_torch_counts_them(self, name):
        path = find_spec(name)
        spec = ModelSpec.read(path)
        content, size = path.with_suffix(".onnx").read_bytes(), 4 * spec.multiple
        network = TorchNetwork(HostDevice({}), content, "f32", "cpu")
        with torch.inference_mode(), FlopCounterMode(display=False) as count:
            network.run(torch.zeros(1, spec.channels, size, size))
        layers = convolutions(content, (spec.channels, size, size))
        assert sum(layer.operations for layer in layers) == count.get_total_flops() > 1e6
        twice = convolutions(content, (spec.channels, size, 2 * size))
        assert sum(layer.operations for layer in twice) == 2 * sum(layer.operations for layer in layers)


class TestFloors:
    @pytest.fixture
    def plan_and_place(self):
        detector = GpuDetector(TINY, HostDevice({}), Unbound())
        prepared = detector.prepare(Frame(np.zeros((96, 112), np.uint16), 0.2))
        return prepared.ticket.plan, prepared.ticket.place

    def test_of_every_part_by_hand(self, plan_and_place):
        # The first layer is bound by its operations, the second by its bytes.
        layers = [Layer(operations=4_000_000, values=1000), Layer(operations=2_000, values=500_000)]
        found = {stage.name: stage for stage in stages(*plan_and_place, layers, "f16", LIMITS)}
        frame, given = 2 * 96 * 112, 4 * 96 * 112
        assert found["up"] == Stage("up", frame, 0, frame / 5e10)
        assert found["prepare"] == Stage("prepare", frame + given, 0, (frame + given) / 1e12)
        assert found["network"].floor_s == pytest.approx(4e6 / 2e12 + 2 * 500_000 / 1e12)
        assert (found["network"].bytes, found["network"].operations) == (2 * 501_000, 4_002_000)
        assert found["peaks"].bytes == 4 * 6 * 48 * 56
        rows = 1 + 1024  # of 36 bytes: the count, and as many candidates as are always fetched
        assert found["down"] == Stage("down", 36 * rows, 0, 36 * rows / 2e10)

    def test_a_lower_precision_has_less_to_move_and_is_faster(self, plan_and_place):
        layers = [Layer(4_000_000, 1000), Layer(2_000, 500_000)]
        floors = [stages(*plan_and_place, layers, precision, LIMITS)[2].floor_s for precision in ("f32", "f16", "int8")]
        assert floors[0] == 2 * floors[1] == 4 * floors[2]

    @pytest.mark.parametrize(("up_s", "floor"), [(3.0, 4.0), (7.0, 7.0)])
    def test_the_bus_runs_beside_what_is_computed(self, up_s, floor):
        seconds = {"up": up_s, "prepare": 1.0, "network": 2.0, "peaks": 1.0, "down": 0.5}
        assert floor_s([Stage(name, 0, 0, one) for name, one in seconds.items()]) == floor


class Unbound:
    """A network that nobody runs."""

    backend, capturable = "unbound f32", False


class TestLimits:
    def test_what_nvidia_says_of_an_a100(self):
        assert A100.memory_B_s == pytest.approx(1555e9, rel=0.001)
        assert A100.operations_s["f16"] == pytest.approx(312e12, rel=0.001)
        assert A100.operations_s["int8"] == pytest.approx(624e12, rel=0.001)
        assert A100.operations_s["f32"] == pytest.approx(156e12, rel=0.001)  # TF32

    def test_an_architecture_that_is_not_known_is_taken_for_its_next_older_one(self):
        rates = [
            Properties(architecture, 1, 1.0, 1.0, 8).operations_s["f16"]
            for architecture in ((9, 9), (9, 0), (7, 0), (7, 5), (13, 0), (12, 0))
        ]
        assert rates == [4096, 4096, 1024, 1024, 1024, 1024]

    def test_they_are_read_off_the_driver(self):
        class Driver:
            answers = {13: 1_980_000, 16: 132, 36: 3_201_000, 37: 6144, 75: 9, 76: 0}  # noqa: RUF012

            def cuDeviceGetAttribute(self, out, attribute, index):
                assert index == 0
                ctypes.cast(out, ctypes.POINTER(ctypes.c_int))[0] = self.answers[attribute]
                return 0

        assert properties(Driver()) == Properties((9, 0), 132, 1.98e9, 3.201e9, 6144)
        Driver.answers[36] = 0  # not told
        with pytest.raises(DeviceError, match="Expected attribute 36 of GPU 0"):
            properties(Driver())

    def test_the_bus_is_measured(self):
        clock = iter(np.arange(0, 1000.0, 0.5)).__next__  # half a second from one look to the next
        found = limits(HostDevice({}), A100, size_bytes=4096, clock=clock)
        assert found.up_B_s == found.down_B_s == 8 * 4096 / 0.5
        assert found.memory_B_s == A100.memory_B_s


class TestTimed:
    @pytest.mark.parametrize("captured", [False, True])
    def test_repeats_are_put_in_at_once_and_waited_for_once(self, captured):
        device, done = HostDevice({}), []
        clock = iter((0.0, 1.0, 10.0, 13.0, 20.0, 22.0)).__next__
        step = lambda: device._do(1, "step", lambda: done.append(1))  # noqa: E731
        assert timed(device, 1, step, 4, captured=captured, rounds=3, clock=clock) == 2 / 4  # the median round
        assert len(done) == 4 * 4  # the first round is not measured
        whats = [entry[0] for entry in device.log]
        assert whats.count("synchronize") == 4
        assert whats.count("graph") == (4 if captured else 0)

    def test_what_cannot_be_captured_is_put_in_one_by_one(self, monkeypatch):
        def refuse(stream, steps):
            raise DeviceError("operation not permitted when stream is capturing")

        device, done = HostDevice({}), []
        monkeypatch.setattr(device, "capture", refuse)
        assert timed(device, 1, lambda: done.append(1), 2, captured=True, rounds=1, clock=iter((0.0, 1.0)).__next__) > 0
        assert len(done) == 4
