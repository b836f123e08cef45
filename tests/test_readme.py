"""What the README tells users to type works."""

from __future__ import annotations

import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from engine import ModelSpec
from engine.shipped import find_spec
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


def test_its_figures_are_those_of_the_card() -> None:
    measured = ModelSpec.read(find_spec("graphene")).measured["openvino int8"]
    rows = [measured[f"{dose:g} e/A^2"] for dose in (1e5, 1e4, 1e3)]
    f1 = [f"{row['f1']:.3f}" for row in rows]
    error = [f"{row['rmse_pm']:.1f}" for row in rows]
    text = " ".join(README.read_text().split())
    assert f"reaches F1 {f1[0]} at 10^5 e/A², {f1[1]} at 10^4 and {f1[2]} at 10^3" in text
    assert f"position errors of {error[0]}, {error[1]} and {error[2]} pm" in text


def test_every_command_it_names_exists(capsys: pytest.CaptureFixture[str]) -> None:
    commands = set(re.findall(r"^atomstream (\w+)", README.read_text(), re.MULTILINE))
    assert {"serve", "overlay", "watch", "detect", "replay", "models", "doctor"} <= commands
    for command in commands:
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert command in capsys.readouterr().out
