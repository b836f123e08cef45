"""Hot pixels in frames of the simulated camera, through the shipped model: the atoms are those without them."""

import numpy as np
import pytest

from engine import Frame, load_detector
from engine.gpu_detector import GpuDetector
from engine.shipped import find_spec
from engine.spec import ModelSpec
from stream.camera import CameraSettings, expose, read_specimen
from tests.cuda_on_cpu import cuda_on_cpu  # noqa: F401 - a fixture
from tests.engine.host_network import HostNetwork
from training.score import TOLERANCE_A, match


@pytest.fixture(scope="module", params=["cpu", "kernels on the cpu"])
def graphene(request):
    if request.param == "cpu":
        with load_detector("graphene", precision="f32") as detector:
            yield detector
        return
    device, path = request.getfixturevalue("cuda_on_cpu"), find_spec("graphene")
    spec = ModelSpec.read(path)
    with GpuDetector(spec, device, HostNetwork(device, path, spec)) as detector:
        yield detector


@pytest.fixture(scope="module")
def shot():
    """A frame in focus enough for its atoms to be found."""
    settings = CameraSettings(defocus=60.0, defocus_amplitude=0.0)
    pixels, header = expose(read_specimen(), settings, (512, 512), 0, 0.04)
    return Frame(pixels, header["sampling"], dose_e_A2=header["dose"])


@pytest.mark.parametrize("count", [5, 40])
@pytest.mark.parametrize("times", [100, 1000])
def test_the_atoms_are_those_without_hot_pixels(graphene, shot, count, times):
    hot = shot.pixels.astype(np.float32)
    at = np.random.default_rng(count).choice(hot.size, count, replace=False)
    hot.reshape(-1)[at] = times * hot.mean()
    assert agreement(graphene, shot, Frame(hot, shot.sampling_A, dose_e_A2=shot.dose_e_A2)) > 0.99


def agreement(detector, one, other):
    """F1 of the atoms of one frame against those of the other."""
    truth, found = detector.detect(one).positions, detector.detect(other).positions
    assert len(truth) > 500
    pairs = match(truth.astype(float), found.astype(float), TOLERANCE_A / one.sampling_A)
    return 2 * len(pairs) / (len(truth) + len(found))
