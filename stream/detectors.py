"""The models of all sources, loaded.

On a GPU sources with the same settings have one between them: its memory is scarce, it takes any number of threads, and
works on one frame after the other anyhow. On the CPU each has its own: it is small, and compiled for its frames' shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from engine.detector import Detector, load_detector
from engine.device import KINDS
from stream.config import ServeConfig, telling

_ON_CPU = "openvino"


@contextmanager
def load_detectors(configs: Sequence[ServeConfig]) -> Iterator[list[Detector]]:
    """A detector for each source, closed at the end; ModelError says whose could not be loaded."""
    with ExitStack() as stack:
        shared: dict[tuple[str | float, ...], Detector] = {}
        detectors = []
        kinds = max(KINDS, len(configs))  # of frames: each source has its own
        for config in configs:
            key = (config.model, config.backend, config.precision, config.device, config.memory_MB)
            with telling(config, len(configs)):
                detector = shared.get(key) or stack.enter_context(_load(config, kinds))
            if not detector.backend.startswith(_ON_CPU):
                shared[key] = detector
            detectors.append(detector)
        yield detectors


def _load(config: ServeConfig, kinds: int) -> Detector:
    return load_detector(
        config.model,
        config.backend,
        config.precision,
        config.threads,
        config.side_by_side,
        config.device,
        config.memory_MB,
        kinds,
    )
