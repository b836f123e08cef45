"""Find the atoms in recorded frames: files in, a table of atoms out, and a picture of one frame where asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
from rich.console import Console
from rich.progress import Progress

from engine.detector import Detector, load_detector
from engine.errors import ConfigError, FrameError
from engine.frame import Frame
from stream.drawing import draw_atoms, write_picture
from stream.files import pixel_size_A, read_frames
from stream.samples import Clock, Sample, Samples, add_covered_argument, add_drift_argument, check_drift, model_channels
from stream.table import Table

HELP = "find the atoms in recorded frames"


def find_atoms(
    detector: Detector,
    samples: Iterable[Sample],
    table: Table,
    rate_Hz: float | None = None,
    picture: tuple[int, Path] | None = None,
    covered: bool = False,
) -> tuple[int, int, int]:
    """Every frame's atoms into the table, one frame's into a picture.

    Atoms under contamination are left out unless `covered` asks for them. Returned are the numbers of frames, of atoms,
    and of those left out.

    Frames that cannot be processed leave no rows. They and the model's warnings are told on stderr at the end;
    FrameError when no frame could be processed.
    """
    count = processed = hidden = 0
    clock = Clock()
    told: dict[str, list[int]] = {}
    refused: FrameError | None = None
    for number, sample in enumerate(samples):
        frame, time_s = sample.frame, clock.next_s(rate_Hz or sample.rate_Hz)
        try:
            notes: Sequence[str] = (*detector.check(frame), *sample.warnings)
            found = detector.detect(frame)
        except FrameError as error:
            refused, notes = error, [str(error)]
        else:
            atoms = found if covered else found.uncovered()
            table.add(number, time_s, atoms, frame.sampling_A)
            processed, count, hidden = processed + 1, count + len(atoms), hidden + len(found) - len(atoms)
            if picture is not None and picture[0] == number:
                write_picture(picture[1], draw_atoms(_middle(frame), atoms, detector.spec.least_chance))
        for note in notes:
            told.setdefault(note, []).append(number)
    if refused is not None and processed == 0:
        raise refused
    for note, numbers in told.items():
        more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
        print(f"frame {numbers[0]}{more}: {note}", file=sys.stderr)
    return processed, count, hidden


def count_samples(files: Sequence[Path], sampling_A: float | None, channels: int) -> int:
    """Open every file once, so that a mistake is told before a model is loaded or a table begun."""
    count = 0
    for path in files:
        with read_frames(path) as recording:
            count += len(Samples(recording, pixel_size_A(recording, sampling_A), channels, 0.0))
    return count


def read_all(files: Sequence[Path], sampling_A: float | None, channels: int, max_drift_A: float) -> Iterator[Sample]:
    """The frames, or triplets, of all files in their order."""
    for path in files:
        with read_frames(path) as recording:
            samples = Samples(recording, pixel_size_A(recording, sampling_A), channels, max_drift_A)
            yield from (samples[number] for number in range(len(samples)))


def _middle(frame: Frame) -> Frame:
    """The image of a triplet that the atoms are found in."""
    return frame if frame.pixels.ndim == 2 else replace(frame, pixels=frame.pixels[len(frame.pixels) // 2])


def _picture(options: argparse.Namespace, count: int) -> tuple[int, Path] | None:
    """Which of so many frames is drawn, and where to."""
    number, path = options.overlay_frame, options.overlay
    if path is None:
        if number is not None:
            raise ConfigError(f"--overlay-frame: expected a picture to draw it in, got {number} alone: add --overlay")
        return None
    if not 0 <= (number or 0) < count:
        raise ConfigError(f"--overlay-frame: expected 0 to {count - 1}, got {number}: choose one of these")
    if path.resolve() in {each.resolve() for each in options.files}:
        raise ConfigError(f"--overlay: expected a picture to write, got the recording {path}: rename it")
    if not path.parent.is_dir():
        raise ConfigError(f"--overlay: expected a picture to write, got {path} in a folder that is not there: make it")
    if path.suffix and not cv2.haveImageWriter(path.name):
        raise ConfigError(f"--overlay: expected a picture to write, such as atoms.png, got {path}: rename it")
    return number or 0, path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `atomstream detect`."""
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="frames of the kinds that replay reads; triplets too"
    )
    parser.add_argument("--model", default="graphene", help="a shipped model, or the path of a spec .json (graphene)")
    parser.add_argument(
        "--sampling", type=float, metavar="A", help="A/px, for files that do not say it or say it wrongly"
    )
    parser.add_argument("--output", default="-", metavar="TABLE", help=".csv or .parquet; -: CSV to stdout (-)")
    parser.add_argument("--rate", type=float, metavar="HZ", help="frames a second, for time_s (as the files say)")
    parser.add_argument("--overlay", type=Path, metavar="PICTURE", help="draw the atoms over one frame")
    parser.add_argument("--overlay-frame", type=int, metavar="N", help="which, counted from 0 (0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:all (auto: the GPU if it works)")
    parser.add_argument("--precision", default="auto", help="auto, f32, bf16, f16 or int8 (auto)")
    parser.add_argument("--memory-MB", type=float, default=4096.0, metavar="MB", help="of a GPU's memory (4096)")
    parser.add_argument("--threads", type=int, help="CPU threads (all cores)")
    add_covered_argument(parser)
    add_drift_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Detect, and say on stderr how many atoms there were."""
    for name in ("sampling", "rate", "threads", "memory_MB"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1e9:
            raise ConfigError(
                f"--{name.replace('_', '-')}: expected a number over 0, got {value:g}: correct it, or leave it out"
            )
    check_drift(options.max_drift)
    count = count_samples(options.files, options.sampling, model_channels(options.model))
    picture = _picture(options, count)
    output = None if options.output == "-" else Path(options.output)
    console = Console(stderr=True)
    progress = Progress(console=console, transient=True, disable=not console.is_terminal)
    with (
        load_detector(
            options.model,
            precision=options.precision,
            threads=options.threads,
            device=options.device,
            memory_MB=options.memory_MB,
        ) as detector,
        Table(output, detector.spec.classes) as table,
        progress,
    ):
        samples = read_all(options.files, options.sampling, detector.spec.channels, options.max_drift)
        tracked = progress.track(samples, total=count, description="frames")
        processed, count, hidden = find_atoms(detector, tracked, table, options.rate, picture, options.covered)
    left_out = f", {hidden} more under contamination: --covered reports them" if hidden else ""
    print(f"{count} atoms in {processed} frame{'s' * (processed != 1)}{left_out}", file=sys.stderr)
    return 0
