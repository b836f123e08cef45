"""One exposure on its way: what the receive thread makes of a message, an engine thread of that, the publish thread.

Times named `_s` count from an arbitrary moment unless they say otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.atoms import Atoms
from engine.frame import Frame
from stream.header import Message

DRIFT_COLUMNS = tuple(f"drift_{image}_{axis}_px" for image in ("first", "last") for axis in "yx")


def drift_row(drift_px: Sequence[Sequence[float]]) -> dict[str, float]:
    """Drift of the first and of the last of three images as columns of a table; NaN for what is no triplet."""
    known = (*drift_px[0], *drift_px[-1]) if len(drift_px) == 3 else (math.nan,) * 4
    return dict(zip(DRIFT_COLUMNS, known, strict=True))


@dataclass(frozen=True, slots=True)
class Triplet:
    """What three images of one exposure were before they lay on each other.

    Attributes
    ----------
    members : tuple of int
        The number of each frame; one, where they came as one message.
    drift_px : tuple of (y, x)
        The shift that was taken out of each image, in pixels.
    drift_doubt : str or None
        Why one of them may be off by a lattice vector.
    focus_doubt : str or None
        Why they may not be of three defoci.
    """

    members: tuple[int, ...]
    drift_px: tuple[tuple[float, float], ...]
    drift_doubt: str | None
    focus_doubt: str | None = None

    @property
    def doubts(self) -> tuple[str, ...]:
        """Both, where there are any."""
        return tuple(one for one in (self.drift_doubt, self.focus_doubt) if one is not None)


@dataclass(frozen=True, slots=True, eq=False)
class Exposure:
    """A frame received, or three that make a triplet.

    Attributes
    ----------
    epoch : int
        Its series, counted from 1.
    arrival_s, decoded_s : float
        When the message was taken from the socket, and when it was read.
    transport_s : float or None
        Sender's timestamp to arrival, the clock difference taken off; None without a timestamp.
    interval_s, clock_difference_s : float or None
        None while unknown.
    dose_total_e_A2 : float
        Of all frames up to this one.
    frames : int
        Messages that its answer answers for.
    members : tuple of Exposure
        Of a triplet, in the order of its images; one, where they came as one message.
    triplet : Triplet or None
        Once an engine thread has laid them on each other; None for a single image.
    """

    message: Message
    frame: Frame
    epoch: int
    arrival_s: float
    decoded_s: float
    transport_s: float | None
    interval_s: float | None
    clock_difference_s: float | None
    dose_total_e_A2: float
    frames: int = 1
    members: tuple[Exposure, ...] = ()
    triplet: Triplet | None = None

    def sent_pixels(self) -> NDArray[Any]:
        """(H, W) or (3, H, W), as the sender sent them: without references, drift not taken out."""
        sent = [one.message.pixels for one in self.members] or [self.message.pixels]
        return sent[0] if len(sent) == 1 else np.stack(sent)  # COPY: three messages become one array


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """An exposure with its atoms; `frame` has the references applied.

    `covered` more atoms were found under contamination, and are not reported.
    """

    exposure: Exposure
    frame: Frame
    atoms: Atoms
    covered: int
    warnings: tuple[str, ...]
    begun_s: float
    prepared_s: float
    inferred_s: float
    located_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The atoms of an exposure, and how long they took.

    Attributes
    ----------
    stages_s : dict
        Seconds in decode, wait, prepare, network, locate.
    age_s, latency_s : float
        Arrival to answer; sender's timestamp to answer, or the age where there is no timestamp.
    in_time : bool or None
        Whether the latency is within the frame interval; None while that is unknown.
    """

    located: Located
    stages_s: dict[str, float]
    age_s: float
    latency_s: float
    in_time: bool | None

    @classmethod
    def of(cls, located: Located, answered_s: float) -> Answer:
        """When its turn to be published has come."""
        exposure = located.exposure
        age_s = answered_s - exposure.arrival_s
        latency_s = age_s + (exposure.transport_s or 0.0)
        return cls(
            located,
            stages_s={
                "decode": exposure.decoded_s - exposure.arrival_s,
                "wait": (located.begun_s - exposure.decoded_s) + (answered_s - located.located_s),
                "prepare": located.prepared_s - located.begun_s,
                "network": located.inferred_s - located.prepared_s,
                "locate": located.located_s - located.inferred_s,
            },
            age_s=age_s,
            latency_s=latency_s,
            in_time=None if exposure.interval_s is None else latency_s <= exposure.interval_s,
        )
