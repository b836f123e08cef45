"""How far the specimen moved between two images, to a fraction of a pixel, and moving it back. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_STEPS = 10  # steps a pixel on which the peak is looked for
_REACH = 1.5  # pixels around the coarse peak that are refined
_STILL = 0.01  # a shift below it is none: moving an image costs some of its finest detail
_BORDER = 0.05  # of each side fades out
_PEAKS = 0.5  # weighting of the strongest frequencies, those of the lattice: the others hold mostly noise
_APART = 2.0  # pixels from one shift to another one, where nothing else is known
_LITTLE = 0.1  # of the window: where two have less in common, the correlation is mostly noise
_EIGHT = 8  # sides that Fourier transforms are quick with


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """What `measure_shift` needs of an image, so that one that is compared twice is transformed once.

    Attributes
    ----------
    values : (H, W // 2 + 1) complex64
        Of its real Fourier transform.
    shape : (int, int)
        Of the image.
    """

    values: NDArray[np.complex64]
    shape: tuple[int, int]


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


def spectrum(image: NDArray[np.float32], finest_px: float = 0.0, taper: bool = True) -> Spectrum:
    """Transform an image.

    Parameters
    ----------
    image : (H, W) float32
        Without NaN or infinity.
    finest_px : float
        Detail of a shorter period than this is noise, and left out; 0 keeps all.
    taper : bool
        Fade out at the borders: they don't move with the specimen.
    """
    height, width = image.shape
    flat = image - np.float32(image.mean(dtype=np.float64))
    if taper:
        flat = flat * np.outer(_fading(height), _fading(width))
    values = np.fft.rfft2(flat).astype(np.complex64, copy=False)
    if finest_px > 2:
        frequency = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width)[None] ** 2
        values = values * (frequency <= finest_px**-2)
    return Spectrum(values, (height, width))


def register(
    reference: NDArray[np.float32],
    moved: NDArray[np.float32],
    *,
    finest_px: float = 0.0,
    around: tuple[float, float] = (0.0, 0.0),
    within_px: float = math.inf,
) -> Registration:
    """The shift that brings a moved image back onto the reference, of images of a lattice in noise.

    Parameters
    ----------
    reference, moved : (H, W) float32
    finest_px, around, within_px
        As for `spectrum` and `measure_shift`.

    Returns
    -------
    Registration
        The shift is measured twice: what is in view of one image only would pull it to zero.
    """
    product = _product(spectrum(reference, finest_px), spectrum(moved, finest_px), _PEAKS)
    if product is None:
        return Registration((0.0, 0.0), 0.0)
    correlation = np.abs(np.fft.irfft2(product, s=reference.shape))
    first = _peak(product, correlation, around, within_px)
    rival = _rival(correlation, first, around, max(finest_px, _APART))
    return Registration(_again(reference, moved, first, finest_px), rival)


def _again(
    reference: NDArray[np.float32], moved: NDArray[np.float32], first: tuple[float, float], finest_px: float
) -> tuple[float, float]:
    """The shift measured once more, on what both images have in view by the first measurement."""
    whole = round(first[0]), round(first[1])
    height, width = (size - abs(one) for size, one in zip(reference.shape, whole, strict=True))
    if not any(whole) or 2 * height < reference.shape[0] or 2 * width < reference.shape[1]:
        return first
    windows = (
        image[max(0, sign * whole[0]) :, max(0, sign * whole[1]) :][
            : height // _EIGHT * _EIGHT or height, : width // _EIGHT * _EIGHT or width
        ]
        for image, sign in ((reference, 1), (moved, -1))
    )
    rest = first[0] - whole[0], first[1] - whole[1]
    spectra = (spectrum(one, finest_px) for one in windows)
    again = measure_shift(*spectra, weighting=_PEAKS, around=rest, within_px=1.0)
    return whole[0] + again[0], whole[1] + again[1]


def measure_shift(
    reference: Spectrum,
    moved: Spectrum,
    *,
    weighting: float = 0.0,
    around: tuple[float, float] = (0.0, 0.0),
    within_px: float = math.inf,
) -> tuple[float, float]:
    """The shift that brings the moved image back onto the reference.

    Parameters
    ----------
    reference, moved : Spectrum
        Of two images of one shape.
    weighting : float
        Exponent of the strength of a frequency by which it counts: -1 all alike (phase correlation), 0 as it is, over 0
        the strongest most.
    around : (float, float)
        Where the shift is expected, along y and x in pixels.
    within_px : float
        It is looked for no further from there than this: of a lattice any period is as good as the next.

    Returns
    -------
    (float, float)
        Along y and x in pixels, to about a hundredth. An image whose contrast is inverted counts like the other.

    References
    ----------
    Guizar-Sicairos, Thurman, Fienup, Opt. Lett. 33 (2008) 156: the refinement by a matrix product.
    """
    product = _product(reference, moved, weighting)
    if product is None:
        return 0.0, 0.0
    return _peak(product, np.abs(np.fft.irfft2(product, s=reference.shape)), around, within_px)


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


def _product(reference: Spectrum, moved: Spectrum, weighting: float) -> NDArray[np.complex64] | None:
    """Whose transform is the correlation; None where one image is constant."""
    if reference.shape != moved.shape:
        raise ValueError(f"Expected two images of one shape, got {reference.shape} and {moved.shape}: crop them alike")
    product = reference.values * moved.values.conj()
    if not product.any():
        return None
    if weighting:
        strength = np.abs(product)
        product *= np.maximum(strength / strength.max(), 1e-7) ** weighting
    return product


def _peak(
    product: NDArray[np.complex64], correlation: NDArray[np.float32], around: tuple[float, float], within_px: float
) -> tuple[float, float]:
    """Where the correlation is highest, to a fraction of a pixel."""
    coarse = _coarse(correlation, around, within_px)
    y, x = _refine(product, (correlation.shape[0], correlation.shape[1]), coarse, _STEPS)
    return float(y), float(x)


def _rival(
    correlation: NDArray[np.float32], best: tuple[float, float], around: tuple[float, float], apart_px: float
) -> float:
    """The highest other point that is about as near to `around` as the best, in parts of the best.

    Each is divided by what the two windows have in common at its shift, which says nothing of the specimen.
    """
    common = np.outer(*(_common(size) for size in correlation.shape))
    fits = correlation / np.maximum(common, _LITTLE)
    from_best, from_around = _distances(correlation.shape, best), _distances(correlation.shape, around)
    others = (from_best > apart_px) & (from_around <= math.dist(best, around) + apart_px)
    if not others.any():
        return 0.0
    return float(fits[others].max() / fits[from_best <= 1].max())


def _distances(shape: tuple[int, ...], shift: tuple[float, float]) -> NDArray[np.float64]:
    """From a shift to that of each point of a correlation, which is periodic, and so are these."""
    away = [
        (np.fft.fftfreq(size, 1 / size) - centre + size / 2) % size - size / 2
        for size, centre in zip(shape, shift, strict=True)
    ]
    return np.asarray(np.hypot(away[0][:, None], away[1][None]))


def _common(size: int) -> NDArray[np.float64]:
    """Of two windows that fade out, moved against each other by every shift: what is in both."""
    common = np.fft.irfft(np.abs(np.fft.rfft(_fading(size))) ** 2, n=size)
    return np.asarray(common / common[0])


def _coarse(correlation: NDArray[np.float32], around: tuple[float, float], within_px: float) -> tuple[float, float]:
    """The highest pixel of the correlation, no further from `around` than allowed."""
    shape = correlation.shape
    shifts = [np.fft.fftfreq(size, 1 / size) for size in shape]
    if math.isfinite(within_px):
        correlation = np.where(_distances(shape, around) <= max(1.0, within_px), correlation, np.float32(-1))
    y, x = np.unravel_index(int(np.argmax(correlation)), shape)
    coarse = [float(shifts[0][y]), float(shifts[1][x])]
    if math.isfinite(within_px):
        coarse = [
            centre + float((one - centre + size / 2) % size - size / 2)
            for one, centre, size in zip(coarse, around, shape, strict=True)
        ]
    return coarse[0], coarse[1]


def _refine(
    product: NDArray[np.complex64], shape: tuple[int, int], coarse: tuple[float, float], steps: int
) -> tuple[float, float]:
    """The peak near the coarse one, on a grid of `steps` a pixel, then on the parabola through the highest point."""
    points = np.arange(-math.ceil(_REACH * steps), math.ceil(_REACH * steps) + 1) / steps
    ys, xs = points + coarse[0], points + coarse[1]
    # The half that the real transform leaves out is the conjugate of the other: all but its edges counts twice.
    weight = np.full(product.shape[1], 2.0)
    weight[0] = 1.0
    if shape[1] % 2 == 0:
        weight[-1] = 1.0
    along_y = np.exp(2j * np.pi * np.outer(ys, np.fft.fftfreq(shape[0]))).astype(np.complex64)
    along_x = (weight[:, None] * np.exp(2j * np.pi * np.outer(np.fft.rfftfreq(shape[1]), xs))).astype(np.complex64)
    fine = np.abs((along_y @ product @ along_x).real)
    y, x = np.unravel_index(int(np.argmax(fine)), fine.shape)
    return ys[y] + _vertex(fine[:, x], int(y)) / steps, xs[x] + _vertex(fine[y], int(x)) / steps


def _vertex(values: NDArray[np.float32], at: int) -> float:
    """Where between its neighbours the parabola through three points is highest, in steps."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, middle, after = (float(one) for one in values[at - 1 : at + 2])
    bend = before - 2 * middle + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0
