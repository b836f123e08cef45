"""What went wrong, said at a bounded rate: one line a second a reason, however fast the faults come."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock
from typing import Any

log = logging.getLogger("atomstream")

_EVERY_S = 1.0


class Journal:
    """Logs the faults of a source and passes those it logs to `tell`. For any thread."""

    def __init__(self, tell: Callable[[str, str], None], now: Callable[[], float], source: str) -> None:
        self._source = source
        self._tell = tell
        self._now = now
        self._lock = Lock()
        self._said: dict[str, tuple[float, int]] = {}  # when last, how many were kept silent since

    def fault(self, reason: str, error: Exception | str) -> None:
        """Say it, unless the same reason was said less than a second ago."""
        now = self._now()
        with self._lock:
            last, silent = self._said.get(reason, (-_EVERY_S, 0))
            if now - last < _EVERY_S:
                self._said[reason] = (last, silent + 1)
                return
            self._said[reason] = (now, 0)
        message = f"{error}" + (f" ({silent} more before)" if silent else "")
        # The trace of a refused frame says nothing; that of a mistake of ours is what one needs.
        trace: Any = error if reason == "internal" else None
        log.warning("%s: %s: %s", self._source, reason, message, exc_info=trace)
        self._tell(reason, message)
