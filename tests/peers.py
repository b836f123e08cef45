"""Real peers: programs that nobody here wrote, as fixtures that give their path.

Where one is missing its tests skip and say why; with ATOMSTREAM_PEERS=required that is a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

CACHE = Path(__file__).parents[1] / ".peers"
INSTALL_S = 600


def find(*names: str) -> str:
    """Path of the first of these programs that is there."""
    for name in names:
        if path := shutil.which(name):
            return path
    lacking(f"expected one of {', '.join(names)} on the PATH, found none: install it to run this test")


def lacking(reason: str) -> NoReturn:
    """Skip the test, or fail where peers are required."""
    if os.environ.get("ATOMSTREAM_PEERS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def install(name: str, *requirements: str) -> Path:
    """The Python of an environment of its own with these packages, made once and kept."""
    folder = CACHE / name
    python = folder / "bin/python"
    complete = folder / "complete"
    wanted = "\n".join(requirements)
    if complete.exists() and complete.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
    for command in ([sys.executable, "-m", "venv", folder], pip):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S)
        except subprocess.TimeoutExpired:
            lacking(f"expected {', '.join(requirements)} to install within {INSTALL_S} s: try again")
        if done.returncode:
            told = done.stderr.strip().splitlines() or ["nothing said"]
            lacking(f"expected {', '.join(requirements)} to install, got {told[-1]:.200}: check the network")
    complete.write_text(wanted)
    return python


@pytest.fixture(scope="session")
def chromium() -> str:
    """A browser that speaks the DevTools protocol."""
    return find("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def prometheus() -> str:
    """The Prometheus server."""
    return find("prometheus")


@pytest.fixture(scope="session")
def promtool() -> str:
    """The checker that comes with Prometheus."""
    return find("promtool")


@pytest.fixture(scope="session")
def systemd_analyze() -> str:
    """The checker of systemd's units."""
    return find("systemd-analyze")


@pytest.fixture(scope="session")
def tickit() -> Path:
    """The Python that runs Diamond's simulated detectors; their cbor2 is older than ours."""
    return install("tickit-devices", "tickit-devices==0.4.1", "cbor2<6")
