"""abTEM's exit waves: where the atoms lie in them, how strong they are, and how a stored set grows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine import FileError
from tests.training.specimens import VOLTAGE_KV, thin
from training import exit_waves
from training.exit_waves import SAMPLING_A, exit_wave, read_specimens, simulate
from training.optics import frequencies
from training.scattering import carbon_phase
from training.structures.structure import Sites, Structure

CELL_A = (8.0, 12.0)


@pytest.fixture(scope="module")
def one_atom() -> NDArray[np.complex64]:
    """The wave behind an atom at y 3 A, x 7.5 A."""
    return exit_wave(np.array([[0.4, 3.0, 7.5]]), CELL_A, VOLTAGE_KV)


class TestExitWave:
    def test_shape_is_height_by_width(self, one_atom: NDArray[np.complex64]) -> None:
        assert one_atom.shape == (32, 48)
        assert one_atom.dtype == np.complex64

    def test_the_phase_peaks_at_the_atom_y_first(self, one_atom: NDArray[np.complex64]) -> None:
        peak = np.unravel_index(np.angle(one_atom).argmax(), one_atom.shape)
        assert peak == (3.0 / SAMPLING_A, 7.5 / SAMPLING_A)

    def test_an_atom_between_pixels_is_where_it_is(self) -> None:
        at = np.array([4.07, 5.68])
        phase = np.angle(exit_wave(np.array([[0.0, *at]]), CELL_A, VOLTAGE_KV))
        grid = np.mgrid[: phase.shape[0], : phase.shape[1]] * SAMPLING_A
        near = np.hypot(*(grid - at[:, None, None])) < 2.5
        np.testing.assert_allclose((grid * phase)[:, near].sum(axis=1) / phase[near].sum(), at, atol=0.02)

    @pytest.mark.parametrize("cell_A", [(8.25, 12.0), (8.0, 11.75), (6.25, 6.25)])
    def test_odd_numbers_of_pixels_lie_as_even_ones_do(self, cell_A: tuple[float, float]) -> None:
        wave = exit_wave(np.array([[0.4, 3.0, 5.5]]), cell_A, VOLTAGE_KV)
        peak = np.unravel_index(np.angle(wave).argmax(), wave.shape)
        assert peak == (3.0 / SAMPLING_A, 5.5 / SAMPLING_A)
        np.testing.assert_allclose(np.abs(wave.mean()), 1, atol=0.01)  # no ramp over the phases

    def test_the_phase_is_that_of_contamination_and_bound(self, one_atom: NDArray[np.complex64]) -> None:
        spectrum = np.fft.fft2(np.angle(one_atom)) * SAMPLING_A**2
        expected = carbon_phase(one_atom.shape, SAMPLING_A, VOLTAGE_KV)
        assert spectrum[0, 0].real == pytest.approx(float(expected[0, 0]), rel=0.03)
        ky, kx = frequencies(one_atom.shape, SAMPLING_A)
        centred = (spectrum * np.exp(2j * np.pi * (ky * 3.0 + kx * 7.5))).real
        # Beyond 1 / A, what a band-limited wave of modulus 1 would show of its phase falls short.
        seen = np.hypot(ky, kx) < 1
        np.testing.assert_allclose(centred[seen], expected[seen], rtol=0.05)

    def test_the_modulus_is_about_one(self, one_atom: NDArray[np.complex64]) -> None:
        assert np.abs(one_atom).mean() == pytest.approx(1, abs=1e-3)
        np.testing.assert_allclose(np.abs(one_atom), 1, atol=0.1)

    def test_phases_of_a_flat_sheet_add_up(self) -> None:
        positions = np.array([[3.0, 2.0], [3.0, 3.42], [6.1, 5.5]])
        wave = exit_wave(np.column_stack([np.zeros(3), positions]), (8.0, 8.0), VOLTAGE_KV)
        difference = np.angle(wave) - np.angle(thin(positions, 8.0).wave)
        assert np.abs(difference).max() < 0.15 * np.angle(wave).max()

    def test_a_heavier_element_turns_the_phase_further(self, one_atom: NDArray[np.complex64]) -> None:
        gold = exit_wave(np.array([[0.4, 3.0, 7.5]]), CELL_A, VOLTAGE_KV, numbers=79)
        assert np.angle(gold).max() > 2 * np.angle(one_atom).max()


def four_atoms(rng: np.random.Generator) -> Structure:
    """Two columns of two classes, and a place where an atom is missing."""
    atoms = rng.random((4, 3))
    positions = np.concatenate([atoms[:2, 1:], [[0.5, 0.5]]])
    sites = Sites(positions, np.uint8([0, 1, 3]), (42, 16), np.uint8([[1, 1], [1, 1], [0, 0]]))
    return Structure(atoms, np.uint8([42, 16, 16, 42]), 2.0, sites, "a kind")


class Stored:
    """`simulate` with exit waves that cost nothing; remembers for which atoms they were asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.asked: list[NDArray[np.float64]] = []
        self.done: list[int] = []
        monkeypatch.setattr(exit_waves, "exit_wave", self._wave)

    def run(self, count: int, seed: int = 5) -> None:
        simulate(self.folder, count, seed, four_atoms, VOLTAGE_KV, self.done.append)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def _wave(
        self, atoms: NDArray[np.float64], cell_A: tuple[float, float], voltage_kV: float, numbers: NDArray[np.uint8]
    ) -> NDArray[np.complex64]:
        assert numbers.tolist() == [42, 16, 16, 42]
        assert cell_A == (2.0, 2.0)
        assert voltage_kV == VOLTAGE_KV
        self.asked.append(atoms)
        return np.full((8, 8), atoms.sum(), np.complex64)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stored:
    return Stored(tmp_path / "waves", monkeypatch)


class TestSimulate:
    def test_wave_and_positions_come_back_in_order(self, stored: Stored) -> None:
        stored.run(3)
        specimens = read_specimens(stored.folder)
        assert stored.done == [1, 2, 3]
        assert len(specimens) == 3
        for atoms, specimen in zip(stored.asked, specimens, strict=True):
            np.testing.assert_array_equal(specimen.positions_A[:2], atoms[:2, 1:])
            assert specimen.sites.class_id.tolist() == [0, 1, 3]
            assert specimen.sites.elements == (42, 16)
            assert specimen.sites.content.tolist() == [[1, 1], [1, 1], [0, 0]]
            assert specimen.label == "a kind"
            np.testing.assert_array_equal(specimen.wave, np.complex64(atoms.sum()))
            assert specimen.cell_A == 2.0

    def test_specimen_k_depends_on_seed_and_k_alone(self, stored: Stored) -> None:
        stored.run(4)
        np.testing.assert_array_equal(stored.asked[2], np.random.default_rng((5, 2)).random((4, 3)))
        (stored.folder / "00002.npz").unlink()
        before = stored.asked[2]
        stored.run(4)
        np.testing.assert_array_equal(stored.asked[-1], before)

    def test_an_interrupted_set_is_completed_and_what_is_there_stays(self, stored: Stored) -> None:
        stored.run(2)
        first = stored.files()
        (stored.folder / "00000.npz").write_bytes(b"kept, whatever it holds")
        (stored.folder / "00002.part.npz").write_bytes(b"half a file")
        stored.run(4)
        assert len(stored.asked) == 4
        files = stored.files()
        assert sorted(files) == [f"{k:05d}.npz" for k in range(4)]
        assert files["00000.npz"] == b"kept, whatever it holds"
        assert files["00001.npz"] == first["00001.npz"]

    def test_a_wave_that_fails_leaves_no_file(self, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(exit_waves, "exit_wave", fail)
        with pytest.raises(KeyboardInterrupt):
            stored.run(1)
        assert stored.files() == {}

    def test_waves_stored_by_version_0_1_are_carbon(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "00000.npz", wave=np.ones((8, 8), np.complex64), positions_A=np.ones((5, 2)))
        (specimen,) = read_specimens(tmp_path)
        assert specimen.sites.elements == (6,)
        assert specimen.sites.content.tolist() == 5 * [[1]]
        assert not specimen.sites.class_id.any()

    def test_half_written_files_are_not_read(self, stored: Stored) -> None:
        stored.run(2)
        (stored.folder / "00002.part.npz").write_bytes(b"half a file")
        assert len(read_specimens(stored.folder)) == 2

    def test_no_exit_waves_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="expected exit waves, found none: run"):
            read_specimens(tmp_path)
