"""Atoms drawn over their frame as a picture: a thin ring each, its colour the score, and a scale bar."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.atoms import Atoms
from engine.errors import FileError
from engine.frame import Frame
from engine.prepare import fill

_PIXEL_A = 0.05  # a picture's pixel is at most so large, so that rings are round and lattices are seen
_SMALLEST_PX, _LARGEST_PX = 768, 4096
_RING_A = 0.45  # radius: rings of neighbours at 1.42 A stay apart
_FINE = 4  # binary digits below the pixel with which OpenCV places a ring
_BAR_LENGTHS_A = (2, 5, 10, 20, 50, 100, 200, 500, 1000)


def draw_atoms(frame: Frame, atoms: Atoms, least_chance: float = 0.5) -> NDArray[np.uint8]:
    """Picture (h, w, 3) in blue, green, red; small frames are enlarged by a whole factor.

    Scores are coloured from the model's least chance (red) to 1 (green).
    """
    zoom = _zoom(frame)
    picture = np.asarray(cv2.cvtColor(_enlarged(frame, zoom), cv2.COLOR_GRAY2BGR), np.uint8)
    share = np.clip((atoms.score - least_chance) / max(1e-6, 1 - least_chance), 0, 1)
    colours = _colours(share)
    radius = max(2.0, _RING_A / frame.sampling_A * zoom)
    # The centre of pixel 0 lies in the middle of its enlarged square.
    centres = (atoms.positions[:, ::-1] + 0.5) * zoom - 0.5
    for centre, colour in zip(np.rint(centres * 2**_FINE).astype(int).tolist(), colours.tolist(), strict=True):
        cv2.circle(picture, centre, round(radius * 2**_FINE), colour, 1, cv2.LINE_AA, _FINE)
    _draw_scale_bar(picture, frame.sampling_A / zoom)
    return picture


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture; the ending of the name says as what."""
    try:
        done, encoded = cv2.imencode(path.suffix or ".png", picture)
        if not done:
            raise OSError(None, "no encoder")
        path.write_bytes(encoded.tobytes())
    except (OSError, cv2.error) as error:
        cause = getattr(error, "strerror", None) or f"the ending {path.suffix!r}"
        raise FileError(f"{path}: expected a picture to write, such as overlay.png, got {cause}: rename it") from None


def _zoom(frame: Frame) -> int:
    longest = max(frame.shape)
    wanted = max(-(-_SMALLEST_PX // longest), round(frame.sampling_A / _PIXEL_A), 1)
    return max(1, min(wanted, _LARGEST_PX // longest))


def _enlarged(frame: Frame, zoom: int) -> NDArray[np.uint8]:
    """8-bit grey between the 0.5 and 99.5 percentiles, darkened a little so that rings stand out."""
    image = fill(frame.pixels if frame.pixels.ndim == 2 else frame.pixels[0], frame.mask)
    low, high = np.percentile(image, (0.5, 99.5))
    grey = np.clip((image - low) * (200 / max(1e-30, float(high - low))), 0, 200).astype(np.uint8)
    size = (grey.shape[1] * zoom, grey.shape[0] * zoom)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def _colours(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(N, 3) blue, green, red: from red over yellow to green."""
    hue = (share * 60).astype(np.uint8)  # OpenCV counts hues to 180
    hsv = np.stack([hue, np.full_like(hue, 230), np.full_like(hue, 255)], axis=-1)
    return np.asarray(cv2.cvtColor(hsv[None], cv2.COLOR_HSV2BGR), np.uint8)[0] if len(hsv) else hsv


def _draw_scale_bar(picture: NDArray[np.uint8], pixel_A: float) -> None:
    """White on a dark box, lower left; the round length nearest to a fifth of the width."""
    height, width = picture.shape[:2]
    length_A = min(_BAR_LENGTHS_A, key=lambda length: abs(length / pixel_A - width / 5))
    length, size = round(length_A / pixel_A), min(1.2, max(0.4, min(height, width) / 1200))
    text = f"{length_A / 10:g} nm"
    (text_width, text_height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, max(1, round(2 * size)))
    pad = round(14 * size) + 2
    thick = max(2, round(5 * size))
    box_height = text_height + thick + 3 * pad
    left, bottom = pad, height - pad
    box = picture[bottom - box_height : bottom, left : left + max(length, text_width) + 2 * pad]
    box //= 4
    cv2.rectangle(picture, (left + pad, bottom - pad - thick), (left + pad + length, bottom - pad), (255,) * 3, -1)
    where = (left + pad + max(0, (length - text_width) // 2), bottom - 2 * pad - thick)
    cv2.putText(picture, text, where, cv2.FONT_HERSHEY_SIMPLEX, size, (255,) * 3, max(1, round(2 * size)), cv2.LINE_AA)
