"""A recipe's specimens, to train on or held out: drawn, brought to exit waves where there is room, stored and read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from training.exit_waves import METHOD, Specimen, exit_wave
from training.recipes.recipe import Recipe
from training.structures.structure import Structures
from training.wave_store import WaveStore
from training.workers import Workers


@dataclass(frozen=True, slots=True)
class SpecimenSet:
    """Specimens of one seed. Specimen k comes from (seed, k) alone, so any machine can make any part of the set.

    `structures` is a dataclass: its fields are what it draws from.
    """

    structures: Structures
    voltage_kV: float
    seed: int

    @classmethod
    def of(cls, recipe: Recipe, seed: int) -> SpecimenSet:
        """A recipe's, of its own seed to train on and of others to evaluate on."""
        return cls(recipe.structures_of(seed), recipe.images.voltage_kV, seed)

    def specimen(self, k: int) -> Specimen:
        """Drawn and simulated."""
        structure = self.structures.draw(np.random.default_rng((self.seed, k)))
        cell_A = (structure.cell_A, structure.cell_A)
        wave = exit_wave(structure.atoms_A, cell_A, self.voltage_kV, structure.numbers)
        return Specimen(wave, structure.sites, structure.label)

    @property
    def made_of(self) -> dict[str, Any]:
        """All that its waves depend on, in types that JSON has."""
        ranges: Any = self.structures
        drawn = {field.name: _listed(getattr(ranges, field.name)) for field in fields(ranges)}
        kind = type(self.structures).__name__
        return {"structures": kind, "voltage_kV": self.voltage_kV, "seed": self.seed} | METHOD | drawn


def simulate(
    specimens: SpecimenSet,
    folder: Path,
    count: int,
    workers: Workers,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """A store of the first `count` specimens; those already there are kept."""
    store = WaveStore(folder, specimens.made_of)
    with store.alone():
        store.begin(count)
        missing = store.missing(count)
        begun, there = monotonic(), count - len(missing)
        results = workers.each(specimens.specimen, missing)
        progress(there)
        try:
            for done, (k, specimen) in enumerate(results, there + 1):
                store.save(k, specimen)
                progress(done)
        finally:
            if missing:
                store.add_seconds(monotonic() - begun)


def read_specimens(specimens: SpecimenSet, folder: Path) -> list[Specimen]:
    """Those that were last asked for, in order."""
    return WaveStore(folder, specimens.made_of).read()


def seconds_taken(specimens: SpecimenSet, folder: Path) -> float:
    """To simulate them, interruptions left out."""
    return WaveStore(folder, specimens.made_of).seconds


def _listed(value: Any) -> Any:
    """Lists for tuples; of an array, which may be a whole crystal, its hash."""
    if isinstance(value, np.ndarray):
        return sha256(np.ascontiguousarray(value)).hexdigest()[:16]
    return list(value) if isinstance(value, tuple) else value
