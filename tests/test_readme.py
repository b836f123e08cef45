"""What the README tells users to type works."""

from __future__ import annotations

import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from stream.cli import main
from tests.stream.fakes import bench

README = Path(__file__).parent.parent / "README.md"


def test_the_client_prints_each_result() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) == 10
    with bench(policy="lossless") as peers:
        client = code.replace("tcp://127.0.0.1:5556", peers.endpoints[1])
        assert client != code
        with subprocess.Popen([sys.executable, "-u", "-c", client], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                number = 0
                while not select.select([process.stdout], [], [], 0.05)[0]:
                    peers.send(number := number + 1)
                line = process.stdout.readline()
            finally:
                process.kill()
    assert re.fullmatch(r"\d+ 1 atoms, the first at \[1\.\] \[\d+\.\]\n", line)


def test_every_command_it_names_exists(capsys: pytest.CaptureFixture[str]) -> None:
    commands = set(re.findall(r"^atomstream (\w+)", README.read_text(), re.MULTILINE))
    assert {"serve", "overlay", "watch", "detect", "replay", "models", "doctor"} <= commands
    for command in commands:
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert command in capsys.readouterr().out
