import ctypes
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from engine import ModelError, gpu_probe
from engine.gpu_probe import Part, obstacle, parts

DRIVER_VERSION = gpu_probe.driver_version  # the fixture has a stand-in for it


class FakeDriver:
    """As libcuda answers."""

    def __init__(self, cuda=13000, gpus=(("NVIDIA H200", 9, 0),), status=0):
        self.cuda, self.gpus, self.status = cuda, gpus, status

    def cuDriverGetVersion(self, out):
        out._obj.value = self.cuda
        return 0

    def cuInit(self, flags):
        return self.status

    def cuDeviceGetCount(self, out):
        out._obj.value = len(self.gpus)
        return 0

    def cuDeviceGetName(self, out, size, index):
        out.value = self.gpus[index][0].encode()

    def cuDeviceTotalMem_v2(self, out, index):
        out._obj.value = 141 * 10**9

    def cuDeviceGetAttribute(self, out, attribute, index):
        out._obj.value = self.gpus[index][attribute - 74]


@pytest.fixture
def machine(monkeypatch):
    """A function that sets up what is installed; `None` is what is missing."""

    def set_up(driver=None, tensorrt="tensorrt 11.4", **versions):
        def version(distribution):
            if distribution not in versions:
                raise PackageNotFoundError(distribution)
            return versions[distribution]

        def find():
            if tensorrt is None:
                raise ModelError("Expected TensorRT, got tensorrt: no module: pip install tensorrt")
            return type("Edition", (), {"name": tensorrt})

        installed = {"cupy" if name.startswith("cupy") else name for name in versions}
        monkeypatch.setattr(gpu_probe, "load_driver", lambda: driver)
        monkeypatch.setattr(gpu_probe, "find_spec", lambda name: name if name in installed else None)
        monkeypatch.setattr(gpu_probe, "version", version)
        packages = [SimpleNamespace(metadata={"Name": name}) for name in versions]
        monkeypatch.setattr(gpu_probe, "distributions", lambda: packages)
        monkeypatch.setattr(gpu_probe, "driver_version", lambda: None)
        monkeypatch.setattr(gpu_probe, "find_tensorrt", find)

    return set_up


WHOLE = {"cupy-cuda13x": "14.2", "onnx": "1.23"}


def test_a_machine_that_has_everything(machine):
    machine(FakeDriver(), **WHOLE)
    found = {part.name: part.text for part in parts()}
    assert found["driver"] == "for CUDA 13.0"
    assert found["GPU 0"] == "NVIDIA H200, 141 GB, sm_90"
    assert (found["cupy"], found["TensorRT"]) == ("14.2", "tensorrt 11.4")
    assert obstacle() is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"driver": None, **WHOLE}, "driver: no NVIDIA driver: install driver 580 or newer"),
        ({"driver": FakeDriver(cuda=12040), **WHOLE}, "driver: for CUDA 12.4, which is too old: update it to 580"),
        ({"driver": FakeDriver(gpus=()), **WHOLE}, "GPU: none .*: look at nvidia-smi"),
        ({"driver": FakeDriver(status=999), **WHOLE}, "GPU: none .the driver's status is 999.: look at nvidia-smi"),
        (
            {"driver": FakeDriver(gpus=(("GTX 1080", 6, 1),)), **WHOLE},
            "GTX 1080, .* sm_61, which CUDA 13 does not run on",
        ),
        ({"driver": FakeDriver(), "onnx": "1.23"}, r"cupy: not installed: pip install atomstream\[gpu\]"),
        (
            {"driver": FakeDriver(), "cupy_cuda12x": "14.2", "onnx": "1.23"},
            r"cupy: cupy-cuda12x, which is not for CUDA 13: pip uninstall cupy-cuda12x, then pip install atomstream",
        ),
        (
            {"driver": FakeDriver(), "cupy-rocm-5-0": "13.0", **WHOLE},
            "cupy: cupy-rocm-5-0, which is not for CUDA 13: pip uninstall cupy-cuda13x cupy-rocm-5-0, then",
        ),
        (
            {"driver": FakeDriver(), "cupy-cuda13x": "13.6", "onnx": "1.23"},
            r"cupy: 13.6, which is too old: pip install --upgrade atomstream\[gpu\]",
        ),
        ({"driver": FakeDriver(), "cupy-cuda13x": "14.2"}, r"onnx: not installed: pip install atomstream\[gpu\]"),
        (
            {"driver": FakeDriver(), "tensorrt": None, **WHOLE},
            "TensorRT: .*: pip install tensorrt; torch: not installed",
        ),
        (
            {"driver": FakeDriver(), "tensorrt": None, "torch": "2.13.0+cpu", **WHOLE},
            "torch: 2.13.0.cpu, built for CPUs only",
        ),
    ],
)
def test_what_is_missing_is_said_with_what_mends_it(machine, options, said):
    machine(**options)
    found = obstacle()
    assert found is not None
    assert __import__("re").search(said, found), found


def test_torch_will_do_where_there_is_no_tensorrt(machine):
    machine(FakeDriver(), tensorrt=None, torch="2.13.0", **WHOLE)
    assert obstacle() is None
    (tensorrt,) = [part for part in parts() if part.name == "TensorRT"]
    assert (tensorrt.remedy, tensorrt.needed) == ("pip install tensorrt", False)


def test_a_second_gpu_that_is_too_old_is_no_obstacle(machine):
    machine(FakeDriver(gpus=(("H200", 9, 0), ("GTX 1080", 6, 1))), **WHOLE)
    assert obstacle() is None
    assert [part.name for part in parts() if part.name.startswith("GPU")] == ["GPU 0", "GPU 1"]
    assert gpu_probe.usable_gpus() == (0,)


def test_none_can_be_used_without_a_driver_or_gpu(machine):
    for driver in (None, FakeDriver(gpus=()), FakeDriver(status=999)):
        machine(driver, **WHOLE)
        assert gpu_probe.usable_gpus() == ()


def test_an_installed_package_of_another_name_is_found(machine):
    machine(FakeDriver(), cupy="14.2", onnx="1.23")
    assert obstacle() is None


def test_the_first_obstacle_is_the_one_told():
    found = [Part("driver", "none", "install it"), Part("cupy", "not installed", "pip install it")]
    assert obstacle(iter(found)) == "driver: none: install it"


class FakeManagement:
    """The library of nvidia-smi."""

    def __init__(self, status=0):
        self.status, self.open = status, 0

    def nvmlInit_v2(self):
        self.open += 1
        return 0

    def nvmlSystemGetDriverVersion(self, out, size):
        out.value = b"580.95.05"
        return self.status

    def nvmlShutdown(self):
        self.open -= 1


def test_the_driver_has_a_number_too(monkeypatch, machine):
    whole, silent = FakeManagement(), FakeManagement(status=999)
    machine(FakeDriver(), **WHOLE)
    monkeypatch.setattr(gpu_probe, "driver_version", DRIVER_VERSION)
    monkeypatch.setattr(gpu_probe.ctypes, "CDLL", lambda name: whole)
    assert next(parts()).text == "580.95.05, for CUDA 13.0"
    for library in (silent, object()):
        monkeypatch.setattr(gpu_probe.ctypes, "CDLL", lambda name, library=library: library)
        assert next(parts()).text == "for CUDA 13.0"
    assert whole.open == silent.open == 0


def test_the_driver_is_looked_for_by_its_library(monkeypatch):
    def missing(name):
        assert name == "libcuda.so.1"
        raise OSError("cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert gpu_probe.load_driver() is None
