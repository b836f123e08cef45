"""Every frame accounted for: received = processed + dropped, by reason, + waiting, at every moment. For any thread."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Lock

import numpy as np

REASONS = (
    "not_json",
    "not_cbor",
    "unknown_tag",
    "wrong_parts",
    "missing_key",
    "wrong_key",
    "unknown_dtype",
    "size_mismatch",
    "too_large",
    "unknown_encoding",
    "bad_compression",
    "empty_frame",
    "no_sampling",
    "sampling_out_of_range",
    "shape_out_of_range",
    "not_finite",
    "frame_jumped_back",
    "triplet_incomplete",
    "triplet_repeated",
    "triplet_mismatch",
    "no_engine",
    "no_memory",
    "superseded",
    "stopping",
    "internal",
)

GAPS = ("buffer_full", "disk_full", "unreadable", "stopping")  # why a result is missing in a recording

_WINDOW = 2000  # answers that percentiles are taken over


@dataclass(frozen=True, slots=True)
class Totals:
    """The books at one moment.

    Attributes
    ----------
    dropped : dict
        Frames by reason; reasons that never came are left out.
    waiting : int
        Received, neither answered nor dropped yet.
    drift_uncertain : int
        Triplets whose images may lie a lattice vector off.
    in_time : float or None
        Share of the received frames that were answered within their frame interval; None while no interval is known.
    latency_ms, age_ms : dict or None
        p50 and p99 of the last answers.
    seconds : float
        From the first arrival to the last answer.
    """

    received: int
    processed: int
    dropped: dict[str, int]
    missing: int
    drift_uncertain: int
    waiting: int
    in_time: float | None
    latency_ms: dict[str, float] | None
    age_ms: dict[str, float] | None
    atoms_mean: float | None
    dose_e_A2: float | None
    dose_total_e_A2: float
    seconds: float

    @property
    def fps(self) -> float:
        """Frames answered a second."""
        return self.processed / self.seconds if self.seconds > 0 else 0.0


class Accounting:
    """Counts of one source since the start."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._received = self._processed = self._missing = self._in_time = self._judged = self._atoms = 0
        self._answers = self._doubted = 0
        self._dropped: dict[str, int] = {}
        self._dose_e_A2: float | None = None
        self._dose_total_e_A2 = 0.0
        self._first_s: float | None = None
        self._last_s = 0.0
        self._latencies_s: deque[float] = deque(maxlen=_WINDOW)
        self._ages_s: deque[float] = deque(maxlen=_WINDOW)

    def received(self, arrival_s: float) -> None:
        """One more message came."""
        with self._lock:
            self._received += 1
            if self._first_s is None:
                self._first_s = self._last_s = arrival_s

    def exposed(self, missing: int, dose_e_A2: float | None) -> float:
        """It holds a frame; returns the dose so far. Frames dropped later count too: the specimen got them."""
        with self._lock:
            self._missing += missing
            self._dose_e_A2 = dose_e_A2
            self._dose_total_e_A2 += dose_e_A2 or 0.0
            return self._dose_total_e_A2

    def doubted(self) -> None:
        """The images of one more triplet may lie a lattice vector off."""
        with self._lock:
            self._doubted += 1

    def dropped(self, reason: str, frames: int = 1) -> None:
        """One received frame will not be answered, or several alike."""
        with self._lock:
            self._dropped[reason] = self._dropped.get(reason, 0) + frames

    def processed(
        self, answer_s: float, latency_s: float, age_s: float, in_time: bool | None, atoms: int, frames: int = 1
    ) -> None:
        """One received frame was answered, or the several that made a triplet."""
        with self._lock:
            self._processed += frames
            self._answers += 1
            self._atoms += atoms
            self._in_time += frames if in_time else 0
            self._judged += in_time is not None
            self._last_s = answer_s
            self._latencies_s.append(latency_s)
            self._ages_s.append(age_s)

    def totals(self) -> Totals:
        """The books at this moment."""
        with self._lock:
            latencies, ages = list(self._latencies_s), list(self._ages_s)
            return Totals(
                received=self._received,
                processed=self._processed,
                dropped=dict(self._dropped),
                missing=self._missing,
                drift_uncertain=self._doubted,
                waiting=self._received - self._processed - sum(self._dropped.values()),
                in_time=round(self._in_time / self._received, 4) if self._judged else None,
                latency_ms=_percentiles_ms(latencies),
                age_ms=_percentiles_ms(ages),
                atoms_mean=round(self._atoms / self._answers, 2) if self._answers else None,
                dose_e_A2=self._dose_e_A2,
                dose_total_e_A2=self._dose_total_e_A2,
                seconds=self._last_s - (self._first_s or 0.0),
            )


def _percentiles_ms(values_s: list[float]) -> dict[str, float] | None:
    if not values_s:
        return None
    p50, p99 = np.percentile(values_s, (50, 99)) * 1e3
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}
