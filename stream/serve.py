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

from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler
from rich.panel import Panel
from rich.table import Table

from engine import load_detector
from engine.errors import FileError
from stream.config import ServeConfig, add_options, config_text, read_config
from stream.journal import log
from stream.service import Service
from stream.signals import stop_on_signals

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
    config = read_config(Path(options.config) if options.config else None, flags)
    if options.write_config:
        _write(Path(options.write_config), config_text(config))
        return 0
    with (
        load_detector(
            config.model, config.backend, config.precision, config.threads, config.side_by_side, config.device
        ) as detector,
        stop_on_signals() as stop,
        Service(config, detector) as service,
        _display(config, service) as show,
    ):
        begun_s = time.monotonic()
        while not stop.wait(_POLL_S) and not _finished(config, service, time.monotonic() - begun_s):
            show()
    summary = summarise(service)
    print(_joined(summary), flush=True)
    if config.json:
        print(json.dumps(summary), flush=True)
    if service.lost is not None:
        print(f"atomstream: {service.lost}", file=sys.stderr)
        return _LOST
    return 0


def summarise(service: Service) -> dict[str, Any]:
    """What was received, what became of it, how fast."""
    totals = service.accounting.totals()
    return {
        "received": totals.received,
        "processed": totals.processed,
        "dropped": totals.dropped,
        "fps": round(totals.fps, 2),
        "latency_ms": totals.latency_ms,
        "in_time": totals.in_time,
        "atoms_mean": totals.atoms_mean,
        "model": service.status["model"]["name"],
        "backend": service.status["backend"],
    }


def figures(status: dict[str, Any]) -> dict[str, str]:
    """What a person wants to see of a status, by name."""
    latency, in_time, dose = status["latency_ms"], status["in_time"], status["dose_e_A2"]
    return {
        "frames": f"{status['fps_in']:.1f}/s in, {status['fps_out']:.1f}/s out",
        "latency": "-" if latency is None else f"{latency['p50']:.1f} ms p50, {latency['p99']:.1f} ms p99",
        "in time": "-" if in_time is None else f"{in_time:.1%} of {status['received']}",
        "atoms": _said(status["atoms_mean"]),
        "dropped": _said(status["dropped"]),
        "missing": str(status["missing"]),
        "dose": f"{status['dose_total_e_A2']:.3g} e/A²" + ("" if dose is None else f", {dose:.3g} a frame"),
    }


def _joined(values: Mapping[str, Any]) -> str:
    return " · ".join(f"{name} {_said(value)}" for name, value in values.items())


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items()) or "none"
    return "-" if value is None else str(value)


def _finished(config: ServeConfig, service: Service, seconds: float) -> bool:
    if service.lost is not None:
        return True
    if config.stop_after_seconds is not None and seconds >= config.stop_after_seconds:
        return True
    totals = service.accounting.totals() if config.stop_after_frames is not None else None
    return totals is not None and totals.received - totals.waiting >= (config.stop_after_frames or 0)


@contextmanager
def _display(config: ServeConfig, service: Service) -> Iterator[Callable[[], None]]:
    """What to call now and then: in a terminal a panel keeps itself up to date, elsewhere a line is due every 5 s."""
    print("Frames from {}, atoms at {}".format(*service.endpoints), flush=True)
    if service.record_endpoint is not None:
        print(f"A recorder may connect: atomstream record --endpoint {service.record_endpoint}", flush=True)
    console = Console()
    if not console.is_terminal:
        yield _Lines(config.source_name, service)
        return
    handler = RichHandler(console=console, show_path=False)  # writes above the panel, not into it
    log.addHandler(handler)
    log.propagate = False
    try:
        with Live(get_renderable=lambda: _panel(config, service), console=console, refresh_per_second=4):
            yield lambda: None
    finally:
        log.removeHandler(handler)
        log.propagate = True


class _Lines:
    """Prints the figures every few seconds."""

    def __init__(self, source: str, service: Service, now: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._service = service
        self._now = now
        self._due_s = now() + _LINE_EVERY_S

    def __call__(self) -> None:
        if self._now() >= self._due_s:
            self._due_s += _LINE_EVERY_S
            print(self._source, _joined(figures(self._service.status)), sep=" · ", flush=True)


def _panel(config: ServeConfig, service: Service) -> Panel:
    table = Table.grid(padding=(0, 2))
    for name, value in figures(service.status).items():
        table.add_row(f"[bold]{name}", value)
    model = service.status["model"]
    return Panel(
        table, title=f"{config.source_name} · {model['name']} {model['version']} · {service.status['backend']}"
    )


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise FileError(f"{path}: expected a new file to write to, got {error.strerror}: choose another name") from None
