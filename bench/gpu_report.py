"""Results of `bench.gpu` in, its section of docs/performance.md out: the table, what is asked for, and the roofline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

BEGIN, END = "<!-- bench-gpu: begin, written by `make bench-gpu` -->", "<!-- bench-gpu: end -->"

_PEAKS, _F1 = 0.05, 0.999  # share of what is computed; of the atoms
_LARGEST_PX = {"f32": 0.02, "f16": 0.05}  # int8 is said, nothing is asked of it
_MARK = {True: "yes", False: "**no**", None: ""}

Row = tuple[str, str, str, bool | None]  # what, measured, asked for, reached


def section(results: dict[str, Any]) -> str:
    """Markdown: on what it was measured, a table of figures, a table of parts."""
    cases = [case for case in results["cases"] if "missing" not in case]
    lines = [*_where(results, cases), "", "| | measured | asked for | |", "|---|---|---|---|"]
    for case in cases:
        lines += [f"| {what} | {said} | {asked} | {_MARK[reached]} |" for what, said, asked, reached in rows(case)]
    lines += [
        "",
        "| one frame's part | bytes | operations | time | floor | share of the floor |",
        "|---|---|---|---|---|---|",
    ]
    for case in cases:
        lines += ["| " + " | ".join(cells) + " |" for cells in roofline(case)]
    return "\n".join(lines) + "\n"


def rows(case: dict[str, Any]) -> Iterator[Row]:
    """Figures of one frame size in one precision, each beside what is asked for."""
    low, high = case["range"]
    target = case["target_fps"]
    speed = f"{case['fps']:.1f} frames/s ({low:.1f} to {high:.1f})"
    yield f"{case['frame']}, {case['backend']}", speed, f"{target:g} frames/s", case["fps"] >= target
    at_rate, alone = case["latency_ms_at_target"], case["latency_ms"]
    most_ms = case["target_p99_ms"]
    said = f"p50 {at_rate['p50']} ms, p99 {at_rate['p99']} ms"
    yield f"- latency at {target:g} frames/s", said, f"p99 {most_ms:g} ms", at_rate["p99"] <= most_ms
    yield "- latency of a frame alone", f"p50 {alone['p50']} ms, p99 {alone['p99']} ms", "", None
    share = case["peaks_share"]
    yield "- peaks, of what is computed", f"{share:.1%}", f"{_PEAKS:.0%}", share <= _PEAKS
    made, grown_MB = case["allocations"], case["memory_grown_MB"]
    yield "- allocations after warm-up", f"{made}, {grown_MB:g} MB less free", "none", made == 0 and grown_MB == 0
    same, most_px = case["same_atoms"], _LARGEST_PX.get(case["precision"])
    yield (
        f"- the CPU's atoms (f32, {same['atoms']} a frame)",
        f"F1 {same['f1']:.5f}, positions within {same['largest_px']} px",
        "" if most_px is None else f"{_F1}, {most_px} px",
        None if most_px is None else same["f1"] >= _F1 and same["largest_px"] <= most_px,
    )


def roofline(case: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Parts of a frame's way, then from frame to frame: there the bus runs beside what is computed."""
    yield f"**{case['frame']}, {case['precision']}**", "", "", "", "", ""
    for part in case["parts"]:
        yield (
            part["name"],
            scaled(part["bytes"], "B"),
            scaled(part["operations"], "FLOP") if part["operations"] else "",
            time_text(part["seconds"]),
            time_text(part["floor_s"]),
            f"{part['share']:.0%}",
        )
    interval_s = 1 / case["fps"]
    share = f"{case['floor_s'] / interval_s:.0%}"
    yield "from frame to frame, sustained", "", "", time_text(interval_s), time_text(case["floor_s"]), share


def _where(results: dict[str, Any], cases: list[dict[str, Any]]) -> list[str]:
    model, versions = results["model"], results["versions"]
    packages = ", ".join(f"{name} {one}" for name, one in versions.items() if one is not None)
    runtimes = sorted({case["backend"].split(",")[0].rpartition(" ")[0] for case in cases})
    lines = [
        f"{results['gpu']}; network run by {' and '.join(runtimes) or 'nothing'}; model {model['name']} "
        f"{model['version']}; commit {results['commit']}, {results['date']}.",
        f"{packages}.",
    ]
    if any(runtime.startswith("torch") for runtime in runtimes):
        lines.append("**No TensorRT there: torch ran the network, its operations one by one.**")
    missing = [
        f"{one['frame']} in {one['precision']} ({one['missing']})" for one in results["cases"] if "missing" in one
    ]
    return lines + ([f"Not measured: {'; '.join(missing)}."] if missing else [])


def scaled(value: float, unit: str) -> str:
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def time_text(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
