"""Exit wave in, camera frame and its truth out.

Optics, dose and detector are drawn afresh for every frame from one generator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from engine.frame import Frame
from training.contamination import contaminate
from training.decidable import decidable
from training.displacements import displaced
from training.exit_waves import SAMPLING_A, Specimen
from training.optics import Optics, frequencies, image_spectrum

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ImageRanges:
    """What optics, dose and detector are drawn from: uniform, and log-uniform where a range spans decades."""

    voltage_kV: float = 80.0
    defocus_A: Range = (-120.0, 120.0)
    Cs_A: Range = (-2e5, 2e5)
    astigmatism_A: Range = (0.0, 30.0)
    coma_A: Range = (0.0, 400.0)
    threefold_A: Range = (0.0, 1000.0)
    tilt_mrad: float = 1.0
    focal_spread_A: Range = (20.0, 40.0)
    convergence_mrad: Range = (0.0, 0.3)
    blur_A: Range = (0.0, 0.4)
    dose_e_A2: Range = (5e2, 2e5)
    sampling_A: Range = (0.05, 0.75)
    sampling_error: float = 0.015
    mtf: Range = (0.0, 1.5)  # exponent of the fall to the camera's Nyquist frequency
    noise_blur_px: Range = (0.0, 0.6)  # spread of a detected electron over pixels, after the noise
    read_noise_e: Range = (0.02, 1.0)
    bad_pixels: float = 3e-5
    illumination: float = 0.2
    uneven_focus_chance: float = 0.25
    contamination_chance: float = 0.4
    eight_bit_chance: float = 0.3
    displacement_A: float = 0.08  # largest sigma of displacements beside those that the specimen is stored with


@dataclass(frozen=True, slots=True)
class View:
    """Where the camera looks: its pixels on the specimen."""

    sampling_A: float
    shape: tuple[int, int]
    centre_A: tuple[float, float]
    angle: float

    def matrix(self) -> NDArray[np.float64]:
        """2 x 3, camera pixel (x, y, 1) to exit wave pixel (x, y), as cv2.warpAffine takes it."""
        scale = self.sampling_A / SAMPLING_A
        c, s = np.cos(self.angle) * scale, np.sin(self.angle) * scale
        middle = (np.array(self.shape[::-1]) - 1) / 2
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


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """A simulated frame with everything known about it.

    Attributes
    ----------
    frame : Frame
    positions_px : (N, 2) float64
        True (y, x) in the frame, the shift by tilt and coma included; some lie outside.
    covered : (H, W) float32
        0 to 1, how far contamination hides the specimen.
    ideal : (H, W) float32
        Expected electrons a pixel: what the frame would be without noise.
    optics : Optics
    view : View
    mtf_fall : float
        Exponent of the detector's fall, see `project`.
    decidable : bool
        Of the first view.
    """

    frame: Frame
    positions_px: NDArray[np.float64]
    covered: NDArray[np.float32]
    ideal: NDArray[np.float32]
    optics: Optics
    view: View
    mtf_fall: float
    decidable: bool


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


def draw_view(specimen: Specimen, ranges: ImageRanges, field_A: Range, rng: np.random.Generator) -> View:
    """A square field, turned at random, that stays inside the specimen's cell."""
    finest, coarsest = ranges.sampling_A
    sampling_A = finest * (coarsest / finest) ** (rng.random() ** 0.6)  # fewer of the finest: dear to draw, and alike
    size = int(np.ceil(rng.uniform(*field_A) / sampling_A))
    angle = rng.uniform(0, 2 * np.pi)
    reach = size * sampling_A / 2 * (abs(np.cos(angle)) + abs(np.sin(angle)))
    free = max(0.0, specimen.cell_A / 2 - reach - 1.0)
    centre = specimen.cell_A / 2 + rng.uniform(-free, free, 2)
    return View(sampling_A, (size, size), (float(centre[0]), float(centre[1])), angle)


def shoot(
    specimen: Specimen,
    ranges: ImageRanges,
    field_A: Range,
    rng: np.random.Generator,
    dose_e_A2: float | None = None,
    views: int = 1,
    tries: int = 40,
    undecidable: bool = False,
) -> list[Shot]:
    """Frames of the specimen under one drawn setting of the microscope: one a view, each with its own dose and noise.

    Settings that nobody could decide are drawn again (empty when all `tries` were such), or kept and said where
    `undecidable` asks for them.
    """
    if ranges.displacement_A:
        specimen = displaced(specimen, rng.uniform(0, ranges.displacement_A), ranges.voltage_kV, rng)
    for _ in range(tries):
        optics = draw_optics(ranges, rng)
        clean, shift_A = image_spectrum(specimen.wave, SAMPLING_A, optics)
        view = draw_view(specimen, ranges, field_A, rng)
        decided = is_decidable(clean, specimen, view, shift_A)
        if not decided and not undecidable:
            continue
        wave, covered = specimen.wave, np.zeros(specimen.wave.shape, np.float32)
        if rng.random() < ranges.contamination_chance:
            wave, covered = contaminate(wave, SAMPLING_A, optics.voltage_kV, rng)
            clean, _ = image_spectrum(wave, SAMPLING_A, optics)
        other = _other_focus(specimen, wave, optics, ranges, view, rng)
        looks = [view] + [draw_view(specimen, ranges, field_A, rng) for _ in range(views - 1)]
        shots = []
        for look in looks:
            dose = dose_e_A2 if dose_e_A2 is not None else _dose(rng, ranges.dose_e_A2)
            fall = rng.uniform(*ranges.mtf)
            image = project(clean, look, fall)
            if other is not None:
                image = _blend_across(image, project(other, look, fall), look, rng)
            image *= _illumination(look.shape, ranges.illumination, rng)
            ideal = np.maximum(image, 0) * np.float32(dose * look.sampling_A**2)
            sampling_A = look.sampling_A * (1 + rng.uniform(-1, 1) * ranges.sampling_error)
            frame = Frame(detect(ideal, ranges, rng), sampling_A, dose_e_A2=dose)
            positions = look.to_frame(specimen.positions_A + shift_A)
            shots.append(
                Shot(frame, positions, _warp(covered, look, cv2.INTER_LINEAR), ideal, optics, look, fall, decided)
            )
        return shots
    return []


def is_decidable(
    spectrum: NDArray[np.complex64], specimen: Specimen, view: View, shift_A: tuple[float, float]
) -> bool:
    """The rule of training.decidable on the part of the specimen in view."""
    image = scipy.fft.ifft2(spectrum).real.astype(np.float32)
    half = max(view.shape[0] * view.sampling_A / 2, 18.0)
    low = np.clip(np.array(view.centre_A) - half, 0, specimen.cell_A - 2 * half)
    a, b = ((low / SAMPLING_A).astype(int), ((low + 2 * half) / SAMPLING_A).astype(int))
    origin = a * SAMPLING_A - SAMPLING_A / 2
    part = image[a[0] : b[0], a[1] : b[1]]
    return decidable(part, specimen.positions_A + shift_A - origin, SAMPLING_A)


def project(spectrum: NDArray[np.complex64], view: View, mtf_fall: float) -> NDArray[np.float32]:
    """The image on the camera's pixels."""
    ky, kx = frequencies(spectrum.shape, SAMPLING_A)
    c, s = np.float32(np.cos(view.angle)), np.float32(np.sin(view.angle))
    u, v = (c * kx + s * ky) * view.sampling_A, (-s * kx + c * ky) * view.sampling_A  # cycles a camera pixel
    mtf = np.sinc(u) * np.sinc(v) * np.exp(-mtf_fall * np.sqrt(u * u + v * v))
    return _warp(scipy.fft.ifft2(spectrum * mtf.astype(np.float32)).real.astype(np.float32), view)


def detect(ideal: NDArray[np.float32], ranges: ImageRanges, rng: np.random.Generator) -> NDArray[np.float32]:
    """Expected electrons a pixel to counts: Poisson noise, spread, read noise, gain, offset, bad pixels, 8 bits."""
    counts = rng.poisson(ideal).astype(np.float32)
    spread = rng.uniform(*ranges.noise_blur_px)
    if spread > 0.25:
        counts = np.asarray(cv2.GaussianBlur(counts, (0, 0), spread, borderType=cv2.BORDER_REFLECT_101), np.float32)
    counts += rng.normal(0, _log_uniform(rng, ranges.read_noise_e), counts.shape).astype(np.float32)
    bad = rng.poisson(ranges.bad_pixels * counts.size)
    if bad:
        at = rng.integers(counts.size, size=bad)
        counts.reshape(-1)[at] = rng.choice([0.0, 2.0], bad) * counts.mean() * rng.uniform(0.5, 3, bad)
    if rng.random() < ranges.eight_bit_chance:  # pictures that were stretched to 8 bits, as archives hold them
        low, high = np.percentile(counts, [0.1, 99.9])
        return np.clip(np.rint((counts - low) * (255 / max(1e-6, high - low))), 0, 255).astype(np.float32)
    return counts * np.float32(_log_uniform(rng, (0.5, 50))) + np.float32(rng.uniform(0, 200))


def _warp(image: NDArray[np.float32], view: View, interpolation: int = cv2.INTER_LANCZOS4) -> NDArray[np.float32]:
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, view.matrix(), view.shape[::-1], flags=flags, borderMode=cv2.BORDER_WRAP))


def _other_focus(
    specimen: Specimen,
    wave: NDArray[np.complex64],
    optics: Optics,
    ranges: ImageRanges,
    view: View,
    rng: np.random.Generator,
) -> NDArray[np.complex64] | None:
    """Now and then the spectrum of a second focus, for a bent sheet; None where it would be undecidable."""
    if rng.random() >= ranges.uneven_focus_chance:
        return None
    bent = replace(optics, defocus_A=rng.uniform(*ranges.defocus_A))
    spectrum, shift_A = image_spectrum(wave, SAMPLING_A, bent)
    return spectrum if is_decidable(spectrum, specimen, view, shift_A) else None


def _blend_across(
    image: NDArray[np.float32], other: NDArray[np.float32], view: View, rng: np.random.Generator
) -> NDArray[np.float32]:
    """One image on one side of the field, the other beyond a line, a smooth step between."""
    rows, cols = np.mgrid[: view.shape[0], : view.shape[1]]
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
    across = (rows / view.shape[0] - 0.5) * np.sin(angle) + (cols / view.shape[1] - 0.5) * np.cos(angle) - offset
    share = 1 / (1 + np.exp(-across * view.shape[0] * view.sampling_A / rng.uniform(2, 8)))
    return np.asarray(image + share.astype(np.float32) * (other - image))


def _illumination(shape: tuple[int, int], strength: float, rng: np.random.Generator) -> NDArray[np.float32]:
    coarse = 1 + rng.uniform(0, strength) * rng.uniform(-1, 1, (3, 3)).astype(np.float32)
    return np.asarray(cv2.resize(coarse.astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC))


def _dose(rng: np.random.Generator, limits: Range) -> float:
    """Log-uniform, leaning towards high doses: positions are hardest to get as good as the frame allows there."""
    low, high = limits
    return float(low * (high / low) ** (rng.random() ** 0.8))


def _log_uniform(rng: np.random.Generator, limits: Range) -> float:
    return float(np.exp(rng.uniform(*np.log(limits))))
