"""`atomstream analyze` as a user runs it: the same movie by one worker and by two, each with one engine thread."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.recording import record
from bench.rounds import interleave, ratio, summary
from bench.setting import Setting

_SHAPE, _SAMPLING_A = (512, 512), 0.1
_WORKERS = (1, 2)


def measure_analysis(setting: Setting) -> dict[str, Any]:
    """Frames a second of the whole command, its start and its tables included; and whether the tables are the same."""
    movie = make_movie(setting.folder, setting.analysed_frames)
    outputs = {workers: setting.folder / f"by{workers}.csv" for workers in _WORKERS}

    def rate(workers: int) -> float:
        seconds = analyse(movie, outputs[workers], workers, setting)
        return setting.analysed_frames / seconds

    rates = interleave({str(workers): lambda workers=workers: rate(workers) for workers in _WORKERS}, setting.rounds)
    one, two = (outputs[workers].read_bytes() for workers in _WORKERS)
    result = {
        "frames": setting.analysed_frames,
        "one": summary(rates["1"]),
        "two": summary(rates["2"]),
        "two_over_one": ratio(rates["2"], rates["1"]),
        "same": one == two,
    }
    setting.say(f"analysis: {result}")
    movie.unlink()
    return result


def make_movie(folder: Path, count: int) -> Path:
    """Frames of the simulated camera over and over, written one after the other."""
    pixels = record(folder, _SHAPE, _SAMPLING_A).pixels
    path = folder / "movie.npy"
    movie = np.lib.format.open_memmap(path, "w+", pixels.dtype, (count, *_SHAPE))
    for number in range(count):
        movie[number] = pixels[number % len(pixels)]
    movie.flush()
    return path


def analyse(movie: Path, output: Path, workers: int, setting: Setting) -> float:
    """Seconds that the command takes; RuntimeError with what it said where it fails."""
    command = [sys.executable, "-c", "from stream.demo import child; child()", "analyze", str(movie)]
    options = [f"--output={output}", f"--workers={workers}", f"--sampling={_SAMPLING_A}"]
    model = [f"--model={setting.model}", f"--precision={setting.precision}"]
    for before in output.parent.glob(f"{output.stem}.*"):
        before.unlink()
    begun_s = time.perf_counter()
    done = subprocess.run([*command, *options, *model], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Expected analyze to end well, got: {done.stderr}")
    return time.perf_counter() - begun_s
