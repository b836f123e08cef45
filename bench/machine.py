"""On what the figures were taken: machine, versions, commit, model."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from bench.setting import Setting
from stream.doctor import processor

_PACKAGES = ("atomstream", "openvino", "numpy", "opencv-python-headless", "pyzmq", "torch", "scikit-image", "nncf")
_GPU_PACKAGES = ("tensorrt", "tensorrt-rtx", "cupy-cuda13x")
_ROOT = Path(__file__).parent.parent


def use_cores(count: int) -> None:
    """Keep this process, and those it will start, to so many cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


class OtherLoad:
    """What other programs take of the cores while a context lasts: figures are only worth what this is small."""

    def __enter__(self) -> Self:
        self._begun_s, self._begun = time.perf_counter(), self._others_s()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cores = round((self._others_s() - self._begun) / (time.perf_counter() - self._begun_s), 3)

    @staticmethod
    def _others_s() -> float:
        """CPU seconds of everything but this process and its children that have ended."""
        total, own = psutil.cpu_times(), os.times()
        return float(sum(total) - total.idle - total.iowait - sum(own[:4]))


def versions_and_commit() -> dict[str, Any]:
    """When, and with what code."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": {"Python": platform.python_version()}
        | {name: _version(name) for name in (*_PACKAGES, *_GPU_PACKAGES)},
    }


def describe(setting: Setting) -> dict[str, Any]:
    """Everything that a figure depends on."""
    return versions_and_commit() | {
        "machine": {finding.name: finding.text for finding in processor(Path("/proc/cpuinfo"))}
        | {
            "cores": setting.threads,
            "memory_GB": round(psutil.virtual_memory().total / 1e9, 1),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "model": {
            "name": setting.spec.name,
            "version": setting.spec.version,
            "precision": setting.precision,
            "sha256": setting.spec.sha256,
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the working tree, marked where it has changes; None where there is no git."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=_ROOT, capture_output=True, text=True
        )
    except OSError:
        return None
    return said.stdout.strip() or None
