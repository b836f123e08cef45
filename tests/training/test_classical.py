"""The classical way finds what it can: atoms of either contrast, well apart, where a Gaussian fits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.frame import Frame
from training.classical import classical_atoms

SAMPLING_A = 0.2
ATOMS_PX = np.stack(np.meshgrid(*2 * [np.arange(12.0, 90, 9)]), axis=-1).reshape(-1, 2)
ATOMS_PX += np.random.default_rng(0).uniform(-1, 1, ATOMS_PX.shape)


def picture(sign: float, noise: float) -> NDArray[np.float64]:
    y, x = np.mgrid[:100, :100]
    blobs = sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * 2.0**2)) for a, b in ATOMS_PX)
    return np.asarray(100 + sign * 20 * blobs + np.random.default_rng(1).normal(0, noise, y.shape))


@pytest.mark.parametrize("sign", [1, -1], ids=["bright", "dark"])
@pytest.mark.parametrize(("noise", "error_px"), [(0.0, 0.12), (1.0, 0.2)])  # a whole pixel errs by 0.29
def test_gaussians_on_a_background(sign: int, noise: float, error_px: float) -> None:
    found = classical_atoms(Frame(picture(sign, noise), SAMPLING_A))[0 if sign > 0 else 1]
    nearest = np.hypot(*(found[None] - ATOMS_PX[:, None]).transpose(2, 0, 1)).argmin(axis=1)
    error = found[nearest] - ATOMS_PX
    assert np.sqrt(np.mean(error**2)) < error_px


def test_the_middle_image_of_three() -> None:
    middle = picture(1, 0.0)
    three = np.stack([np.zeros_like(middle), middle, np.ones_like(middle)])
    found, alone = (classical_atoms(Frame(pixels, SAMPLING_A))[0] for pixels in (three, middle))
    assert np.array_equal(found, alone)


def test_masked_pixels_are_not_atoms() -> None:
    pixels = picture(1, 0.0)
    mask = np.zeros(pixels.shape, bool)
    pixels[50, 50], mask[50, 50] = 1e6, True
    found = classical_atoms(Frame(pixels, SAMPLING_A, mask))[0]
    assert abs(len(found) - len(ATOMS_PX)) < 12


def test_a_constant_frame_holds_none() -> None:
    assert [len(found) for found in classical_atoms(Frame(np.ones((40, 40)), SAMPLING_A))] == [0, 0]
