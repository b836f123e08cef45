"""The kernels on a CPU, for the tests of the GPU path."""

from tests.cuda_on_cpu import cuda_on_cpu  # noqa: F401 - a fixture
