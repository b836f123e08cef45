"""How far the specimen moved between two images, to a fraction of a pixel, and moving it back. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

_STEPS = 10  # steps a pixel on which the peak is looked for
_REACH = 1.5  # pixels around the coarse peak that are refined
_STILL = 0.01  # a shift below it is none: moving an image costs some of its finest detail
_BORDER = 0.05  # of each side fades out
_APART = 2.0  # pixels from one shift to another one, where nothing else is known
_RINGS, _SECTORS = 16, 6  # cells of frequencies that keep one sign of contrast
_NOISE = 5.0  # times what a quiet cell holds: a cell of less is mostly noise
_LEAK = 0.02  # of what the strongest holds: of that every cell gets some, since images end
_STEP = 0.5  # pixels from one shift that is looked at to the next
_BEYOND = 4.0  # pixels beyond those allowed that are looked at: what fits there may rival
_EIGHT = 8  # sides that Fourier transforms are quick with


@dataclass(frozen=True, slots=True)
class Registration:
    """How an image lies to another one.

    Attributes
    ----------
    shift : (float, float)
        Brings the moved image back onto the reference, along y and x in pixels.
    rival : float
        How well another shift fits in comparison, that lies about as near to where the shift was expected: 1 as well,
        0 where there is none. Of a lattice every period fits alike, so what is about 1 may be off by one.
    """

    shift: tuple[float, float]
    rival: float


def register(
    reference: NDArray[np.float32],
    moved: NDArray[np.float32],
    *,
    finest_px: float = 0.0,
    around: tuple[float, float] = (0.0, 0.0),
    within_px: float = math.inf,
) -> Registration:
    """The shift that brings a moved image back onto the reference, of images of a lattice, of any focus, in noise.

    Parameters
    ----------
    reference, moved : (H, W) float32
        Of one shape, without NaN or infinity; else ValueError.
    finest_px : float
        Detail of a shorter period than this is noise, and left out; 0 keeps all.
    around : (float, float)
        Where the shift is expected, along y and x in pixels.
    within_px : float
        It is looked for no further from there than this: of a lattice any period is as good as the next.

    Returns
    -------
    Registration
        The shift is measured twice: what is in view of one image only would pull it to zero.

    Notes
    -----
    Another focus turns the contrast of some frequencies round and that of others not, by a sign for each that nobody
    knows. What has one sign is a cell of neighbouring frequencies: each is correlated alone, and their sizes are added.
    Signs that were wrong would move a lattice by half of a period.

    References
    ----------
    Guizar-Sicairos, Thurman, Fienup, Opt. Lett. 33 (2008) 156: the refinement by a matrix product.
    """
    if reference.shape != moved.shape:
        raise ValueError(f"Expected two images of one shape, got {reference.shape} and {moved.shape}: crop them alike")
    product = _product(reference, moved, finest_px)
    if product is None:  # a constant image lies as well anywhere
        return Registration((0.0, 0.0), 1.0)
    first, rival, agreement = _search(product, reference.shape, finest_px, around, within_px)
    return Registration(_again(reference, moved, first, finest_px, agreement), rival)


def _search(
    product: NDArray[np.complex64],
    shape: tuple[int, ...],
    finest_px: float,
    around: tuple[float, float],
    within_px: float,
) -> tuple[tuple[float, float], float, NDArray[np.float32]]:
    """The shift at which all cells together fit best, its rival, and how far each cell agrees with it, -1 to 1."""
    cells = _cells((shape[0], shape[1]), finest_px)
    ys, xs = (_grid(size, centre, within_px) for size, centre in zip(shape, around, strict=True))
    along_y = np.exp(2j * np.pi * np.outer(ys, np.fft.fftfreq(shape[0]))).astype(np.complex64)
    along_x = np.exp(2j * np.pi * np.outer(np.fft.rfftfreq(shape[1]), xs)).astype(np.complex64)
    parts = np.empty((len(cells.edges) - 1, len(ys), len(xs)), np.float32)
    most = np.empty(len(parts))  # of a cell all of whose frequencies agree
    for k, (begin, end) in enumerate(pairwise(cells.edges)):  # one by one: all waves at once are large
        rows, columns = cells.rows[begin:end], cells.columns[begin:end]
        values = product[rows, columns] * cells.weight[begin:end]
        most[k] = np.abs(values).sum(dtype=np.float64)
        parts[k] = ((along_y[:, rows] * values) @ along_x[columns]).real
    fits = _fits(parts)
    from_around = np.hypot((ys - around[0])[:, None], xs - around[1])
    allowed = from_around <= max(1.0, within_px)
    y, x = np.unravel_index(int(np.argmax(np.where(allowed, fits, -1))), fits.shape)
    from_best = np.hypot((ys - ys[y])[:, None], xs - xs[x])
    others = (from_best > max(finest_px, _APART)) & (from_around <= from_around[y, x] + max(finest_px, _APART))
    level = float(np.median(fits))  # cells whose signs are free fit a little everywhere
    spread = float(fits[y, x]) - level
    if not others.any():
        rival = 0.0
    elif spread > 0:
        rival = (float(fits[others].max()) - level) / spread
    else:  # nothing tells one shift from another
        rival = 1.0
    agreement = parts[:, y, x] / np.maximum(most, np.finfo(np.float32).tiny)
    return (float(ys[y]), float(xs[x])), max(0.0, rival), agreement.astype(np.float32)


def _fits(parts: NDArray[np.float32]) -> NDArray[np.float32]:
    """How well each shift fits all cells (N, Y, X) whatever their signs.

    A strong cell, one of the lattice's spots, says the same of every period and would drown what tells them apart: it
    counts with the root of its strength. What is weak is noise, and counts less.
    """
    sizes = np.abs(parts)
    spread = sizes.std(axis=(1, 2), dtype=np.float64)  # a square of a square of counts
    noise = max(_NOISE * float(np.quantile(spread, 0.25)), _LEAK * float(spread.max()))
    weight = np.sqrt(spread / np.maximum(spread**2 + noise**2, np.finfo(np.float32).tiny))
    return np.asarray(np.tensordot(weight, sizes, axes=1), np.float32)


def _grid(size: int, centre: float, within_px: float) -> NDArray[np.float64]:
    """Shifts along an axis that are looked at: as far as allowed, and what could rival those."""
    reach = min(max(1.0, within_px) + _BEYOND, size / 2)
    count = math.ceil(reach / _STEP)
    return np.asarray(centre + _STEP * np.arange(-count, count + 1), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Frequencies of a half plane by their cell: place in the transform, how often each counts, where a cell begins."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    weight: NDArray[np.float32]
    edges: NDArray[np.intp]
    number: NDArray[np.intp]  # of the whole transform: which cell


@lru_cache(maxsize=8)
def _cells(shape: tuple[int, int], finest_px: float) -> _Cells:
    """Rings, each cut into sectors; opposite frequencies belong together."""
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    radius, most = np.hypot(fy, fx), 1 / max(finest_px, 2.0)
    ring = np.minimum(radius * (_RINGS / most), _RINGS - 1).astype(np.intp)
    sector = np.minimum(np.arctan2(fy, np.broadcast_to(fx, radius.shape)) % np.pi * (_SECTORS / np.pi), _SECTORS - 1)
    number = ring * _SECTORS + sector.astype(np.intp)
    rows, columns = np.nonzero(radius <= most)
    order = np.argsort(number[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    edges = np.searchsorted(number[rows, columns], np.arange(_RINGS * _SECTORS + 1))
    return _Cells(rows, columns, _twice(shape[1])[columns], edges, number)


def _again(
    reference: NDArray[np.float32],
    moved: NDArray[np.float32],
    first: tuple[float, float],
    finest_px: float,
    agreement: NDArray[np.float32],
) -> tuple[float, float]:
    """The shift to a fraction of a pixel, on what both images have in view by the first measurement.

    A cell whose frequencies agree says more of it than one of noise, or of contrast that moves with the focus.
    """
    whole = round(first[0]), round(first[1])
    height, width = (size - abs(one) for size, one in zip(reference.shape, whole, strict=True))
    if 2 * height < reference.shape[0] or 2 * width < reference.shape[1]:
        whole, (height, width) = (0, 0), (reference.shape[0], reference.shape[1])
    one, other = (
        image[max(0, sign * whole[0]) :, max(0, sign * whole[1]) :][
            : height // _EIGHT * _EIGHT or height, : width // _EIGHT * _EIGHT or width
        ]
        for image, sign in ((reference, 1), (moved, -1))
    )
    product = _product(one, other, finest_px)
    if product is None:
        return first
    product *= agreement[_cells(one.shape, finest_px).number]
    rest = _refine(product, one.shape, (first[0] - whole[0], first[1] - whole[1]), _STEPS)
    return whole[0] + float(rest[0]), whole[1] + float(rest[1])


def move(
    image: NDArray[np.float32], shift: tuple[float, float]
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """An image moved by a shift.

    Parameters
    ----------
    image : (H, W) float32
    shift : (float, float)
        Along y and x in pixels.

    Returns
    -------
    (H, W) float32
        Cubic between the pixels; the image itself where the shift is none.
    (H, W) bool or None
        True where nothing moved in from outside of the image; None where that is nowhere.
    """
    if math.hypot(*shift) < _STILL:
        return image, None
    height, width = image.shape
    matrix = np.array([[1, 0, shift[1]], [0, 1, shift[0]]], np.float64)
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    outside = np.zeros((height, width), bool)
    rows, columns = (np.arange(size) - one for size, one in zip((height, width), shift, strict=True))
    outside[(rows < 0) | (rows > height - 1)] = True
    outside[:, (columns < 0) | (columns > width - 1)] = True
    return np.asarray(moved, np.float32), outside


def _fading(size: int) -> NDArray[np.float32]:
    """One, but for a smooth fall to the ends."""
    place = (np.arange(size) + 0.5) / size
    end = np.minimum(place, 1 - place) / _BORDER
    return (0.5 - 0.5 * np.cos(np.pi * np.minimum(end, 1))).astype(np.float32)


def _product(
    reference: NDArray[np.float32], moved: NDArray[np.float32], finest_px: float
) -> NDArray[np.complex64] | None:
    """Whose transform is the correlation; None where one image is constant."""
    product = _spectrum(reference, finest_px) * _spectrum(moved, finest_px).conj()
    return product if product.any() else None


def _spectrum(image: NDArray[np.float32], finest_px: float) -> NDArray[np.complex64]:
    """(H, W // 2 + 1), of an image that fades out at its borders: they don't move with the specimen."""
    height, width = image.shape
    flat = image - np.float32(image.mean(dtype=np.float64))
    values = np.fft.rfft2(flat * np.outer(_fading(height), _fading(width))).astype(np.complex64, copy=False)
    if finest_px > 2:
        frequency = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width)[None] ** 2
        values = values * (frequency <= finest_px**-2)
    return values


def _refine(
    product: NDArray[np.complex64], shape: tuple[int, int], coarse: tuple[float, float], steps: int
) -> tuple[float, float]:
    """The peak near the coarse one, on a grid of `steps` a pixel, then on the parabola through the highest point."""
    points = np.arange(-math.ceil(_REACH * steps), math.ceil(_REACH * steps) + 1) / steps
    ys, xs = points + coarse[0], points + coarse[1]
    weight = _twice(shape[1])
    along_y = np.exp(2j * np.pi * np.outer(ys, np.fft.fftfreq(shape[0]))).astype(np.complex64)
    along_x = (weight[:, None] * np.exp(2j * np.pi * np.outer(np.fft.rfftfreq(shape[1]), xs))).astype(np.complex64)
    fine = np.abs((along_y @ product @ along_x).real)
    y, x = np.unravel_index(int(np.argmax(fine)), fine.shape)
    return ys[y] + _vertex(fine[:, x], int(y)) / steps, xs[x] + _vertex(fine[y], int(x)) / steps


def _twice(width: int) -> NDArray[np.float32]:
    """The half that the real transform leaves out is the conjugate of the other: all but its edges counts twice."""
    weight = np.full(width // 2 + 1, 2, np.float32)
    weight[0] = 1
    if width % 2 == 0:
        weight[-1] = 1
    return weight


def _vertex(values: NDArray[np.float32], at: int) -> float:
    """Where between its neighbours the parabola through three points is highest, in steps."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, middle, after = (float(one) for one in values[at - 1 : at + 2])
    bend = before - 2 * middle + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0
