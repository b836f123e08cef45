"""Dark and gain reference of a detector: counts in, corrected counts out; and the dose that counts amount to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ConfigError, FileError, FrameError, one_line

_ENOUGH = 2**18  # pixels whose mean is taken; their shot noise is far below what a gain is known to


@dataclass(frozen=True, eq=False)
class References:
    """What is subtracted from the counts and then multiplied with them; None where there is no such reference."""

    dark: NDArray[np.float32] | None = None
    gain: NDArray[np.float32] | None = None

    @classmethod
    def read(cls, dark: str | None, gain: str | None) -> References:
        """Read .npy files; FileError or ConfigError says what is wrong with one."""
        read = [None if path is None else _read(Path(path)) for path in (dark, gain)]
        shapes = {reference.shape for reference in read if reference is not None}
        if len(shapes) > 1:
            raise ConfigError(f"{gain}: expected dark and gain reference of one shape, got {shapes}: take them alike")
        return cls(*read)

    def dark_mean(self, mask: NDArray[np.bool_] | None) -> float | None:
        """Counts of a pixel without electrons, on average over those that a frame's mask (H, W) leaves.

        What is saturated in the frame is often so in the dark too, and would weigh more than all others.
        """
        if self.dark is None:
            return None
        if mask is None or mask.shape != self.dark.shape:
            return self._mean
        every = _every(self.dark)
        valid = self.dark[::every][~mask[::every]]
        return float(valid.mean()) if valid.size else self._mean

    @cached_property
    def _mean(self) -> float:
        assert self.dark is not None
        return float(self.dark.mean())

    def apply(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """(counts - dark) * gain.

        Parameters
        ----------
        pixels : (H, W) or (3, H, W) array

        Returns
        -------
        array of the same shape
            float32; the given array itself where there is no reference.
        """
        for reference in (self.dark, self.gain):
            if reference is not None and reference.shape != pixels.shape[-2:]:
                raise FrameError(
                    "shape_out_of_range",
                    f"Expected frames of {reference.shape} as the references have, got {pixels.shape}: "
                    "take references of this frame size",
                )
        if self.dark is not None:
            pixels = np.subtract(pixels, self.dark, dtype=np.float32)
        if self.gain is not None:
            pixels = np.multiply(pixels, self.gain, dtype=np.float32)
        return pixels


def mean_dose(
    pixels: NDArray[Any], mask: NDArray[np.bool_] | None, sampling_A: float, gain: float, offset: float
) -> float | None:
    """Electrons per square angstrom in a frame, from the mean of its valid counts.

    Parameters
    ----------
    pixels : (H, W) or (3, H, W) array
        The images of a triplet add up.
    mask : (H, W) bool array or None
        True where a pixel holds no measurement.
    gain, offset : float
        Counts per electron, counts of a pixel without electrons.

    Returns
    -------
    float or None
        None where no pixel is valid.
    """
    images = pixels if pixels.ndim == 3 else pixels[None]
    every = _every(images[0])
    rows = images[:, ::every]
    counts = rows if mask is None else rows[:, ~mask[::every]]
    mean = _mean(counts)
    if not np.isfinite(mean):
        mean = _mean(counts[np.isfinite(counts)])
    dose = len(images) * (mean - offset) / gain / sampling_A**2
    return max(0.0, dose) if np.isfinite(dose) else None


def _every(image: NDArray[Any]) -> int:
    """Which rows a mean is taken of: whole ones, so that memory is read in order."""
    return max(1, image.size // _ENOUGH)


def _mean(counts: NDArray[Any]) -> float:
    return float(counts.mean(dtype=np.float64)) if counts.size else float("nan")


def _read(path: Path) -> NDArray[np.float32]:
    try:
        with path.open("rb") as file:  # NumPy leaves a damaged one open
            reference = np.load(file, allow_pickle=False)
    except OSError as error:
        raise FileError(f"{path}: expected a .npy reference, got {error.strerror or error}: check the path") from None
    except Exception as error:  # what damaged files make of NumPy's readers has no end
        cause = one_line(error) or type(error).__name__
        raise FileError(f"{path}: expected a .npy of numbers, got {cause}: save it with numpy.save") from None
    if not isinstance(reference, np.ndarray) or reference.ndim != 2 or reference.dtype.kind not in "uif":
        raise FileError(f"{path}: expected one array (H, W) of numbers, got {reference!r:.80}: save it so")
    if not np.isfinite(reference).all():
        raise FileError(f"{path}: expected finite values, got NaN or infinity: mask those pixels in the detector")
    return reference.astype(np.float32)
