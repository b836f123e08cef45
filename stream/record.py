"""Record every result of a service, and its frames if it sends them, to one HDF5 file (docs/recording.md).

`serve` must be told where to wait for a recorder: `atomstream serve --record tcp://127.0.0.1:5557`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import zmq

from engine.errors import ConfigError, FileError, one_line
from stream.archive import COMPRESSIONS, import_h5py
from stream.config import check_port
from stream.hdf5 import HDF5
from stream.receiver import endpoint_error
from stream.recorder import Recorder, Summary
from stream.recording import encode_report
from stream.signals import Stop, stop_on_signals
from stream.superblock import release

HELP = "record every result of a service to an HDF5 file"

_LINGER_MS = 500
_ON_THE_WAY = 10_000  # messages; the bytes are limited by what the recorder asks for
_TICK_MS = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where from, where to."""
    parser.add_argument("--output", type=Path, metavar="FILE", help="a new file, .h5")
    parser.add_argument("--endpoint", default="tcp://127.0.0.1:5557", help="the record of serve (default: %(default)s)")
    parser.add_argument("--compression", default="gzip", choices=COMPRESSIONS, help="(default: %(default)s)")
    parser.add_argument(
        "--reserve-MB", type=float, default=200.0, help="what stays free on the disk (default: %(default)g)"
    )
    parser.add_argument("--max-message-MB", type=float, default=512.0, help="larger ones are refused (%(default)g)")
    parser.add_argument("--json", action="store_true", help="end with a line of JSON")
    parser.add_argument(
        "--repair", type=Path, metavar="FILE", help="let any program open what a killed recorder left, and end"
    )


def run(options: argparse.Namespace) -> int:
    """Record until serve ends, or until told to stop."""
    if options.repair is not None:
        print(f"{options.repair} {'was left open, and is closed now' if release(options.repair) else 'is closed'}")
        return 0
    _check(options)
    recorder = Recorder(options.output, options.compression, round(options.reserve_MB * 1e6))
    try:
        with stop_on_signals() as stop:
            record(recorder, options.endpoint, round(options.max_message_MB * 1e6), stop)
            summary = recorder.finish()
    except FileError as error:
        # HDF5 tries to write what it could not once more when the process ends, and that can crash it: leave before.
        print(f"atomstream: {one_line(error)}", file=sys.stderr, flush=True)
        os._exit(2)
    there = options.output.exists()  # it is made once serve has answered
    nothing = f"nothing was recorded: no serve answered at {options.endpoint}"
    print(_said(summary, recorder.ended) if there else nothing, file=sys.stderr)
    if options.json:
        print(json.dumps(asdict(summary) | ({} if there else {"output": None})), flush=True)
    return 0


def record(recorder: Recorder, endpoint: str, max_bytes: int, stop: Stop) -> None:
    """Feed the recorder from serve until one of them ends, or the event is set."""
    check_port("endpoint", endpoint)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = _LINGER_MS
        socket.set_hwm(_ON_THE_WAY)
        socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise endpoint_error("endpoint", endpoint, error) from None
        print(f"waiting for serve, started with --record {endpoint}", file=sys.stderr, flush=True)
        socket.send(encode_report(recorder.settle()))
        while not stop.is_set() and recorder.ended is None:
            try:
                _step(recorder, socket)
            except FileError as error:
                socket.send(encode_report(recorder.failed(error)), zmq.NOBLOCK)
                raise
        socket.send(encode_report(recorder.settle()), zmq.NOBLOCK)


def _step(recorder: Recorder, socket: zmq.Socket[bytes]) -> None:
    if socket.poll(_TICK_MS):
        recorder.take([part.buffer for part in socket.recv_multipart(copy=False)])
    if recorder.due:
        socket.send(encode_report(recorder.settle()), zmq.NOBLOCK)


def _check(options: argparse.Namespace) -> None:
    import_h5py()
    if options.output is None:
        raise ConfigError("--output: expected the name of a new file, got none: add --output FILE.h5")
    if options.output.suffix.lower() not in HDF5:
        raise ConfigError(
            f"{options.output}: expected a name in {', '.join(HDF5)}, got {options.output.suffix!r}: rename it"
        )
    if options.output.exists():
        raise FileError(f"{options.output}: expected a new file to record to, got one that is there: rename it")
    if not os.access(options.output.parent, os.W_OK):
        raise FileError(f"{options.output}: expected a folder to record to, got none to write in: choose another")
    for name in ("reserve_MB", "max_message_MB"):
        if not 0 <= getattr(options, name) < 1e9:
            flag, value = f"--{name.replace('_', '-')}", getattr(options, name)
            raise ConfigError(f"{flag}: expected a number from 0 to 10^9, got {value:g}: correct it")


def _said(summary: Summary, ended: str | None) -> str:
    gaps = ", ".join(f"{reason} {count}" for reason, count in summary.gaps.items()) or "none"
    text = f"{summary.atoms} atoms in {summary.frames} frames in {summary.output} · gaps {gaps}"
    return text if ended is None else f"{text} · {ended}"
