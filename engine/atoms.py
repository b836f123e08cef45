"""What was found in one frame: a structure of arrays, one row an atom."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONTAMINATED = 1  # flag: the network sees the specimen covered around here
EDGE = 2  # flag: closer to the frame's edge than the model was scored at


@dataclass(frozen=True, slots=True, eq=False)
class Atoms:
    """Atoms (or atomic columns) of one frame, sorted by y, then x.

    Attributes
    ----------
    y, x : (N,) float32
        Sub-pixel position in pixels of the frame; pixel centres are integers.
    class_id : (N,) uint8
        Index into the model's classes.
    score : (N,) float32
        0 to 1, the chance that something is there.
    sigma_pm : (N,) float32
        Expected error of the position per axis, in picometre.
    agreement : (N,) float32
        Share of the ensemble's members that found it; 1 for a single network.
    flags : (N,) uint8
        Bits: CONTAMINATED, EDGE.
    """

    y: NDArray[np.float32]
    x: NDArray[np.float32]
    class_id: NDArray[np.uint8]
    score: NDArray[np.float32]
    sigma_pm: NDArray[np.float32]
    agreement: NDArray[np.float32]
    flags: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.y)

    @property
    def positions(self) -> NDArray[np.float32]:
        """(N, 2) array of (y, x)."""
        return np.stack([self.y, self.x], axis=1)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Every array by its name, in the order they travel."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def select(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Atoms:
        """The atoms of these rows (a boolean mask or an order)."""
        return Atoms(**{name: column[rows] for name, column in self.columns().items()})

    @property
    def clear(self) -> NDArray[np.bool_]:
        """(N,) those that are not flagged CONTAMINATED."""
        return np.asarray((self.flags & CONTAMINATED) == 0)

    def uncovered(self) -> Atoms:
        """Those that are clear."""
        clear = self.clear
        return self if clear.all() else self.select(clear)

    @classmethod
    def none(cls) -> Atoms:
        """No atoms: every array has length zero."""
        empty, none = np.empty(0, np.float32), np.empty(0, np.uint8)
        return cls(empty, empty, none, empty, empty, empty, none)
