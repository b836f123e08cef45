"""A crystal seen along a zone axis: how it is brought there, turned and tilted, and the columns its atoms form.

Positions are (N, 3), (z, y, x) in A. Rotations act on them as `positions @ rotation.T`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from training.structures.structure import Points, Sites

APART_A = 0.8  # atoms of one column, from one to the next, lie no further apart than this in projection
_ALONG_A = 8.0  # nor this along the beam; [111] of gold repeats after 7.1 A


def along(direction: ArrayLike) -> Points:
    """Rotation (3, 3) that brings a direction along z."""
    z = np.asarray(direction, float) / np.linalg.norm(direction)
    y = np.cross(z, [0.0, 0.0, 1.0] if abs(z[2]) < 0.9 else [0.0, 1.0, 0.0])
    y /= np.linalg.norm(y)
    return np.stack([z, y, np.cross(z, y)])


def tilt(largest_degrees: float, rng: np.random.Generator) -> Points:
    """Rotation (3, 3) about an axis in the plane."""
    angle, direction = np.radians(rng.uniform(0, largest_degrees)), about_z(rng.uniform(0, 2 * np.pi))
    return direction @ about_x(angle) @ direction.T


def turn(rng: np.random.Generator) -> Points:
    """Rotation (3, 3) about the beam, by any angle."""
    return about_z(rng.uniform(0, 2 * np.pi))


def about_z(angle: float) -> Points:
    """Rotation (3, 3) about the beam."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def about_x(angle: float) -> Points:
    """Rotation (3, 3) about an axis in the plane."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def columns(atoms_A: Points, along_A: float = _ALONG_A) -> NDArray[np.intp]:
    """Which column each atom (N,) belongs to: chains along z of atoms that nearly lie on each other.

    `along_A` is longer than what any column repeats after.
    """
    scaled = atoms_A / np.array([along_A, APART_A, APART_A])
    pairs = cKDTree(scaled).query_pairs(1.0, output_type="ndarray")
    count = len(atoms_A)
    joined = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return np.asarray(connected_components(joined, directed=False)[1], np.intp)


def column_sites(
    atoms_A: Points, numbers: NDArray[np.uint8], column: NDArray[np.intp], elements: tuple[int, ...]
) -> Sites:
    """A site each column that has atoms: their mean, how far it leans, as its class the first of `elements` it holds.

    All atoms are of these elements, given by their atomic numbers.
    """
    _, column, length = np.unique(column, return_inverse=True, return_counts=True)
    mean = np.stack([np.bincount(column, atoms_A[:, axis]) / length for axis in (1, 2)], axis=1)
    content = np.stack([np.bincount(column[numbers == one], minlength=len(length)) for one in elements], axis=1)
    upwards = np.lexsort((atoms_A[:, 0], column))
    last = np.cumsum(length) - 1
    lean_A = np.hypot(*(atoms_A[upwards[last], 1:] - atoms_A[upwards[last - length + 1], 1:]).T)
    class_id = (content > 0).argmax(axis=1).astype(np.uint8)
    return Sites(mean, class_id, elements, content.astype(np.uint8), lean_A.astype(np.float32))
