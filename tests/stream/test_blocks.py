"""A block of frames to its rows, whatever the worker did before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine import Frame
from stream import blocks
from stream.blocks import Block, Job, Rows, analyse_block
from tests.stream.conftest import honeycomb


@pytest.fixture
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has just begun."""
    monkeypatch.setattr(blocks, "_loaded", {})
    monkeypatch.setattr(blocks, "_settled", {})


def movie(folder: Path, draw_frame: Callable[..., Frame], shape: tuple[int, int], frames: int) -> Path:
    """A lattice whose contrast goes through nothing to its inverse, as a tilted one's does."""
    contrast = draw_frame(shape, honeycomb(shape[0] * 0.1, shape[1] * 0.1) / 0.1, 0.1).pixels - 100
    noise = np.random.default_rng(3).normal(0, 15, (frames, *shape))
    path = folder / f"{shape[1]}.npy"
    np.save(path, (100 + contrast * np.linspace(-1, 1, shape[1]) + noise).astype(np.float32))
    return path


def same(one: Rows, other: Rows) -> bool:
    return all(np.array_equal(one[name], other[name], equal_nan=name != "notes") for name in one)


@pytest.mark.usefixtures("_fresh")
def test_the_shipped_model_gives_every_bit_again(tmp_path: Path, draw_frame: Callable[..., Frame]) -> None:
    """INT8 and the network that is compiled once a shape has settled: the last digits depend on which one runs."""
    job = Job("graphene", "int8", 0.1)
    first = Block(0, 0, str(movie(tmp_path, draw_frame, (512, 512), 2)), 0, 2)
    other = Block(1, 1, str(movie(tmp_path, draw_frame, (512, 480), 2)), 0, 2)
    rows = analyse_block(job, first)
    assert rows["frame_count"].min() > 50
    for _ in range(3):
        assert same(analyse_block(job, first), rows)
    if (beside := blocks._loaded[job]._network._settling) is not None:  # type: ignore[attr-defined]
        beside.join()  # a network that is compiled beside it, as for a live feed
    assert same(analyse_block(job, first), rows)
    analyse_block(job, other)
    assert same(analyse_block(job, first), rows)


@pytest.mark.usefixtures("_fresh")
def test_compiled_once_for_frames_that_are_alike(
    tmp_path: Path, draw_frame: Callable[..., Frame], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[tuple[int, int]] = []
    monkeypatch.setattr("engine.detector.Detector.settle", lambda detector, frame: settled.append(frame.shape))
    job = Job(str(tiny_model), "f32", 0.1)
    one, other = (str(movie(tmp_path, draw_frame, (96, width), 3)) for width in (96, 112))
    for path in (one, one, other, one):
        analyse_block(job, Block(0, 0, path, 0, 3))
    assert settled == [(96, 96), (96, 112), (96, 96)]
