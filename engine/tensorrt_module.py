"""TensorRT as a module, and all in which its editions differ: `tensorrt` 10 and 11 and `tensorrt_rtx` are one API.

Everything else takes an `Edition` and does not ask which it is.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.errors import ModelError, one_line

INSTALL = "pip install atomstream[gpu], or where it cannot be had atomstream[gpu-rtx]"

_MODULES = ("tensorrt", "tensorrt_rtx")  # in this order: the first runs on every GPU from sm_75 on
_OLDEST = (10, 10)  # since then a context takes memory for the shape that it runs, not for the largest
_LOG = logging.getLogger("atomstream")


@dataclass(frozen=True, slots=True, eq=False)
class Edition:
    """One installed edition.

    Attributes
    ----------
    module
        What was imported.
    name : str
        Of the module and its version: part of the cache key, an engine fits no other.
    rtx : bool
        Whether it is TensorRT for RTX, which compiles kernels where the engine is run, not where it is built.
    """

    module: Any
    name: str
    rtx: bool

    @property
    def times_kernels(self) -> bool:
        """Whether building runs kernels on the GPU to choose the fastest, which a timing cache then saves."""
        return not self.rtx

    @property
    def capturable(self) -> bool:
        """Whether a run may be part of our graph. RTX goes on compiling for a shape, and makes graphs of its own."""
        return not self.rtx

    def start(self, part: str, logger: Any) -> Any:
        """A Builder or a Runtime; ModelError where the driver lets it have none."""
        try:
            return getattr(self.module, part)(logger)
        except (RuntimeError, TypeError) as error:  # pybind: the factory returned a null pointer
            cause = logger.last() if logger.errors else one_line(error)
            raise ModelError(f"Expected {self.name} to start, got {cause}: run atomstream doctor") from None

    def context(self, engine: Any, kernels: Any) -> Any:
        """An execution context of an engine, to which we give the memory that it works in; None where there is none."""
        # Unless told, a context takes memory of its own, outside our limit, and as much as the largest size needs.
        ours = self.module.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self.rtx:
            return engine.create_execution_context(ours)
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(ours)
        config.cuda_graph_strategy = self.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        config.set_runtime_cache(kernels)
        return engine.create_execution_context(config)

    def kernels(self, engine: Any) -> Any:
        """What keeps the kernels that RTX compiles as an engine runs; None of the others, which have them built in."""
        return engine.create_runtime_config().create_runtime_cache() if self.rtx else None

    @property
    def network_flags(self) -> int:
        """Strong typing: asked for in 10, the only way from 11 on, where the flag may be gone."""
        flag = getattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)

    def logger(self) -> Any:
        """A logger that keeps the errors, for what is told to the user, and passes warnings on."""
        return _logger_class(self.module)()

    def monitor(self, wanted: Callable[[], bool]) -> Any:
        """What ends a build at its next step once it is not wanted any more."""
        return _monitor_class(self.module)(wanted)


def find_tensorrt() -> Edition:
    """The edition that is installed; ModelError with the command that installs one where there is none."""
    causes = []
    for name in _MODULES:
        try:
            return edition_of(importlib.import_module(name))
        except (ImportError, OSError, AttributeError) as error:  # the stub of PyPI imports, and has nothing in it
            causes.append(f"{name}: {one_line(error)}")
    raise ModelError(f"Expected TensorRT, got {'; '.join(causes)}: {INSTALL}")


def edition_of(module: Any) -> Edition:
    """What is known of an imported module; ModelError where it is too old."""
    version = str(module.__version__)
    is_rtx = module.__name__ == "tensorrt_rtx"
    if not is_rtx and tuple(map(int, version.split(".")[:2])) < _OLDEST:
        raise ModelError(f"Expected TensorRT {_OLDEST[0]}.{_OLDEST[1]} or newer, got {version}: {INSTALL}")
    module.Builder, module.Runtime  # noqa: B018 - AttributeError where the module is a stub
    return Edition(module, f"{module.__name__} {version}", is_rtx)


def _logger_class(module: Any) -> Any:
    """A class of its own for each module: the base it needs is the module's."""

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            said = " ".join(message.split())
            if severity in (module.ILogger.ERROR, module.ILogger.INTERNAL_ERROR):
                self.errors.append(said)
            elif severity == module.ILogger.WARNING:
                _LOG.info("TensorRT: %s", said)

        def last(self) -> str:
            """What was said last, and no more than a line of it."""
            return self.errors[-1][:300] if self.errors else "no reason"

    return Logger


def _monitor_class(module: Any) -> Any:
    """As the logger's; its methods are called from threads of TensorRT."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self, wanted: Callable[[], bool]) -> None:
            module.IProgressMonitor.__init__(self)
            self._wanted = wanted

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            return self._wanted()

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor
