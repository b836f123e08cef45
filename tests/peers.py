"""Real peers: programs that nobody here wrote, as fixtures that give their path.

Where one is missing its tests skip and say why; with ATOMSTREAM_PEERS=required that is a failure.
"""

from __future__ import annotations

import os
import shutil

import pytest


def find(*names: str) -> str:
    """Path of the first of these programs that is there."""
    for name in names:
        if path := shutil.which(name):
            return path
    reason = f"expected one of {', '.join(names)} on the PATH, found none: install it to run this test"
    if os.environ.get("ATOMSTREAM_PEERS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


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
