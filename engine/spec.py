"""ModelSpec: the JSON beside each ONNX file that says what the network takes, gives and was trained for."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ModelError, write_whole

_NEARLY = np.float32(1e-6)  # a score of 0 or 1 has no logit
AS_IT_IS = (0.0, 1.0)  # chance of a score that was not held against anything
_LONGEST_BOND_A = 10.0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a network takes and gives.

    Attributes
    ----------
    name, version, family, licence : str
    classes : tuple of str
        Name of each class_id, for example ("C",).
    channels : int
        Images a sample: 1, or 3 for a defocus triplet.
    sampling_A : float
        Pixel size the network works at; frames are resampled to it.
    level_A, normalise_A : float
        Sigmas of the Gaussian windows under which an image's local level, and its local RMS, are taken.
    stride : int
        Network input pixels per cell of its output maps.
    multiple : int
        Height and width of the network's input are multiples of this.
    threshold : float
        The network's score from which a local maximum counts as an atom.
    separation_A : float
        Two atoms are never closer than this.
    chance : (float, float)
        Offset and slope from the logit of the network's score to that of the chance that an atom is there, see
        `chance_of`.
    covered : float
        Contamination, as a mean of what is around an atom, from which it is suspected, see `engine.contamination`.
    bonds : (int, float) or None
        The most neighbours an atom has, and how far in A they count: (3, 1.8) for carbon sheets.
    trained : dict of (low, high)
        Ranges of training: sampling_A, dose_e_A2, voltage_kV, defocus_A, field_A.
    data : dict
        What its last fit learned from: steps, the model begun with, number and ranges of the specimens, ranges of the
        images.
    notes : str
        What whoever made it has to say: how long the fit took, what has confirmed it.
    measured : dict
        Accuracy on data not trained on, as the evaluation wrote it.
    wall_time_min : dict
        Minutes that it took to make, by command: "simulate", "fit", "export", "evaluate".
    sha256 : dict
        Hash of each weight file by name: "graphene.onnx", "graphene.int8.xml", "graphene.int8.bin".
    """

    name: str
    version: str
    family: str
    licence: str
    classes: tuple[str, ...]
    channels: int
    sampling_A: float
    level_A: float
    normalise_A: float
    stride: int
    multiple: int
    threshold: float
    separation_A: float
    trained: dict[str, tuple[float, float]]
    chance: tuple[float, float] = AS_IT_IS
    covered: float = 0.5
    bonds: tuple[int, float] | None = None
    data: dict[str, Any] = field(default_factory=dict)
    notes: str = ""
    measured: dict[str, Any] = field(default_factory=dict)
    wall_time_min: dict[str, float] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> ModelSpec:
        """Read a spec; ModelError names what is missing or unknown."""
        try:
            raw = json.loads(path.read_text())
        except OSError as error:
            raise ModelError(f"{path}: expected a model spec, got {error.strerror}: check the path") from None
        except ValueError as error:
            raise ModelError(
                f"{path}: expected a model spec in JSON, got {error}: reinstall or export the model again"
            ) from None
        names = {f.name for f in fields(cls)}
        needed = names - {"chance", "covered", "bonds", "data", "notes", "measured", "wall_time_min", "sha256"}
        if not isinstance(raw, dict) or not needed <= set(raw) <= names:
            given = set(raw) if isinstance(raw, dict) else set()
            raise ModelError(
                f"{path}: expected the keys of a model spec, missing {sorted(needed - given)}, "
                f"unknown {sorted(given - names)}: export the model again"
            )
        for key, value in raw.items():
            valid, expected = _VALUES[key]
            if not valid(value):
                raise ModelError(f"{path}: expected {expected} as {key}, got {value!r}: export the model again")
        raw["classes"] = tuple(raw["classes"])
        raw["chance"] = tuple(raw.get("chance", AS_IT_IS))
        raw["bonds"] = tuple(raw["bonds"]) if raw.get("bonds") else None
        raw["trained"] = {key: (float(low), float(high)) for key, (low, high) in raw["trained"].items()}
        return cls(**raw)

    def chance_of(self, score: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N,) chance that an atom is there, of the network's score: as often as it was on the frames of the export."""
        offset, slope = np.array(self.chance, np.float32)
        if self.chance == AS_IT_IS:
            return score
        inside = np.clip(score, _NEARLY, 1 - _NEARLY)
        return np.asarray(1 / (1 + np.exp(-(offset + slope * np.log(inside / (1 - inside))))), np.float32)

    @property
    def least_chance(self) -> float:
        """That of the threshold: no atom that is reported has less."""
        return float(self.chance_of(np.array([self.threshold], np.float32))[0])

    def write(self, path: Path) -> None:
        """Write the spec as indented JSON, whole or not at all; FileError where that fails."""
        content = (json.dumps(asdict(self), indent=2) + "\n").encode()
        write_whole(path, content, "a place to write a model spec to", "free some room, or choose another folder")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_file_name(value: Any) -> bool:
    return _is_text(value) and Path(value).name == value


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _are_minutes(value: Any) -> bool:
    return _is_mapping(value) and all(_is_finite(minutes) and minutes >= 0 for minutes in value.values())


def _are_ranges(value: Any) -> bool:
    return _is_mapping(value) and all(map(_is_range, value.values()))


def _is_range(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 2 and all(type(limit) in (int, float) for limit in value)
    return numbers and value[0] <= value[1]


def _are_bonds(value: Any) -> bool:
    both = isinstance(value, list) and len(value) == 2
    return value is None or (both and _is_count(value[0]) and _is_reach(value[1]))


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_line(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_finite(value[0]) and _is_positive(value[1])


def _is_reach(value: Any) -> bool:
    return _is_positive(value) and value <= _LONGEST_BOND_A


# What each key of the file may hold, and how it is told.
_TEXT, _COUNT, _POSITIVE = (_is_text, "a text"), (_is_count, "a whole number over 0"), (_is_positive, "a number over 0")
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_file_name, "a file name without folders"),
    "version": _TEXT,
    "family": _TEXT,
    "licence": _TEXT,
    "notes": (lambda value: isinstance(value, str), "a text"),
    "classes": (_are_names, "a list of names"),
    "channels": _COUNT,
    "sampling_A": _POSITIVE,
    "level_A": _POSITIVE,
    "normalise_A": _POSITIVE,
    "stride": _COUNT,
    "multiple": _COUNT,
    "threshold": _POSITIVE,
    "separation_A": _POSITIVE,
    "chance": (_is_line, "[offset, slope over 0]"),
    "covered": _POSITIVE,
    "trained": (_are_ranges, "ranges [low, high]"),
    "bonds": (_are_bonds, "null or [most neighbours, reach in A]"),
    "data": (_is_mapping, "an object"),
    "measured": (_is_mapping, "an object"),
    "wall_time_min": (_are_minutes, "numbers, none under 0"),
    "sha256": (_is_mapping, "an object"),
}


def file_sha256(path: Path) -> str:
    """Hash of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
