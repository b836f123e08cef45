"""Where the camera looks, and what falls on its pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from training.exit_waves import SAMPLING_A, Specimen
from training.optics import frequencies
from training.pairs import Pair
from training.ranges import ImageRanges


@dataclass(frozen=True, slots=True)
class View:
    """Where the camera looks: its pixels on the specimen."""

    sampling_A: float
    shape: tuple[int, int]
    centre_A: tuple[float, float]
    angle: float
    drift_px: tuple[float, float] = (0.0, 0.0)  # (y, x) by which the specimen lies elsewhere in the frame

    def matrix(self) -> NDArray[np.float64]:
        """2 x 3, camera pixel (x, y, 1) to exit wave pixel (x, y), as cv2.warpAffine takes it."""
        scale = self.sampling_A / SAMPLING_A
        c, s = np.cos(self.angle) * scale, np.sin(self.angle) * scale
        middle = (np.array(self.shape[::-1]) - 1) / 2 + self.drift_px[::-1]
        linear = np.array([[c, -s], [s, c]])
        centre = np.array(self.centre_A[::-1]) / SAMPLING_A - 0.5
        return np.column_stack([linear, centre - linear @ middle])

    def to_frame(self, positions_A: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 2) positions (y, x) in A on the specimen, to frame pixels.

        Sample k of an exit wave lies at k * SAMPLING_A, so the specimen's origin is the centre of its first pixel.
        """
        matrix = self.matrix()
        wave_px = positions_A[:, ::-1] / SAMPLING_A
        camera = np.linalg.solve(matrix[:, :2], (wave_px - matrix[:, 2]).T).T
        return np.asarray(camera[:, ::-1], np.float64)


def draw_view(specimen: Specimen, ranges: ImageRanges, field_A: Pair, rng: np.random.Generator) -> View:
    """A square field, turned at random, that stays inside the specimen's cell."""
    finest, coarsest = ranges.sampling_A
    sampling_A = finest * (coarsest / finest) ** (rng.random() ** 0.6)  # fewer of the finest: dear to draw, and alike
    size = int(np.ceil(rng.uniform(*field_A) / sampling_A))
    angle = rng.uniform(0, 2 * np.pi)
    reach = size * sampling_A / 2 * (abs(np.cos(angle)) + abs(np.sin(angle)))
    free = max(0.0, specimen.cell_A / 2 - reach - 1.0)
    centre = specimen.cell_A / 2 + rng.uniform(-free, free, 2)
    return View(sampling_A, (size, size), (float(centre[0]), float(centre[1])), angle)


def project(spectrum: NDArray[np.complex64], view: View, mtf_fall: float) -> NDArray[np.float32]:
    """The image on the camera's pixels."""
    ky, kx = frequencies(spectrum.shape, SAMPLING_A)
    c, s = np.float32(np.cos(view.angle)), np.float32(np.sin(view.angle))
    u, v = (c * kx + s * ky) * view.sampling_A, (-s * kx + c * ky) * view.sampling_A  # cycles a camera pixel
    mtf = np.sinc(u) * np.sinc(v) * np.exp(-mtf_fall * np.sqrt(u * u + v * v))
    return warp(scipy.fft.ifft2(spectrum * mtf.astype(np.float32)).real.astype(np.float32), view)


def warp(image: NDArray[np.float32], view: View, interpolation: int = cv2.INTER_LANCZOS4) -> NDArray[np.float32]:
    """What lies on the exit wave's pixels, on the camera's."""
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, view.matrix(), view.shape[::-1], flags=flags, borderMode=cv2.BORDER_WRAP))
