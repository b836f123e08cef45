"""Movies to tables on a Dask cluster that is lost, or has nobody to work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stream.cli import main
from tests.stream.fakes import PATIENCE_S, wait_until
from tests.stream.test_analyze import BLOCKS_OF_4, ROOT, Draw, command, movie


class TestCluster:
    def test_one_that_is_lost(self, tmp_path: Path, draw_frame: Draw, tiny_model: Path) -> None:
        pytest.importorskip("distributed")
        path, parts, about = movie(tmp_path, draw_frame, 400), tmp_path / "a.csv.parts", tmp_path / "scheduler.json"
        dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
        dask += ["--no-dashboard", "--scheduler-file", str(about)]
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-dashboard"]
        worker += ["--no-nanny", "--scheduler-file", str(about), "--local-directory", str(tmp_path)]
        quiet = {"stderr": subprocess.DEVNULL, "cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
        with subprocess.Popen(dask, **quiet) as scheduler:
            wait_until(about.exists)
            with subprocess.Popen(worker, **quiet) as hand:
                address = json.loads(about.read_text())["address"]
                flags = command(tiny_model, tmp_path / "a.csv", path, "--scheduler", address)
                started = [sys.executable, "-c", BLOCKS_OF_4, *flags]
                with subprocess.Popen(started, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
                    wait_until(lambda: len(list(parts.glob("*.npz"))) >= 2)
                    scheduler.kill()
                    _, err = process.communicate(timeout=PATIENCE_S)
                hand.kill()
        assert process.returncode == 2, err
        assert "Traceback" not in err
        assert "--scheduler: expected the cluster to live, got 'tcp://" in err.splitlines()[-1]
        assert err.endswith("start it and run again; it goes on\n")

    def test_one_without_workers(
        self,
        tmp_path: Path,
        draw_frame: Draw,
        tiny_model: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        distributed = pytest.importorskip("distributed")
        monkeypatch.setattr("stream.workers._WORKER_S", 0.2)
        path = movie(tmp_path, draw_frame, 3)
        with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None, protocol="tcp") as cluster:
            flags = ("--scheduler", cluster.scheduler_address)
            assert main(command(tiny_model, tmp_path / "a.csv", path, *flags)) == 2
        waiting, error = capsys.readouterr().err.splitlines()
        assert waiting.startswith("waiting for a worker of tcp://")
        assert "got none in 0.2 s: start one, dask worker tcp://" in error
