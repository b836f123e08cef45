"""Plots of a summary, where matplotlib is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw_summary(summary: dict[str, Any], path: Path) -> bool:
    """Four plots in one picture; False where there is no matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    counts, fractions, vacancies, distances = figure.subplots(2, 2).ravel()
    in_time = summary["in_time"]
    x, label = (in_time["frame"], "frame") if in_time["time_s"] is None else (in_time["time_s"], "time (s)")
    counts.plot(x, in_time["count"])
    counts.set(title="Atoms in a frame", xlabel=label)
    for name, values in in_time["count_by_class"].items():
        pairs = zip(values, in_time["count"], strict=True)
        fractions.plot(x, [value / total if total else float("nan") for value, total in pairs], label=name)
    fractions.set(title="Class fractions", xlabel=label, ylim=(-0.02, 1.02))
    fractions.legend()
    vacancies.plot(x, in_time["vacancies"])
    vacancies.set(title="Vacancies in a frame", xlabel=label)
    histogram = summary["nearest_A"]["histogram"]
    distances.stairs(histogram["atoms"], histogram["edges_A"], fill=True)
    distances.set(title="Nearest neighbour", xlabel="distance (A)", ylabel="atoms")
    figure.savefig(path, dpi=120)
    return True
