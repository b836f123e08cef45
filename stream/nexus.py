"""What a recording says of itself, in the words of NeXus: classes, default plots, units, who wrote it and when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np

from stream.accounting import GAPS
from stream.exposure import DRIFT_COLUMNS

FORMAT = "atomstream-recording-1"
UNITS = (
    {"y": "px", "x": "px", "sigma_pm": "pm", "elapsed_s": "s", "timestamp": "s", "answered": "s", "time": "s"}
    | {"sampling_A": "angstrom/px", "dose_e_A2": "1/angstrom^2", "dose_total_e_A2": "1/angstrom^2"}
    | dict.fromkeys(DRIFT_COLUMNS, "px")
    | dict.fromkeys(("latency_ms", "age_ms", "clock_difference_ms", "frame_interval_ms"), "ms")
    | dict.fromkeys(("decode_ms", "wait_ms", "prepare_ms", "network_ms", "locate_ms"), "ms")
)


def describe(file: Any, begin: Mapping[str, Any]) -> None:
    """What holds for the whole file, as NeXus wants it."""
    file.attrs.update({"NX_class": "NXroot", "default": "entry", "creator": "atomstream", "format": FORMAT})
    entry = file.create_group("entry")
    entry.attrs.update({"NX_class": "NXentry", "default": "frames"})
    entry["title"] = f"Atoms of {begin.get('source')}"
    entry["program_name"] = "atomstream"
    entry["program_name"].attrs["version"] = version("atomstream")
    entry["start_time"] = iso_time(begin.get("started"))
    entry.create_dataset("end_time", data=np.bytes_(b""), dtype="S32")  # room for a time, filled in at the end
    entry.create_dataset("complete", data=0, dtype="u1")
    entry["run"] = str(begin.get("run"))
    entry["configuration"] = json.dumps(begin.get("configuration"))
    model = begin.get("model")
    group = entry.create_group("model")
    for name, value in (model if isinstance(model, dict) else {}).items():
        group.attrs[name] = str(value)
    group.attrs["backend"] = str(begin.get("backend"))
    group["spec"] = json.dumps(begin.get("spec"))


def annotate(entry: Any, begin: Mapping[str, Any]) -> None:
    """Which column is plotted over which."""
    plots = {"frames": ("count", ["elapsed_s"]), "atoms": ("score", ["x", "y"])}
    if "images" in entry:
        plots["images"] = ("data", ["."] * entry["images/data"].ndim)
    for name, (signal, axes) in plots.items():
        indices = {f"{axis}_indices": 0 for axis in axes if axis != "."}
        entry[name].attrs.update({"NX_class": "NXdata", "signal": signal, "axes": axes} | indices)
    entry["gaps"].attrs["NX_class"] = entry["texts"].attrs["NX_class"] = "NXcollection"
    entry["model"].attrs["NX_class"] = "NXcollection"
    entry["gaps/reason"].attrs["reasons"] = list(GAPS)
    classes = begin.get("classes")
    entry["atoms"].attrs["classes"] = [str(one) for one in classes] if isinstance(classes, list) else ["?"]


def iso_time(since_1970_s: Any) -> str:
    """A moment as ISO 8601; this moment where it is not known."""
    known = type(since_1970_s) in (int, float) and 0 <= since_1970_s < 1e11
    moment = datetime.fromtimestamp(since_1970_s, UTC) if known else datetime.now(UTC)
    return moment.isoformat(timespec="milliseconds")
