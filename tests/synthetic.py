"""Results as `atomstream serve` publishes them, of a hexagonal sheet that drifts: for the tests of the overlay.

To look at the page by hand: `python tests/synthetic.py tcp://127.0.0.1:5556`, and `atomstream overlay` beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray

BOND_A = 1.42
SAMPLING_A = 0.12
COLUMNS = (
    ("y", "<f4", "px"),
    ("x", "<f4", "px"),
    ("class_id", "|u1", ""),
    ("score", "<f4", ""),
    ("sigma_pm", "<f4", "pm"),
    ("agreement", "<f4", ""),
    ("flags", "|u1", ""),
)


def lattice(shape: tuple[int, int], shift: float = 0.0) -> NDArray[np.float64]:
    """(N, 2) positions of a honeycomb over the frame, in pixels."""
    bond = BOND_A / SAMPLING_A
    rows, columns = np.mgrid[-1 : shape[0] / bond, -1 : shape[1] / bond]
    cells = np.stack([rows * 1.5 * bond, (columns + rows % 2 / 2) * np.sqrt(3) * bond], axis=-1).reshape(-1, 1, 2)
    atoms = (cells + np.array([[0, 0], [bond, 0]])).reshape(-1, 2) + np.array([shift, 2 * shift])
    return atoms[np.all((atoms >= 0) & (atoms <= np.array(shape) - 1), axis=1)]


def picture(shape: tuple[int, int], atoms: NDArray[np.float64], seed: int) -> NDArray[np.uint8]:
    """Bright blobs with noise, 8 bit."""
    grid = np.zeros(shape)
    y, x = np.mgrid[-5:6, -5:6]
    for at_y, at_x in atoms:
        top, left = int(at_y), int(at_x)
        if 5 <= top < shape[0] - 6 and 5 <= left < shape[1] - 6:
            blob = np.exp(-((y - at_y % 1) ** 2 + (x - at_x % 1) ** 2) / 12)
            grid[top - 5 : top + 6, left - 5 : left + 6] += blob
    noise = np.random.default_rng(seed).normal(0, 25, shape)
    return np.clip(70 + 110 * grid + noise, 0, 255).astype(np.uint8)


def message(kind: str, source: str, header: dict[str, Any], *blobs: bytes) -> list[bytes]:
    """Topic, header, blobs as ARCHITECTURE.md has them."""
    head = {"htype": f"atomstream-{kind}-1.0", "protocol": 1, "source": source, **header}
    return [f"{kind}/{source}".encode(), json.dumps(head).encode(), *blobs]


def atoms_message(positions: NDArray[np.float64], source: str = "camera", **changes: Any) -> list[bytes]:
    """The `atoms` message of one frame, its atoms of each class in turn; `changes` go into its header."""
    count = len(positions)
    rank = np.arange(count)
    values = {
        "y": positions[:, 0],
        "x": positions[:, 1],
        "class_id": rank % len(changes.get("classes", "C")),
        "score": 0.55 + 0.45 * (rank * 7 % 11) / 10,
        "sigma_pm": 6 + rank % 9,
        "agreement": np.ones(count),
        "flags": rank % 17 == 0,
    }
    header = {
        "frame": 1,
        "series": "sheet",
        "timestamp": 1.7e9,
        "shape": [512, 512],
        "sampling_A": SAMPLING_A,
        "count": count,
        "columns": [{"name": name, "dtype": dtype, "unit": unit} for name, dtype, unit in COLUMNS],
        "classes": ["C"],
        "model": {"name": "graphene", "version": "1", "sha256": "0" * 64},
        "backend": "openvino",
        "dose_e_A2": 9.8e3,
        "dose_total_e_A2": 4.2e6,
        "latency_ms": 8.0,
        "age_ms": 7.5,
        "frame_interval_ms": 40.0,
        "in_time": True,
        "warnings": [],
    }
    blobs = [values[name].astype(dtype).tobytes() for name, dtype, _ in COLUMNS]
    return message("atoms", source, header | changes, *blobs)


def preview_message(pixels: NDArray[np.uint8], source: str = "camera", **changes: Any) -> list[bytes]:
    """The `preview` message of one frame."""
    header = {
        "frame": 1,
        "series": "sheet",
        "shape": list(pixels.shape),
        "frame_shape": [512, 512],
        "sampling_A": SAMPLING_A,
        "type": "uint8",
    }
    return message("preview", source, header | changes, pixels.tobytes())


def status_message(source: str = "camera", **changes: Any) -> list[bytes]:
    """The `status` message."""
    header = {
        "received": 1250,
        "processed": 1246,
        "dropped": {"superseded": 3, "not_finite": 1, "not_json": 0},
        "missing": 2,
        "fps_in": 25.0,
        "fps_out": 24.9,
        "latency_ms": {"p50": 8.1, "p99": 12.4},
        "age_ms": {"p50": 7.6, "p99": 11.8},
        "in_time": 0.997,
        "atoms_mean": 1123.4,
        "dose_total_e_A2": 1.23e7,
        "clock_difference_ms": -0.4,
        "frame_interval_ms": 40.0,
        "queue": 0,
        "model": {"name": "graphene", "version": "1"},
        "backend": "openvino",
        "policy": "latest",
        "uptime_s": 3671.0,
    }
    return message("status", source, header | changes)


def event_message(event: str, text: str, source: str = "camera") -> list[bytes]:
    """The `event` message."""
    return message("event", source, {"event": event, "message": text})


@contextlib.contextmanager
def publishing(endpoint: str = "tcp://127.0.0.1:*", rate: float = 10.0, source: str = "camera") -> Iterator[str]:
    """Publish a drifting sheet in a thread of its own; gives the endpoint that was bound."""
    stop, bound = threading.Event(), threading.Event()
    with zmq.Context() as context, context.socket(zmq.PUB) as out:
        out.setsockopt(zmq.LINGER, 0)
        out.bind(endpoint)
        address = out.getsockopt_string(zmq.LAST_ENDPOINT)

        def loop() -> None:
            frame = 0
            bound.set()
            while not stop.wait(1 / rate):
                positions = lattice((512, 512), shift=frame * 0.3 % 6)
                out.send_multipart(atoms_message(positions, source, frame=frame, latency_ms=8 + frame % 5))
                out.send_multipart(preview_message(picture((512, 512), positions, frame), source, frame=frame))
                if frame % max(round(rate), 1) == 0:
                    out.send_multipart(
                        status_message(source, received=frame + 4, processed=frame, uptime_s=frame / rate)
                    )
                if frame == 10:
                    out.send_multipart(event_message("series_start", "series sheet began", source))
                frame += 1

        thread = threading.Thread(target=loop)
        thread.start()
        bound.wait()
        try:
            yield address
        finally:
            stop.set()
            thread.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint", nargs="?", default="tcp://127.0.0.1:5556")
    parser.add_argument("--source", default="camera")
    given = parser.parse_args()
    with publishing(given.endpoint, source=given.source), contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(1)
