"""The network: prepared pixels in, maps out. One Protocol; OpenVINO runs it on the CPU.

`infer` blocks and releases the GIL. Threads beyond the number that it was loaded for may call it; they wait.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.cores import usable_cores
from engine.errors import ModelError
from engine.openvino import ov
from engine.spec import ModelSpec

MAPS = 6  # channels before the class probabilities: score, peak, dy, dx, log sigma, contamination
_QUEUED = 2  # requests beside those that run: a core that is done has the next one at hand, without a word to Python
_SETTLED = 4  # so many frames of one shape in a row, and the network is compiled for it alone

_LOG = logging.getLogger("atomstream")

Requests = SimpleQueue[ov.InferRequest]  # of one compiled network, those that nobody has


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """What the network says of each cell, a square of `stride` network pixels.

    Attributes
    ----------
    values : (6 + K', h, w) float32
        Score, peak, dy, dx, log sigma, contamination, then the probability of each class if there are several.
    """

    values: NDArray[np.float32]

    @property
    def score(self) -> NDArray[np.float32]:
        """(h, w), 0 to 1: an atom is here."""
        return self.values[0, ...]

    @property
    def peak(self) -> NDArray[np.float32]:
        """(h, w): the score where it is a local maximum, else 0."""
        return self.values[1, ...]

    @property
    def offset(self) -> NDArray[np.float32]:
        """(2, h, w): dy, dx from the cell's centre to the atom, in network pixels."""
        return self.values[2:4]

    @property
    def log_sigma(self) -> NDArray[np.float32]:
        """(h, w): logarithm of the position's expected error per axis, in network pixels."""
        return self.values[4, ...]

    @property
    def contamination(self) -> NDArray[np.float32]:
        """(h, w), 0 to 1: the specimen is covered here."""
        return self.values[5, ...]

    @property
    def classes(self) -> NDArray[np.float32]:
        """(K', h, w): probability of each class; K' = 0 for a model of one class."""
        return self.values[MAPS:]

    def crop(self, shape: tuple[int, int], stride: int) -> Maps:
        """Only the cells that hold some of the first `shape` network pixels: the rest is padding."""
        rows, columns = (-(-size // stride) for size in shape)
        return Maps(self.values[:, :rows, :columns])


def map_count(spec: ModelSpec) -> int:
    """Channels of a model's output."""
    return MAPS + (len(spec.classes) if len(spec.classes) > 1 else 0)


class Network(Protocol):
    """A loaded network, ready to run."""

    @property
    def backend(self) -> str:
        """Runtime and precision, for example "openvino int8"."""

    def infer(self, pixels: NDArray[np.float32]) -> Maps:
        """Run on (1, C, H, W) pixels; blocks."""

    def close(self) -> None:
        """Free what it holds."""


class OpenVinoNetwork:
    """A network on the CPU, compiled for any input shape, and once more for the shape that frames keep having.

    The second runs a tenth faster; it is compiled beside the running stream, which takes a while, and used when ready.

    Parameters
    ----------
    path : Path
        ONNX file, or the .xml of OpenVINO IR.
    precision : str
        "f32", "bf16", or "int8" for a file that was quantised.
    channels, maps : int
        Channels of its input and output; ModelError where the file has others.
    threads : int, optional
        CPU threads; all cores unless told.
    at_once : int
        Frames side by side, each on its share of the threads: more frames a second, each of them later.
    """

    def __init__(
        self, path: Path, precision: str, *, channels: int, maps: int, threads: int | None = None, at_once: int = 1
    ) -> None:
        self._core = _core()
        try:
            self._model = self._core.read_model(path)
        except RuntimeError as error:
            cause = str(error).strip().splitlines()[-1]
            raise ModelError(
                f"{path}: expected a network in ONNX or OpenVINO IR, got {cause}: export the model again"
            ) from None
        _expect_channels(self._model, path, channels, maps)
        # The arithmetic of an INT8 file's other layers: bf16 would round offsets of some pixels by a hundredth of one.
        hint = "f32" if precision == "int8" else precision
        self._options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": at_once}
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
            # Networks that leave cores to others would all be bound to the first ones: two at half of their speed.
            self._options["ENABLE_CPU_PINNING"] = threads >= usable_cores()
        self._at_once = at_once
        self._any = self._compile()
        self._settled: tuple[tuple[int, ...], Requests] | None = None
        self._choosing = Lock()
        self._settling: Thread | None = None
        self._seen: tuple[tuple[int, ...], int] = ((), 0)
        self._unsettled: set[tuple[int, ...]] = set()  # shapes that do not compile
        self._closed = False
        self.backend = f"openvino {precision}"

    def infer(self, pixels: NDArray[np.float32]) -> Maps:
        """Run the network; blocks and releases the GIL.

        Parameters
        ----------
        pixels : (1, C, H, W) float32, C-contiguous
            As `prepare` gives them.
        """
        with self.request(pixels.shape) as request:
            # Not `infer`: what it does around these calls costs a quarter of a millisecond.
            request.set_input_tensor(ov.Tensor(pixels, shared_memory=True))
            request.start_async()
            request.wait()
            # COPY: the request writes its next answer into the same buffer.
            return Maps(request.get_output_tensor().data[0].copy())

    @contextmanager
    def request(self, shape: tuple[int, ...]) -> Iterator[ov.InferRequest]:
        """What runs inputs of this shape best at the moment, for the caller alone; blocks while all are taken.

        ModelError once the network is closed.
        """
        with self._choosing:
            if self._closed:
                raise ModelError("Expected a network that is open, got one that was closed: load the model again")
            requests = self._best(shape)
        request = requests.get()
        try:
            yield request
        finally:
            requests.put(request)

    def _best(self, shape: tuple[int, ...]) -> Requests:
        self._seen = (shape, self._seen[1] + 1 if self._seen[0] == shape else 1)
        settled = self._settled  # read once: the thread that compiles may replace it at any moment
        if settled is not None and settled[0] == shape:
            return settled[1]
        ready = self._settling is None or not self._settling.is_alive()
        if self._seen[1] >= _SETTLED and ready and shape not in self._unsettled:
            self._settling = Thread(target=self.settle, args=(shape,), name="compile", daemon=True)
            self._settling.start()
        return self._any

    def settle(self, shape: tuple[int, ...]) -> None:
        """Compile for this shape; blocks. The shape settled before is dropped.

        Where that fails it is told, once for each shape, and the network for any shape goes on.
        """
        if shape in self._unsettled:
            return
        try:
            self._settled = (shape, self._compile(shape))
        except (RuntimeError, MemoryError) as error:
            self._unsettled.add(shape)
            cause = (str(error).strip() or type(error).__name__).splitlines()[-1]
            told = "Expected the network to compile for %s, got %s: frames of this shape run on the one for any shape"
            _LOG.warning(told, " x ".join(map(str, shape)), cause)

    def close(self) -> None:
        """Free the compiled networks; whoever calls `infer` later is told."""
        with self._choosing:
            self._closed = True
        if self._settling is not None:
            self._settling.join()
        self._settled, self._any = None, SimpleQueue()

    def _compile(self, shape: tuple[int, ...] | None = None) -> Requests:
        model = self._model.clone()
        if shape is not None:
            model.reshape(list(shape))
        compiled = self._core.compile_model(model, "CPU", self._options)
        requests: Requests = SimpleQueue()
        for _ in range(self._at_once + _QUEUED):
            requests.put(compiled.create_infer_request())
        return requests


def cpu_precisions() -> tuple[str, ...]:
    """Precisions this CPU computes in hardware: "f32", and "bf16", "int8" where it can."""
    names = {"FP32": "f32", "BF16": "bf16", "INT8": "int8"}
    capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for key, name in names.items() if key in capabilities)


@cache
def _core() -> ov.Core:
    """One for the whole process: of two, the later freed leaves the freed signal stack of the other behind (2026.4).

    The next Ctrl-C would then end the process with a segmentation fault.
    """
    # Two threads whose first arrays meet in the bindings wait for each other for ever: the first one is made here.
    ov.Tensor(np.zeros(1, np.float32))
    return ov.Core()


def _expect_channels(model: ov.Model, path: Path, channels: int, maps: int) -> None:
    ports = [*model.inputs, *model.outputs]
    got = [port.partial_shape for port in ports]
    want = [ov.PartialShape([-1, count, -1, -1]) for count in (channels, maps)]
    if len(ports) != len(want) or not all(a.compatible(b) for a, b in zip(got, want, strict=True)):
        raise ModelError(
            f"{path}: expected one input (N, {channels}, H, W) and one output (N, {maps}, h, w), "
            f"got {', '.join(str(shape) for shape in got)}: export the model again"
        )
