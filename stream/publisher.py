"""Answers out: the PUB socket with its topics atoms, preview, status and event. For the publish thread of any source.

A PUB never waits: a subscriber that is too slow loses messages, the loop goes on.
"""

from __future__ import annotations

from threading import Lock
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
import zmq
from numpy.typing import NDArray

from engine.atoms import Atoms
from engine.prepare import fill
from engine.spec import ModelSpec
from stream.exposure import Answer, Triplet
from stream.messages import encode_result
from stream.receiver import endpoint_error

_LINGER_MS = 500  # the last results reach those who listen, the end does not hang on those who don't
_STRETCH = (0.5, 99.5)  # percentiles that become black and white
_ENOUGH = 128  # rows and columns of pixels that the percentiles are taken of
_UNITS = {"y": "px", "x": "px", "sigma_pm": "pm"}


class Publisher:
    """A bound PUB socket. A context manager."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, hwm: int) -> None:
        self._sending = Lock()  # a socket is for one thread at a time
        self._socket = context.socket(zmq.PUB)
        self._socket.linger = _LINGER_MS
        self._socket.set_hwm(hwm)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._socket.close(0)
            raise endpoint_error("output", endpoint, error) from None
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def publish(self, kind: str, source: str, header: dict[str, Any], *blobs: NDArray[Any]) -> None:
        """Send one message of a source; does not block."""
        parts = encode_result(kind, source, header, blobs)
        with self._sending:
            self._socket.send_multipart(parts, zmq.NOBLOCK)

    def close(self) -> None:
        """Close the socket; what is on its way has half a second to leave."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def model_header(spec: ModelSpec, backend: str) -> dict[str, Any]:
    """The keys of an `atoms` header that are the same for every frame."""
    return {
        "columns": [
            {"name": name, "dtype": column.dtype.newbyteorder("<").str, "unit": _UNITS.get(name)}
            for name, column in Atoms.none().columns().items()
        ],
        "classes": spec.classes,
        "model": {"name": spec.name, "version": spec.version, "sha256": spec.sha256.get(f"{spec.name}.onnx")},
        "backend": backend,
    }


def atoms_header(answer: Answer, model: dict[str, Any]) -> dict[str, Any]:
    """The header of an `atoms` message; `model` from `model_header`."""
    exposure = answer.located.exposure
    message, frame = exposure.message, exposure.frame
    return {
        "frame": message.number,
        "series": message.series,
        "timestamp": message.timestamp_s,
        "shape": frame.shape,
        "sampling_A": frame.sampling_A,
        "count": len(answer.located.atoms),
        "covered": answer.located.covered,
        **model,
        "dose_e_A2": frame.dose_e_A2,
        "dose_total_e_A2": round(exposure.dose_total_e_A2, 3),
        "stages_ms": {stage: round(seconds * 1e3, 3) for stage, seconds in answer.stages_s.items()},
        "age_ms": milliseconds(answer.age_s),
        "latency_ms": milliseconds(answer.latency_s),
        "clock_difference_ms": milliseconds(exposure.clock_difference_s),
        "frame_interval_ms": milliseconds(exposure.interval_s),
        "in_time": answer.in_time,
        "warnings": answer.located.warnings,
        "header": message.header,
        **triplet_header(exposure.triplet),
    }


def triplet_header(triplet: Triplet | None) -> dict[str, Any]:
    """The keys that only a triplet has."""
    if triplet is None:
        return {}
    drift_px = [[round(y, 3), round(x, 3)] for y, x in triplet.drift_px]
    return {"members": triplet.members, "drift_px": drift_px, "drift_certain": triplet.drift_doubt is None}


def preview_header(answer: Answer, picture: NDArray[np.uint8]) -> dict[str, Any]:
    """The header of the `preview` message that shows the frame of this answer."""
    exposure = answer.located.exposure
    return {
        "frame": exposure.message.number,
        "series": exposure.message.series,
        "shape": picture.shape,
        "frame_shape": exposure.frame.shape,
        "sampling_A": exposure.frame.sampling_A,
        "type": "uint8",
    }


def draw_preview(pixels: NDArray[Any], mask: NDArray[np.bool_] | None, longest: int) -> NDArray[np.uint8]:
    """An 8-bit picture of a frame, reduced and stretched.

    Parameters
    ----------
    pixels : (H, W) or (C, H, W) array of any real dtype
        Of several images the middle one is shown.
    mask : (H, W) bool array or None
    longest : int
        Longer side of the picture, where the frame's is longer.

    Returns
    -------
    (h, w) uint8
        Black where the frame is constant.
    """
    image = fill(pixels if pixels.ndim == 2 else pixels[len(pixels) // 2], mask)
    factor = max(image.shape) / longest
    if factor > 1:
        height, width = (max(1, round(size / factor)) for size in image.shape)
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.float32)
    steps = [max(1, size // _ENOUGH) for size in image.shape]
    low, high = np.percentile(image[:: steps[0], :: steps[1]], _STRETCH)
    scale = 255 / (high - low) if high > low else 0.0
    stretched: NDArray[np.uint8] = np.clip((image - np.float32(low)) * np.float32(scale), 0, 255).astype(np.uint8)
    return stretched


def milliseconds(seconds: float | None) -> float | None:
    """For a header: a microsecond is enough."""
    return None if seconds is None else round(seconds * 1e3, 3)
