"""Atoms as extended XYZ, the text format that ASE, OVITO and others read: one block a frame."""

# REF: https://github.com/libAtoms/extxyz, "Extended XYZ specification"

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.atoms import Atoms

_SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb "
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au "
    "Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts "
    "Og"
)
_ELEMENTS = frozenset(_SYMBOLS.split())
_UNKNOWN = "X"
_PROPERTIES = "species:S:1:pos:R:3:class:S:1:score:R:1:sigma_pm:R:1:agreement:R:1:flags:I:1"
_QUOTED = re.compile(r'[\s=",\[\]{}\\]')
_THICKNESS_A = 1.0  # of the box, so that it has a volume


def frame_text(
    atoms: Atoms, classes: Sequence[str], shape: tuple[int, int], sampling_A: float, about: Mapping[str, Any]
) -> str:
    """One block.

    Parameters
    ----------
    atoms : Atoms
    classes : sequence of str
        Name of each class_id; its element becomes the species, X where it begins with none.
    shape : (int, int)
        (H, W) of the frame in pixels.
    sampling_A : float
    about : dict
        What else is said of the frame; values that are None or NaN are left out.

    Returns
    -------
    str
        Positions in angstrom, from the frame's lower left corner, y upwards: seen along z it looks like the picture.
    """
    height_A, width_A = shape[0] * sampling_A, shape[1] * sampling_A
    box = f"{width_A:.6f} 0 0 0 {height_A:.6f} 0 0 0 {_THICKNESS_A}"
    pairs = [f'Lattice="{box}"', f"Properties={_PROPERTIES}", 'pbc="F F F"', f"sampling_A={sampling_A!r}"]
    pairs += [f"{key}={_value(value)}" for key, value in about.items() if _known(value)]
    x_A, y_A = _positions(atoms, shape, sampling_A)
    species = [element(name) for name in classes]
    names = [_word(name) for name in classes]
    rows = zip(
        atoms.class_id.tolist(),
        x_A.tolist(),
        y_A.tolist(),
        atoms.score.tolist(),
        atoms.sigma_pm.tolist(),
        atoms.agreement.tolist(),
        atoms.flags.tolist(),
        strict=True,
    )
    lines = [
        f"{species[k]} {x:.5f} {y:.5f} 0.0 {names[k]} {score:.4f} {sigma:.2f} {agreement:.3f} {flags}"
        for k, x, y, score, sigma, agreement, flags in rows
    ]
    return "\n".join([str(len(atoms)), " ".join(pairs), *lines]) + "\n"


def element(name: str) -> str:
    """The element that a class is named after: "Mo" for "Mo", "S" for "S2", X for "vacancy"."""
    symbol = re.match(r"[A-Z][a-z]?(?![a-z])", name)
    return symbol[0] if symbol and symbol[0] in _ELEMENTS else _UNKNOWN


def _positions(
    atoms: Atoms, shape: tuple[int, int], sampling_A: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A pixel's centre is half a pixel from the frame's edge."""
    x_A = (atoms.x.astype(np.float64) + 0.5) * sampling_A
    y_A = (shape[0] - 0.5 - atoms.y.astype(np.float64)) * sampling_A
    return x_A, y_A


def _known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _value(value: Any) -> str:
    """A number as it is, a text quoted where the format asks for it."""
    if isinstance(value, int | float):
        return repr(value)
    text = _ascii(str(value))
    if text and not _QUOTED.search(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _word(text: str) -> str:
    return re.sub(r"\s", "_", _ascii(text)) or "_"


def _ascii(text: str) -> str:
    """Only printable ASCII is allowed."""
    return "".join(character if " " <= character <= "~" else "?" for character in text)
