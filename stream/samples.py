"""Recorded frames as a model takes them: each by itself, or three as a triplet whose drift is taken out as live.

Saturated pixels are masked as live too.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from engine.errors import ConfigError, FileError
from engine.frame import Frame
from engine.shipped import find_spec
from engine.spec import ModelSpec
from stream.alignment import Aligner, read_image
from stream.files import Recording
from stream.header import saturated
from stream.references import References

_SIZE = 3
_NO_REFERENCES = References()


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What a detector takes at once, how many there are a second where that is known, and what can be doubted in it."""

    frame: Frame
    rate_Hz: float | None = None
    warnings: tuple[str, ...] = ()
    drift_px: tuple[tuple[float, float], ...] = ()  # of each image of a triplet


class Samples:
    """The samples of one recording, by number; in their order, since drift is followed from one to the next.

    Parameters
    ----------
    channels : int
        Images that the model takes. For three the file holds triplets (T, 3, H, W), or every three frames are one.
    max_drift_A : float
        As `serve` takes it.

    Raises
    ------
    FileError
        The file holds frames of which no such samples can be made.
    """

    def __init__(self, recording: Recording, sampling_A: float, channels: int, max_drift_A: float) -> None:
        self._recording = recording
        self._sampling_A = sampling_A
        self._channels = channels
        self._grouped = channels == _SIZE and recording.images == 1
        self._aligner = Aligner(max_drift_A)
        self._check()

    def __len__(self) -> int:
        return len(self._recording) // (_SIZE if self._grouped else 1)

    @property
    def rate_Hz(self) -> float | None:
        """Samples a second, where the file says it."""
        interval_s = self._recording.interval_s
        return None if interval_s is None else 1 / (_SIZE * interval_s if self._grouped else interval_s)

    def __getitem__(self, number: int) -> Sample:
        """FileError where the file cannot be read there."""
        if self._channels != _SIZE:
            pixels = self._recording[number]
            return Sample(Frame(pixels, self._sampling_A, saturated(pixels, None)), self.rate_Hz)
        if self._grouped:
            images = [self._recording[_SIZE * number + one] for one in range(_SIZE)]
        else:
            images = list(self._recording[number])
        read = [read_image(image, saturated(image, None), _NO_REFERENCES) for image in images]
        aligned = self._aligner.align(read, self._sampling_A, None)
        warnings = () if aligned.doubt is None else (aligned.doubt,)
        return Sample(Frame(aligned.pixels, self._sampling_A, aligned.mask), self.rate_Hz, warnings, aligned.drift_px)

    def _check(self) -> None:
        path, frames = self._recording.path, len(self._recording)
        if self._grouped and frames % _SIZE:
            raise FileError(
                f"{path}: expected triplets (T, 3, H, W), or frames (T, H, W) of which every three are one, "
                f"got {frames} frames, which three does not divide: cut the file, or load a model for single frames"
            )
        if self._channels != _SIZE and self._recording.images != 1:
            raise FileError(
                f"{path}: expected single frames (T, H, W), got triplets (T, 3, H, W): "
                "load a model for triplets, or save the images one after the other"
            )


class Clock:
    """When each frame was, through all files as if each followed the last at once; unknown after one without a rate."""

    def __init__(self) -> None:
        self._rate_Hz: float | None = None
        self._since_s: float | None = 0.0  # when the first frame of this rate was
        self._frames = 0  # of this rate: multiples of an interval, where a sum of intervals would drift

    def next_s(self, rate_Hz: float | None) -> float | None:
        """When the next frame was, of so many a second."""
        if rate_Hz != self._rate_Hz:
            if self._frames:
                self._since_s = self._after_s()
            self._rate_Hz, self._frames = rate_Hz, 0
        at_s = self._after_s()
        self._frames += 1
        return at_s

    def _after_s(self) -> float | None:
        if self._since_s is None or self._rate_Hz is None:
            return None
        return self._since_s + self._frames / self._rate_Hz


def add_drift_argument(parser: argparse.ArgumentParser) -> None:
    """The flag of those who make triplets of recorded frames."""
    parser.add_argument(
        "--max-drift", type=float, default=1.0, metavar="A", help="between images of a triplet; 0: none taken out (1)"
    )


def add_covered_argument(parser: argparse.ArgumentParser) -> None:
    """The flag of those who report atoms of recorded frames."""
    parser.add_argument("--covered", action="store_true", help="report atoms under contamination too")


def check_drift(max_drift_A: float) -> None:
    """ConfigError for what no drift can be."""
    if not 0 <= max_drift_A < 1e9:
        raise ConfigError(f"--max-drift: expected a number of A from 0 to 1e9, got {max_drift_A:g}: correct it")


def model_channels(model: str) -> int:
    """Images that a model takes, before it is loaded."""
    return ModelSpec.read(find_spec(model)).channels
