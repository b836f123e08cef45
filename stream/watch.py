"""The command `watch`: results printed as they come. A subscriber like any other."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import numpy as np
import zmq

from engine.errors import FrameError
from stream.config import check_port
from stream.journal import log
from stream.messages import Result, decode_result
from stream.receiver import endpoint_error

HELP = "print results as they come"

_KINDS = ("atoms", "event")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to listen, and how much to print."""
    parser.add_argument("--endpoint", default="tcp://127.0.0.1:5556", help="the output of serve (default: %(default)s)")
    parser.add_argument("--source", default="", help="only this source")
    parser.add_argument("--count", type=int, help="end after so many frames")
    parser.add_argument("--json", action="store_true", help="a line of JSON a frame, with every atom")


def run(options: argparse.Namespace) -> int:
    """Print until told to stop, or for as many frames as asked for."""
    frames = 0
    for result in results(options.endpoint, options.source):
        try:
            line = json_line(result) if options.json else text_line(result)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("Expected a result of serve, got one without %s: update both ends", error)
            continue
        if line is not None:
            print(line, flush=True)
        frames += result.kind == "atoms"
        if options.count is not None and frames >= options.count:
            break
    return 0


def results(endpoint: str, source: str) -> Iterator[Result]:
    """Atoms and events of one source, or of all, for ever."""
    check_port("endpoint", endpoint)
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        for kind in _KINDS:
            socket.setsockopt_string(zmq.SUBSCRIBE, f"{kind}/{source}")
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise endpoint_error("endpoint", endpoint, error) from None
        while True:
            try:
                result = decode_result(socket.recv_multipart())
            except FrameError as error:
                log.warning("%s", error)
            else:
                if source in ("", result.source):
                    yield result


def text_line(result: Result) -> str:
    """For a person: which frame, how many atoms, how long it took, whether anything is wrong."""
    header = result.header
    if result.kind == "event":
        return _printable(f"{result.source}  {header['event']}: {header['message']}")
    late = {True: "in time", False: "late", None: ""}[header["in_time"]]
    what = f"frame {header['frame']}  {header['count']} atoms  {header['latency_ms']:.1f} ms  {late}"
    return _printable("  ".join([result.source, what.rstrip(), *(f"({warning})" for warning in header["warnings"])]))


def _printable(text: str) -> str:
    """Without what a terminal would obey: a warning can hold words of a frame's header, which is anyone's."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def json_line(result: Result) -> str | None:
    """For a program: the header, and each column as a list. Events are left out."""
    if result.kind != "atoms":
        return None
    columns = {name: np.round(column.astype(np.float64), 4).tolist() for name, column in result.arrays.items()}
    return json.dumps(result.header | {"columns": columns})
