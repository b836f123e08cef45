"""What the tests of the GPU's detector share: its network through OpenVINO, made anew for each, and frames for it."""

import numpy as np
import pytest

from engine import FrameError, load_detector
from engine.gpu_detector import GpuDetector
from engine.network import OpenVinoNetwork
from engine.spec import ModelSpec


class HostNetwork:
    """A DeviceNetwork over OpenVINO; `before` may fail in its place."""

    backend, capturable = "host f32", True

    def __init__(self, device, path, spec, before=lambda stream: None):
        self.device, self.before, self.sizes, self.bound, self.closed, self.finished = (
            device,
            before,
            [],
            0,
            False,
            False,
        )
        maps = 6 + (len(spec.classes) if len(spec.classes) > 1 else 0)
        self.network = OpenVinoNetwork(path.with_suffix(".onnx"), "f32", channels=spec.channels, maps=maps, threads=1)

    def ready(self, size):
        self.sizes.append(size)

    def finish(self):
        self.finished = True

    def bind(self, stream, pixels, maps):
        self.bound += 1

        def enqueue(stream):
            self.before(stream)
            self.device._do(stream, "network", lambda: np.copyto(maps[0], self.network.infer(pixels.copy()).values))

        return enqueue

    def close(self):
        self.closed = True
        self.network.close()


def no_memory():
    """Raise what a device without memory does: within an `except`, so that CuPy's error hangs on ours."""
    try:
        raise MemoryError("Out of memory allocating 512 bytes")
    except MemoryError:
        raise FrameError("no_memory", "GPU expects free memory, got none: free some") from None


@pytest.fixture
def make(cuda_on_cpu):
    """A function (spec path, **options) -> GpuDetector; all are closed at the end."""
    made = []
    cuda_on_cpu.log.clear()

    def build(path, before=lambda stream: None, **options):
        spec = ModelSpec.read(path)
        made.append(GpuDetector(spec, cuda_on_cpu, HostNetwork(cuda_on_cpu, path, spec, before), **options))
        return made[-1]

    yield build
    for detector in made:
        detector.close()


def expect_same_atoms(detector, reference, frame, atol=0.02):
    atoms, expected = detector.detect(frame), reference.detect(frame)
    assert len(atoms) == len(expected) > 0
    np.testing.assert_allclose(atoms.positions, expected.positions, atol=atol)
    np.testing.assert_allclose(atoms.score, expected.score, atol=0.01)
    np.testing.assert_array_equal(atoms.flags, expected.flags)
    np.testing.assert_array_equal(atoms.class_id, expected.class_id)
    return atoms


@pytest.fixture(scope="module")
def reference(tiny_model):
    with load_detector(tiny_model, precision="f32") as loaded:
        yield loaded


def some_frame(draw_frame, shape=(96, 112), sampling_A=0.2, seed=0):
    rng = np.random.default_rng(seed)
    step = 3 / sampling_A
    places = [
        (y + rng.uniform(-2, 2), x + rng.uniform(-2, 2))
        for y in np.arange(step, shape[0] - step, step)
        for x in np.arange(step, shape[1] - step, step)
    ]
    return draw_frame(shape, places, sampling_A)
