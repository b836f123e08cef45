"""abTEM's exit waves: where the atoms lie in them, how strong they are, and what computes them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training.specimens import VOLTAGE_KV, thin
from training import exit_waves
from training.exit_waves import SAMPLING_A, exit_wave
from training.optics import frequencies
from training.scattering import atom_phase

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
        expected = atom_phase(6, one_atom.shape, SAMPLING_A, VOLTAGE_KV)
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

    @pytest.mark.parametrize(
        ("cupy", "gpus", "expected"), [(True, (0,), "gpu"), (True, (), "cpu"), (False, (0,), "cpu")]
    )
    def test_on_a_gpu_where_cupy_can_use_one(
        self, monkeypatch: pytest.MonkeyPatch, cupy: bool, gpus: tuple[int, ...], expected: str
    ) -> None:
        monkeypatch.setattr(exit_waves, "find_spec", lambda name: object() if cupy else None)
        monkeypatch.setattr(exit_waves, "usable_gpus", lambda: gpus)
        assert exit_waves.device() == expected

    def test_abtem_is_told_of_the_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import abtem

        told = []

        def waves(**options: object) -> None:
            told.append(options["device"])
            raise InterruptedError

        monkeypatch.setattr(exit_waves, "device", lambda: "gpu")
        monkeypatch.setattr(abtem, "Potential", lambda *_, **options: told.append(options["device"]))
        monkeypatch.setattr(abtem, "PlaneWave", waves)
        with pytest.raises(InterruptedError):
            exit_wave(np.array([[0.4, 3.0, 7.5]]), CELL_A, VOLTAGE_KV)
        assert told == ["gpu", "gpu"]
