"""Nothing is reported of OpenVINO's or NNCF's use."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print("openvino" in sys.modules, sys.modules["openvino_telemetry"])
"""


@pytest.mark.parametrize("modules", [["engine"], ["stream.serve"], ["training.export", "nncf"]])
def test_its_telemetry_is_not_there(modules: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT, *modules], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True None"
