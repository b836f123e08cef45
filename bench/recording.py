"""Frames of the simulated camera, made before anything is measured; a file takes them to the sender's process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import Frame
from stream.camera import CameraSettings, expose, read_specimen

_FRAMES = 8
_APART = 20  # frames of the camera from one to the next: focus and specimen have moved on
_INTERVAL_S = 0.04


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Frames that are sent again and again.

    Attributes
    ----------
    pixels : (N, H, W) uint16
    header : dict
        What the sender says of each.
    path : Path
        Where the pixels are as .npy.
    """

    pixels: NDArray[np.uint16]
    header: dict[str, Any]
    path: Path

    @property
    def frames(self) -> list[Frame]:
        """As the engine takes them."""
        return [Frame(pixels, self.header["sampling"]) for pixels in self.pixels]


def record(folder: Path, shape: tuple[int, int], sampling_A: float) -> Recording:
    """Expose a few frames at 10^4 e/A^2 with wandering focus and write them into the folder."""
    specimen, settings = read_specimen(), CameraSettings(sampling=sampling_A)
    exposures = [expose(specimen, settings, shape, _APART * k, _INTERVAL_S) for k in range(_FRAMES)]
    pixels = np.stack([one for one, _ in exposures])
    path = folder / f"{shape[0]}x{shape[1]}.npy"
    np.save(path, pixels)
    header = {key: exposures[0][1][key] for key in ("sampling", "dose", "voltage")}
    return Recording(pixels, header, path)
