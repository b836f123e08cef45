"""`python -m bench`: every figure that is promised, measured side by side on two cores; JSON and a table out."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.machine import OtherLoad, describe, use_cores
from bench.report import table, write_page
from bench.setting import Setting
from engine import AtomstreamError, load_detector

_FOLDER = Path(__file__).parent
_PAGE = _FOLDER.parent / "docs" / "performance.md"
_PARTS = {  # by the name that --only takes: what is measured, and where
    "speed": {"speed": ("bench.speed", "measure_speed"), "precisions": ("bench.speed", "measure_precisions")},
    "decoding": {"decoding": ("bench.decoding", "measure_decoding")},
    "triplets": {"triplets": ("bench.triplets", "measure_triplets")},
    "recorder": {"recorder": ("bench.recorder", "measure_recorder")},
    "analyze": {"analysis": ("bench.analysis", "measure_analysis")},
    "torch": {"torch": ("bench.torch_script", "measure_script")},
    "lineage": {"lineage": ("bench.lineage", "measure_lineage")},
    "freshness": {"freshness": ("bench.freshness", "measure_freshness")},
    "memory": {"memory": ("bench.memory", "measure_memory")},
}
_QUICK: dict[str, Any] = {
    "rounds": 1,
    "seconds": 0.3,
    "latency_s": 1.0,
    "lossless_frames": 100,
    "memory_frames": 120,
    "overload_s": 2.0,
    "drifts": 2,
    "triplets": 2,
    "analysed_frames": 40,
}


def main() -> int:
    """Measure, write the results, print the table."""
    options = _parse()
    use_cores(options.cores)
    with tempfile.TemporaryDirectory() as folder:
        setting = _setting(options, Path(folder))
        results = describe(setting) | {"quick": options.quick}
        with OtherLoad() as others:
            for part in [options.only] if options.only else _PARTS:
                for name, where in _PARTS[part].items():
                    results[name] = _measure(*where)(setting)
    results["machine"]["cores_taken_by_others"] = others.cores
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n")
    if not options.quick and not options.only:
        write_page(options.page, results)
    print(table(results), end="")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--model", default="graphene", help="a shipped model, or the path of a spec .json (graphene)")
    parser.add_argument("--precision", default="auto", help="as serve takes it (auto)")
    parser.add_argument("--cores", type=int, default=2, help="that everything has to share (2)")
    parser.add_argument("--only", choices=tuple(_PARTS), help="this part alone; the page is left as it is")
    parser.add_argument("--quick", action="store_true", help="does it run at all: a minute, figures that mean little")
    parser.add_argument("--memory-frames", type=int, metavar="N", help="frames of the memory's part (10000)")
    parser.add_argument("--output", type=Path, default=_FOLDER / "results" / "latest.json", metavar="JSON")
    parser.add_argument("--page", type=Path, default=_PAGE, metavar="MD", help="whose table a full run writes")
    return parser.parse_args()


def _setting(options: argparse.Namespace, folder: Path) -> Setting:
    with load_detector(options.model, precision=options.precision, threads=options.cores) as detector:
        spec, precision = detector.spec, detector.backend.split()[-1]
    changes = dict(_QUICK) if options.quick else {}
    if options.memory_frames:
        changes["memory_frames"] = options.memory_frames
    return Setting(options.model, precision, spec, options.cores, folder, **changes)


def _measure(module: str, function: str) -> Callable[[Setting], Any]:
    """Imported when its turn comes: torch is heavy, and its threads would stand beside what is measured before."""
    measure: Callable[[Setting], Any] = getattr(import_module(module), function)
    return measure


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the processes it started would stay
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except AtomstreamError as error:
        sys.exit(f"bench: {error}")
