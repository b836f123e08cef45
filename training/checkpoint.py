"""checkpoint.pt, where a fit stands: written whole or not at all; what cannot be read is told in one line."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from engine import FileError
from engine.errors import one_line
from training.room import room

_DAMAGED = (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, OSError)
_KEYS = {"step", "network", "average", "optimiser"}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write it beside the one before, then in its place; FileError where there is no room."""
    partial = path.with_suffix(".part")
    try:
        with room(path):
            _save(state, partial)
            partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def _save(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:  # torch's own of a full disk, in C++
        raise OSError(one_line(error)) from None


def load_checkpoint(path: Path, **how: Any) -> dict[str, Any]:
    """What was saved; FileError where there is nothing, or nothing whole."""
    if not path.exists():
        raise FileError(f"{path}: expected a checkpoint, found none: run `atomstream-train fit` first")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, **how)
        if not (isinstance(state, dict) and state.keys() >= _KEYS):
            raise ValueError("other contents")
    except _DAMAGED as error:
        cause = one_line(error)[:80] or type(error).__name__
        raise FileError(
            f"{path}: expected a whole checkpoint, got a damaged one ({cause}): remove it, and run "
            "`atomstream-train fit` again"
        ) from None
    return state


def of_these_specimens(path: Path, state: dict[str, Any], made_of: str) -> None:
    """FileError where a fit to others, or to their images prepared otherwise, wrote it; older ones did not say."""
    if state.get("made_of", made_of) != made_of:
        raise FileError(
            f"{path}: expected a fit to this recipe's specimens and network input, got one to others: remove it, or "
            "choose another --folder"
        )


@contextmanager
def of_this_network(path: Path) -> Iterator[None]:
    """FileError where the weights of a checkpoint are those of another network."""
    try:
        yield
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        said = one_line(error)[:120]
        raise FileError(
            f"{path}: expected a checkpoint of this recipe's network, got another ({said}): remove it and fit again"
        ) from None


def steps_done(checkpoint: Path) -> int:
    """How many steps the fit has taken."""
    return int(load_checkpoint(checkpoint, mmap=True)["step"])


def begun_with(checkpoint: Path) -> str:
    """The model whose weights the fit began with; empty: with none."""
    return str(load_checkpoint(checkpoint, mmap=True).get("start", ""))


def learned_from(checkpoint: Path) -> dict[str, Any]:
    """For the model's card: steps, the model begun with, and specimens and images, which older fits did not note."""
    state = load_checkpoint(checkpoint, mmap=True)
    begun = {"begun_with": state["start"]} if state.get("start") else {}
    return {"steps": int(state["step"]), **begun, **json.loads(state.get("taught", "{}"))}


def seconds_taken(checkpoint: Path) -> float:
    """By the fit, interruptions left out; 0 where nobody counted."""
    seconds = float(load_checkpoint(checkpoint, mmap=True).get("seconds", math.nan))
    return seconds if math.isfinite(seconds) else 0.0


def describe_fit(checkpoint: Path, all_steps: int) -> str:
    """How many steps the fit took, for the model's card; of how many, if it is not at its end; what it began with."""
    step, start = steps_done(checkpoint), begun_with(checkpoint)
    steps = f"fit: {step} of {all_steps} steps" if step < all_steps else f"fit: {step} steps"
    return f"{steps} from the weights of {start}" if start else steps
