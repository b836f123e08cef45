"""What the tests of the GPU path share: kernels on a CPU, an installed TensorRT, a cache of its own."""

from pathlib import Path

import pytest

from engine.engine_cache import EngineCache
from engine.errors import ModelError
from engine.tensorrt_module import Edition, find_tensorrt
from tests.cuda_on_cpu import cuda_on_cpu, device  # noqa: F401 - fixtures
from tests.engine.fake_cupy import cupy  # noqa: F401 - a fixture
from tests.engine.fake_tensorrt import fake, held  # noqa: F401 - fixtures
from tests.engine.host_network import make, reference  # noqa: F401 - fixtures


@pytest.fixture(scope="session")
def edition() -> Edition:
    """TensorRT or TensorRT RTX; neither needs a GPU to be imported."""
    try:
        return find_tensorrt()
    except ModelError as error:
        pytest.skip(str(error))


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    """In a folder of its own."""
    return EngineCache(tmp_path / "engines")
