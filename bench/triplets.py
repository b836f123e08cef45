"""Triplets live: 3 x 512 x 512 of simulated MoS2 through the whole path, beside the network; and drift taken out."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from bench.drift import DOSE_E_A2, SAMPLING_A, Triplet, align, measure, measure_f1, summarise, triplets
from bench.network import alone, load_network
from bench.path import EDGES, LivePath, sustained
from bench.recording import Recording
from bench.rounds import interleave, ratio, summary
from bench.setting import Setting
from engine import Frame, ModelSpec, list_models, load_detector
from engine.prepare import prepare
from engine.shipped import find_spec
from training.exit_waves import Specimen
from training.recipes.mos2 import mos2
from training.specimen_set import SpecimenSet

TARGET_FPS = 20
_MODEL = "mos2"
_SEED = 404  # of no set that is trained on or evaluated
_SENT = 8  # triplets that are sent again and again
_EACH = 20  # settings of the microscope a specimen, for drift


def measure_triplets(setting: Setting) -> dict[str, Any]:
    """What is known of drift needs no model; the rest is None where none for triplets ships or is given."""
    specimens = make_specimens(max(1, setting.drifts // _EACH))
    made = triplets(specimens, mos2().images, setting.drifts, _SEED)
    moved = list(islice(made, setting.triplets))
    drifts = [measure(one) for one in chain(moved, made)]  # the others are not kept: 3 MB each
    result: dict[str, Any] = {"drift": summarise(drifts), "path": None}
    model = find_model(setting)
    if model is None:
        setting.say(f"triplets: no model of three images ships, and --model is none; {result}")
        return result
    result |= _measure_path(model, setting, moved)
    still = list(triplets(specimens, mos2().images, setting.triplets, _SEED, most_px=0.0))
    with load_detector(model, precision=setting.precision, threads=setting.threads) as detector:
        result["f1"] = measure_f1(detector, moved, still)
    setting.say(f"triplets: {result}")
    return result


def find_model(setting: Setting) -> str | None:
    """The bench's, where it takes three images; else the shipped one, if there is one."""
    if setting.spec.channels == 3:
        return setting.model
    return _MODEL if _MODEL in list_models() else None


def make_specimens(count: int) -> list[Specimen]:
    """Sheets of their own."""
    recipe = mos2()
    specimens = SpecimenSet(recipe.structures, recipe.images.voltage_kV, _SEED)
    return [specimens.specimen(k) for k in range(count)]


def record(folder: Path, made: list[Triplet]) -> Recording:
    """Messages of three images."""
    pixels = np.stack([np.clip(np.rint(one.images), 0, 60_000).astype(np.uint16) for one in made[:_SENT]])
    path = folder / "triplets.npy"
    np.save(path, pixels)
    return Recording(pixels, {"sampling": SAMPLING_A, "dose": len(pixels[0]) * DOSE_E_A2, "voltage": 80e3}, path)


def _measure_path(model: str, setting: Setting, made: list[Triplet]) -> dict[str, Any]:
    """Path and network in turn; then the latency of the live view at the rate that is asked for."""
    recording = record(setting.folder, made)
    aligned = align(made[0])
    spec = ModelSpec.read(find_spec(model))
    pixels = prepare(Frame(aligned.pixels, SAMPLING_A, aligned.mask), spec).pixels
    network = load_network(model, setting.precision, setting.threads)
    with LivePath(model, setting.precision, setting.threads) as path:
        measurements = {
            "path": sustained(path, recording, setting.seconds),
            "network": alone(network, pixels, setting.threads, setting.seconds),
        }
        rates = interleave(measurements, setting.rounds)
        books = path.books()
    with LivePath(model, setting.precision, setting.threads, "latest") as live:
        live.run(recording, EDGES[0], TARGET_FPS)  # compiles for this shape
        steady = live.run(recording, EDGES[0] + round(TARGET_FPS * setting.latency_s), TARGET_FPS)
    return {
        "model": f"{spec.name} {spec.version}",
        "path": summary(rates["path"]),
        "network": summary(rates["network"]),
        "path_over_network": ratio(rates["path"], rates["network"]),
        "latency_ms_at_target": steady.percentiles("latency_ms"),
        "doubted_share": round(books["drift_uncertain"] / max(1, books["processed"]), 3),
    }
