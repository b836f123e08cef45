"""A user's own specimen: a structure file that ASE reads, and what was told of it, to specimen.json and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine import ConfigError, FileError
from engine.errors import write_whole, writing
from training.pairs import Pair
from training.structures.own import SHAPES, Numbers, OwnRanges
from training.structures.structure import Points

# How a file is read, by the end of its name. Of ASE's formats those whose reader looks at this file and nothing else,
# and finds all of the structure in it. Left out are readers that unpickle (.traj), start a program (.cell asks
# CASTEP), open other files (.xtd) or databases (.db, .json: arrays of whatever size they say), and those that would
# give another structure without a word: SHELX's .res and .car, of which symmetry is not looked at, nor occupancies of
# the former; AtomEye's .cfg, whose unit of length is skipped; .cube, where a negative number of voxels says A; and
# files that have types or names of atoms in place of elements (LAMMPS, GROMACS).
FORMATS = {
    ".cif": "cif",
    ".vasp": "vasp",
    ".poscar": "vasp",
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".pdb": "proteindatabank",
    ".xsd": "xsd",
    ".xsf": "xsf",
    ".gen": "gen",
    ".xtl": "mustem",
    ".pwi": "espresso-in",
    ".struct": "struct",
    ".rmc6f": "rmc6f",
    ".ascii": "v-sim",
    ".con": "eon",
    ".mol": "mol",
    ".sdf": "sdf",
}
_NAMED = {"POSCAR": "vasp", "CONTCAR": "vasp"}
_MOST_ATOMS, _MOST_BYTES, _MOST_CLASSES, _LARGEST_INDEX = 200_000, 50_000_000, 16, 9
_CLOSEST_A = 0.6  # H2 has 0.74 A
_HEAVIEST = 103  # of the elements that the simulation has parameters for
_LARGEST_A = 200.0  # a column then holds fewer atoms than a byte counts
_DRAWN = ("zone", "thickness_A", "diameter_A")
_LIMITS_A = {"thickness_A": (2.0, _LARGEST_A), "diameter_A": (8.0, 150.0)}
_VOLTAGE_KV, _DOSE_E_A2 = (20.0, 1500.0), (1.0, 1e7)
DOSE_E_A2 = (3e2, 1e5)  # of a frame, unless told


@dataclass(frozen=True, slots=True, eq=False)
class OwnSpecimen:
    """What specimen.json holds.

    Attributes
    ----------
    structure : str
        Name of the file that the atoms came from.
    voltage_kV : float
    dose_e_A2 : (float, float)
        Of a frame, what the network is taught.
    ranges : OwnRanges
        The atoms, and what specimens of them are drawn from.
    """

    structure: str
    voltage_kV: float
    dose_e_A2: Pair
    ranges: OwnRanges


def specimen_of(
    path: Path, shape: str, elements: tuple[str, ...], voltage_kV: float, dose_e_A2: Pair = DOSE_E_A2, **drawn: Any
) -> OwnSpecimen:
    """A structure file and what is told of it: `drawn` is what its shape needs, see SHAPES.

    Without elements those of all columns but hydrogen's are found. FileError of a file that does not do, ConfigError of
    what is told.
    """
    from ase.data import atomic_numbers

    unknown = [name for name in elements if name not in atomic_numbers]
    if unknown:
        raise ConfigError(f"Expected symbols of elements, got {', '.join(unknown)}: write them as Sr,Ti,O")
    atoms_A, numbers, cell_A = read_structure(path, crystal="zone" in SHAPES[shape])
    _check_drawn(shape, drawn)  # in the words of the options, before the ranges look at it
    found = {atomic_numbers[name] for name in elements} or set(numbers.tolist()) - {1}
    ranges = OwnRanges(atoms_A, numbers, cell_A, tuple(sorted(found, reverse=True)), shape, **drawn)
    specimen = OwnSpecimen(path.name, voltage_kV, dose_e_A2, ranges)
    check(specimen)
    return specimen


def read_structure(path: Path, crystal: bool) -> tuple[Points, Numbers, Points | None]:
    """Atoms (M, 3) (z, y, x) in A, their numbers (M,), and the cell (3, 3) or None where the file has none.

    Of several structures the last. FileError where it cannot be read, is too large, or has atoms that cannot be: of no
    element, on each other (a crystal's also across its cell), or there in part.
    """
    kind = _NAMED.get(path.name) or FORMATS.get(path.suffix.lower())
    if kind is None:
        known = ", ".join([*FORMATS, *_NAMED])
        raise FileError(
            f"{path}: expected a structure file ({known}), got another kind: convert it (docs/own-specimen.md)"
        )
    atoms = _read(path, kind)
    if not 0 < len(atoms) <= _MOST_ATOMS:
        raise FileError(f"{path}: expected 1 to {_MOST_ATOMS} atoms, got {len(atoms)}: cut a part out")
    positions_A, numbers, cell_A = atoms.positions, atoms.numbers, atoms.cell.array
    if not (np.isfinite(positions_A).all() and np.isfinite(cell_A).all()):
        raise FileError(f"{path}: expected finite positions, got some that are not: mend the file")
    if numbers.min() < 1 or numbers.max() > _HEAVIEST:
        wrong = numbers[(numbers < 1) | (numbers > _HEAVIEST)][0]
        raise FileError(f"{path}: expected elements up to {_HEAVIEST}, got an atom of number {wrong}: name it")
    if not _whole(atoms):
        raise FileError(f"{path}: expected whole atoms, got sites that are occupied in part: write a supercell of them")
    has_cell = bool(abs(np.linalg.det(cell_A)) > 1)
    _refuse_overlap(path, atoms, crystal and has_cell)
    return positions_A[:, ::-1].round(6), numbers.astype(np.uint8), cell_A[:, ::-1].round(6) if has_cell else None


def _whole(atoms: Any) -> bool:
    """False where a site is told to be occupied in part: by ASE's reader of CIF in `info`, of others in an array."""
    told = atoms.info.get("occupancy")
    sites = told.values() if isinstance(told, dict) else ()
    shares = [share for site in sites if isinstance(site, dict) for share in site.values()]
    arrays = (atoms.arrays.get(name, 1.0) for name in ("occupancy", "occupancies"))  # of PDB, of muSTEM
    return all(share == 1 for share in shares) and not any(np.any(array < 1) for array in arrays)


def check(specimen: OwnSpecimen) -> None:
    """ConfigError of what cannot work, in the words of the options that told it."""
    ranges = specimen.ranges
    if "zone" in SHAPES[ranges.shape] and ranges.cell_A is None:
        raise ConfigError(
            f"Expected a structure with a cell for --shape {ranges.shape}, got {specimen.structure} without one: "
            "give the crystal's file, or --shape as-given"
        )
    low, high = _VOLTAGE_KV
    if not low <= specimen.voltage_kV <= high:
        raise ConfigError(f"Expected --voltage of {low:g} to {high:g} kV, got {specimen.voltage_kV:g}: give it in kV")
    _check_range("--dose", specimen.dose_e_A2, *_DOSE_E_A2, "e/A^2")
    _check_elements(ranges)
    if ranges.shape == "as-given" and np.ptp(ranges.atoms_A, axis=0).max() > _LARGEST_A:
        raise ConfigError(
            f"Expected a specimen of at most {_LARGEST_A:g} A, got {np.ptp(ranges.atoms_A, axis=0).max():.0f} A: "
            "cut a part out"
        )


def _check_drawn(shape: str, drawn: dict[str, Any]) -> None:
    """The same of what specimens of this shape are drawn from."""
    for name in _DRAWN:
        flag, value = f"--{name.removesuffix('_A')}", drawn.get(name)
        if name in SHAPES[shape] and value is None:
            raise ConfigError(f"Expected {flag} with --shape {shape}, got none: add it")
        if name not in SHAPES[shape] and value is not None:
            raise ConfigError(f"Expected no {flag} with --shape {shape}, got {_text(value)}: leave it out")
        if value is not None and name in _LIMITS_A:
            _check_range(flag, value, *_LIMITS_A[name], "A")
    zone = drawn.get("zone")
    if zone is not None and (not any(zone) or max(map(abs, zone)) > _LARGEST_INDEX):
        raise ConfigError(
            f"Expected --zone U,V,W up to {_LARGEST_INDEX} and not all 0, got {_text(zone)}: name a direction"
        )


def write_specimen(specimen: OwnSpecimen, path: Path) -> None:
    """Write specimen.json, whole or not at all; FileError where that fails."""
    place = "a place to write to", "choose another --folder"
    with writing(path, *place):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(as_json(specimen)) + "\n").encode(), *place)


def read_specimen(path: Path) -> OwnSpecimen:
    """What `write_specimen` wrote; FileError of anything else."""
    try:
        raw = json.loads(path.read_text())
        if raw["shape"] not in SHAPES:
            raise ValueError(f"shape {raw['shape']!r}")
        drawn: dict[str, Any] = {key: raw[key] and tuple(raw[key]) for key in _DRAWN}
        numbers = np.array(raw["numbers"], np.uint8)
        atoms_A = np.array(raw["atoms_A"], float).reshape(len(numbers), 3)
        cell_A = None if raw["cell_A"] is None else np.array(raw["cell_A"], float).reshape(3, 3)
        finite = all(np.isfinite(values).all() for values in (atoms_A, cell_A) if values is not None)
        if not (finite and (cell_A is None or abs(np.linalg.det(cell_A)) > 1)):
            raise ValueError("atoms or a cell that cannot be")
        if not (len(numbers) and numbers.min() >= 1 and numbers.max() <= _HEAVIEST):
            raise ValueError("elements that cannot be")
        if drawn["zone"] is not None and [type(index) for index in drawn["zone"]] != [int] * 3:
            raise ValueError(f"zone {drawn['zone']}")
        _check_drawn(raw["shape"], drawn)
        ranges = OwnRanges(atoms_A, numbers, cell_A, tuple(raw["elements"]), raw["shape"], **drawn)
        low, high = map(float, raw["dose_e_A2"])
        specimen = OwnSpecimen(str(raw["structure"]), float(raw["voltage_kV"]), (low, high), ranges)
        if as_json(specimen) != raw:
            raise ValueError("other keys or values")
        check(specimen)
    except OSError as error:
        raise FileError(f"{path}: expected the specimen, got {error.strerror}: check the path") from None
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise FileError(
            f"{path}: expected what `simulate --structure` writes, got {error}: remove the folder and simulate again"
        ) from None
    return specimen


def as_json(specimen: OwnSpecimen) -> dict[str, Any]:
    """The specimen in types that JSON has."""
    ranges = specimen.ranges
    listed = {key: getattr(ranges, key) for key in _DRAWN}
    return {
        "structure": specimen.structure,
        "voltage_kV": specimen.voltage_kV,
        "dose_e_A2": list(specimen.dose_e_A2),
        "shape": ranges.shape,
        **{key: value and list(value) for key, value in listed.items()},
        "elements": list(ranges.elements),
        "numbers": ranges.numbers.tolist(),
        "atoms_A": ranges.atoms_A.tolist(),
        "cell_A": None if ranges.cell_A is None else ranges.cell_A.tolist(),
    }


def _read(path: Path, kind: str) -> Any:
    from ase.io import read

    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise FileError(f"{path}: expected at most {_MOST_BYTES} bytes, got {size}: cut a part out")
        if kind == "vasp":
            _check_symbols(path)
        return read(path, format=kind, do_not_split_by_at_sign=True)
    except FileError:
        raise
    except Exception as error:  # ASE's readers raise whatever their parsing meets, OSError without a number too
        if isinstance(error, OSError) and error.strerror:
            raise FileError(f"{path}: expected a structure file, got {error.strerror}: check the path") from None
        said = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise FileError(f"{path}: expected a structure as {kind}, got {said}: mend the file or convert it") from None


def _check_symbols(path: Path) -> None:
    """FileError of a POSCAR as VASP 4 wrote it, without symbols: ASE takes them from files beside it or the comment."""
    words = "".join(path.read_text().splitlines()[5:6]).split()
    if not (words and all(word[0].isalpha() for word in words)):
        raise FileError(
            f"{path}: expected symbols of elements in the sixth line, as of VASP 5, got {' '.join(words)[:80]!r}: add "
            "that line"
        )


def _refuse_overlap(path: Path, atoms: Any, periodic: bool) -> None:
    from ase.neighborlist import neighbor_list

    atoms = atoms.copy()
    atoms.pbc = periodic
    first, second, apart_A = neighbor_list("ijd", atoms, _CLOSEST_A)
    if len(first):
        raise FileError(
            f"{path}: expected atoms at least {_CLOSEST_A} A apart, got atoms {first[0] + 1} and {second[0] + 1} at "
            f"{apart_A[0]:.2f} A: remove one"
        )


def _check_range(flag: str, value: tuple[float, ...], least: float, most: float, unit: str) -> None:
    if not (len(value) == 2 and least <= value[0] <= value[1] <= most):
        raise ConfigError(
            f"Expected {flag} LOW,HIGH with {least:g} <= LOW <= HIGH <= {most:g} {unit}, got {_text(value)}: give "
            "the smaller first"
        )


def _check_elements(ranges: OwnRanges) -> None:
    from ase.data import chemical_symbols

    held = sorted(set(ranges.numbers.tolist()), reverse=True)
    names = ", ".join(chemical_symbols[number] for number in held)
    missing = [chemical_symbols[number] for number in ranges.elements if number not in held]
    if missing:
        raise ConfigError(f"Expected --elements of the structure ({names}), got {', '.join(missing)}: choose of these")
    if not 0 < len(ranges.elements) <= _MOST_CLASSES:
        raise ConfigError(
            f"Expected 1 to {_MOST_CLASSES} elements to find, got {len(ranges.elements)} of {names}: choose some with "
            "--elements"
        )


def _text(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
