"""Exit wave in, camera frame and its truth out: a single image, or three of different focus.

Optics, dose and detector are drawn afresh for every frame from one generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from engine.drift import move
from engine.frame import Frame
from training.camera import detect, illumination
from training.contamination import contaminate
from training.decidable import WINDOW_A
from training.displacements import displaced
from training.exit_waves import SAMPLING_A, Specimen
from training.optics import Optics, image_spectrum
from training.pairs import Pair
from training.ranges import ImageRanges, log_uniform
from training.view import View, draw_view, project, warp

_FOCUS_STEP_A = 15.0  # between two foci the image is taken as linear
_JUDGED_A = 36.0  # least edge of what the rule looks at: more than two windows' widths

Spectrum = NDArray[np.complex64]
Shift = tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """A simulated frame with everything known about it.

    Attributes
    ----------
    frame : Frame
        Of one image, or of three whose drift was taken out.
    positions_px : (N, 2) float64
        True (y, x) in the frame, the shift by tilt and coma included; some lie outside.
    class_id : (N,) uint8
        What is there.
    covered : (H, W) float32
        0 to 1, how far contamination hides the specimen.
    ideal : (H, W) float32, of a triplet (3, H, W)
        Expected electrons a pixel: what the camera would count without noise, before drift was taken out.
    images : tuple of (Optics, View)
        Of each image.
    mtf_fall : float
        Exponent of the detector's fall, see `project`.
    decidable : bool
        Of the first view.
    """

    frame: Frame
    positions_px: NDArray[np.float64]
    class_id: NDArray[np.uint8]
    covered: NDArray[np.float32]
    ideal: NDArray[np.float32]
    images: tuple[tuple[Optics, View], ...]
    mtf_fall: float
    decidable: bool

    @property
    def optics(self) -> Optics:
        """Of the middle image."""
        return self.images[len(self.images) // 2][0]

    @property
    def view(self) -> View:
        """Of the middle image, that positions are those of."""
        return self.images[len(self.images) // 2][1]


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """What the microscope makes of a specimen: one image or three of different focus.

    Attributes
    ----------
    optics, spectra, shifts_A
        Of each image; how the optics moved it.
    bent : tuple of Series
        The same images where a bent sheet lies at other heights, even steps up to the last; none of an even sheet.
    """

    optics: tuple[Optics, ...]
    spectra: Sequence[Spectrum]
    shifts_A: Sequence[Shift]
    bent: tuple[Series, ...] = ()

    @classmethod
    def of(cls, wave: NDArray[np.complex64], optics: tuple[Optics, ...]) -> Series:
        spectra, shifts_A = zip(*(image_spectrum(wave, SAMPLING_A, one) for one in optics), strict=True)
        return cls(optics, spectra, shifts_A)


def draw_optics(ranges: ImageRanges, rng: np.random.Generator) -> Optics:
    """One microscope setting."""
    two, one, three = rng.uniform(0, 2 * np.pi, 3)
    tilt = rng.uniform(0, ranges.tilt_mrad) * np.exp(1j * rng.uniform(0, 2 * np.pi))
    return Optics(
        voltage_kV=ranges.voltage_kV,
        defocus_A=rng.uniform(*ranges.defocus_A),
        Cs_A=rng.uniform(*ranges.Cs_A),
        astigmatism_A=rng.uniform(*ranges.astigmatism_A),
        astigmatism_angle=two,
        coma_A=rng.uniform(*ranges.coma_A),
        coma_angle=one,
        threefold_A=rng.uniform(*ranges.threefold_A),
        threefold_angle=three,
        tilt_mrad=(float(tilt.imag), float(tilt.real)),
        focal_spread_A=rng.uniform(*ranges.focal_spread_A),
        convergence_mrad=rng.uniform(*ranges.convergence_mrad),
        blur_A=rng.uniform(*ranges.blur_A),
    )


def draw_focuses(ranges: ImageRanges, rng: np.random.Generator) -> tuple[Optics, ...]:
    """The setting of a single image, or of three whose focus goes one way."""
    optics = draw_optics(ranges, rng)
    if ranges.focus_step_A is None:
        return (optics,)
    first, last = rng.choice([-1.0, 1.0]) * rng.uniform(*ranges.focus_step_A, 2)
    return tuple(replace(optics, defocus_A=optics.defocus_A + step) for step in (-first, 0.0, last))


def shoot(
    specimen: Specimen,
    ranges: ImageRanges,
    field_A: Pair,
    rng: np.random.Generator,
    dose_e_A2: float | None = None,
    views: int = 1,
    tries: int = 40,
    undecidable: bool = False,
) -> list[Shot]:
    """Frames of the specimen under one drawn setting of the microscope: one a view, each with its own dose and noise.

    The dose is that of each image. Settings that nobody could decide are drawn again (empty when all `tries` were
    such), or kept and said where `undecidable` asks for them.
    """
    if ranges.displacement_A:
        specimen = displaced(specimen, rng.uniform(0, ranges.displacement_A), ranges.voltage_kV, rng)
    for _ in range(tries):
        series = Series.of(specimen.wave, draw_focuses(ranges, rng))
        view = draw_view(specimen, ranges, field_A, rng)
        decided = is_decidable(series, specimen, view, ranges)
        if not decided and not undecidable:
            continue
        wave, covered = specimen.wave, np.zeros(specimen.wave.shape, np.float32)
        if rng.random() < ranges.contamination_chance:
            wave, covered = contaminate(wave, SAMPLING_A, ranges, rng)
            series = replace(series, spectra=Series.of(wave, series.optics).spectra)
        series = replace(series, bent=_other_heights(specimen, wave, series, ranges, view, rng))
        looks = [view] + [draw_view(specimen, ranges, field_A, rng) for _ in range(views - 1)]
        return [_look(series, specimen, covered, look, ranges, dose_e_A2, decided, rng) for look in looks]
    return []


def is_decidable(series: Series, specimen: Specimen, view: View, ranges: ImageRanges) -> bool:
    """The recipe's rule on what is in view, and as far beside it that windows see the frame to its edges."""
    size_A = max(view.shape[0] * view.sampling_A + WINDOW_A, _JUDGED_A)
    size = round(size_A / SAMPLING_A)
    wide = View(SAMPLING_A, (size, size), view.centre_A, view.angle)
    images = [warp(scipy.fft.ifft2(one).real.astype(np.float32), wide) for one in series.spectra]
    positions = [(wide.to_frame(specimen.positions_A + shift_A) + 0.5) * SAMPLING_A for shift_A in series.shifts_A]
    return ranges.rule(images, positions, specimen.sites, SAMPLING_A)


def _look(
    series: Series,
    specimen: Specimen,
    covered: NDArray[np.float32],
    look: View,
    ranges: ImageRanges,
    dose_e_A2: float | None,
    decided: bool,
    rng: np.random.Generator,
) -> Shot:
    dose = dose_e_A2 if dose_e_A2 is not None else _dose(rng, ranges.dose_e_A2)
    fall = rng.uniform(*ranges.mtf)
    heights = (series, *series.bent)
    height = (
        _beyond_line(look, ranges.bend_A, rng) * len(series.bent) if series.bent else np.zeros(look.shape, np.float32)
    )
    light = illumination(look.shape, ranges.illumination, rng)
    views = [look] if len(series.optics) == 1 else _drifting(look, ranges.drift_px, rng)
    ideal = []
    for k, view in enumerate(views):
        image = between(np.stack([project(one.spectra[k], view, fall) for one in heights]), height)
        ideal.append(np.maximum(image * light, 0) * np.float32(dose * look.sampling_A**2))
    sampling_A = look.sampling_A * (1 + rng.uniform(-1, 1) * ranges.sampling_error)
    counts = [detect(one, ranges, rng) for one in ideal]
    pixels, mask = (counts[0], None) if len(counts) == 1 else _aligned(counts, views, series.shifts_A, ranges, rng)
    return Shot(
        frame=Frame(pixels, sampling_A, mask, dose_e_A2=dose * len(counts)),
        positions_px=_true_positions(specimen, look, [one.shifts_A[len(views) // 2] for one in heights], height),
        class_id=specimen.sites.class_id,
        covered=warp(covered, look, cv2.INTER_LINEAR),
        ideal=ideal[0] if len(ideal) == 1 else np.stack(ideal),
        images=tuple(zip(series.optics, views, strict=True)),
        mtf_fall=fall,
        decidable=decided,
    )


def between(values: NDArray[np.floating], at: NDArray[np.floating]) -> NDArray[np.floating]:
    """values[k] of each element at its place k, linear between two: (K, ...) and (...) to (...)."""
    if len(values) == 1:
        return values[0]
    below = np.minimum(at.astype(np.intp), len(values) - 2)
    low, high = (np.take_along_axis(values, (below + k)[None], axis=0)[0] for k in (0, 1))
    return np.asarray(low + (at - below) * (high - low), values.dtype)


def _true_positions(
    specimen: Specimen, look: View, shifts_A: Sequence[Shift], height: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Where the sheet's atoms lie in the frame, each moved as the optics move its height."""
    there = np.stack([look.to_frame(specimen.positions_A + shift_A) for shift_A in shifts_A])
    y, x = np.clip(np.rint(there[0].T).astype(np.intp), 0, np.array(look.shape)[:, None] - 1)
    return np.stack([between(there[..., axis], height[y, x]) for axis in (0, 1)], axis=1)


def _drifting(look: View, largest_px: float, rng: np.random.Generator) -> list[View]:
    """Where the specimen lay in the first, the middle and the last image of a triplet."""
    before, after = rng.uniform(-largest_px, largest_px, (2, 2)).tolist()
    return [replace(look, drift_px=tuple(before)), look, replace(look, drift_px=tuple(after))]


def _aligned(
    counts: list[NDArray[np.float32]],
    views: list[View],
    shifts_A: Sequence[Shift],
    ranges: ImageRanges,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """The images moved onto the middle one, as `serve` moves them, but for what a measurement leaves."""
    origins = [view.to_frame(np.array([shift_A]))[0] for view, shift_A in zip(views, shifts_A, strict=True)]
    middle, moved, outside = len(counts) // 2, [], []
    for k, (image, view) in enumerate(zip(counts, views, strict=True)):
        left = rng.normal(0, ranges.drift_left_A / view.sampling_A, 2) if k != middle else np.zeros(2)
        y, x = origins[middle] - origins[k] + left
        image, beyond = move(image, (float(y), float(x)))
        moved.append(image)
        if beyond is not None:
            outside.append(beyond)
    return np.stack(moved), np.any(outside, axis=0) if outside else None


def _other_heights(
    specimen: Specimen,
    wave: NDArray[np.complex64],
    series: Series,
    ranges: ImageRanges,
    view: View,
    rng: np.random.Generator,
) -> tuple[Series, ...]:
    """Now and then a bent sheet: its images from the focus of the series on to another, where they are decidable too.

    What lies between may be the picture of another lattice: where the atoms are there, those beside it tell.
    """
    if rng.random() >= ranges.uneven_focus_chance:
        return ()
    away_A = rng.uniform(*ranges.defocus_A) - series.optics[len(series.optics) // 2].defocus_A
    steps = max(1, math.ceil(abs(away_A) / _FOCUS_STEP_A))
    foci = [
        tuple(replace(one, defocus_A=one.defocus_A + away_A * k / steps) for one in series.optics)
        for k in range(1, steps + 1)
    ]
    last = Series.of(wave, foci[-1])
    return (
        (*(Series.of(wave, focus) for focus in foci[:-1]), last) if is_decidable(last, specimen, view, ranges) else ()
    )


def _beyond_line(view: View, bend_A: Pair, rng: np.random.Generator) -> NDArray[np.float32]:
    """0 on one side of the field, 1 beyond a line, between them a step or a slope over the whole field."""
    rows, cols = np.mgrid[: view.shape[0], : view.shape[1]]
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
    across = (rows / view.shape[0] - 0.5) * np.sin(angle) + (cols / view.shape[1] - 0.5) * np.cos(angle) - offset
    share = 1 / (1 + np.exp(-across * view.shape[0] * view.sampling_A / log_uniform(rng, bend_A)))
    return np.asarray(share, np.float32)


def _dose(rng: np.random.Generator, limits: Pair) -> float:
    """Log-uniform, leaning towards high doses: positions are hardest to get as good as the frame allows there."""
    low, high = limits
    return float(low * (high / low) ** (rng.random() ** 0.8))
