"""OpenVINO without its telemetry: `from engine.openvino import ov` before anything else imports it.

An `import openvino` reports itself to Google Analytics, and so does NNCF's use, wherever the package openvino_telemetry
is installed. A process beside a microscope sends nothing that nobody asked for.
"""

from __future__ import annotations

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # absent, both send nothing

import openvino as ov  # noqa: E402

__all__ = ["ov"]
