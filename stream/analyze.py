"""The engine over recorded movies: a table of atoms, a table of frames, a summary in JSON and as plots.

An analysis that was ended, in whatever way, goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from engine.cores import usable_cores
from engine.detector import load_detector
from engine.errors import ConfigError, FileError
from stream.blocks import FRAME_NUMBERS, Block, Job, Rows, analyse_block
from stream.files import pixel_size_A, read_frames
from stream.parts import Parts
from stream.plots import draw_summary
from stream.samples import Clock, Samples, add_covered_argument, add_drift_argument, check_drift, model_channels
from stream.summary import Tally
from stream.table import Rows as TableRows
from stream.table import decimals, writing
from stream.workers import work_here, work_on_cluster

HELP = "the atoms of recorded movies, with a summary; on several cores, and resumable"

_BLOCK_FRAMES = 16
_SUFFIXES = (".csv", ".parquet")
_ATOM_TYPES = {
    "file": "text",
    "frame": "int",
    "time_s": "float",
    "y": "float",
    "x": "float",
    "class": "text",
    "score": "float",
    "sigma_pm": "float",
    "flags": "int",
    "nearest_A": "float",
    "sampling_A": "float",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which movies, with what, to where."""
    parser.add_argument("files", nargs="+", type=Path, metavar="MOVIE", help="of the kinds that replay reads")
    parser.add_argument("--output", type=Path, required=True, metavar="TABLE", help="of atoms: .parquet or .csv")
    parser.add_argument("--model", default="graphene", help="a shipped model, or the path of a spec .json (graphene)")
    parser.add_argument(
        "--sampling", type=float, metavar="A", help="A/px, for files that do not say it, or say it wrongly"
    )
    parser.add_argument(
        "--rate", type=float, metavar="HZ", help="frames a second of the movies, for time_s (as they say)"
    )
    parser.add_argument("--precision", default="auto", help="auto, f32, bf16 or int8 (auto)")
    add_covered_argument(parser)
    add_drift_argument(parser)
    parser.add_argument("--workers", type=int, help="processes, each with one engine thread (all cores)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, tcp://HOST:PORT")


def run(options: argparse.Namespace) -> int:
    """Analyse what is not done yet, put the tables together, and say what there was."""
    _check(options)
    blocks, left_out, rates_Hz = plan_blocks(options.files, options.sampling, model_channels(options.model))
    with load_detector(options.model, "openvino", options.precision, threads=1) as detector:
        spec, backend = detector.spec, detector.backend
    precision = backend.split()[-1]  # one on every machine
    # Workers of a cluster run elsewhere; a shipped model is known there by its name.
    model = str(Path(options.model).resolve()) if options.model.endswith(".json") else options.model
    job = Job(model, precision, options.sampling, options.max_drift, options.covered)
    stats = [(path, os.stat(path)) for path in dict.fromkeys(block.path for block in blocks)]
    plan = {
        "files": [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats],
        "model": [spec.name, spec.version, spec.sha256, backend],
        "sampling_A": options.sampling,
        "max_drift_A": options.max_drift,
        "covered": options.covered,
        "block_frames": _BLOCK_FRAMES,
    }
    parts = Parts(_folder(options.output), plan)
    done = parts.done(len(blocks))
    if done:
        print(f"{len(done)} of {len(blocks)} blocks were done before", file=sys.stderr)
    _work(job, [block for block in blocks if block.number not in done], parts, options, len(blocks))
    names = [str(path) for path in options.files]
    rows = (parts.load(block.number) for block in blocks)
    if options.rate is not None:
        rates_Hz = [options.rate] * len(names)
    summary = write_tables(options.output, rows, names, spec.classes, rates_Hz)
    summary |= {"files": names, "files_left_out": left_out}
    summary |= {"model": {"name": spec.name, "version": spec.version}, "backend": backend}
    base = options.output.with_suffix("")
    with writing(base):
        Path(f"{base}.summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        drawn = draw_summary(summary, Path(f"{base}.summary.png"))
    parts.remove()
    _say(summary, drawn)
    refused = sum(summary["frames_refused"].values())
    if refused == summary["frames"]:
        raise FileError(
            f"{options.output}: expected frames that can be processed, got none of {refused}: "
            "the table of frames says why"
        )
    return 0


def plan_blocks(
    files: Sequence[Path], sampling_A: float | None, channels: int
) -> tuple[list[Block], dict[str, str], list[float | None]]:
    """Blocks of all files that can be opened; the others, and why; frames a second of each file that says it.

    FileError where no file can be opened.
    """
    blocks: list[Block] = []
    left_out: dict[str, str] = {}
    rates_Hz: list[float | None] = [None] * len(files)
    for number, path in enumerate(files):
        try:
            with read_frames(path) as recording:
                samples = Samples(recording, pixel_size_A(recording, sampling_A), channels, 0.0)
                frames, rates_Hz[number] = len(samples), samples.rate_Hz
        except FileError as error:
            if len(files) == 1:
                raise
            left_out[str(path)] = str(error)
            print(f"left out: {error}", file=sys.stderr)
            continue
        for start in range(0, frames, _BLOCK_FRAMES):
            stop = min(start + _BLOCK_FRAMES, frames)
            blocks.append(Block(len(blocks), number, str(path.resolve()), start, stop))
    if not blocks:
        raise FileError(f"{files[0]} and {len(files) - 1} more: expected movies, got none that can be read: check them")
    return blocks, left_out, rates_Hz


def write_tables(
    output: Path, parts: Iterable[Rows], names: Sequence[str], classes: Sequence[str], rates_Hz: Sequence[float | None]
) -> dict[str, Any]:
    """Both tables, whole or not at all; the summary. `names` and `rates_Hz` are those of the files."""
    tally, clock = Tally(classes), Clock()
    frames_path = output.with_suffix(f".frames{output.suffix}")
    new = [path.with_name(f".new-{path.name}") for path in (output, frames_path)]
    with ExitStack() as stack:
        atoms = stack.enter_context(TableRows(new[0], _ATOM_TYPES))
        frames = stack.enter_context(TableRows(new[1], _frame_types(classes)))
        for rows in parts:
            notes = json.loads(rows["notes"].tobytes())
            counts = _counts(rows, len(classes))
            times_s = [clock.next_s(rates_Hz[file]) for file in rows["frame_movie"].tolist()]
            atoms.write(_atom_columns(rows, names, classes, times_s))
            frames.write(_frame_columns(rows, names, classes, counts, notes, times_s))
            tally.add(rows, counts, notes, times_s)
    with writing(output):
        for path, last in zip(new, (output, frames_path), strict=True):
            os.replace(path, last)
    return tally.summary()


def _work(job: Job, blocks: Sequence[Block], parts: Parts, options: argparse.Namespace, total: int) -> None:
    console = Console(stderr=True)
    workers = min(options.workers or usable_cores(), max(1, len(blocks)))
    if not blocks:
        return
    if options.scheduler:
        results = work_on_cluster(job, blocks, options.scheduler)
    elif workers == 1:
        results = ((block, analyse_block(job, block)) for block in blocks)
    else:
        results = work_here(job, blocks, workers)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("blocks", total=total, completed=total - len(blocks))
        for block, rows in results:
            parts.save(block.number, rows)
            progress.advance(task)


def _check(options: argparse.Namespace) -> None:
    if options.output.suffix.lower() not in _SUFFIXES:
        raise ConfigError(
            f"{options.output}: expected a name in {', '.join(_SUFFIXES)}, got {options.output.suffix!r}: rename it"
        )
    if options.output.exists() and not _folder(options.output).exists():
        raise FileError(f"{options.output}: expected a new table, got one that is there: choose another --output")
    for name in ("sampling", "rate", "workers"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1e9:
            raise ConfigError(f"--{name}: expected a number over 0, got {value:g}: correct it, or leave it out")
    check_drift(options.max_drift)
    if options.workers is not None and options.scheduler is not None:
        raise ConfigError("--workers: expected one of --workers and --scheduler, got both: leave one out")


def _folder(output: Path) -> Path:
    """Of what is done."""
    return output.with_name(f"{output.name}.parts")


def _frame_types(classes: Sequence[str]) -> dict[str, str]:
    return (
        {"file": "text", "frame": "int", "time_s": "float", "count": "int", "covered": "int", "vacancies": "int"}
        | {f"count_{name}": "int" for name in classes}
        | {"height": "int", "width": "int"}
        | dict.fromkeys(FRAME_NUMBERS, "float")
        | {"refused": "text", "warnings": "text"}
    )


def _counts(rows: Rows, classes: int) -> NDArray[np.int64]:
    """(frames, classes) atoms of each."""
    ends = np.cumsum(rows["frame_count"])
    pieces = np.split(rows["class_id"], ends[:-1])
    return np.array([np.bincount(piece, minlength=classes) for piece in pieces], np.int64)


def _atom_columns(
    rows: Rows, names: Sequence[str], classes: Sequence[str], times_s: Sequence[float | None]
) -> dict[str, list[Any]]:
    counts = rows["frame_count"].tolist()
    return {
        "file": [names[file] for file in rows["movie"].tolist()],
        "frame": rows["frame"].tolist(),
        "time_s": [time_s for time_s, count in zip(times_s, counts, strict=True) for _ in range(count)],
        "y": decimals(rows["y"], 4),
        "x": decimals(rows["x"], 4),
        "class": np.array(classes)[rows["class_id"]].tolist(),
        "score": decimals(rows["score"], 4),
        "sigma_pm": decimals(rows["sigma_pm"], 2),
        "flags": rows["flags"].tolist(),
        "nearest_A": _known(rows["nearest_A"]),
        "sampling_A": rows["sampling_A"].tolist(),
    }


def _frame_columns(
    rows: Rows,
    names: Sequence[str],
    classes: Sequence[str],
    counts: NDArray[np.int64],
    notes: Sequence[tuple[str | None, list[str]]],
    times_s: Sequence[float | None],
) -> dict[str, list[Any]]:
    return {
        "file": [names[file] for file in rows["frame_movie"].tolist()],
        "frame": rows["frame_frame"].tolist(),
        "time_s": list(times_s),
        "count": rows["frame_count"].tolist(),
        "covered": rows["frame_covered"].tolist(),
        "vacancies": rows["frame_vacancies"].tolist(),
        **{f"count_{name}": counts[:, k].tolist() for k, name in enumerate(classes)},
        "height": rows["frame_height"].tolist(),
        "width": rows["frame_width"].tolist(),
        **{name: _known(rows[f"frame_{name}"]) for name in FRAME_NUMBERS},
        "refused": [refused for refused, _ in notes],
        "warnings": ["; ".join(warnings) or None for _, warnings in notes],
    }


def _known(values: NDArray[np.float64]) -> list[float | None]:
    return [value if value == value else None for value in np.round(values, 4).tolist()]  # NaN is not itself


def _say(summary: dict[str, Any], drawn: bool) -> None:
    refused = ", ".join(f"{reason} {count}" for reason, count in summary["frames_refused"].items()) or "none"
    text = f"{summary['atoms']} atoms in {summary['frames']} frames · refused {refused}"
    text += f" · files left out {len(summary['files_left_out'])}"
    print(text + ("" if drawn else " · no plots: pip install matplotlib"), file=sys.stderr)
