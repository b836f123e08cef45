"""The models that come with Atomstream: which there are, their cards, their weight files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ModelError
from engine.spec import ModelSpec, file_sha256

_FOLDER = Path(__file__).parent / "models"
_UNITS = {"A": "A", "kV": "kV", "A2": "e/A^2"}  # by the last part of a range's name


def list_models() -> tuple[str, ...]:
    """Names of the shipped models."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


def find_spec(model: str | Path) -> Path:
    """The spec file of a shipped name, or of a path to a .json file."""
    if isinstance(model, Path) or model.endswith(".json"):
        return Path(model)
    names = list_models()
    if model not in names:
        raise ModelError(
            f"Expected a shipped model ({', '.join(names) or 'no model is installed'}) or a path to a spec .json, "
            f"got {model!r}: choose one of these"
        )
    return _FOLDER / f"{model}.json"


def verified_weights(spec: ModelSpec, folder: Path, suffix: str) -> Path:
    """Path of a weight file beside the spec, once its content (and for IR that of its .bin) has the spec's hash."""
    path = folder / f"{spec.name}{suffix}"
    for part in (path, path.with_suffix(".bin")) if suffix.endswith(".xml") else (path,):
        want = spec.sha256.get(part.name, "no hash in the spec")
        try:
            got = file_sha256(part)
        except OSError as error:
            raise ModelError(f"{part}: expected a weight file, got {error.strerror}: reinstall the model") from None
        if got != want:
            raise ModelError(
                f"{part}: expected sha256 {want}, got {got}: the file is damaged or of another version, reinstall it"
            )
    return path


def model_card(model: str | Path) -> str:
    """What a model is for, what it was trained on and how good it is, as text."""
    spec = ModelSpec.read(find_spec(model))
    least = float(spec.chance_of(np.array([spec.threshold], np.float32))[0])
    what = "one image" if spec.channels == 1 else f"{spec.channels} images of a defocus series"
    lines = [
        f"{spec.name} {spec.version}",
        f"  family      {spec.family}",
        f"  licence     {spec.licence}",
        f"  input       {what}, resampled to {spec.sampling_A:g} A/px",
        f"  classes     {', '.join(spec.classes)}",
        f"  threshold   score {spec.threshold:g} (a chance of {least:.2f}), {spec.separation_A:g} A apart or more",
        *([f"  notes       {spec.notes}"] if spec.notes else []),
        "  trained on",
        *(f"    {key:<18} {_range(key, *limits)}" for key, limits in spec.trained.items()),
        "  measured",
        *(_tree(spec.measured, "    ") or ["    nothing yet"]),
        "  sha256",
        *(f"    {name:<18} {digest}" for name, digest in spec.sha256.items()),
    ]
    return "\n".join(lines)


def _range(key: str, low: float, high: float) -> str:
    return f"{low:g} to {high:g} {_UNITS.get(key.rsplit('_', 1)[-1], '')}".rstrip()


def _tree(values: Mapping[str, Any], indent: str) -> list[str]:
    """One line a value, nested mappings indented."""
    lines: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}", *_tree(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key:<18} {value:.4g}" if isinstance(value, float) else f"{indent}{key:<18} {value}")
    return lines
