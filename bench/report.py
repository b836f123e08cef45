"""Results in, the table of docs/performance.md out: what was measured, what is asked for, whether it is reached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- bench: begin, written by `make bench` -->", "<!-- bench: end -->"

_FOLLOWS = 0.77  # share of the network's own rate that the path at 512 x 512 has to keep
_SCRIPT, _LINEAGE = 8, 15  # times as fast as the script, as a network of the lineage's size
_MEMORY_MB, _GROWTH = 600, 0.01
_DECODED_MS, _RECEIVED_FPS = 2, 1000  # bitshuffle-LZ4 at 1024 x 1024; 512 x 512 on one core
_TRIPLETS_FPS, _DRIFT_PX, _SLIPS, _F1 = 20, 0.1, 0.01, 0.005  # 3 x 512 x 512; what drift may leave and cost
_RECORDED_LATE_S = 1  # until the last result is in the file
_WORKERS = 1.8  # times as fast with two as with one
_STALE = 2  # processing times that an answer may be old

Row = tuple[str, str, str, bool | None]  # what, measured, asked for, reached


def write_page(page: Path, results: dict[str, Any]) -> None:
    """Replace what stands between the markers."""
    replace_between(page, BEGIN, END, table(results))


def replace_between(page: Path, first: str, last: str, text: str) -> None:
    """Put a text in the place of what stands between two lines of a page."""
    before, begin, rest = page.read_text().partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{page}: expected the lines {first} and {last}, got a page without: put them back")
    page.write_text(f"{before}{first}\n\n{text}\n{last}{after}")


def table(results: dict[str, Any]) -> str:
    """Markdown: where it was measured, then a row a figure."""
    lines = [*_where(results), "", "| | measured | asked for | |", "|---|---|---|---|"]
    for what, measured, asked, reached in rows(results):
        lines.append(f"| {what} | {measured} | {asked} | {_MARK[reached]} |")
    return "\n".join(lines) + "\n"


_MARK = {True: "yes", False: "**no**", None: ""}


def rows(results: dict[str, Any]) -> Iterator[Row]:
    """Of the parts that were run."""
    for name, part in (
        ("speed", _speed),
        ("precisions", _precisions),
        ("decoding", _decoding),
        ("triplets", _triplets),
        ("recorder", _recorder),
        ("analysis", _analysis),
        ("torch", _torch),
        ("lineage", _lineage),
        ("memory", _memory),
        ("freshness", _freshness),
    ):
        if name in results:
            yield from part(results[name])


def _where(results: dict[str, Any]) -> list[str]:
    machine, versions, model = (results[key] for key in ("machine", "versions", "model"))
    packages = ", ".join(f"{name} {one}" for name, one in versions.items() if one is not None)
    return [
        f"{machine['CPU']} ({machine['features']}), {machine['cores']} cores, {machine['memory_GB']} GB, "
        f"{machine['system']}; other programs took {machine['cores_taken_by_others']} of a core meanwhile.",
        f"{packages}.",
        f"Model {model['name']} {model['version']} in {model['precision']}; commit {results['commit']}, "
        f"{results['date']}.",
    ]


def _speed(cases: list[dict[str, Any]]) -> Iterator[Row]:
    for case in cases:
        path, target = case["path"], case["target_fps"]
        yield case["frame"], f"{_rate(path)} sustained", f"{target:g} frames/s", path["fps"] >= target
        latency = case["latency_ms_at_target"]
        yield (
            f"- latency at {target:g} frames/s, send to result",
            f"p50 {latency['p50']} ms, p99 {latency['p99']} ms",
            "",
            None,
        )
        quotient = case["path_over_network"]
        asked = case is cases[0]
        yield (
            f"- network alone, {case['network_input'][0]} x {case['network_input'][1]}",
            f"{_rate(case['network'])}; the path keeps {_quotient(quotient)} of it",
            f"{_FOLLOWS}" if asked else "",
            quotient["median"] >= _FOLLOWS if asked else None,
        )


def _precisions(results: list[dict[str, Any]]) -> Iterator[Row]:
    for one in results:
        yield f"512 x 512 in {one['precision']}", f"{_rate(one['path'])}, network {_rate(one['network'])}", "", None


def _decoding(result: dict[str, Any]) -> Iterator[Row]:
    yield "1024 x 1024 uint16 decoded, as it is", f"{result['raw_ms']:.3f} ms", "", None
    packed_ms, share = result["bslz4_ms"], result["packed_share"]
    yield (
        f"- bitshuffle-LZ4, packed to {share:.0%}",
        f"{packed_ms:.2f} ms",
        f"{_DECODED_MS} ms",
        packed_ms <= _DECODED_MS,
    )
    received = result["received"]
    yield (
        "512 x 512 received and decoded on one core, no engine",
        _rate(received),
        f"{_RECEIVED_FPS} frames/s",
        received["fps"] >= _RECEIVED_FPS,
    )


def _triplets(result: dict[str, Any]) -> Iterator[Row]:
    path = result["path"]
    if path is None:
        yield "3 x 512 x 512", "not measured: no model of three images ships", f"{_TRIPLETS_FPS} triplets/s", None
    else:
        latency = result["latency_ms_at_target"]
        yield (
            f"3 x 512 x 512, {result['model']}",
            f"{_rate(path, 'triplets')} sustained",
            f"{_TRIPLETS_FPS} triplets/s",
            path["fps"] >= _TRIPLETS_FPS,
        )
        yield (
            f"- latency at {_TRIPLETS_FPS} triplets/s, send to result",
            f"p50 {latency['p50']} ms, p99 {latency['p99']} ms",
            "",
            None,
        )
        yield (
            "- network alone",
            f"{_rate(result['network'], 'triplets')}; the path keeps {_quotient(result['path_over_network'])} of it",
            "",
            None,
        )
    yield from _drift(result["drift"])
    if "f1" in result:
        one = result["f1"]
        yield (
            "- F1 with drift, without",
            f"{one['f1']:.3f}, {one['f1_still']:.3f}",
            f"within {_F1}",
            abs(one["difference"]) <= _F1,
        )


def _drift(result: dict[str, Any]) -> Iterator[Row]:
    error = result["error_px"]
    yield (
        f"- drift up to 8 px, {result['triplets']} triplets: what is left along an axis",
        f"one sigma {result['one_sigma_px']} px",
        f"{_DRIFT_PX} px",
        result["one_sigma_px"] <= _DRIFT_PX,
    )
    yield (
        "- the same of the image that lies worse",
        f"median {error['median']} px, 90 % below {error['p90']} px",
        f"{_DRIFT_PX} px (the median)",
        error["median"] <= _DRIFT_PX,
    )
    slips = result["slips"] / result["triplets"]
    yield (
        "- slips by a period",
        f"{slips:.1%}, {result['slips_untold']} untold; {result['doubted']} doubted in all",
        f"under {_SLIPS:.0%}, all told",
        slips < _SLIPS and result["slips_untold"] == 0,
    )


def _recorder(result: dict[str, Any]) -> Iterator[Row]:
    asked, lost = result["asked_fps"], result["lost"] + result["gaps"]
    yield (
        f"results of {result['atoms']:,} atoms recorded, as fast as they are taken",
        _rate(result["results"], "results"),
        f"{asked:g} results/s",
        result["results"]["fps"] >= asked,
    )
    yield "- with their frames of 512 x 512", _rate(result["with_frames"], "results"), "", None
    yield (
        f"- at {result['offered_fps']:g} results/s",
        f"{lost} of {result['offered']:,} lost, at most {result['waited']} waited, the last in the file after "
        f"{result['settled_s']} s",
        f"0 lost, {_RECORDED_LATE_S} s",
        lost == 0 and result["settled_s"] <= _RECORDED_LATE_S,
    )


def _analysis(result: dict[str, Any]) -> Iterator[Row]:
    yield f"`analyze`, {result['frames']:,} frames of 512 x 512, one worker", _rate(result["one"]), "", None
    quotient, same = result["two_over_one"], "the same" if result["same"] else "another"
    yield (
        "- two workers",
        f"{_rate(result['two'])}, {_quotient(quotient)} times as fast; {same} table",
        f"{_WORKERS} times, the same",
        quotient["median"] >= _WORKERS and result["same"],
    )


def _torch(result: dict[str, Any]) -> Iterator[Row]:
    yield "512 x 512, live path beside the scripts", _rate(result["path"]), "", None
    for name, script in (
        ("our prepare", "- eager torch f32, our `prepare`, `peak_local_max`"),
        ("scikit-image", "- eager torch f32, scikit-image throughout"),
    ):
        quotient = result[name]["path_over_script"]
        measured = f"{_rate(result[name])}; the path is {_quotient(quotient)} times as fast"
        yield script, measured, f"{_SCRIPT} times", quotient["median"] >= _SCRIPT


def _lineage(result: dict[str, Any]) -> Iterator[Row]:
    size = f"{result['weights'] / 1e6:.1f} M weights, {result['input'][0]} x {result['input'][1]}"
    quotient = result["path_over_path"]
    yield (
        f"lineage's size ({size}), live path, {result['precision']}",
        f"{_rate(result['lineage path'])}; ours {_rate(result['path'])}, {_quotient(quotient)} times as fast",
        f"{_LINEAGE} times",
        quotient["median"] >= _LINEAGE,
    )


def _memory(result: dict[str, Any]) -> Iterator[Row]:
    largest, growth, frames = result["largest_MB"], result["growth"], result["frames"]
    yield "resident size at 1024 x 1024, largest", f"{largest:.0f} MB", f"{_MEMORY_MB} MB", largest <= _MEMORY_MB
    yield (
        f"- growth from frame {frames // 10:,} to {frames:,}",
        f"{growth:.2%} ({result['early_MB']} to {result['late_MB']} MB)",
        f"under {_GROWTH:.0%}",
        growth < _GROWTH,
    )


def _freshness(result: dict[str, Any]) -> Iterator[Row]:
    latest, lossless = result["latest"], result["lossless"]
    age = latest["age_over_processing"]
    yield (
        f"`latest`, {latest['arrivals_fps']:.0f} frames/s coming: age of an answer, p99",
        f"{latest['age_ms']['p99']} ms, {age} processing times of {latest['processing_ms']} ms",
        f"under {_STALE}",
        age < _STALE,
    )
    books = latest["books"]
    dropped = ", ".join(f"{reason} {count}" for reason, count in books["dropped"].items())
    yield (
        "- every frame accounted for",
        f"sent {latest['sent']}, missing {books['missing']}, processed {books['processed']}, dropped: {dropped}",
        "all",
        latest["accounted"],
    )
    lost = lossless["lost"]
    yield "`lossless`, as fast as it takes them", f"{lost} of {lossless['sent']:,} lost", "0", lost == 0


def _rate(summary: dict[str, Any], what: str = "frames") -> str:
    low, high = summary["range"]
    return f"{summary['fps']:.1f} {what}/s ({low:.1f} to {high:.1f})"


def _quotient(summary: dict[str, Any]) -> str:
    low, high = summary["range"]
    return f"{summary['median']:.2f} ({low:.2f} to {high:.2f})"
