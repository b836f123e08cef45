"""One exposure of the camera, as the engine takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Pixels and what is known of them.

    Attributes
    ----------
    pixels : (H, W) or (C, H, W) array of any real dtype
        Counts as they left the camera. C defoci for models that take several. `Detector.detect` also takes what has
        `__dlpack__`, on the CPU or on its GPU.
    sampling_A : float
        Edge of a pixel on the specimen, in angstrom.
    mask : (H, W) bool array, optional
        True where a pixel holds no measurement (dead, masked, saturated).
    dose_e_A2 : float, optional
        Electrons per square angstrom in this frame.
    defocus_A : tuple of float, optional
        One defocus for each of the C images.
    voltage_kV : float, optional
        Of the microscope.
    """

    pixels: NDArray[Any]
    sampling_A: float
    mask: NDArray[np.bool_] | None = None
    dose_e_A2: float | None = None
    defocus_A: tuple[float, ...] | None = None
    voltage_kV: float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.pixels.shape[-2], self.pixels.shape[-1]

    @property
    def field_A(self) -> tuple[float, float]:
        """Height and width of the specimen area in view, in angstrom."""
        return self.shape[0] * self.sampling_A, self.shape[1] * self.sampling_A
