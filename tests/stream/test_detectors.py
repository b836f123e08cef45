"""Models of several sources: each its own on the CPU, one for all that agree on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.errors import ModelError
from stream import detectors
from stream.config import ServeConfig, join_sources
from stream.detectors import load_detectors


class Loaded:
    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.closed = 0

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1


def sources(*options: dict[str, Any]) -> tuple[ServeConfig, ...]:
    return join_sources([ServeConfig(source_name=f"s{number}", **one) for number, one in enumerate(options)])


def test_on_a_gpu_sources_that_agree_have_one_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "load_detector", lambda *_: Loaded("tensorrt f16"))
    with load_detectors(sources({}, {"policy": "latest", "dose": 3.0}, {"precision": "f32"})) as loaded:
        assert loaded[0] is loaded[1] is not loaded[2]
        assert [one.closed for one in loaded] == [0, 0, 0]  # type: ignore[attr-defined]
    assert [one.closed for one in loaded] == [1, 1, 1]  # type: ignore[attr-defined]


def test_a_gpus_memory_is_limited_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[object] = []
    monkeypatch.setattr(detectors, "load_detector", lambda *told: limits.append(told[-2]) or Loaded("tensorrt f16"))
    with load_detectors(sources({}, {"memory_MB": 900.0})) as loaded:
        assert loaded[0] is not loaded[1]
    assert limits == [4096, 900]


@pytest.mark.parametrize(("count", "kinds"), [(1, 2), (2, 2), (3, 3)])
def test_a_gpu_keeps_buffers_for_the_frames_of_every_source(
    monkeypatch: pytest.MonkeyPatch, count: int, kinds: int
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(detectors, "load_detector", lambda *told: asked.append(told[-1]) or Loaded("tensorrt f16"))
    with load_detectors(sources(*[{}] * count)):
        assert asked == [kinds]


def test_on_the_cpu_each_has_its_own(tiny_model: Path) -> None:
    with load_detectors(sources({"model": str(tiny_model)}, {"model": str(tiny_model)})) as loaded:
        assert loaded[0] is not loaded[1]
        assert [one.backend.split()[0] for one in loaded] == ["openvino", "openvino"]


def test_a_model_that_is_not_there_says_whose_and_closes_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Loaded] = []

    def load(model: str, *_: object) -> Loaded:
        if model == "none":
            raise ModelError("expected a model")
        made.append(Loaded("openvino int8"))
        return made[-1]

    monkeypatch.setattr(detectors, "load_detector", load)
    with pytest.raises(ModelError, match="s1: expected a model"), load_detectors(sources({}, {"model": "none"})):
        pass
    assert [one.closed for one in made] == [1]
