"""What particles lie on: amorphous carbon or CeO2, as slabs over the whole cell, under a particle or beside it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from training.structures.structure import Points
from training.structures.zone_axis import about_x, about_z

CERIA_A = 5.411
_CARBON_PER_A3 = 0.09


def support(
    kind: str,
    particle_A: Points,
    cell_A: float,
    thickness_A: tuple[float, float],
    edge_on_chance: float,
    rng: np.random.Generator,
) -> tuple[Points, NDArray[np.uint8]]:
    """Atoms beside the particle, its facet on theirs, or behind it along the beam; and their numbers.

    `kind` is "carbon", "CeO2" or "vacuum".
    """
    if kind == "vacuum":
        return np.empty((0, 3)), np.empty(0, np.uint8)
    thick_A, middle = rng.uniform(*thickness_A), particle_A[:, 0].mean()
    build = carbon if kind == "carbon" else ceria
    atoms, numbers = build(cell_A, thick_A, rng)
    if rng.random() < edge_on_chance:
        atoms[:, 0] += middle - thick_A / 2
        rough = 2 * np.sin(atoms[:, 2] / rng.uniform(4, 9) + rng.uniform(0, 6)) if kind == "carbon" else 0.0
        kept = atoms[:, 1] > particle_A[:, 1].max() + 1.5 + rough
    else:
        atoms[:, 0] += particle_A[:, 0].max() + 2.2
        kept = np.ones(len(atoms), bool)
    clear = cKDTree(particle_A).query(atoms)[0] > 2.0
    return atoms[kept & clear], numbers[kept & clear]


def carbon(cell_A: float, thick_A: float, rng: np.random.Generator) -> tuple[Points, NDArray[np.uint8]]:
    """A slab from z = 0 on. Atoms anywhere: at these doses, only density and element of an amorphous film are seen."""
    count = rng.poisson(cell_A**2 * thick_A * _CARBON_PER_A3)
    return rng.uniform(0, 1, (count, 3)) * [thick_A, cell_A, cell_A], np.full(count, 6, np.uint8)


def ceria(cell_A: float, thick_A: float, rng: np.random.Generator) -> tuple[Points, NDArray[np.uint8]]:
    """The same of fluorite with [110] or [100] along the beam, a little off it, turned at random."""
    fcc = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    oxygen = np.stack(np.mgrid[3 * (slice(0, 2),)], axis=-1).reshape(-1, 3) / 2 + 0.25
    reach = int(cell_A * 0.75 / CERIA_A) + 2
    corners = np.stack(np.mgrid[3 * (slice(-reach, reach + 1),)], axis=-1).reshape(-1, 1, 3)
    atoms = ((corners + np.concatenate([fcc, oxygen])).reshape(-1, 3)) * CERIA_A
    numbers = np.tile(np.repeat(np.uint8([58, 8]), [4, 8]), corners.shape[0])
    half = np.sqrt(0.5)
    zone = np.eye(3) if rng.random() < 0.5 else np.array([[half, half, 0], [-half, half, 0], [0, 0, 1]])
    angle, lean = rng.uniform(0, 2 * np.pi), rng.uniform(-0.04, 0.04)
    atoms = atoms @ (about_x(lean) @ about_z(angle) @ zone).T + np.array([thick_A, cell_A, cell_A]) / 2
    atoms += rng.normal(0, 0.06, atoms.shape)
    inside = np.all((atoms >= 0) & (atoms < [thick_A, cell_A, cell_A]), axis=1)
    return atoms[inside], numbers[inside]
