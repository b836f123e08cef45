"""Never stale, nothing lost: `latest` under three times what it can process, `lossless` as fast as it takes them."""

from __future__ import annotations

from statistics import median
from typing import Any

from bench.path import LivePath, Run
from bench.recording import Recording, record
from bench.setting import Setting
from bench.speed import CASES

_OVERLOAD = 3
_PAUSE_S = 0.5  # then comes one last frame, by whose number the gaps before it are seen


def measure_freshness(setting: Setting) -> dict[str, Any]:
    """Both policies at 512 x 512; the first says how fast frames must come for the second."""
    recording = record(setting.folder, CASES[0].shape, CASES[0].sampling_A)
    lossless = measure_lossless(setting, recording)
    latest = measure_latest(setting, recording, _OVERLOAD * lossless["fps"])
    return {"lossless": lossless, "latest": latest}


def measure_lossless(setting: Setting, recording: Recording) -> dict[str, Any]:
    """Every frame that is sent has to be answered, once."""
    with LivePath(setting.model, setting.precision, setting.threads, "lossless") as path:
        run = path.run(recording, setting.lossless_frames)
        books = path.books()
    answered = {answer.frame for answer in run.answers}
    result = {
        "sent": run.sent,
        "answered": len(run.answers),
        "lost": run.sent - len(answered),
        "fps": round(run.fps(), 2),
        "books": counted(books),
    }
    setting.say(f"lossless: {result}")
    return result


def measure_latest(setting: Setting, recording: Recording, rate_Hz: float) -> dict[str, Any]:
    """Age of the answers, and whether every frame is accounted for."""
    with LivePath(setting.model, setting.precision, setting.threads, "latest") as path:
        path.run(recording, 2, pause_s=_PAUSE_S)  # compiles the network
        before = path.books()
        run = path.run(recording, round(rate_Hz * setting.overload_s), rate_Hz, _PAUSE_S)
        books = counted(path.books(), before)
    result = {"arrivals_fps": round(rate_Hz, 2), **stale(run), "sent": run.sent, "books": books}
    result["accounted"] = accounted(run, books)
    setting.say(f"latest: {result}")
    return result


def stale(run: Run) -> dict[str, Any]:
    """The age of the answers against twice the median time that processing a frame takes."""
    processing_ms = median(answer.processing_ms for answer in run.answers)
    age_ms = run.percentiles("age_ms")
    return {
        "fps": round(run.fps(), 2),
        "processing_ms": round(processing_ms, 2),
        "age_ms": age_ms,
        "latency_ms": run.percentiles("latency_ms"),
        "age_over_processing": round(age_ms["p99"] / processing_ms, 3),
    }


def counted(books: dict[str, Any], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a status says of the frames since an earlier one."""
    before = before or {"received": 0, "processed": 0, "missing": 0, "dropped": {}}
    dropped = {reason: count - before["dropped"].get(reason, 0) for reason, count in books["dropped"].items()}
    return {key: books[key] - before[key] for key in ("received", "processed", "missing")} | {"dropped": dropped}


def accounted(run: Run, books: dict[str, Any]) -> bool:
    """sent = received + missing, and received = processed + dropped, all of which reached the subscriber."""
    came = run.sent == books["received"] + books["missing"]
    went = books["received"] == books["processed"] + sum(books["dropped"].values())
    return bool(came and went and books["processed"] == len(run.answers))
