"""Expected electrons to the counts of a camera, and the light that falls on it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.ranges import ImageRanges, log_uniform


def detect(ideal: NDArray[np.float32], ranges: ImageRanges, rng: np.random.Generator) -> NDArray[np.float32]:
    """Expected electrons a pixel to counts: Poisson noise, spread, read noise, gain, offset, bad pixels, 8 bits."""
    counts = rng.poisson(ideal).astype(np.float32)
    spread = rng.uniform(*ranges.noise_blur_px)
    if spread > 0.25:
        counts = np.asarray(cv2.GaussianBlur(counts, (0, 0), spread, borderType=cv2.BORDER_REFLECT_101), np.float32)
    counts += rng.normal(0, log_uniform(rng, ranges.read_noise_e), counts.shape).astype(np.float32)
    bad = rng.poisson(ranges.bad_pixels * counts.size)
    if bad:
        at = rng.integers(counts.size, size=bad)
        counts.reshape(-1)[at] = (
            rng.choice([0.0, 2.0], bad) * counts.mean() * rng.uniform(*ranges.bad_pixel_counts, bad)
        )
    if rng.random() < ranges.eight_bit_chance:  # pictures that were stretched to 8 bits, as archives hold them
        low, high = np.percentile(counts, [0.1, 99.9])
        return np.clip(np.rint((counts - low) * (255 / max(1e-6, high - low))), 0, 255).astype(np.float32)
    return counts * np.float32(log_uniform(rng, ranges.gain)) + np.float32(rng.uniform(*ranges.offset))


def illumination(shape: tuple[int, int], strength: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Uneven light, 1 on average or nearly."""
    coarse = 1 + rng.uniform(0, strength) * rng.uniform(-1, 1, (3, 3)).astype(np.float32)
    return np.asarray(cv2.resize(coarse.astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC))
