"""The command line: one line on stderr for every mistake, exit status 2, no traceback."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import FrameError
from stream import cli
from stream.cli import COMMANDS, main


def complaint(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What stderr says of a mistake."""
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("atomstream: ")
    return said.err


class TestMistakes:
    @pytest.mark.parametrize(
        ("argv", "expected"),
        [
            (["serv"], "atomstream: expected a command, got 'serv': did you mean 'serve'?"),
            (["xyz"], "atomstream: expected a command, got 'xyz': choose from detect, serve, "),
            (
                ["serve", "--sorce-name", "x"],
                "expected the options of 'atomstream serve', got '--sorce-name': did you mean '--source-name'?",
            ),
            (["serve", "--modle=x"], "got '--modle=x': did you mean '--model'?"),
            (["serve", "extra"], "expected the options of 'atomstream serve', got 'extra': "),
            (["serve", "--threads"], "expected what 'atomstream serve --help' lists, got: argument --threads: "),
            (["watch", "--count", "many"], "expected what 'atomstream watch --help' lists, got: argument --count: "),
            (["serve", "--policy", "lossless"], "policy: expected socket 'pull' with policy 'lossless', got 'sub': "),
            (["serve", "--model", "no-such-model"], "got 'no-such-model': choose one of these"),
            (["serve", "--config", "no-such-file.toml"], "no-such-file.toml: expected a configuration file, got "),
            (["watch", "--endpoint", "http://x"], "expected a tcp:// or ipc:// endpoint, got 'http://x'"),
            (["watch", "--endpoint", "nowhere"], "endpoint: expected an endpoint, got 'nowhere'"),
        ],
    )
    def test_one_line(self, capsys: pytest.CaptureFixture[str], argv: list[str], expected: str) -> None:
        assert expected in complaint(capsys, *argv)

    def test_an_error_of_several_lines_becomes_one(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(options: object) -> int:
            raise FrameError("empty_frame", "Expected pixels,\n   got none: send some")

        stand_in(monkeypatch, fail)
        assert complaint(capsys, "watch") == "atomstream: expected pixels, got none: send some\n"

    def test_a_mistake_of_ours_is_not_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stand_in(monkeypatch, lambda options: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            main(["watch"])


class TestEnds:
    def test_status_of_the_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stand_in(monkeypatch, lambda options: 7)
        assert main(["watch"]) == 7

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ctrl_c_and_sigterm(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        before = signal.getsignal(signal.SIGTERM)
        stand_in(monkeypatch, lambda options: os.kill(os.getpid(), number))
        assert main(["watch"]) == 130
        assert signal.getsignal(signal.SIGTERM) is before

    def test_a_reader_that_has_had_enough(self) -> None:
        code = "import sys; from stream import cli, watch\n"
        code += "def run(options):\n    while True: print('line', flush=True)\n"
        code += "watch.run = run\nsys.exit(cli.main(['watch']))"
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(60) == 0

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    @pytest.mark.parametrize("unbuffered", ["", "1"])
    @pytest.mark.parametrize("command", ["models", "doctor"])
    def test_a_full_disk_behind_the_output(self, command: str, unbuffered: str) -> None:
        code = f"import sys; from stream.cli import main; sys.exit(main(['{command}']))"
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-c", code],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                timeout=60,
            )
        said = "atomstream: standard output: expected room to write, got No space left on device: "
        assert (done.returncode, done.stderr) == (2, said + "write to another disk\n")

    def test_another_file_that_is_full_is_not_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(options: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device", "a.bin")

        stand_in(monkeypatch, fail)
        with pytest.raises(OSError, match=r"a\.bin"):
            main(["watch"])


class TestShown:
    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="0"):
            main(["--version"])
        assert capsys.readouterr().out.startswith("atomstream 0.")

    @pytest.mark.parametrize("command", ["serve", "watch"])
    def test_help(self, capsys: pytest.CaptureFixture[str], command: str) -> None:
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert f"usage: atomstream {command}" in capsys.readouterr().out

    def test_every_command_is_a_module(self) -> None:
        for command in COMMANDS:
            assert Path(cli.__file__).with_name(f"{command}.py").is_file()

    def test_only_the_command_asked_for_is_imported(self) -> None:
        code = "import sys; from stream.cli import parse; parse(['watch']); print('stream.serve' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout == "False\n"


def stand_in(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    """Another `watch` in its place."""
    module = SimpleNamespace(HELP="", add_arguments=lambda parser: None, run=run, __doc__="")
    monkeypatch.setattr(cli, "import_module", lambda name: module)
