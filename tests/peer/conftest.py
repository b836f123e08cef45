"""Programs that nobody here wrote, and the `atomstream` command run as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.peers import chromium, prometheus, promtool, systemd_analyze, tickit  # noqa: F401 - fixtures

COMMAND = Path(sys.executable).with_name("atomstream")
END_S = 30


@pytest.fixture(scope="module")
def overlay() -> Iterator[Callable[..., str]]:
    """A function that starts `atomstream overlay` at an endpoint and gives its address."""
    with ExitStack() as stack:
        yield lambda endpoint, *options: stack.enter_context(running_overlay(endpoint, *options))


@contextmanager
def running_overlay(endpoint: str, *options: str) -> Iterator[str]:
    """`atomstream overlay` on a free port, ended as by Ctrl-C; gives its address."""
    command = [str(COMMAND), "overlay", "--endpoint", endpoint, *(options or ("--port", "0"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            yield re.search(r"http://\S+", line).group()
        finally:
            process.terminate()
            assert process.wait(END_S) == 0
