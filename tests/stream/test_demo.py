"""The demo: ports, what it does when a child ends, and one real run as a user sees it."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from engine import list_models
from engine.errors import AtomstreamError
from engine.shipped import find_spec
from stream import demo
from stream.cli import main, parse

COMMAND = Path(sys.executable).with_name("atomstream")


class Process:
    """A child that ends with `status` when asked the third time."""

    def __init__(self, status: int | None) -> None:
        self.status, self.asked = status, 0

    def poll(self) -> int | None:
        self.asked += 1
        return self.status if self.asked > 2 else None


def children(serve: int | None, camera: int | None, said: str = "") -> tuple[Any, Any]:
    return tuple(
        demo._Child(name, Process(status), io.StringIO(said))  # type: ignore[arg-type]
        for name, status in (("serve", serve), ("camera", camera))
    )


class TestWatch:
    @pytest.fixture(autouse=True)
    def no_waiting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(demo, "time", SimpleNamespace(sleep=lambda seconds: None))

    def test_serve_may_end(self) -> None:
        serve, camera = children(serve=0, camera=None)
        demo.watch((serve, camera), allowed=serve)

    @pytest.mark.parametrize("status", [0, 2])
    def test_the_camera_may_not(self, status: int) -> None:
        serve, camera = children(None, status, "starting\natomstream: no specimen\n\n")
        with pytest.raises(AtomstreamError, match=rf"end of camera \(exit status {status}: atomstream: no specimen\)"):
            demo.watch((serve, camera), allowed=serve)

    def test_serve_may_not_fail(self) -> None:
        serve, camera = children(2, None)
        with pytest.raises(AtomstreamError, match=r"end of serve \(exit status 2\)"):
            demo.watch((serve, camera), allowed=serve)


def test_a_port_that_is_taken_is_not_chosen() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        default = taken.getsockname()[1]
        assert demo.free_port(default) not in (0, default)
    assert demo.free_port(default) == default


@pytest.mark.parametrize("seconds", ["0", "-3", "nan"])
def test_a_time_that_is_none(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", f"--seconds={seconds}"]) == 2
    assert "--seconds: expected a number over 0" in capsys.readouterr().err


def test_a_child_that_cannot_start_ends_it_all(tmp_path: Path) -> None:
    (tmp_path / "bare.json").write_text(find_spec("graphene").read_text())  # a model without its weights
    command = [COMMAND, "demo", "--model", tmp_path / "bare.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "expected a weight file" in done.stderr
    assert re.search(
        r"atomstream: expected overlay, serve, camera to run on, got the end of (serve|camera)", done.stderr
    )
    assert "Traceback" not in done.stderr


def test_an_unknown_model_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--model", "nosuch"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"atomstream: expected a shipped model ({', '.join(list_models())}) or a path to a spec .json, "
        "got 'nosuch': choose one of these"
    ]


@pytest.mark.parametrize(
    ("specimen", "said"),
    [
        ("unknown", "expected a shipped specimen (graphene, mos2) or a path to exit waves .npz, got 'unknown'"),
        ("none.npz", "none.npz: expected exit waves of the simulated camera, got No such file or directory"),
    ],
)
def test_an_unknown_specimen_is_one_line(specimen: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--specimen", specimen]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"atomstream: {said}")


class TestWhatIsStarted:
    @pytest.fixture
    def started(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, ...]]:
        """The arguments of each child, none of which runs."""
        children: dict[str, tuple[str, ...]] = {}

        def start(running: object, name: str, *arguments: str, stdout: int | None = None) -> Any:
            children[name] = arguments
            return SimpleNamespace(process=SimpleNamespace(stdout=io.StringIO("overlay\n")))

        monkeypatch.setattr(demo, "start", start)
        monkeypatch.setattr(demo, "watch", lambda *children, allowed: None)
        return children

    def test_graphene_and_its_model_unless_told(self, started: dict[str, tuple[str, ...]]) -> None:
        assert main(["demo"]) == 0
        assert list(started) == ["overlay", "serve", "camera"]
        assert "--model=graphene" in started["serve"]
        assert started["camera"][1:] == ("--specimen=graphene",)

    def test_a_model_of_three_images_is_sent_triplets(
        self, started: dict[str, tuple[str, ...]], build_tiny_model: Callable[..., Path]
    ) -> None:
        model = build_tiny_model(channels=3)
        assert main(["demo", "--specimen", "mos2", "--model", str(model)]) == 0
        assert f"--model={model}" in started["serve"]
        assert started["camera"][1:] == ("--specimen=mos2", *demo._TRIPLETS)

    def test_the_model_has_the_name_of_the_specimen(self, started: dict[str, tuple[str, ...]]) -> None:
        assert main(["demo", "--specimen", "mos2"]) == 0
        assert "--model=mos2" in started["serve"]


def test_the_camera_knows_what_it_is_asked_for() -> None:
    options = parse(["camera", *demo._TRIPLETS])
    assert (options.focus_step, options.rate) == (25, 30)
    # All three images on one side of the focus: the contrast does not pass zero within a triplet.
    assert options.defocus - options.defocus_amplitude - options.focus_step > 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_children_die_with_a_parent_that_is_killed() -> None:
    script = (
        "import subprocess, time; from contextlib import ExitStack; from stream.demo import start\n"
        "overlay = start(ExitStack(), 'overlay', '--port=0', stdout=subprocess.PIPE)\n"
        "overlay.process.stdout.readline(); print(overlay.process.pid, flush=True); time.sleep(100)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        overlay = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    gone, alive = psutil.wait_procs([overlay], timeout=30)
    assert gone or alive[0].status() == psutil.STATUS_ZOMBIE  # where nobody reaps orphans


@pytest.mark.parametrize(
    ("specimen", "atoms", "interrupted"), [("graphene", 400, False), ("graphene", 400, True), ("mos2", 200, False)]
)
def test_a_short_real_run(specimen: str, atoms: int, interrupted: bool) -> None:
    seconds = "60" if interrupted else "4"
    command = [COMMAND, "demo", "--json", "--specimen", specimen, "--seconds", seconds]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert re.match(r"overlay: http://127\.0\.0\.1:\d+/", process.stdout.readline())
        while interrupted and " in, " not in process.stdout.readline():
            pass
        if interrupted:
            process.send_signal(signal.SIGINT)
        family = psutil.Process(process.pid).children(recursive=True)
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    summary = json.loads(out.splitlines()[-1])
    assert set(summary) >= {"received", "processed", "dropped", "fps", "latency_ms", "in_time", "atoms_mean", "model"}
    assert summary["received"] == summary["processed"] + sum(summary["dropped"].values())
    assert summary["processed"] > 0
    assert summary["atoms_mean"] > atoms
    assert summary["model"] == specimen
    assert not psutil.wait_procs(family, timeout=10)[1]
