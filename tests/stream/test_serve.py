"""The command `serve`, as a user runs it: with a model, a sender, and its summary."""

from __future__ import annotations

import io
import itertools
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from rich.console import Console

from engine import load_detector
from engine.device_plan import Place, Plan
from engine.engine_loading import Loading
from engine.errors import DeviceError
from engine.gpu_detector import GpuDetector
from engine.spec import ModelSpec
from stream import detectors, serve
from stream.cli import main
from stream.messages import encode
from tests.cuda_on_cpu import HostDevice, cuda_on_cpu  # noqa: F401 - a fixture
from tests.engine.host_network import HostNetwork, no_memory
from tests.stream.fakes import PATIENCE_S, FakeDetector, bench
from tests.stream.test_sources import two

ATOMSTREAM = (sys.executable, "-c", "import sys; from stream.cli import main; sys.exit(main())")
SUMMARY = {"received", "processed", "dropped", "missing", "drift_uncertain", "fps", "latency_ms", "in_time"}
SUMMARY |= {"atoms_mean", "model", "backend"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def sending(frames: int, size: int = 64) -> Iterator[str]:
    """A PUSH that sends so many square frames as fast as they are taken; its endpoint."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.linger, push.sndtimeo = 0, round(PATIENCE_S * 1000)
        port = push.bind_to_random_port("tcp://127.0.0.1")

        def send() -> None:
            for number in range(frames):
                push.send_multipart(encode(np.full((size, size), 7, np.uint16), frame=number, sampling=0.2))

        thread = threading.Thread(target=send)
        thread.start()
        yield f"tcp://127.0.0.1:{port}"
        thread.join(PATIENCE_S)


def arguments(model: Path, came_in: str, *more: str) -> list[str]:
    quiet = ["--output", "tcp://127.0.0.1:*", "--metrics-port", "0"]
    return ["serve", "--model", str(model), "--input", came_in, "--socket", "pull", *quiet, *more]


def test_a_run_ends_by_itself_with_one_line_of_json(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sending(30) as endpoint:
        more = ("--policy", "lossless", "--stop-after-frames", "30", "--json", "--precision", "f32")
        assert main(arguments(tiny_model, endpoint, *more)) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    summary = json.loads(last)
    assert summary.keys() == SUMMARY
    assert (summary["received"], summary["processed"], summary["dropped"]) == (30, 30, {})
    assert (summary["model"], summary["backend"], summary["atoms_mean"]) == ("tiny", "openvino f32", 0)
    assert summary["fps"] > 0
    assert summary["latency_ms"]["p99"] >= summary["latency_ms"]["p50"]
    assert lines[0].startswith(f"Frames from {endpoint}, atoms at tcp://127.0.0.1:")
    assert "received 30 · processed 30 · dropped none" in lines[-1]


def test_it_ends_after_so_many_seconds(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--stop-after-seconds", "0.1", "--json")
    assert main(arguments(tiny_model, f"tcp://127.0.0.1:{free_port()}", *more)) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["received"] == summary["fps"] == 0
    assert summary["latency_ms"] is summary["in_time"] is summary["atoms_mean"] is None


def test_signals_end_it_cleanly_however_many_come(tiny_model: Path) -> None:
    command = [*ATOMSTREAM, *arguments(tiny_model, f"tcp://127.0.0.1:{free_port()}", "--json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Frames from ")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["received"] == 0
    assert err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_signals_end_it_before_an_engine_is_built_and_meanwhile(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, when: str
) -> None:
    """A build may take minutes, and a supervisor's patience is 15 s; CuPy and TensorRT start before it, for seconds."""
    step, begun = threading.Event(), []

    def build(wanted: Callable[[], bool]) -> bool:
        begun.append(True)
        return step.wait(PATIENCE_S)

    def load(*_: object) -> None:
        if when == "before":
            signal.raise_signal(number)
        loading = Loading(build)
        if when == "meanwhile":
            signal.raise_signal(number)
        loading.result()

    monkeypatch.setattr(detectors, "load_detector", load)
    assert main(arguments(tiny_model, f"tcp://127.0.0.1:{free_port()}")) == 130
    if when == "before":
        assert not begun
    step.set()
    assert Loading(lambda wanted: wanted()).result()  # what this process loads afterwards is wanted again


def test_ports_in_use_are_one_line(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        common = ["serve", "--model", str(tiny_model), "--stop-after-seconds", "1"]
        inside = ["--output", "tcp://127.0.0.1:*"]
        for flags, option in (
            (["--output", f"tcp://127.0.0.1:{port}", "--metrics-port", "0"], "output"),
            ([*inside, "--input", f"tcp://127.0.0.1:{port}", "--input-role", "bind", "--metrics-port", "0"], "input"),
            ([*inside, "--metrics-port", str(port)], "metrics_port"),
        ):
            assert main([*common, *flags]) == 2
            err = capsys.readouterr().err
            assert err.startswith(f"atomstream: {option}: expected ")
            assert err.count("\n") == 1


def serve_frames(model: Path, frames: int) -> int:
    """The status of a `serve` that was sent so many and ends after five, every one of which it takes."""
    with sending(frames) as endpoint:
        return main(arguments(model, endpoint, "--policy", "lossless", "--stop-after-frames", "5", "--json"))


class TestLostDevice:
    """The GPU's own detector on a device that is lost with the first frame it should wait for."""

    @pytest.fixture
    def serve_with(
        self,
        cuda_on_cpu: HostDevice,  # noqa: F811
        tiny_model: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> Any:
        """A function (fallback, frames) -> exit status, stdout, stderr."""

        def lost(*arguments: object) -> None:
            raise DeviceError("GPU 0: expected an answer, got cudaErrorDeviceUnavailable: restart")

        monkeypatch.setattr(cuda_on_cpu, "synchronize", lost)

        def run(fallback: Any, frames: int) -> tuple[int, str, str]:
            spec = ModelSpec.read(tiny_model)
            network = HostNetwork(cuda_on_cpu, tiny_model, spec)
            detector = GpuDetector(spec, cuda_on_cpu, network, fallback=fallback)
            monkeypatch.setattr(detectors, "load_detector", lambda *arguments: detector)
            status = serve_frames(tiny_model, frames)
            said = capsys.readouterr()
            return status, said.out, said.err

        return run

    def test_ends_it_where_nothing_may_take_over(self, serve_with: Any) -> None:
        status, out, err = serve_with(None, 1)
        assert status == 1  # of 5 frames that it should stop after 1 came: it is the loss that ended it
        assert err.splitlines()[-1] == (
            "atomstream: GPU 0: expected an answer, got cudaErrorDeviceUnavailable: restart"
        )
        summary = json.loads(out.splitlines()[-1])
        assert (summary["received"], summary["dropped"]) == (1, {"internal": 1})

    def test_goes_on_on_the_cpu_where_it_may(self, serve_with: Any, tiny_model: Path) -> None:
        status, out, _ = serve_with(lambda: load_detector(tiny_model, precision="f32", threads=1), 5)
        assert status == 0
        summary = json.loads(out.splitlines()[-1])
        assert (summary["processed"], summary["dropped"]) == (5, {})
        assert summary["backend"] == "openvino f32"


class TestShortOfMemory:
    def test_frames_without_memory_are_dropped_and_counted_and_the_next_are_answered(
        self,
        cuda_on_cpu: HostDevice,  # noqa: F811
        tiny_model: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        runs, refused = itertools.count(), []

        def before(stream: object) -> None:
            if refused[-1]:
                no_memory()

        spec = ModelSpec.read(tiny_model)
        detector = GpuDetector(spec, cuda_on_cpu, HostNetwork(cuda_on_cpu, tiny_model, spec, before))
        run = detector._run

        def run_from_the_third(plan: Plan, place: Place) -> None:
            refused.append(next(runs) < 2)  # however often it is tried
            run(plan, place)

        detector._run = run_from_the_third  # type: ignore[method-assign]
        detector.settle = lambda frame: None  # type: ignore[method-assign]  # else it is that which finds none
        monkeypatch.setattr(detectors, "load_detector", lambda *arguments: detector)
        assert serve_frames(tiny_model, 5) == 0
        summary = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (summary["received"], summary["processed"], summary["dropped"]) == (5, 3, {"no_memory": 2})


class TestFile:
    def test_written_and_read(self, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "atomstream.toml"
        flags = arguments(tiny_model, f"tcp://127.0.0.1:{free_port()}", "--stop-after-seconds", "0.1")
        assert main([*flags, "--write-config", str(path)]) == 0
        assert main(["serve", "--config", str(path)]) == 0
        assert "model tiny" in capsys.readouterr().out

    def test_an_existing_file_is_kept(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "atomstream.toml"
        path.write_text("mine")
        assert main(["serve", "--write-config", str(path)]) == 2
        assert "expected a new file to write to, got File exists" in capsys.readouterr().err
        assert path.read_text() == "mine"


class TestShown:
    STATUS: dict[str, Any] = {  # noqa: RUF012
        "fps_in": 25.04,
        "fps_out": 24.96,
        "latency_ms": {"p50": 12.34, "p99": 20.0},
        "in_time": 0.995,
        "received": 1000,
        "atoms_mean": 812.5,
        "dropped": {"superseded": 3},
        "missing": 2,
        "drift_uncertain": 0,
        "dose_e_A2": 1e4,
        "dose_total_e_A2": 1e7,
    }

    def test_figures(self) -> None:
        assert serve.figures(self.STATUS) == {
            "frames": "25.0/s in, 25.0/s out",
            "latency": "12.3 ms p50, 20.0 ms p99",
            "in time": "99.5% of 1000",
            "atoms": "812.5",
            "dropped": "superseded 3",
            "missing": "2",
            "dose": "1e+07 e/A², 1e+04 a frame",
        }

    def test_a_drift_that_is_doubted_is_shown_once_there_is_one(self) -> None:
        assert "drift uncertain" not in serve.figures(self.STATUS)
        assert serve.figures(self.STATUS | {"drift_uncertain": 4})["drift uncertain"] == "4"

    def test_figures_that_are_not_known_yet(self) -> None:
        unknown = dict.fromkeys(("latency_ms", "in_time", "atoms_mean", "dose_e_A2"))
        figures = serve.figures(self.STATUS | unknown | {"dropped": {}})
        assert (figures["latency"], figures["in time"], figures["atoms"], figures["dropped"]) == ("-", "-", "-", "none")

    def test_a_terminal_gets_a_panel_that_is_kept_up_to_date(self, monkeypatch: pytest.MonkeyPatch) -> None:
        screen = io.StringIO()
        monkeypatch.setattr(serve, "Console", lambda: Console(file=screen, force_terminal=True, width=80))
        with bench(FakeDetector()) as peers, serve._display(peers.service) as show:
            show()
            peers.sender.send_multipart([b"?"])
            while not peers.next("status").header["dropped"]:
                pass
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
        assert "camera · fake 1 · fake f32" in text
        assert "wrong_parts 1" in text
        assert "Expected 2 parts" in text  # the log, above the panel

    def test_elsewhere_a_line_is_due_every_five_seconds(self, capsys: pytest.CaptureFixture[str]) -> None:
        times_s = iter((100.0, 104.0, 105.5, 106.0, 110.0))
        with bench() as peers:
            lines = serve._Lines(peers.service, lambda: next(times_s))
            for _ in range(4):
                lines()
        out = capsys.readouterr().out.splitlines()
        assert len(out) == 2
        assert out[0].startswith("camera · frames 0.0/s in, 0.0/s out · latency - · ")


class TestSeveral:
    """A file with two sources."""

    def config(self, folder: Path, model: Path, left: str, right: str) -> Path:
        common = f"model = '{model}'\nprecision = 'f32'\nsocket = 'pull'\npolicy = 'lossless'\n"
        common += "output = 'tcp://127.0.0.1:*'\nmetrics_port = 0\nstop_after_frames = 30\njson = true\n"
        tables = [f"[[source]]\nsource_name = '{name}'\ninput = '{at}'\n" for name, at in (("a", left), ("b", right))]
        path = folder / "two.toml"
        path.write_text(common + "".join(tables))
        return path

    def test_each_is_told_and_summed_up(
        self, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with sending(10) as left, sending(20) as right:
            assert main(["serve", "--config", str(self.config(tmp_path, tiny_model, left, right))]) == 0
        *lines, last = capsys.readouterr().out.splitlines()
        summaries = json.loads(last)["sources"]
        assert [summaries[name]["processed"] for name in ("a", "b")] == [10, 20]
        assert summaries["a"].keys() == SUMMARY
        assert lines[0].startswith(f"a: Frames from {left}, atoms at ")
        assert lines[1].startswith(f"b: Frames from {right}, atoms at ")
        assert lines[-2].startswith("source a · received 10 · ")
        assert lines[-1].startswith("source b · received 20 · ")

    def test_one_name_is_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "twice.toml"
        path.write_text("[[source]]\n[[source]]\n")
        assert main(["serve", "--config", str(path)]) == 2
        err = capsys.readouterr().err
        said = f"atomstream: {path}: source_name: expected a name of its own for each source, got 'camera' "
        assert err.startswith(said)
        assert err.count("\n") == 1

    def test_a_panel_each(self, monkeypatch: pytest.MonkeyPatch) -> None:
        screen = io.StringIO()
        monkeypatch.setattr(serve, "Console", lambda: Console(file=screen, force_terminal=True, width=80))
        with two() as peers, serve._display(peers.service) as show:
            show()
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
        assert "left · fake 1 · fake f32" in text
        assert "right · fake 1 · fake f32" in text
