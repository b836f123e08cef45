"""Structure files: what ASE reads as data alone, and one line for what cannot be a specimen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from engine import ConfigError, FileError
from training import specimen_file
from training.specimen_file import FORMATS, as_json, read_specimen, read_structure, specimen_of, write_specimen

MOLECULES = {".mol", ".sdf"}  # have no cell
ASKED = {  # by ASE's writers, beside the atoms
    "espresso-in": {"pseudopotentials": {"Zn": "Zn.UPF", "O": "O.UPF"}},
    "mustem": {"keV": 300, "debye_waller_factors": 0.5},
}


@pytest.mark.parametrize(
    "name", [*(f"zno{end}" for end in FORMATS if end not in {".xtl", *MOLECULES}), "POSCAR", "CONTCAR"]
)
def test_each_format_gives_the_crystal(tmp_path: Path, name: str) -> None:
    crystal = bulk("ZnO", "wurtzite", a=3.25, c=5.2)
    kind = specimen_file._NAMED.get(name) or FORMATS[Path(name).suffix]
    write(tmp_path / name, crystal, format=kind, **ASKED.get(kind, {}))
    positions_A, numbers, cell_A = read_structure(tmp_path / name, crystal=True)
    assert sorted(numbers.tolist()) == [8, 8, 30, 30]
    assert cell_A is not None
    assert np.sort(np.linalg.norm(cell_A, axis=1)) == pytest.approx([3.25, 3.25, 5.2], abs=2e-3)
    assert np.linalg.det(cell_A) == pytest.approx(-crystal.get_volume(), rel=2e-3)  # rows in (z, y, x)
    apart = np.linalg.norm(positions_A[:, None] - positions_A[None], axis=2)
    np.testing.assert_allclose(np.sort(apart, axis=None), np.sort(crystal.get_all_distances(), axis=None), atol=2e-3)


def test_a_file_of_vasp_4_does_not_take_its_elements_from_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "POSCAR", bulk("ZnO", "wurtzite", a=3.25, c=5.2), format="vasp", sort=True)
    lines = (tmp_path / "POSCAR").read_text().splitlines()
    assert lines[5].split() == ["O", "Zn"]
    (tmp_path / "POSCAR").write_text("\n".join(["Ag2 Au2", *lines[1:5], *lines[6:]]))
    (tmp_path / "POTCAR").write_text(" TITEL  = PAW Pb\n TITEL  = PAW Pb\n")
    with pytest.raises(FileError, match="expected symbols of elements in the sixth line, as of VASP 5, got '2 2'"):
        read_structure(tmp_path / "POSCAR", crystal=True)


@pytest.mark.parametrize("ending", sorted(MOLECULES))
def test_a_molecule_has_no_cell(tmp_path: Path, ending: str) -> None:
    Atoms("AuO", [(0, 0, 0), (0, 0, 2.5)]).write(tmp_path / f"two{ending}", format="mol")
    positions_A, numbers, cell_A = read_structure(tmp_path / f"two{ending}", crystal=False)
    assert (positions_A.tolist(), numbers.tolist(), cell_A) == ([[0, 0, 0], [2.5, 0, 0]], [79, 8], None)


@pytest.mark.parametrize("occupancies", [1.0, 0.5])
def test_mustem_s_file_and_its_sites_occupied_in_part(tmp_path: Path, occupancies: float) -> None:
    path, gold = tmp_path / "gold.xtl", bulk("Au", cubic=True)
    write(path, gold, format="mustem", occupancies=occupancies, **ASKED["mustem"])
    if occupancies < 1:
        with pytest.raises(FileError, match="got sites that are occupied in part"):
            read_structure(path, crystal=True)
    else:
        positions_A, numbers, cell_A = read_structure(path, crystal=True)
        assert numbers.tolist() == [79] * 4
        np.testing.assert_allclose(positions_A, gold.positions[:, ::-1], atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(cell_A, axis=1), 4.08)


def test_axes_go_from_x_y_z_to_z_y_x(tmp_path: Path) -> None:
    Atoms("Au", [(1.0, 2.0, 3.0)]).write(tmp_path / "one.xyz")
    positions_A, _, cell_A = read_structure(tmp_path / "one.xyz", crystal=False)
    assert positions_A.tolist() == [[3.0, 2.0, 1.0]]
    assert cell_A is None


XYZ = "2\n\nAu 0 0 0\nAu 0 0 3\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("atoms.traj", XYZ, "expected a structure file (.cif, .vasp"),
        ("atoms.py", XYZ, "got another kind: convert it"),
        ("atoms", XYZ, "got another kind"),
        *((f"atoms.{end}", XYZ, "got another kind") for end in ("cell", "res", "json", "db", "xtd", "data", "gro")),
        *((f"atoms.{end}", XYZ, "got another kind") for end in ("cfg", "car", "cube")),  # each another crystal, untold
        ("empty.cif", "", "expected a structure as cif, got "),
        ("cut.xyz", XYZ[:-9], "expected a structure as extxyz, got "),
        ("none.xyz", "0\n\n", "expected 1 to 200000 atoms, got 0"),
        ("unknown.xyz", XYZ.replace("Au 0 0 3", "Xx 0 0 3"), "Xx"),
        ("nameless.xyz", XYZ.replace("Au 0 0 3", "X 0 0 3"), "expected elements up to 103, got an atom of number 0"),
        ("far.xyz", XYZ.replace("0 0 3", "0 0 nan"), "expected finite positions"),
        ("close.xyz", XYZ.replace("0 0 3", "0 0 0.2"), "at least 0.6 A apart, got atoms 1 and 2 at 0.20 A"),
    ],
)
def test_what_cannot_be_a_specimen(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(FileError) as refused:
        read_structure(tmp_path / name, crystal=False)
    assert str(refused.value).startswith(f"{tmp_path / name}: expected ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_crystal_does_not_overlap_itself_across_its_cell_either(tmp_path: Path) -> None:
    Atoms("Au2", [(0, 0, 0), (0, 0, 3.9)], cell=[4, 4, 4], pbc=True).write(tmp_path / "two.cif")
    assert len(read_structure(tmp_path / "two.cif", crystal=False)[0]) == 2
    with pytest.raises(FileError, match=r"got atoms \d and \d at 0\.10 A"):
        read_structure(tmp_path / "two.cif", crystal=True)


def test_sites_occupied_in_part(tmp_path: Path) -> None:
    path = tmp_path / "alloy.cif"
    bulk("Au", cubic=True).write(path)
    text = path.read_text()
    read_structure(path, crystal=True)
    path.write_text(text.replace("1.0000", "0.5000", 1))
    assert path.read_text() != text
    with pytest.raises(FileError, match="got sites that are occupied in part"):
        read_structure(path, crystal=True)


def test_a_pdb_s_sites_occupied_in_part(tmp_path: Path) -> None:
    path = tmp_path / "alloy.pdb"
    bulk("Au", cubic=True).write(path)
    read_structure(path, crystal=True)
    path.write_text(path.read_text().replace("  1.00", "  0.50", 1))
    with pytest.raises(FileError, match="got sites that are occupied in part"):
        read_structure(path, crystal=True)


def test_what_else_a_file_calls_occupancy(tmp_path: Path) -> None:
    path = tmp_path / "two.xyz"
    path.write_text(XYZ.replace("2\n\n", "2\noccupancy=1\n"))
    assert len(read_structure(path, crystal=False)[0]) == 2


@pytest.mark.parametrize(("limit", "said"), [("_MOST_ATOMS", "expected 1 to 1 atoms, got 2"), ("_MOST_BYTES", "bytes")])
def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, said: str) -> None:
    (tmp_path / "two.xyz").write_text(XYZ)
    monkeypatch.setattr(specimen_file, limit, 1)
    with pytest.raises(FileError, match=said):
        read_structure(tmp_path / "two.xyz", crystal=False)


@pytest.fixture
def molecule(tmp_path: Path) -> Callable[[str, float], Path]:
    def written(symbols: str, apart_A: float) -> Path:
        Atoms(symbols, np.arange(len(Atoms(symbols)))[:, None] * [0, 0, apart_A]).write(tmp_path / "molecule.xyz")
        return tmp_path / "molecule.xyz"

    return written


def test_a_slab_needs_a_cell(molecule: Callable[[str, float], Path]) -> None:
    with pytest.raises(ConfigError, match=r"with a cell for --shape slab, got molecule\.xyz without one"):
        specimen_of(molecule("Au2", 3.0), "slab", (), 300.0, zone=(0, 0, 1), thickness_A=(20.0, 60.0))


def test_what_is_larger_than_an_exit_wave_may_be(molecule: Callable[[str, float], Path]) -> None:
    with pytest.raises(ConfigError, match="Expected a specimen of at most 200 A, got 300 A"):
        specimen_of(molecule("Au2", 300.0), "as-given", (), 300.0)


def test_hydrogen_is_found_only_where_it_is_asked_for(molecule: Callable[[str, float], Path]) -> None:
    path = molecule("HAuH", 2.0)
    assert specimen_of(path, "as-given", (), 300.0).ranges.elements == (79,)
    assert specimen_of(path, "as-given", ("H", "Au"), 300.0).ranges.elements == (79, 1)
    with pytest.raises(ConfigError, match="Expected 1 to 16 elements to find, got 0 of H"):
        specimen_of(molecule("H2", 2.0), "as-given", (), 300.0)


def test_more_elements_than_classes(molecule: Callable[[str, float], Path]) -> None:
    with pytest.raises(ConfigError, match="Expected 1 to 16 elements to find, got 17"):
        specimen_of(molecule("ScTiVCrMnFeCoNiCuZnGaGeAsSeBrKrRb", 3.0), "as-given", (), 300.0)


def test_written_and_read_it_is_the_same(tmp_path: Path) -> None:
    bulk("ZnO", "wurtzite", a=3.25, c=5.2).write(tmp_path / "zno.cif")
    told = specimen_of(tmp_path / "zno.cif", "particle", ("Zn",), 80.0, zone=(1, 0, 0), diameter_A=(20.0, 50.0))
    write_specimen(told, tmp_path / "run" / "specimen.json")
    read = read_specimen(tmp_path / "run" / "specimen.json")
    assert as_json(read) == as_json(told)
    assert str(tmp_path) not in (tmp_path / "run" / "specimen.json").read_text()
    first, again = (one.ranges.draw(np.random.default_rng(1)).atoms_A for one in (told, read))
    np.testing.assert_array_equal(first, again)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["specimen.json"]


def test_where_nothing_can_be_written(tmp_path: Path, molecule: Callable[[str, float], Path]) -> None:
    told = specimen_of(molecule("Au2", 3.0), "as-given", (), 300.0)
    (tmp_path / "run").write_text("a file")
    with pytest.raises(FileError, match="expected a place to write to, got File exists: choose another --folder"):
        write_specimen(told, tmp_path / "run" / "specimen.json")


def test_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"specimen\.json: expected the specimen, got No such file or directory"):
        read_specimen(tmp_path / "specimen.json")
