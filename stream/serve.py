"""The command `serve`: the live path, with its figures in the terminal and a summary at the end."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.logging import RichHandler
from rich.panel import Panel
from rich.table import Table

from engine.engine_loading import cancelling
from engine.errors import FileError
from stream.config import ServeConfig
from stream.config_file import add_options, config_text, read_configs
from stream.detectors import load_detectors
from stream.journal import log
from stream.service import Service
from stream.signals import stop_on_signals
from stream.source import Source

HELP = "receive frames, publish their atoms"

_LOST = 1  # exit status once the GPU is lost: no mistake of the user's, which is 2, and a supervisor starts it anew
_POLL_S = 0.05
_LINE_EVERY_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A file, and a flag for every option in it."""
    parser.add_argument("--config", metavar="FILE", help="TOML file of options; flags override it")
    parser.add_argument("--write-config", metavar="FILE", help="write a commented file of all options and end")
    add_options(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop, for as long as configured, or until there is no device left to compute on."""
    flags = {option.name: getattr(options, option.name) for option in fields(ServeConfig)}
    configs = read_configs(Path(options.config) if options.config else None, flags)
    if options.write_config:
        _write(Path(options.write_config), config_text(configs))
        return 0
    shared = configs[0]
    with (
        cancelling() as cancel_builds,
        stop_on_signals(cancel_builds) as stop,
        load_detectors(configs) as detectors,
        Service(configs, detectors) as service,
        _display(service) as show,
    ):
        begun_s = time.monotonic()
        while not stop.wait(_POLL_S) and not _finished(shared, service, time.monotonic() - begun_s):
            show()
    summaries = {source.name: summarise(source) for source in service.sources}
    for name, summary in summaries.items():
        print(_joined(summary if len(summaries) == 1 else {"source": name, **summary}), flush=True)
    if shared.json:
        alone = next(iter(summaries.values()))
        print(json.dumps(alone if len(summaries) == 1 else {"sources": summaries}), flush=True)
    if service.lost is not None:
        print(f"atomstream: {service.lost}", file=sys.stderr)
        return _LOST
    return 0


def summarise(source: Source) -> dict[str, Any]:
    """What was received, what became of it, how fast."""
    totals = source.accounting.totals()
    return {
        "received": totals.received,
        "processed": totals.processed,
        "dropped": totals.dropped,
        "missing": totals.missing,
        "drift_uncertain": totals.drift_uncertain,
        "fps": round(totals.fps, 2),
        "latency_ms": totals.latency_ms,
        "in_time": totals.in_time,
        "atoms_mean": totals.atoms_mean,
        "model": source.status["model"]["name"],
        "backend": source.status["backend"],
    }


def figures(status: dict[str, Any]) -> dict[str, str]:
    """What a person wants to see of a status, by name."""
    latency, in_time, dose = status["latency_ms"], status["in_time"], status["dose_e_A2"]
    doubted = {"drift uncertain": str(status["drift_uncertain"])} if status["drift_uncertain"] else {}
    return {
        "frames": f"{status['fps_in']:.1f}/s in, {status['fps_out']:.1f}/s out",
        "latency": "-" if latency is None else f"{latency['p50']:.1f} ms p50, {latency['p99']:.1f} ms p99",
        "in time": "-" if in_time is None else f"{in_time:.1%} of {status['received']}",
        "atoms": _said(status["atoms_mean"]),
        "dropped": _said(status["dropped"]),
        "missing": str(status["missing"]),
        **doubted,
        "dose": f"{status['dose_total_e_A2']:.3g} e/A²" + ("" if dose is None else f", {dose:.3g} a frame"),
    }


def _joined(values: Mapping[str, Any]) -> str:
    return " · ".join(f"{name} {_said(value)}" for name, value in values.items())


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items()) or "none"
    return "-" if value is None else str(value)


def _finished(shared: ServeConfig, service: Service, seconds: float) -> bool:
    if service.lost is not None:
        return True
    if shared.stop_after_seconds is not None and seconds >= shared.stop_after_seconds:
        return True
    if shared.stop_after_frames is None:
        return False
    totals = [source.accounting.totals() for source in service.sources]
    return sum(one.received - one.waiting for one in totals) >= shared.stop_after_frames


@contextmanager
def _display(service: Service) -> Iterator[Callable[[], None]]:
    """What to call now and then: in a terminal panels keep themselves up to date, elsewhere lines are due every 5 s."""
    for source in service.sources:
        whose = f"{source.name}: " if len(service.sources) > 1 else ""
        print(f"{whose}Frames from {source.endpoint}, atoms at {service.endpoint}", flush=True)
        if source.record_endpoint is not None:
            print(f"A recorder may connect: atomstream record --endpoint {source.record_endpoint}", flush=True)
    console = Console()
    if not console.is_terminal:
        yield _Lines(service)
        return
    handler = RichHandler(console=console, show_path=False)  # writes above the panels, not into them
    log.addHandler(handler)
    log.propagate = False
    try:
        with Live(get_renderable=lambda: _panels(service), console=console, refresh_per_second=4):
            yield lambda: None
    finally:
        log.removeHandler(handler)
        log.propagate = True


class _Lines:
    """Prints the figures every few seconds."""

    def __init__(self, service: Service, now: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._now = now
        self._due_s = now() + _LINE_EVERY_S

    def __call__(self) -> None:
        if self._now() >= self._due_s:
            self._due_s += _LINE_EVERY_S
            for source in self._service.sources:
                print(source.name, _joined(figures(source.status)), sep=" · ", flush=True)


def _panels(service: Service) -> Group:
    return Group(*map(_panel, service.sources))


def _panel(source: Source) -> Panel:
    table = Table.grid(padding=(0, 2))
    status = source.status
    for name, value in figures(status).items():
        table.add_row(f"[bold]{name}", value)
    model = status["model"]
    return Panel(table, title=f"{source.name} · {model['name']} {model['version']} · {status['backend']}")


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise FileError(f"{path}: expected a new file to write to, got {error.strerror}: choose another name") from None
