"""The phase that thin atoms put on a wave, for what is added to or moved within a stored exit wave."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from training.optics import frequencies, wavelength_A
from training.structures.structure import Sites

# REF: Doyle and Turner, Acta Cryst. A24 (1968) 390: electron scattering of carbon, sum of a exp(-b s^2), s = k / 2
_CARBON = ((0.7307, 36.9951), (1.1951, 11.2966), (0.4563, 2.8139), (0.1247, 0.3456))
_FIRST_ORDER_PER_A = 0.4
_REST_ENERGY_KEV = 510.99895


@lru_cache(maxsize=16)
def atom_phase(number: int, shape: tuple[int, int], sampling_A: float, voltage_kV: float) -> NDArray[np.float32]:
    """Fourier transform of the phase one atom puts on the wave, in rad A^2, on the grid of frequencies().

    `number`: of the element. Kept, not to be written to.
    """
    ky, kx = frequencies(shape, sampling_A)
    k2 = ky * ky + kx * kx
    s2 = k2 / 4
    amplitude = sum(a * np.exp(-b * s2) for a, b in _CARBON) if number == 6 else _lobato(number, k2)
    gamma = 1 + voltage_kV / _REST_ENERGY_KEV
    return np.asarray(amplitude * gamma * wavelength_A(voltage_kV), np.float32)


def _lobato(number: int, k2: NDArray[np.float32]) -> NDArray[np.float32]:
    """Electron scattering factor in A.

    REF: Lobato and Van Dyck, Acta Cryst. A70 (2014) 636: sum of a (2 + b k^2) / (1 + b k^2)^2, as abTEM tabulates it.
    """
    a, b = _parameters(number)
    terms = b[:, None, None] * k2
    return np.asarray((a[:, None, None] * (2 + terms) / (1 + terms) ** 2).sum(axis=0), np.float32)


def strengths(sites: Sites) -> NDArray[np.float64]:
    """(N,) how strongly each site scatters to where a lattice's first reflections lie."""
    of_one = [
        float(_lobato(number, np.full((1, 1), _FIRST_ORDER_PER_A**2, np.float32))[0, 0]) for number in sites.elements
    ]
    return np.asarray(sites.content @ np.array(of_one))


@lru_cache
def _parameters(number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    from abtem.parametrizations import LobatoParametrization
    from ase.data import chemical_symbols

    rows = np.asarray(LobatoParametrization().parameters[chemical_symbols[number]], np.float32)
    return rows[0], rows[1]
