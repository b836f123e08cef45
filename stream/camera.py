"""The simulated camera: a sheet loses atoms under the beam while focus and specimen wander. Frames out, no input.

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

HELP = "simulate a camera: graphene or MoS2 that loses atoms, live noise, wandering focus, defocus triplets"

_FOLDER = Path(__file__).parent / "specimens"
SPECIMEN = _FOLDER / "graphene.npz"

_DEFAULT_INTERVAL_S = 0.04  # the pace of the simulated time where frames are sent as fast as they are taken
_MAX_PIXELS = 67_108_864
_MAX_WAVE_BYTES = 268_435_456
_SWAY_A = 1.5  # amplitude of the stage's slow sway beside its drift
_IMAGES = 3  # of a defocus triplet


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
    focus_step: float = _option(
        0.0, "A of defocus from image to image of a triplet, three frames of one series; 0: single images", least=0
    )
    focus_shift: float = _option(0.4, "A that the image moves with each such step, beside the drift", least=0)
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


def list_specimens() -> tuple[str, ...]:
    """Names of the shipped specimens."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.npz")))


def find_specimen(specimen: str) -> Path:
    """The exit waves of a shipped name, or of a path to a .npz file; ConfigError for another."""
    if specimen.endswith(".npz"):
        return Path(specimen)
    names = list_specimens()
    if specimen not in names:
        raise ConfigError(
            f"Expected a shipped specimen ({', '.join(names) or 'none is installed'}) or a path to exit waves .npz, "
            f"got {specimen!r}: choose one of these"
        )
    return _FOLDER / f"{specimen}.npz"


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
    specimen: Specimen, settings: CameraSettings, shape: tuple[int, int], time_s: float, step: int = 0
) -> NDArray[np.float32]:
    """Noise-free image at this time, `step` focus steps off, in electrons a pixel, (H, W) float32."""
    wave = specimen.stages[int(time_s / settings.stage_seconds) % len(specimen.stages)]
    optics = Optics(
        voltage_kV=settings.voltage or specimen.voltage_kV,
        defocus_A=focus_A(settings, time_s, step),
        cs_um=settings.cs,
        astigmatism_A=settings.astigmatism,
        focal_spread_A=settings.focal_spread,
        blur_A=settings.blur,
    )
    cell_px = whole_pixels(specimen, settings.sampling)
    shift_A = position_A(settings, time_s, step)
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


def place_in_triplet(settings: CameraSettings, number: int) -> int:
    """Where in its triplet a frame stands: -1, 0 or 1; 0 of single images."""
    return number % _IMAGES - 1 if settings.focus_step else 0


def focus_A(settings: CameraSettings, time_s: float, step: int = 0) -> float:
    """Defocus: a slow swing and a faster, smaller one; and what is set from image to image."""
    turns = 2 * math.pi * time_s / settings.defocus_period
    slow, fast = (math.sin(rate * turns + phase) for rate, phase in zip((1, 2.7), _phases(settings.seed), strict=False))
    wandering = settings.defocus_amplitude * (0.85 * slow + 0.15 * fast)
    return settings.defocus + wandering + step * settings.focus_step


def position_A(settings: CameraSettings, time_s: float, step: int = 0) -> tuple[float, float]:
    """How far the specimen has moved along y and x: drift in one direction, a slow sway; across, what refocusing does.

    A lens that is refocused moves the image, since the beam is never quite along its axis.
    """
    heading, phase_y, phase_x = _phases(settings.seed)[2:]
    along_A, across_A = settings.drift * time_s, step * settings.focus_shift
    y = along_A * math.sin(heading) + across_A * math.cos(heading) + _SWAY_A * math.sin(time_s / 3.7 + phase_y)
    x = along_A * math.cos(heading) - across_A * math.sin(heading) + _SWAY_A * math.sin(time_s / 5.1 + phase_x)
    return y, x


@cache
def _phases(seed: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(seed).uniform(0, 2 * math.pi, 5).tolist())


def expose(
    specimen: Specimen, settings: CameraSettings, shape: tuple[int, int], number: int, interval_s: float
) -> Exposure:
    """Frame `number`: uint16 counts and what the header says of them."""
    time_s, step = number * interval_s, place_in_triplet(settings, number)
    specimen_series = int(time_s / settings.stage_seconds) // len(specimen.stages)
    rng = np.random.Generator(np.random.SFC64([settings.seed, number]))
    electrons = shot_noise(expected_electrons(specimen, settings, shape, time_s, step), rng)
    counts = np.rint(np.clip(electrons * np.float32(settings.gain) + np.float32(settings.offset), 0, 65535))
    return counts.astype(np.uint16), {
        "series": number // _IMAGES if settings.focus_step else specimen_series,
        "sampling": true_sampling_A(specimen, settings.sampling),
        "dose": settings.dose,
        "exposure": interval_s,
        "frame_interval": interval_s,
        "defocus": round(focus_A(settings, time_s, step), 2),
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
    parser.add_argument(
        "--specimen",
        default=SPECIMEN.stem,
        metavar="NAME",
        help=f"{' or '.join(list_specimens())}, or the path of exit waves .npz, as `atomstream-train simulate` writes "
        f"them with --playback ({SPECIMEN.stem})",
    )
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
    if options.frames is not None and options.frames < 1:
        raise ConfigError(f"--frames: expected 1 or more, got {options.frames}: leave it out to send without end")
    settings = CameraSettings(**{option.name: getattr(options, option.name) for option in fields(CameraSettings)})
    specimen = read_specimen(find_specimen(options.specimen))
    frames = exposures(specimen, settings, options.shape, options.rate, options.frames)
    return run_sender(frames, options)
