"""Frames of one or several sources in, their atoms out at one endpoint, their metrics at one port.

Each source has its own pipeline (source.py); what they share is here. They begin together and end together.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import zmq

from engine.detector import Detector
from stream.config import ServeConfig, telling
from stream.metrics import Instruments
from stream.publisher import Publisher
from stream.source import Source


class Service:
    """The live path. A context manager: it runs inside, and stops at the end.

    Parameters
    ----------
    configs : sequence of ServeConfig
        One a source, as `join_sources` gives them.
    detectors : sequence of Detector
        For each source the one that finds its atoms. They belong to the service while it runs.
    """

    def __init__(self, configs: Sequence[ServeConfig], detectors: Sequence[Detector]) -> None:
        self._shared = configs[0]  # of what all sources share
        self.instruments = Instruments()
        sources = []
        for config, detector in zip(configs, detectors, strict=True):
            with telling(config, len(configs)):
                sources.append(Source(config, detector, self.instruments))
        self.sources = tuple(sources)

    def __enter__(self) -> Self:
        shared = self._shared
        with ExitStack() as stack:
            context = zmq.Context()
            stack.callback(context.term)
            self._publisher = stack.enter_context(Publisher(context, shared.output, shared.send_hwm))
            for source in self.sources:
                with telling(source.config, len(self.sources)):
                    stack.enter_context(source.opened(context, self._publisher))
            if shared.metrics_port:
                stack.enter_context(self.instruments.serve(shared.metrics_host, shared.metrics_port))
            self._open = stack.pop_all()
        for source in self.sources:
            source.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for source in self.sources:
            source.stop()
        for source in self.sources:
            source.join()
        self._open.close()

    @property
    def endpoint(self) -> str:
        """Where results go out, a port chosen by the system filled in."""
        return self._publisher.endpoint

    @property
    def lost(self) -> str | None:
        """Why a source can answer no frame any more: its GPU is lost, and no other device may take over.

        Who runs the service has to end it.
        """
        return next((source.lost for source in self.sources if source.lost is not None), None)
