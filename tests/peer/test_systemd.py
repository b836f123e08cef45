"""systemd takes our units."""

from __future__ import annotations

import subprocess

import pytest

from tests.deploy.test_deploy import UNITS

pytestmark = pytest.mark.peer


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_units_are_ones_that_systemd_takes(systemd_analyze, tmp_path, path):
    unit = tmp_path / path.name
    unit.write_text(path.read_text().replace("/opt/atomstream/bin/atomstream", "/bin/true"))
    checked = subprocess.run([systemd_analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_units_expose_little(systemd_analyze, path):
    command = [systemd_analyze, "security", "--offline=yes", "--threshold=20", path]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout[-300:]
