"""The simulated camera: graphene loses atoms under the beam while focus and specimen wander. Frames out, no input.

Exit waves that were computed once are played through the optics of `optics.py`; every frame is a function of the
settings and its number alone.
"""

from __future__ import annotations

import argparse
import itertools
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ConfigError, FileError
from stream.optics import Optics, WaveSpectrum, intensity, record, shot_noise, tile, wave_spectrum
from stream.sender import Exposure, add_sender_arguments, run_sender

HELP = "simulate a camera: graphene that loses atoms, live noise, wandering focus"
SPECIMEN = Path(__file__).parent / "specimens" / "graphene.npz"

_DEFAULT_INTERVAL_S = 0.04  # the pace of the simulated time where frames are sent as fast as they are taken
_MAX_PIXELS = 67_108_864
_MAX_WAVE_BYTES = 268_435_456
_SWAY_A = 1.5  # amplitude of the stage's slow sway beside its drift


def _option(default: Any, text: str, least: float = -math.inf) -> Any:
    return field(default=default, metadata={"help": text, "least": least})


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """What the simulated microscope is set to."""

    dose: float = _option(1e4, "e/A^2 in a frame", least=1e-3)
    sampling: float = _option(0.1, "A/px, up to 0.2 %% off so that whole pixels fit the specimen's period", least=0.01)
    defocus: float = _option(0.0, "A, the mean that the focus wanders about; positive is under focus")
    defocus_amplitude: float = _option(75.0, "A, how far the focus wanders: through contrast inversion", least=0)
    defocus_period: float = _option(12.0, "s, of its slower part", least=0.1)
    cs: float = _option(-5.0, "spherical aberration in um")
    astigmatism: float = _option(4.0, "A, two-fold", least=0)
    focal_spread: float = _option(25.0, "A, 1/e", least=0)
    blur: float = _option(0.15, "A, standard deviation of the vibration", least=0)
    voltage: float | None = _option(None, "kV of the optics (the specimen's own)", least=10)
    drift: float = _option(0.4, "A/s", least=0)
    stage_seconds: float = _option(2.0, "from one loss of atoms to the next", least=0.01)
    gain: float = _option(1.0, "counts per electron", least=1e-3)
    offset: float = _option(0.0, "counts of a pixel without electrons", least=0)
    seed: int = _option(3, "of noise, drift and focus", least=0)

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if value is not None and not option.metadata["least"] <= value < math.inf:
                raise ConfigError(f"{option.name}: expected {option.metadata['least']:g} or more, got {value:g}")


@dataclass(frozen=True, slots=True, eq=False)
class Specimen:
    """Exit waves of one periodic cell, stage by stage; later stages have lost more atoms."""

    stages: tuple[WaveSpectrum, ...]
    sampling_A: float
    voltage_kV: float

    @property
    def cell_A(self) -> tuple[float, float]:
        """Height and width of the period."""
        height, width = self.stages[0].shape
        return height * self.sampling_A, width * self.sampling_A


def read_specimen(path: Path = SPECIMEN) -> Specimen:
    """Read exit waves: arrays real and imag (S, H, W) int16, scale, sampling_A, voltage_kV."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if sum(entry.file_size for entry in arrays.zip.infolist()) > _MAX_WAVE_BYTES:
                raise ValueError(f"more than {_MAX_WAVE_BYTES} bytes")
            waves = (arrays["real"] + np.complex64(1j) * arrays["imag"]) * np.float32(arrays["scale"])
            sampling_A, voltage_kV = float(arrays["sampling_A"]), float(arrays["voltage_kV"])
        stages = tuple(wave_spectrum(wave.astype(np.complex64), sampling_A) for wave in waves)
        return Specimen(stages, sampling_A, voltage_kV)
    except OSError as error:
        cause = error.strerror or str(error)
    except (ValueError, KeyError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
        cause = str(error)
    raise FileError(f"{path}: expected exit waves of the simulated camera, got {cause}: install Atomstream again")


def expected_electrons(
    specimen: Specimen, settings: CameraSettings, shape: tuple[int, int], time_s: float
) -> NDArray[np.float32]:
    """Noise-free image at this time, in electrons a pixel, (H, W) float32."""
    wave = specimen.stages[int(time_s / settings.stage_seconds) % len(specimen.stages)]
    optics = Optics(
        voltage_kV=settings.voltage or specimen.voltage_kV,
        defocus_A=focus_A(settings, time_s),
        cs_um=settings.cs,
        astigmatism_A=settings.astigmatism,
        focal_spread_A=settings.focal_spread,
        blur_A=settings.blur,
    )
    cell_px = whole_pixels(specimen, settings.sampling)
    shift_A = position_A(settings, time_s)
    image = record(intensity(wave, optics), specimen.sampling_A, cell_px, optics.blur_A, shift_A)
    return tile(image, shape) * np.float32(settings.dose * true_sampling_A(specimen, settings.sampling) ** 2)


def whole_pixels(specimen: Specimen, sampling_A: float) -> tuple[int, int]:
    """Camera pixels in one period of the specimen."""
    height, width = (max(4, round(length / sampling_A)) for length in specimen.cell_A)
    return height, width


def true_sampling_A(specimen: Specimen, sampling_A: float) -> float:
    """The pixel size with which whole pixels fit the specimen's period; what the header states."""
    (height_A, width_A), (height, width) = specimen.cell_A, whole_pixels(specimen, sampling_A)
    return round(math.sqrt(height_A * width_A / (height * width)), 6)


def focus_A(settings: CameraSettings, time_s: float) -> float:
    """Defocus: a slow swing and a faster, smaller one."""
    turns = 2 * math.pi * time_s / settings.defocus_period
    slow, fast = (math.sin(rate * turns + phase) for rate, phase in zip((1, 2.7), _phases(settings.seed), strict=False))
    return settings.defocus + settings.defocus_amplitude * (0.85 * slow + 0.15 * fast)


def position_A(settings: CameraSettings, time_s: float) -> tuple[float, float]:
    """How far the specimen has moved along y and x: drift in one direction, and a slow sway."""
    heading, phase_y, phase_x = _phases(settings.seed)[2:]
    y = settings.drift * time_s * math.sin(heading) + _SWAY_A * math.sin(time_s / 3.7 + phase_y)
    x = settings.drift * time_s * math.cos(heading) + _SWAY_A * math.sin(time_s / 5.1 + phase_x)
    return y, x


@cache
def _phases(seed: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(seed).uniform(0, 2 * math.pi, 5).tolist())


def expose(
    specimen: Specimen, settings: CameraSettings, shape: tuple[int, int], number: int, interval_s: float
) -> Exposure:
    """Frame `number`: uint16 counts and what the header says of them."""
    time_s = number * interval_s
    rng = np.random.Generator(np.random.SFC64([settings.seed, number]))
    electrons = shot_noise(expected_electrons(specimen, settings, shape, time_s), rng)
    counts = np.rint(np.clip(electrons * np.float32(settings.gain) + np.float32(settings.offset), 0, 65535))
    return counts.astype(np.uint16), {
        "series": int(time_s / settings.stage_seconds) // len(specimen.stages),
        "sampling": true_sampling_A(specimen, settings.sampling),
        "dose": settings.dose,
        "exposure": interval_s,
        "frame_interval": interval_s,
        "defocus": round(focus_A(settings, time_s), 2),
        "voltage": (settings.voltage or specimen.voltage_kV) * 1e3,
        "gain": settings.gain,
        "offset": settings.offset,
        "source": "camera",
    }


def exposures(
    specimen: Specimen, settings: CameraSettings, shape: tuple[int, int], rate_Hz: float, frames: int | None = None
) -> Iterator[Exposure]:
    """Frame after frame, `frames` of them or without end; simulated time goes by the frame's number."""
    interval_s = 1 / rate_Hz if rate_Hz else _DEFAULT_INTERVAL_S
    for number in itertools.count() if frames is None else range(frames):
        yield expose(specimen, settings, shape, number, interval_s)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `atomstream camera`."""
    add_sender_arguments(parser)
    parser.add_argument("--shape", type=parse_shape, default=(512, 512), metavar="HxW", help="pixels (512x512)")
    parser.add_argument("--frames", type=int, metavar="N", help="end after so many (without end)")
    for option in fields(CameraSettings):
        default = "" if option.default is None else f" ({option.default:g})"
        parser.add_argument(
            f"--{option.name.replace('_', '-')}",
            type=int if option.name == "seed" else float,
            default=option.default,
            metavar=option.name.rsplit("_", 1)[-1].upper(),
            help=option.metadata["help"] + default,
        )


def parse_shape(text: str) -> tuple[int, int]:
    """ "512x512" as (512, 512)."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and 8 <= int(height) * int(width) <= _MAX_PIXELS):
        raise argparse.ArgumentTypeError(f"expected HxW, for example 512x512, got {text!r}")
    return int(height), int(width)


def run(options: argparse.Namespace) -> int:
    """Send frames until the number is reached or Ctrl-C."""
    settings = CameraSettings(**{option.name: getattr(options, option.name) for option in fields(CameraSettings)})
    frames = exposures(read_specimen(), settings, options.shape, options.rate, options.frames)
    return run_sender(frames, options)
