"""CuPy's device on a CuPy that only keeps what it is told; and that the real one has what is called on it."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from engine import FrameError
from engine.cupy_device import CupyDevice
from engine.device import KERNELS, OPTIONS, THREADS, kernel_files
from engine.errors import DeviceError


class TestCupyDevice:
    def test_every_kernel_is_compiled_without_fused_arithmetic(self, cupy):
        device = CupyDevice(memory_MB=10)
        modules = [call for call in cupy.calls if call[0] == "module"]
        assert [call[1] for call in modules] == [(KERNELS / file).read_text() for file in kernel_files()]
        assert {call[2] for call in modules} == {OPTIONS}
        assert "--fmad=false" in OPTIONS
        assert ("limit", 10_000_000) in cupy.calls
        assert device.name == "H200 sm_90"

    def test_what_is_free_of_its_memory(self, cupy):
        assert CupyDevice().free_bytes() == 5_000

    @pytest.mark.parametrize(("count", "blocks"), [(1, 1), (THREADS, 1), (THREADS + 1, 2), (1000 * THREADS, 1000)])
    def test_a_launch_has_enough_threads_and_is_on_its_stream(self, cupy, count, blocks):
        device = CupyDevice()
        stream = device.stream()
        cupy.calls.clear()
        device.launch(stream, "peaks", count, 1, 2)
        assert cupy.calls == [
            ("enter", "device 0"),
            ("enter", "stream"),
            ("peaks", (blocks,), (THREADS,), (1, 2)),
            ("exit", "stream"),
            ("exit", "device 0"),
        ]

    def test_a_capture_is_run_later_and_on_the_stream_it_was_made_on(self, cupy):
        device = CupyDevice()
        stream = device.stream()
        cupy.calls.clear()
        run = device.capture(stream, lambda: cupy.calls.append(("steps",)))
        order = [call for call in cupy.calls if call[0] not in ("enter", "exit")]
        assert order == [("begin_capture",), ("steps",), ("end_capture",)]
        run()
        assert [call for call in cupy.calls if call[0] == "graph"] == [("graph", stream)]

    def test_a_capture_that_fails_is_ended(self, cupy):
        device = CupyDevice()

        def fail():
            raise cupy.cuda.runtime.CUDARuntimeError(900, "not permitted")

        with pytest.raises(DeviceError, match="not permitted"):
            device.capture(device.stream(), fail)
        assert ("end_capture",) in cupy.calls

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (lambda cuda: cuda.memory.OutOfMemoryError("out of\nmemory"), FrameError),
            (lambda cuda: cuda.runtime.CUDARuntimeError(2, "cudaErrorMemoryAllocation: out of\nmemory"), FrameError),
            (lambda cuda: cuda.runtime.CUDARuntimeError(46, "cudaErrorDevicesUnavailable:\nbusy"), DeviceError),
            (lambda cuda: cuda.driver.CUDADriverError(700, "CUDA_ERROR_ILLEGAL_ADDRESS"), DeviceError),
            (lambda cuda: cuda.compiler.CompileException("unknown\narchitecture"), DeviceError),
        ],
    )
    def test_its_errors_are_ours_in_one_line(self, cupy, error, kind):
        device = CupyDevice()
        with pytest.raises(kind, match=r"xpect.*, got .*: ") as caught, device.active():
            raise error(cupy.cuda)
        assert "\n" not in str(caught.value)
        assert kind is DeviceError or caught.value.reason == "no_memory"

    def test_events_let_the_cpu_sleep_and_pinned_memory_has_its_shape(self, cupy):
        device = CupyDevice()
        assert device.event() == (True, True)
        assert device.pinned((2, 3), np.uint16).shape == (2, 3)
        assert device.handle(device.stream()) == 77

    def test_what_was_just_allocated_is_there_before_it_is_used(self, cupy):
        device = CupyDevice()
        cupy.calls.clear()
        device.zeros((2,), np.float32)
        device.constant(np.zeros(2))
        order = [call[0] for call in cupy.calls if call[0] not in ("enter", "exit")]
        assert order == ["zeros", "settle", "asarray", "settle"]

    def test_arrays_of_others_are_taken_where_they_lie_on_the_gpu(self, cupy):
        device = CupyDevice()
        ours = cupy.ndarray("ours")
        assert device.adopt(ours) is ours
        other = SimpleNamespace(__cuda_array_interface__={})
        assert device.adopt(other) == ("device", other)
        for kind, taken in ((2, True), (1, False)):
            tensor = SimpleNamespace(__dlpack_device__=lambda kind=kind: (kind, 0), __cuda_array_interface__={})
            assert (device.adopt(tensor) == ("dlpack", tensor)) == taken
        assert device.adopt(np.zeros(3)) is None

    @pytest.mark.parametrize("error", [BufferError, RuntimeError, TypeError])
    def test_pixels_that_cannot_be_taken_are_refused_as_a_frame(self, cupy, error):
        def refuse(values):
            raise error("Can't export tensors that\nrequire gradient, use tensor.detach()")

        cupy.from_dlpack = refuse
        tensor = SimpleNamespace(__dlpack_device__=lambda: (2, 0))
        with pytest.raises(
            FrameError, match=r"expects pixels that GPU 0 can read, got .*require gradient.*\): detach"
        ) as caught:
            CupyDevice().adopt(tensor)
        assert caught.value.reason == "unknown_dtype"

    def test_pixels_on_another_gpu_are_refused(self, cupy):
        with pytest.raises(FrameError, match=r"pixels on GPU 0, not 3"):
            CupyDevice(3).adopt(cupy.ndarray("ours"))

    def test_a_gpu_that_is_lost_is_no_matter_of_the_pixels(self, cupy):
        def lost(values):
            raise cupy.cuda.runtime.CUDARuntimeError(46, "cudaErrorDevicesUnavailable")

        cupy.from_dlpack = lost
        with pytest.raises(DeviceError, match="cudaErrorDevicesUnavailable"):
            CupyDevice().adopt(SimpleNamespace(__dlpack_device__=lambda: (2, 0)))

    def test_what_is_allocated_comes_from_a_pool_of_its_own(self, cupy):
        """CuPy's, which the caller's arrays come from, has no limit from us."""
        device = CupyDevice(memory_MB=10)
        cupy.calls.clear()
        device.zeros((2,), np.float32)
        assert cupy.calls[1:3] == [("enter", "malloc of the pool"), ("zeros",)]
        assert not hasattr(cupy, "get_default_memory_pool")

    def test_pinned_memory_too_and_what_was_freed_of_both_is_the_drivers_again(self, cupy):
        device = CupyDevice(3)
        cupy.calls.clear()
        device.pinned((2, 3), np.uint16)
        device.trim()
        order = [call for call in cupy.calls if call[0] not in ("enter", "exit")]
        assert order == [("pinned", 12), ("trim",), ("trim pinned",)]
        assert not hasattr(cupy, "get_default_pinned_memory_pool")
        assert cupy.calls.count(("enter", "device 3")) == 2  # a pool frees those of the GPU that is current

    def test_an_upload_follows_the_callers_own_stream(self, cupy):
        device = CupyDevice()
        cupy.calls.clear()
        device.follow(device.stream())
        order = [call[0] for call in cupy.calls if call[0] not in ("enter", "exit")]
        assert order == ["record", "wait_event"]

    @pytest.mark.parametrize("index", [0, 3])
    def test_everything_is_done_on_its_gpu(self, cupy, index):
        device = CupyDevice(index)
        cupy.calls.clear()
        device.zeros((2,), np.float32)
        device.launch(device.stream(), "peaks", 1)
        assert {call[1] for call in cupy.calls if call[0] == "enter"} == {
            f"device {index}",
            "malloc of the pool",
            "stream",
        }
        assert cupy.calls[0] == ("enter", f"device {index}")

    def test_no_cupy_is_told_with_the_command_that_installs_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cupy", None)
        with pytest.raises(DeviceError, match=r"Expected CuPy, got .*: pip install atomstream\[gpu\]"):
            CupyDevice()

    def test_a_library_that_cupy_does_not_find_is_told_too(self, cupy):
        def missing(code, options):
            raise RuntimeError("CuPy failed to load libnvrtc.so.13:\nno such file")

        cupy.RawModule = missing
        with pytest.raises(DeviceError, match=r"got CuPy failed to load libnvrtc.so.13: no such file: pip install"):
            CupyDevice()


def test_the_real_cupy_has_what_is_called_on_it():
    """Imports without a driver; nothing can be run without one."""
    try:
        import cupy
    except ImportError as error:
        pytest.skip(f"expected CuPy, got {error}: pip install cupy-cuda13x")
    stream, event = cupy.cuda.Stream, cupy.cuda.Event
    for name in ("begin_capture", "end_capture", "wait_event", "synchronize"):
        assert callable(getattr(stream, name))
    assert callable(event.record)
    assert callable(event.synchronize)
    assert callable(cupy.cuda.Graph.launch)
    assert callable(cupy.cuda.PinnedMemoryPool.malloc)
    for pool in (cupy.cuda.MemoryPool, cupy.cuda.PinnedMemoryPool):
        assert callable(pool.free_all_blocks)
    assert callable(cupy.cuda.get_current_stream)
    assert callable(cupy.from_dlpack)
    assert callable(cupy.cuda.using_allocator)
    assert "size" in cupy.cuda.MemoryPool.set_limit.__doc__.partition("\n")[0]
    assert callable(cupy.cuda.MemoryPool.malloc)
    for name in ("stream", "out", "blocking"):
        assert name in cupy.ndarray.get.__doc__.partition("\n")[0]
    assert "stream" in cupy.ndarray.set.__doc__.partition("\n")[0]
    cuda = cupy.cuda
    for error in (
        cuda.memory.OutOfMemoryError,
        cuda.runtime.CUDARuntimeError,
        cuda.driver.CUDADriverError,
        cuda.compiler.CompileException,
    ):
        assert issubclass(error, Exception)


def test_without_a_driver_the_real_cupy_gives_our_error():
    try:
        import cupy
    except ImportError as error:
        pytest.skip(f"expected CuPy, got {error}: pip install cupy-cuda13x")
    if cupy.cuda.is_available():
        pytest.skip("expected a machine without a GPU, found one")
    with pytest.raises(DeviceError, match="GPU 0: expected an answer, got cudaError"):
        CupyDevice()
