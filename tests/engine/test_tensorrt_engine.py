"""One engine, run by a stand-in: what it is told, the memory it works in, the trial, the kernels that are kept."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from engine import FrameError, ModelError
from engine.engine_cache import KERNELS
from engine.errors import DeviceError
from engine.gpu_detector import GpuDetector
from engine.spec import ModelSpec
from engine.tensorrt_build import ShapeRange
from engine.tensorrt_network import TensorRtNetwork
from tests.engine.fake_tensorrt import ANY, BYTES_PER_PIXEL, EXACT, arrays
from tests.engine.host_network import some_frame


class TestRun:
    def test_addresses_shapes_order_and_stream(self, fake):
        network = TensorRtNetwork(fake.device, fake.source, EXACT)
        fake.calls.clear()
        pixels, maps = arrays()
        enqueue = network.bind(3, pixels, maps)
        assert fake.calls == [
            ("profile", 0, 1003),
            ("shape", "frame", (1, 1, 64, 64)),
            ("memory", fake.calls[2][1], BYTES_PER_PIXEL * 64 * 64),
            ("address", "frame", pixels.ctypes.data),
            ("address", "maps", maps.ctypes.data),
        ]
        fake.calls.clear()
        for stream in (3, 4):
            enqueue(stream)
        assert fake.calls == [("execute", 1003), ("execute", 1004)]  # nothing is told to a context that runs
        assert network.backend == "tensorrt 11 f16"

    def test_each_binding_has_a_context_of_its_own(self, fake):
        network = TensorRtNetwork(fake.device, fake.source, ANY)
        first = network.bind(3, *arrays())
        network.bind(3, *arrays(128, 128))
        fake.calls.clear()
        first(3)
        assert fake.calls == [("execute", 1003)]

    def test_nothing_is_synchronised(self, fake):
        network = TensorRtNetwork(fake.device, fake.source, ANY)
        fake.device.log.clear()
        network.bind(3, *arrays())(3)
        assert [entry[0] for entry in fake.device.log] == ["zeros"]

    def test_maps_of_another_shape_are_refused_before_a_run(self, fake):
        network = TensorRtNetwork(fake.device, fake.source, ANY)
        fake.calls.clear()
        with pytest.raises(ModelError, match=r"Expected maps of \(1, 6, 16, 16\), got \(1, 6, 32, 32\)"):
            network.bind(3, arrays()[0], arrays(32, 32)[1])
        assert not [call for call in fake.calls if call[0] == "execute"]

    @pytest.mark.parametrize("what", ["context", "profile", "shape", "address", "execute"])
    @pytest.mark.parametrize("log", ["no kernel for sm_90", "an illegal memory access was encountered"])
    def test_what_the_runtime_refuses_is_a_device_error(self, fake, what, log):
        network = TensorRtNetwork(fake.device, fake.source, ANY)
        fake.refuses[what] = log
        with pytest.raises(DeviceError, match=rf"Expected tensorrt 11 to take .*, got {log}: restart"):
            network.bind(3, *arrays())(3)

    @pytest.mark.parametrize("what", ["context", "execute"])
    @pytest.mark.parametrize(
        "log",
        [
            "Error Code 2: OutOfMemory (no further information)",
            "Cuda Runtime (out of memory)",
            "Requested amount of GPU memory (9 bytes) could not be allocated",
        ],
    )
    def test_no_room_drops_the_frame_and_not_the_next(self, fake, what, log):
        network = TensorRtNetwork(fake.device, fake.source, ANY)
        fake.refuses[what] = log
        with pytest.raises(FrameError, match="GPU expects free memory") as caught:
            network.bind(3, *arrays())(3)
        assert caught.value.reason == "no_memory"
        fake.refuses.clear()
        enqueue = network.bind(3, *arrays())
        network._engines[0]._logger.log("error", log)  # what was short before is not what is told now
        fake.refuses["execute"] = "misaligned address"
        with pytest.raises(DeviceError, match="misaligned address"):
            enqueue(3)


class TestMemory:
    """What a run works in is ours: it counts, it is as large as the shape needs, and it ends with the run."""

    def test_a_smaller_shape_takes_less_of_the_devices_memory(self, fake):
        network = TensorRtNetwork(fake.device, fake.source, ANY)
        fake.device.log.clear()
        fake.calls.clear()
        bound = [network.bind(3, *arrays(size, 64)) for size in (256, 128)]
        sizes = [BYTES_PER_PIXEL * size * 64 for size in (256, 128)]
        assert fake.device.log == [("zeros", (size,)) for size in sizes]
        assert [call[2] for call in fake.calls if call[0] == "memory"] == sizes
        for enqueue in bound:
            enqueue(3)

    def test_it_is_held_for_as_long_as_it_can_be_run(self, fake, monkeypatch):
        network = TensorRtNetwork(fake.device, fake.source, ANY)
        zeros, taken = fake.device.zeros, []

        def keep(shape, dtype):
            array = zeros(shape, dtype)
            taken.append((weakref.ref(array), array.ctypes.data))
            return array

        monkeypatch.setattr(fake.device, "zeros", keep)
        fake.calls.clear()
        enqueue = network.bind(3, *arrays())
        ((scratch, address),) = taken
        gc.collect()
        assert scratch() is not None
        assert [call[1] for call in fake.calls if call[0] == "memory"] == [address]
        del enqueue
        gc.collect()
        assert scratch() is None

    def test_a_frame_that_finds_none_is_followed_by_one_in_smaller_strips(
        self, fake, tiny_model, draw_frame, cuda_on_cpu, monkeypatch
    ):
        limit, zeros, refused = 5_000_000, cuda_on_cpu.zeros, []

        def limited(shape, dtype):
            if dtype is np.uint8 and np.prod(shape) > limit:
                refused.append(shape)
                raise FrameError("no_memory", "GPU expects free memory, got none: free some")
            return zeros(shape, dtype)

        network = TensorRtNetwork(cuda_on_cpu, fake.source, ShapeRange((16, 16), (64, 64), (2048, 2048)))
        monkeypatch.setattr(cuda_on_cpu, "zeros", limited)
        frame = some_frame(draw_frame, (1500, 48))
        with GpuDetector(ModelSpec.read(tiny_model), cuda_on_cpu, network) as detector:
            with pytest.raises(FrameError) as caught:
                detector.detect(frame)
            assert caught.value.reason == "no_memory"
            detector.detect(frame)
        assert refused == [(BYTES_PER_PIXEL * 1504 * 48,)]


class TestTrial:
    """An engine that loads may still not run here, and that is found out before there are frames."""

    def test_the_least_size_is_run_once_and_waited_for(self, fake):
        TensorRtNetwork(fake.device, fake.source, ANY)
        assert [call[2] for call in fake.calls if call[0] == "shape"] == [(1, 1, 16, 16)]
        assert [call[0] for call in fake.calls].count("execute") == 1
        assert [entry[0] for entry in fake.device.log][-2:] == ["record", "synchronize"]

    @pytest.mark.parametrize("what", ["context", "profile", "address", "execute"])
    def test_what_does_not_run_is_no_model_for_this_machine(self, fake, what):
        fake.refuses[what] = "no kernel for sm_90"
        with pytest.raises(ModelError, match="to run its engine on H200 sm_90, got no kernel for sm_90: ") as caught:
            TensorRtNetwork(fake.device, fake.source, ANY)
        assert not isinstance(caught.value, DeviceError)

    def test_nor_is_a_runtime_that_does_not_start(self, fake):
        fake.refuses["runtime"] = "CUDA initialization failure with error: 35"
        with pytest.raises(ModelError, match=r"Expected tensorrt 11 to start, got CUDA init.* 35: run atom"):
            TensorRtNetwork(fake.device, fake.source, ANY)

    def test_nor_is_what_fails_on_the_way(self, fake, monkeypatch):
        def lost(event):
            raise DeviceError("GPU 0: expected an answer, got cudaErrorNoKernelImageForDevice: restart")

        monkeypatch.setattr(fake.device, "synchronize", lost)
        with pytest.raises(ModelError, match=r"to run its engine .* cudaErrorNoKernelImageForDevice") as caught:
            TensorRtNetwork(fake.device, fake.source, ANY)
        assert not isinstance(caught.value, DeviceError)

    def test_a_gpu_that_is_full_is_told_as_that(self, fake):
        fake.refuses["context"] = "OutOfMemory (no further information)"
        with pytest.raises(FrameError, match="GPU expects free memory"):
            TensorRtNetwork(fake.device, fake.source, ANY)


class TestKernels:
    """TensorRT for RTX compiles as it runs; what it compiled is for the next start too."""

    @pytest.fixture
    def rtx(self, fake):
        return replace(fake.source, edition=replace(fake.source.edition, rtx=True))

    def test_kept_once_tried_and_when_closed_then_given_back(self, fake, rtx):
        network = TensorRtNetwork(fake.device, rtx, ANY)
        key = rtx.key(ANY)
        assert rtx.cache.load(key, KERNELS) == b"[(1, 1, 16, 16)]"
        network.bind(3, *arrays())(3)
        network.close()
        kept = b"[(1, 1, 16, 16), (1, 1, 64, 64)]"
        assert rtx.cache.load(key, KERNELS) == kept
        assert [call for call in fake.calls if call[0] == "kernels"] == []
        TensorRtNetwork(fake.device, rtx, ANY)
        assert [call for call in fake.calls if call[0] == "kernels"] == [("kernels", kept)]

    def test_what_others_may_write_to_is_not_given_back(self, fake, rtx):
        TensorRtNetwork(fake.device, rtx, ANY).close()
        (rtx.cache.folder / rtx.key(ANY).file_of(KERNELS)).chmod(0o666)
        TensorRtNetwork(fake.device, rtx, ANY)
        assert not [call for call in fake.calls if call[0] == "kernels"]

    def test_a_device_that_is_lost_does_not_keep_it_from_closing(self, fake, rtx, monkeypatch):
        network = TensorRtNetwork(fake.device, rtx, ANY)

        def lost():
            raise DeviceError("GPU 0: expected an answer, got none: restart")

        monkeypatch.setattr(fake.device, "active", lost)
        network.close()

    def test_others_have_none(self, fake):
        TensorRtNetwork(fake.device, fake.source, ANY).close()
        assert not list(fake.source.cache.folder.glob("*.kernels"))
