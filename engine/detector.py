"""Frame in, Atoms out: the steps prepare, infer, locate of one loaded model."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from engine.atoms import Atoms
from engine.bonds import allowed
from engine.device import KINDS, UNREADABLE, unreadable
from engine.errors import FileError, FrameError, ModelError
from engine.frame import Frame
from engine.network import Maps, Network, OpenVinoNetwork, cpu_precisions, map_count
from engine.peaks import find_peaks
from engine.prepare import Prepared, all_counts, counted, prepare
from engine.refine import refine
from engine.shipped import find_spec, verified_weights
from engine.spec import ModelSpec

_DEVICES = ("auto", "cpu", "cuda", "cuda:all")
_DEVICE_OF = {"openvino": "cpu", "tensorrt": "cuda", "torch": "cuda"}  # what each backend runs on
_PRECISIONS = ("auto", "f32", "bf16", "int8")
_TOLERANCE = 0.2  # beyond the trained range by more than this share a frame is refused
_NOT_FINITE = 0.1  # share of NaN, infinity and what is beyond all counts that a frame may hold
_MASKED = 0.1  # share of masked pixels that a beam stop or dead rows may take without a word
_LOG = logging.getLogger("atomstream")


def load_detector(
    model: str | Path,
    backend: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    at_once: int = 1,
    device: str | None = None,
    memory_MB: float = 4096,
    kinds: int = KINDS,
) -> Detector:
    """Load a shipped model by name, or one of your own by the path of its spec.

    Parameters
    ----------
    model : str or Path
        "graphene", or a .json file with its weights beside it.
    backend : str
        "openvino" on the CPU; "tensorrt" or "torch" on a GPU; "auto" takes the first that works.
    precision : str
        "auto" takes INT8 where the model has it, else bf16 where the CPU has it, else f32; on a GPU f16.
    threads : int, optional
        CPU threads; all cores unless told.
    at_once : int
        Threads that may call `infer` side by side, each served by its share of the CPU threads. Of no
        consequence on a GPU: any number may, and it works on one frame after the other.
    device : str, optional
        "cpu"; "cuda": the first GPU; "cuda:all": frames are dealt round all of them; "auto": the first GPU if it works.
        With the last two the CPU takes over when a GPU is lost later. Unless told, what the backend runs on, and the
        CPU for backend "auto".
    memory_MB : float
        Of a GPU, roughly; larger frames run in strips.
    kinds : int
        Of frames (shape, dtype, sampling, mask or none) that a GPU keeps buffers for; of no consequence on a CPU.

    Raises
    ------
    ModelError
        Unknown or damaged model; backend, precision or device that this machine or model does not have.
    """
    device = _choose_device(device, backend)
    path = find_spec(model)
    spec = ModelSpec.read(path)

    def on_cpu(precision: str = "auto") -> Detector:
        return _load_on_cpu(spec, path.parent, precision, threads, at_once)

    if device == "cpu":
        return on_cpu(precision)
    from engine.gpu import load_on_gpu
    from engine.gpu_probe import load_driver

    try:
        loaded = load_on_gpu(
            spec,
            path.parent,
            backend=backend,
            precision=precision,
            memory_MB=memory_MB,
            kinds=kinds,
            fallback=None if device == "cuda" else on_cpu,
            every=device == "cuda:all",
        )
    except (ModelError, FileError, FrameError) as error:  # no home for engines; not even memory for a context
        if device != "auto":
            raise
        # Where nobody has a driver nobody expects a GPU: that is said by `doctor`, not at every start.
        _LOG.log(logging.DEBUG if load_driver() is None else logging.INFO, "Computing on the CPU. %s", error)
        return on_cpu(precision)
    if device == "auto":
        _LOG.info("Computing with %s: device is auto, and all that this GPU needs is there", loaded.backend)
    return loaded


class Detector:
    """A loaded model. A context manager; `infer` is for `at_once` threads at a time, the other steps are for any."""

    def __init__(self, spec: ModelSpec, network: Network) -> None:
        self.spec = spec
        self._network = network

    @property
    def places(self) -> int:
        """Frames that a device has room for on their way; 0 where the CPU computes.

        Where there are any, `prepare` and `locate` mostly wait: threads must not keep each other from them.
        """
        return 0

    @property
    def backend(self) -> str:
        """Runtime and precision, for example "openvino int8"."""
        return self._network.backend

    def detect(self, frame: Frame) -> Atoms:
        """The atoms of a frame; FrameError where `check` refuses it, whose warnings are not repeated here.

        Pixels may be anything that has `__dlpack__`: a GPU's, where the detector is on that GPU, are not copied down.
        """
        frame = self.take(frame)
        self.check(frame)
        prepared = self.prepare(frame)
        maps = self.infer(prepared)
        return self.locate(frame, prepared, maps)

    def take(self, frame: Frame) -> Frame:
        """The frame with pixels that this detector can read; the frame itself where it already can."""
        if isinstance(frame.pixels, np.ndarray):
            return frame
        try:
            return replace(frame, pixels=np.from_dlpack(frame.pixels))
        except UNREADABLE as error:
            remedy = "copy them, or load the detector with device='cuda'"
            raise unreadable(frame.pixels, error, "of NumPy or in memory that it can read", remedy) from None

    def check(self, frame: Frame) -> tuple[str, ...]:
        """Warnings where a frame is outside of what the model was trained for; FrameError where it is far outside.

        Call it before `prepare`: it bounds what a frame can make that allocate.
        """
        _check_pixels(frame, self.spec)
        return (*_check_counts(frame), *_check_geometry(frame, self.spec), *_check_optics(frame, self.spec))

    def prepare(self, frame: Frame) -> Prepared:
        """Network input of a frame."""
        return prepare(frame, self.spec)

    def infer(self, prepared: Prepared) -> Maps:
        """Run the network; blocks and releases the GIL."""
        return self._network.infer(prepared.pixels).crop(prepared.shape, self.spec.stride)

    def locate(self, frame: Frame, prepared: Prepared, maps: Maps) -> Atoms:
        """Peaks and sub-pixel positions."""
        if not prepared.pixels.any():  # a constant frame holds no atoms, whatever the network makes of zeros
            return Atoms.none()
        radius = self.spec.separation_A / (self.spec.sampling_A * self.spec.stride)
        peaks = find_peaks(maps, self.spec.threshold, radius)
        return allowed(refine(peaks, maps, frame, prepared, self.spec), frame.sampling_A, self.spec)

    def settle(self, frame: Frame) -> None:
        """Compile for frames of this shape and sampling now, not once they keep coming; blocks. Call `check` before.

        The last digits of an answer depend on what was compiled: settled first, they no longer depend on when. A shape
        that does not compile is told once, and its frames run as if nobody had asked.
        """
        if isinstance(self._network, OpenVinoNetwork):
            self._network.settle(self.prepare(frame).pixels.shape)

    def close(self) -> None:
        """Free the network."""
        self._network.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _load_on_cpu(spec: ModelSpec, folder: Path, precision: str, threads: int | None, at_once: int) -> Detector:
    precision = _choose_precision(precision, spec)
    weights = verified_weights(spec, folder, ".int8.xml" if precision == "int8" else ".onnx")
    maps = map_count(spec)
    network = OpenVinoNetwork(weights, precision, channels=spec.channels, maps=maps, threads=threads, at_once=at_once)
    return Detector(spec, network)


def _choose_device(device: str | None, backend: str) -> str:
    """The device, once it and the backend are known and go together. A backend that is named is not given up."""
    for name, got, known in (("device", device, (None, *_DEVICES)), ("backend", backend, ("auto", *_DEVICE_OF))):
        if got not in known:
            raise ModelError(f"Expected a {name} of {', '.join(filter(None, known))}, got {got!r}: choose one of these")
    if backend == "auto":
        return device or "cpu"
    needed = _DEVICE_OF[backend]
    if device not in (None, "auto", needed, f"{needed}:all"):
        raise ModelError(
            f"Expected device {needed!r} with backend {backend!r}, got {device!r}: choose --device {needed}"
        )
    return device if device == f"{needed}:all" else needed


def _choose_precision(precision: str, spec: ModelSpec) -> str:
    quantised = f"{spec.name}.int8.xml" in spec.sha256
    can = cpu_precisions()
    if precision == "auto":
        return "int8" if quantised else "bf16" if "bf16" in can else "f32"
    if precision not in _PRECISIONS:
        raise ModelError(f"Expected a precision of {', '.join(_PRECISIONS)}, got {precision!r}: choose one of these")
    if precision == "int8" and not quantised:
        raise ModelError(f"Model {spec.name} has no INT8 weights, got precision 'int8': choose 'auto', 'f32' or 'bf16'")
    if precision == "bf16" and "bf16" not in can:
        raise ModelError("This CPU does not compute in bf16, got precision 'bf16': choose 'auto' or 'f32'")
    return precision


def _check_pixels(frame: Frame, spec: ModelSpec) -> None:
    pixels = frame.pixels
    if pixels.size == 0:
        raise FrameError("empty_frame", f"Engine expects pixels, got the shape {_by(pixels.shape)}: send whole frames")
    channels = {2: 1, 3: pixels.shape[0]}.get(pixels.ndim, 0)
    if channels != spec.channels:
        want, remedy = (
            ("H x W", "feed single frames, or load a model for series")
            if spec.channels == 1
            else (f"{spec.channels} x H x W", "feed triplets, or load a single-frame model")
        )
        raise FrameError("shape_out_of_range", f"Engine expects {want}, got {_by(pixels.shape)}: {remedy}")
    if frame.mask is not None and frame.mask.shape != frame.shape:
        raise FrameError(
            "shape_out_of_range",
            f"Engine expects a mask of {_by(frame.shape)}, got {_by(frame.mask.shape)}: one value for each pixel",
        )
    # On a GPU to count them would be to wait for it.
    if isinstance(pixels, np.ndarray) and not all_counts(pixels.dtype):
        lost = 1 - np.count_nonzero(counted(pixels)) / pixels.size
        if lost > _NOT_FINITE:
            raise FrameError(
                "not_finite",
                f"Engine expects at most {_NOT_FINITE:.0%} of the pixels NaN, infinite or beyond all counts, got "
                f"{lost:.0%}: look at what the detector writes, and at its gain and dark references if there are any",
            )


def _check_counts(frame: Frame) -> list[str]:
    """Masked or saturated pixels: a warning where they are many, refused where there are no others."""
    if frame.mask is None:
        return []
    lost = float(frame.mask.mean())
    if lost == 1:
        raise FrameError(
            "empty_frame",
            "Engine expects pixels that measure something, got all of them masked or saturated: expose less, or look "
            "at the detector's mask",
        )
    return [f"{lost:.0%} of the pixels are masked or saturated: no atoms are found there"] if lost > _MASKED else []


def _check_geometry(frame: Frame, spec: ModelSpec) -> list[str]:
    """Sampling and field of view: warnings up to a fifth outside, refused beyond."""
    if not (math.isfinite(frame.sampling_A) and frame.sampling_A > 0):
        raise FrameError(
            "no_sampling", f"Engine expects a sampling over 0 A/px, got {frame.sampling_A:g}: state the pixel size"
        )
    quantities = [
        ("sampling_A", "sampling", "A/px", frame.sampling_A, "sampling_out_of_range", "check the pixel size"),
        ("field_A", "height", "A", frame.field_A[0], "shape_out_of_range", "crop or bin the frame"),
        ("field_A", "width", "A", frame.field_A[1], "shape_out_of_range", "crop or bin the frame"),
    ]
    warnings = []
    for key, name, unit, value, reason, remedy in quantities:
        low, high = spec.trained.get(key, (0, math.inf))
        said = f"expects a {name} of {low:g} to {high:g} {unit}, got {value:g}"
        if not low * (1 - _TOLERANCE) <= value <= high * (1 + _TOLERANCE):
            raise FrameError(reason, f"Model {spec.name} {said}: {remedy}, or load another model")
        if not low <= value <= high:
            warnings.append(f"Model {spec.name} {said}: expect more errors")
    return warnings


def _check_optics(frame: Frame, spec: ModelSpec) -> list[str]:
    """Dose, voltage and defocus, where known: warnings only."""
    quantities = [
        ("dose_e_A2", "dose", "e/A^2", frame.dose_e_A2),
        ("voltage_kV", "voltage", "kV", frame.voltage_kV),
        *(("defocus_A", "defocus", "A", defocus) for defocus in frame.defocus_A or ()),
    ]
    warnings = []
    for key, name, unit, value in quantities:
        low, high = spec.trained.get(key, (-math.inf, math.inf))
        if value is not None and not low <= value <= high:
            warnings.append(
                f"Model {spec.name} expects a {name} of {low:g} to {high:g} {unit}, got {value:g}: expect more errors"
            )
    return warnings


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
