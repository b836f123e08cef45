"""Camera, serve and overlay, each a process of its own, started and ended as one; serve has the terminal."""

from __future__ import annotations

import argparse
import ctypes
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import IO, Any

from engine.errors import AtomstreamError, ConfigError
from engine.shipped import find_spec
from engine.spec import ModelSpec
from stream.camera import SPECIMEN, find_specimen, list_specimens, read_specimen
from stream.cli import main

HELP = "a simulated camera, the service and the overlay page, in one command"

# For models of three images: ten triplets a second, all three on one side of the focus. Where the contrast passes
# zero between two of them their drift cannot be told.
_TRIPLETS = ("--focus-step=25", "--defocus=75", "--defocus-amplitude=20", "--rate=30")
_PORTS = {"frames": 5555, "results": 5556, "page": 8080, "metrics": 9464}
_POLL_S = 0.1
_END_S = 20.0  # to end cleanly, before a child is killed
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class _Child:
    name: str
    process: subprocess.Popen[str]
    complaints: IO[str]

    def end(self) -> None:
        """Ask it to end, wait until it has."""
        self.process.terminate()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def last_words(self) -> str:
        """The last line of its stderr, after a colon."""
        self.complaints.seek(0)
        lines = self.complaints.read().strip().splitlines()
        return f": {lines[-1].strip()}" if lines else ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How long, of what, with which model, and whether to end with JSON."""
    parser.add_argument("--seconds", type=float, metavar="S", help="end by itself after so long (at Ctrl-C)")
    parser.add_argument("--json", action="store_true", help="the last line is the summary as one JSON object")
    parser.add_argument(
        "--specimen",
        default=SPECIMEN.stem,
        metavar="NAME",
        help=f"of the camera: {' or '.join(list_specimens())}, or the path of exit waves .npz ({SPECIMEN.stem})",
    )
    parser.add_argument("--model", help="a shipped model, or the path of a spec .json (of the specimen's name)")


def run(options: argparse.Namespace) -> int:
    """Run until Ctrl-C, for as long as told, or until a child ends that should not."""
    if options.seconds is not None and not options.seconds > 0:
        raise ConfigError(f"--seconds: expected a number over 0, got {options.seconds:g}: leave it out to run on")
    # What is no specimen or no model is said once, before anything is started.
    specimen = find_specimen(options.specimen)
    read_specimen(specimen)
    model = options.model or specimen.stem
    spec = ModelSpec.read(find_spec(model))
    ports = {name: free_port(default) for name, default in _PORTS.items()}
    frames, results = (f"tcp://127.0.0.1:{ports[name]}" for name in ("frames", "results"))
    served = [f"--input={frames}", f"--output={results}", f"--metrics-port={ports['metrics']}"]
    served += [f"--model={model}", "--json" if options.json else "--no-json"]
    if options.seconds is not None:
        served.append(f"--stop-after-seconds={options.seconds}")
    with ExitStack() as running:  # what was started last ends first: the camera before the service
        overlay = start(running, "overlay", f"--endpoint={results}", f"--port={ports['page']}", stdout=subprocess.PIPE)
        assert overlay.process.stdout is not None
        print(overlay.process.stdout.readline() or "", end="", flush=True)
        serve = start(running, "serve", *served)
        images = () if spec.channels == 1 else _TRIPLETS
        camera = start(running, "camera", f"--bind={frames}", f"--specimen={options.specimen}", *images)
        with suppress(KeyboardInterrupt):
            watch((overlay, serve, camera), allowed=serve)
    return 0


def free_port(default: int) -> int:
    """The default port, or one that the system chooses where that is taken."""
    for port in (default, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConfigError(f"Expected a free port on 127.0.0.1, got none instead of {default}: end other programs")


def start(running: ExitStack, name: str, *arguments: str, stdout: int | None = None) -> _Child:
    """Start one command; it ends with `running`. Serve writes to the terminal, of others the complaints are kept."""
    complaints = running.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-c", "from stream.demo import child; child()", name, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=None if name == "serve" else complaints,
        text=True,
        start_new_session=True,  # Ctrl-C reaches this process alone, which ends the others in order
    )
    if process.stdout is not None:
        running.enter_context(process.stdout)
    started = _Child(name, process, complaints)
    running.callback(started.end)
    return started


def watch(children: tuple[_Child, ...], allowed: _Child) -> None:
    """Wait until `allowed` has ended by itself, well; AtomstreamError where another end comes first."""
    while True:
        for child in children:
            status = child.process.poll()
            if status == 0 and child is allowed:
                return
            if status is not None:
                raise AtomstreamError(
                    f"Expected {', '.join(one.name for one in children)} to run on, got the end of {child.name} "
                    f"(exit status {status}{child.last_words()}): try 'atomstream doctor'"
                )
        time.sleep(_POLL_S)


def child() -> None:
    """Entry of a child: end when the parent does, however that happens; then run the command."""
    if sys.platform == "linux":
        libc: Any = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    sys.exit(main())
