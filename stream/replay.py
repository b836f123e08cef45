"""Publish recorded frames as acquisition software would: the native envelope, numbered, stamped, at a steady rate."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, FileError
from stream.files import Recording, pixel_size_A, read_frames, read_index
from stream.formats import is_movie_folder
from stream.pause import KEYS, Pause, listen
from stream.sender import RATE_HZ, Damaged, Exposure, add_sender_arguments, run_sender

HELP = "publish recorded frames as acquisition software would"


def find_recordings(files: list[Path], index: Path | None, sampling_A: float | None) -> list[tuple[Path, float | None]]:
    """Paths in the order they are sent, each with the pixel size that is stated for it.

    With an index, a folder (or nothing) stands for every file the index names; single files look their pixel size up.
    """
    if index is None:
        if not files:
            raise ConfigError("Expected files to replay, or --index, got neither: name some")
        for path in files:
            if path.is_dir() and not is_movie_folder(path):
                raise FileError(
                    f"{path}: expected a file, got a folder: name its files, or an index of it with --index"
                )
        return [(path, sampling_A) for path in files]
    sizes_A = read_index(index)
    found: list[tuple[Path, float | None]] = []
    for path in files or [index.parent]:
        if path.is_dir():
            found += [(path / name, size_A) for name, size_A in sizes_A.items()]
        elif path.name in sizes_A:
            found.append((path, sizes_A[path.name]))
        else:
            raise FileError(f"{path}: expected a file that {index} names, got another: add it to the index")
    return found if sampling_A is None else [(path, sampling_A) for path, _ in found]


def exposures(
    recordings: list[tuple[Path, float | None]],
    header: Mapping[str, Any],
    loop: bool = False,
    rate_Hz: float | None = 0.0,
) -> Iterator[Exposure | Damaged]:
    """Every frame of every file, without pixels where it is damaged; with `loop` again and again, each pass a series.

    The header's interval is that of `rate_Hz`, or where that is None the file's own; of the rate 0 there is none.
    FileError at the end of a pass without a frame that can be read: the next one would have none either.
    """
    told: set[Path] = set()
    series = 0
    while True:
        good = 0
        for path, sampling_A in recordings:
            for pixels, said in _frames(path, sampling_A, rate_Hz, told):
                said = {"series": series, **said, **header}
                good += pixels is not None
                yield (None, said) if pixels is None else (pixels, said)
        if not good:
            raise FileError(f"{recordings[0][0]}: expected frames that can be read, got none: check the files")
        series += 1
        if not loop:
            return


def _frames(
    path: Path, sampling_A: float | None, rate_Hz: float | None, told: set[Path]
) -> Iterator[Exposure | Damaged]:
    """Of one file; what is damaged is told once a file, and followed by what is not."""
    try:
        with read_frames(path) as recording:
            said = {"sampling": pixel_size_A(recording, sampling_A)}
            interval_s = recording_interval_s(recording) if rate_Hz is None else 1 / rate_Hz if rate_Hz else None
            if interval_s is not None:
                said |= {"frame_interval": interval_s}
            for number in range(len(recording)):
                try:
                    pixels = recording[number]
                except FileError as error:
                    _tell(f"frame {number} of {error}", path, told)
                    yield None, said
                else:
                    yield pixels, said
    except FileError as error:  # it was whole when all were opened: it went, or was written over
        _tell(str(error), path, told)
        yield None, {}


def recording_interval_s(recording: Recording) -> float:
    """From one frame to the next: as the file says, else 25 a second."""
    return 1 / RATE_HZ if recording.interval_s is None else recording.interval_s


def _tell(what: str, path: Path, told: set[Path]) -> None:
    if path not in told:
        told.add(path)
        print(f"skipped: {what}", file=sys.stderr, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `atomstream replay`."""
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="recordings, or a folder with its --index")
    parser.add_argument("--sampling", type=float, help="A/px, for files that do not say it or say it wrongly")
    parser.add_argument("--index", type=Path, metavar="CSV", help="index with the columns file, sampling_A_per_px")
    add_sender_arguments(parser, None, f"as the file says, else {RATE_HZ:g}")
    parser.add_argument("--loop", action="store_true", help="again and again")
    parser.add_argument("--paused", action="store_true", help=f"begin paused; in a terminal {KEYS}")
    parser.add_argument("--dose", type=float, help="e/A^2 in a frame, if known")
    parser.add_argument("--source", default="replay", metavar="NAME", help="what the header calls the sender (replay)")


def run(options: argparse.Namespace) -> int:
    """Open every file once, so that a mistake is told before the first frame leaves, then send."""
    for name in ("sampling", "dose"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1e9:
            raise ConfigError(f"--{name}: expected a number over 0, got {value:g}: state it as it is")
    recordings = find_recordings(options.files, options.index, options.sampling)
    rates_Hz: set[float] = set()
    for path, sampling_A in recordings:
        with read_frames(path) as recording:
            pixel_size_A(recording, sampling_A)
            rates_Hz.add(1 / recording_interval_s(recording))
    header: dict[str, Any] = {"source": options.source}
    if options.rate:
        header["exposure"] = 1 / options.rate  # a file's interval says nothing of it: there may be long pauses
    if options.dose is not None:
        header["dose"] = options.dose
    about = []
    if options.rate is None:
        rates = " to ".join(f"{rate_Hz:.4g}" for rate_Hz in sorted({min(rates_Hz), max(rates_Hz)}))
        about.append(f"{rates} frames/s: {RATE_HZ:g} where a file says no other, --rate for all")
    pause = Pause(options.paused)
    with listen(pause) as keys:
        if options.paused and not keys:
            raise ConfigError("--paused: expected a terminal to go on from, got none: leave it out")
        if keys:
            about.append(f"Keys: {KEYS}")
        return run_sender(exposures(recordings, header, options.loop, options.rate), options, pause.wait, about)
