"""The models that come with Atomstream: which there are, their cards, their weight files."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

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
    least = spec.least_chance
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
        *_tree(spec.data, "    "),
        *([f"  took        {_times(spec.wall_time_min)}"] if spec.wall_time_min else []),
        "  measured",
        *(_tree(spec.measured, "    ") or ["    nothing yet"]),
        "  sha256",
        *(f"    {name:<18} {digest}" for name, digest in spec.sha256.items()),
    ]
    return "\n".join(lines)


def _times(minutes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {taken:.3g} min" for name, taken in minutes.items())


def _range(key: str, low: float, high: float) -> str:
    return f"{low:g} to {high:g} {_UNITS.get(key.rsplit('_', 1)[-1], '')}".rstrip()


def _tree(values: Mapping[str, Any], indent: str) -> list[str]:
    """One line a value, nested mappings indented; rows of figures, such as those of each dose, as a table."""
    lines: list[str] = []
    for first, group in groupby(values.items(), lambda item: _first_of_row(item[1])):
        rows = dict(group)
        if first and len(rows) > 1:
            lines += _table(rows, indent)
            continue
        for key, value in rows.items():
            if isinstance(value, Mapping):
                lines += [f"{indent}{key}", *_tree(value, indent + "  ")]
            else:
                lines.append(f"{indent}{key:<18} {_figure(value)}")
    return lines


def _first_of_row(value: Any) -> str:
    """The first key of a mapping that nests no other, which tells one kind of row from the next; else nothing."""
    if not isinstance(value, Mapping) or any(isinstance(one, Mapping) for one in value.values()):
        return ""
    return next(iter(value), "")


def _table(rows: Mapping[str, Mapping[str, Any]], indent: str) -> list[str]:
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    cells = [["", *keys], *([name, *(_figure(row.get(key, "-")) for key in keys)] for name, row in rows.items())]
    first, *widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        f"{indent}{name:<{first}}" + "".join(f"  {text:>{width}}" for text, width in zip(figures, widths, strict=True))
        for name, *figures in cells
    ]


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"
