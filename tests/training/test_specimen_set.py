"""A set of specimens: drawn by seed and number alone, completed where it was cut off, never mixed with another."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine import FileError
from tests.training.specimens import CALM, VOLTAGE_KV
from training import specimen_set
from training.recipes import RECIPES
from training.specimen_set import SpecimenSet, read_specimens, seconds_taken, simulate
from training.structures.own import OwnRanges
from training.structures.structure import Sites, Structure
from training.wave_store import WaveStore
from training.workers import Workers


@dataclass(frozen=True, slots=True)
class FourAtoms:
    """Two columns of two classes, and a place where an atom is missing."""

    edge_A: float = 2.0

    def draw(self, rng: np.random.Generator) -> Structure:
        atoms = rng.random((4, 3))
        positions = np.concatenate([atoms[:2, 1:], [[0.5, 0.5]]])
        sites = Sites(positions, np.uint8([0, 1, 3]), (42, 16), np.uint8([[1, 1], [1, 1], [0, 0]]))
        return Structure(atoms, np.uint8([42, 16, 16, 42]), self.edge_A, sites, "a kind")


FOUR = SpecimenSet(FourAtoms(), VOLTAGE_KV, 5)


class Simulated:
    """`simulate` with exit waves that cost nothing; remembers for which atoms they were asked, and can be cut off."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.asked: list[NDArray[np.float64]] = []
        self.done: list[int] = []
        self.ends_after = 100
        monkeypatch.setattr(specimen_set, "exit_wave", self._wave)

    def run(self, count: int, specimens: SpecimenSet = FOUR) -> None:
        simulate(specimens, self.folder, count, Workers(), self.done.append)

    def files(self) -> dict[str, bytes]:
        """All that is in the store, but how long it took."""
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        files = {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}
        return {name: re.sub(rb'"seconds": [\d.e-]+', b"", held) for name, held in files.items()}

    def _wave(
        self, atoms: NDArray[np.float64], cell_A: tuple[float, float], voltage_kV: float, numbers: NDArray[np.uint8]
    ) -> NDArray[np.complex64]:
        assert numbers.tolist() == [42, 16, 16, 42]
        assert cell_A == (2.0, 2.0)
        assert voltage_kV == VOLTAGE_KV
        if len(self.asked) == self.ends_after:
            raise KeyboardInterrupt
        self.asked.append(atoms)
        return np.full((8, 8), atoms.sum(), np.complex64)


@pytest.fixture
def simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Simulated:
    return Simulated(tmp_path / "waves.zarr", monkeypatch)


def test_waves_and_sites_come_back_in_order(simulated: Simulated) -> None:
    simulated.run(3)
    specimens = read_specimens(FOUR, simulated.folder)
    assert simulated.done == [0, 1, 2, 3]
    assert len(specimens) == 3
    for atoms, specimen in zip(simulated.asked, specimens, strict=True):
        np.testing.assert_array_equal(specimen.positions_A[:2], atoms[:2, 1:])
        np.testing.assert_array_equal(specimen.wave, np.complex64(atoms.sum()))
        assert specimen.label == "a kind"
        assert specimen.cell_A == 2.0


def test_specimen_k_depends_on_seed_and_k_alone(simulated: Simulated) -> None:
    simulated.run(4)
    np.testing.assert_array_equal(simulated.asked[2], np.random.default_rng((5, 2)).random((4, 3)))
    np.testing.assert_array_equal(FOUR.specimen(2).wave, read_specimens(FOUR, simulated.folder)[2].wave)


def test_a_run_that_was_cut_off_goes_on_to_the_same_store(
    simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated.ends_after = 2
    with pytest.raises(KeyboardInterrupt):
        simulated.run(4)
    with pytest.raises(FileError, match="expected 4 exit waves, found 2"):
        read_specimens(FOUR, simulated.folder)
    simulated.ends_after = 100
    simulated.run(4)
    assert simulated.done == [0, 1, 2, 2, 3, 4]
    assert len(simulated.asked) == 4
    whole = Simulated(tmp_path / "whole.zarr", monkeypatch)
    whole.run(4)
    assert simulated.files() == whole.files()


def test_more_asked_for_later_extend_it(simulated: Simulated) -> None:
    simulated.run(2)
    before = simulated.files()
    simulated.run(3)
    assert len(simulated.asked) == 3
    assert before.items() - simulated.files().items() == {("zarr.json", before["zarr.json"])}  # which says how many


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(FOUR, seed=6), "got those of seed 5, here 6"),
        (replace(FOUR, voltage_kV=300.0), "got those of voltage_kV 80.0, here 300.0"),
        (replace(FOUR, structures=FourAtoms(3.0)), "got those of edge_A 2.0, here 3.0"),
        (replace(FOUR, structures=CALM), "got those of structures FourAtoms, here SheetRanges and"),
    ],
)
def test_another_recipe_is_refused_before_anything_is_computed(
    simulated: Simulated, other: SpecimenSet, said: str
) -> None:
    simulated.run(1)
    for use in (lambda: simulated.run(2, other), lambda: read_specimens(other, simulated.folder)):
        with pytest.raises(FileError, match=said):
            use()
    assert len(simulated.asked) == 1


def test_a_full_disk_ends_it_in_one_line(simulated: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room from the third on for whatever Zarr writes: what was whole before stays whole."""
    move, refused = Path.replace, []

    def full(path: Path, target: Path) -> Path:
        if refused or "00002.part" in path.parts:
            refused.append(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return move(path, target)

    monkeypatch.setattr(Path, "replace", full)  # of what Zarr wrote beside it
    with pytest.raises(FileError, match=r"waves\.zarr: expected room .*, got No space left on device: free some"):
        simulated.run(4)
    monkeypatch.setattr(Path, "replace", move)
    assert len(refused) > 1  # how long it took could not be noted either
    store = WaveStore(simulated.folder, FOUR.made_of)
    assert store.missing(4) == [2, 3]
    assert not list(simulated.folder.glob("*.part"))
    simulated.run(4)
    assert len(store.read()) == 4


def test_how_long_it_took_adds_up(simulated: Simulated) -> None:
    taken = []
    for count in (2, 4, 4):
        simulated.run(count)
        taken.append(seconds_taken(FOUR, simulated.folder))
    assert 0 < taken[0] < taken[1] == taken[2]


def test_nobody_counted_where_there_is_nothing(tmp_path: Path) -> None:
    assert seconds_taken(FOUR, tmp_path / "waves.zarr") == 0


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_what_shipped_recipes_depend_on_is_json(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]()
    specimens = SpecimenSet(recipe.structures, recipe.images.voltage_kV, recipe.seed)
    store = WaveStore(tmp_path / "waves.zarr", specimens.made_of)
    store.begin(1)
    store.begin(2)  # what was written is what is expected
    assert specimens.made_of["sampling_A"] == 0.25


def test_of_a_crystal_the_atoms_count() -> None:
    atoms = np.zeros((1, 3))
    first, moved = (
        SpecimenSet(OwnRanges(at, np.uint8([79]), np.eye(3) * 4, (79,)), 300.0, 1).made_of for at in (atoms, atoms + 1)
    )
    assert {key for key in first if first[key] != moved[key]} == {"atoms_A"}
