"""Strips of a network's input that fit into memory. They overlap by what the network sees: the maps are the whole's."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import FrameError

REACH_A = 64.0  # a network sees no further than this to either side; the U-Net of training/ sees 58 A


@dataclass(frozen=True, slots=True)
class Strip:
    """Rows of the network's input: `top` to `bottom` are run, of the answer `first` to `last` is kept."""

    top: int
    bottom: int
    first: int
    last: int


def cut(shape: tuple[int, int], most_pixels: int, reach: int, multiple: int) -> tuple[Strip, ...]:
    """Strips of equal height over an input of this shape, from top to bottom; a single one where it fits.

    Parameters
    ----------
    shape : (int, int)
        Of the network's input, multiples of `multiple`.
    most_pixels : int
        That may be run at once.
    reach : int
        Pixels that a map's cell may depend on, up or down.
    multiple : int
        Strips begin and end on multiples of this, so that the network's coarser grids lie as in the whole.

    Raises
    ------
    FrameError
        "no_memory": not even the lowest strip fits.
    """
    height, width = shape
    if height * width <= most_pixels:
        return (Strip(0, height, 0, height),)
    overlap = _overlap(reach, multiple)
    most_rows = most_pixels // width // multiple * multiple
    if most_rows <= 2 * overlap:
        raise FrameError(
            "no_memory",
            f"GPU expects memory for {least_pixels(shape, reach, multiple)} network pixels, got {most_pixels}: "
            "allow more, crop or bin the frame",
        )
    # As few strips as memory allows, then each as low as so many can be: the rows that they overlap by are run twice.
    count = -(-(height - 2 * overlap) // (most_rows - 2 * overlap))
    rows = 2 * overlap + -(-(height - 2 * overlap) // (count * multiple)) * multiple
    strips = []
    first = 0
    while first < height:
        top = min(max(0, first - overlap), height - rows)
        last = height if top + rows == height else top + rows - overlap
        strips.append(Strip(top, top + rows, first, last))
        first = last
    return tuple(strips)


def least_pixels(shape: tuple[int, int], reach: int, multiple: int) -> int:
    """Of the lowest strip that `cut` can make of such an input; of the whole where that is lower."""
    height, width = shape
    return min(height, 2 * _overlap(reach, multiple) + multiple) * width


def _overlap(reach: int, multiple: int) -> int:
    return -(-reach // multiple) * multiple
