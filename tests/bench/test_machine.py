"""On what the figures were taken."""

import subprocess
import sys
from dataclasses import replace

from bench.machine import OtherLoad, describe
from bench.setting import Setting

_BUSY = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"


def test_own_children_are_no_others(monkeypatch):
    clock = iter((0.0, 1.0)).__next__
    monkeypatch.setattr("bench.machine.time.perf_counter", clock)
    monkeypatch.setattr("bench.machine.psutil.cpu_times", iter((_Times(10.0), _Times(10.8))).__next__)
    with OtherLoad() as load:
        subprocess.run([sys.executable, "-c", _BUSY], check=True)
    assert 0.2 < load.cores < 0.51  # of 0.8 s in all, our child took a little more than 0.3


class _Times(tuple):
    """CPU times whose only part that counts is the first."""

    idle = iowait = 0.0

    def __new__(cls, user):
        return super().__new__(cls, (user, 0.0, 0.0))


def test_machine_versions_and_model_are_told(tmp_path, tiny_spec):
    spec = replace(tiny_spec, sha256={"tiny.onnx": "0" * 64})
    told = describe(Setting("tiny", "f32", spec, 2, tmp_path))
    assert told["model"] == {"name": "tiny", "version": "1", "precision": "f32", "sha256": spec.sha256}
    assert told["versions"]["openvino"]
    assert told["machine"]["cores"] == 2
    assert told["machine"]["CPU"]
