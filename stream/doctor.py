"""Is this machine ready? Versions, CPU, backends, models, and a synthetic frame whose atoms are known."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.detector import Detector, load_detector
from engine.errors import AtomstreamError, one_line
from engine.frame import Frame
from engine.gpu_probe import obstacle, parts
from engine.network import cpu_precisions
from engine.shipped import find_spec, list_models
from engine.spec import ModelSpec, file_sha256
from stream.camera import CameraSettings, Specimen, expose, position_A, read_specimen, whole_pixels

HELP = "print versions, CPU, backends and models, and run a self-test"

_PACKAGES = ("atomstream", "numpy", "openvino", "pyzmq", "opencv-python-headless")
_FEATURES = {
    "AVX2": {"avx2"},
    "AVX512": {"avx512f"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "BF16": {"avx512_bf16"},
    "AMX": {"amx_tile"},
}
_MARGIN_A = 2.0  # atoms closer to the edge are not counted
_MISCOUNT = 0.03  # share by which the count may be off
_FAMILY = "graphene"  # of the specimen that the self-test shows
# Strong contrast and little noise: a frame that any model of graphene must read.
_EASY = CameraSettings(dose=1e5, defocus=60, defocus_amplitude=0, cs=0, astigmatism=0, drift=0)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    text: str
    wrong: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model of the self-test."""
    parser.add_argument(
        "--model", default="graphene", help="reads a frame of graphene, where it is a model of it (graphene)"
    )


def run(options: argparse.Namespace) -> int:
    """Print every finding as it comes; 1 when one of them is wrong."""
    find_spec(options.model)  # a name of no model is a mistake in the command, not a finding
    wrong = []
    for title, findings in (
        ("versions", versions()),
        ("processor", processor(Path("/proc/cpuinfo"))),
        ("backends", backends()),
        ("models", models()),
        ("self-test", self_test(options.model)),
    ):
        print(title)
        for finding in findings:
            print(f"  {finding.name:<24}{'WRONG: ' * finding.wrong}{finding.text}", flush=True)
            if finding.wrong:
                wrong.append(finding.name)
    print(f"Wrong: {', '.join(wrong)}." if wrong else "Everything is in order.")
    return 1 if wrong else 0


def versions() -> Iterator[Finding]:
    """Python and the packages that live use stands on."""
    yield Finding("Python", platform.python_version(), sys.version_info < (3, 11))
    for package in _PACKAGES:
        try:
            yield Finding(package, version(package))
        except PackageNotFoundError:
            yield Finding(package, "not installed: pip install it", wrong=True)


def processor(cpuinfo: Path) -> Iterator[Finding]:
    """Name of the CPU and what of it speeds up a network."""
    try:
        lines = [line.partition(":")[::2] for line in cpuinfo.read_text().splitlines()]
    except OSError:
        yield Finding("CPU", f"{platform.processor() or platform.machine()}, features are read on Linux only")
        return
    facts = {name.strip(): value.strip() for name, value in lines}
    yield Finding("CPU", facts.get("model name", platform.machine()))
    have = set(facts.get("flags", facts.get("Features", "")).split())
    yield Finding(
        "features", ", ".join(f"{name} {'yes' if names & have else 'no'}" for name, names in _FEATURES.items())
    )


def backends() -> Iterator[Finding]:
    """What can run a network here, and why the others cannot."""
    try:
        yield Finding("openvino", f"found, this CPU computes in {', '.join(cpu_precisions())}")
    except RuntimeError as error:
        yield Finding("openvino", f"does not start: {one_line(error)}", wrong=True)
    for part in parts():  # a machine without a GPU is in order
        yield Finding(part.name, f"{part.text}: {part.remedy}" if part.remedy else part.text)


def models() -> Iterator[Finding]:
    """Every shipped model, and whether its files are those that were shipped."""
    names = list_models()
    if not names:
        yield Finding("none", "no model is installed: install Atomstream again", wrong=True)
    for name in names:
        path = find_spec(name)
        try:
            spec = ModelSpec.read(path)
            damaged = [file for file, digest in spec.sha256.items() if _digest(path.with_name(file)) != digest]
        except AtomstreamError as error:
            yield Finding(name, str(error), wrong=True)
        else:
            said = f"{', '.join(damaged)} missing or damaged: install Atomstream again" if damaged else "as shipped"
            yield Finding(name, f"{spec.version}, {said}", wrong=bool(damaged))


def _digest(path: Path) -> str | None:
    try:
        return file_sha256(path)
    except OSError:
        return None


def self_test(model: str) -> Iterator[Finding]:
    """Count the atoms of a synthetic frame, on the CPU and on a GPU that should work; its engine is built then."""
    for device in ("cpu", "cuda") if obstacle() is None else ("cpu",):
        try:
            specimen = read_specimen()
            with load_detector(model, device=device) as detector:
                if detector.spec.family == _FAMILY:
                    yield count_atoms(specimen, detector)
                else:
                    yield Finding("frame", f"loads with {detector.backend}; no frame of {detector.spec.family} to try")
        except AtomstreamError as error:
            yield Finding("frame", str(error), wrong=True)


def count_atoms(specimen: Specimen, detector: Detector) -> Finding:
    """One period of the specimen as the camera sees it, and how many of its atoms the detector finds."""
    shape = whole_pixels(specimen, _EASY.sampling)
    pixels, header = expose(specimen, _EASY, shape, number=0, interval_s=1.0)
    frame = Frame(pixels, header["sampling"], dose_e_A2=header["dose"])
    detector.detect(frame)  # the first compiles the network
    began_s = time.perf_counter()
    atoms = detector.detect(frame)
    took_ms = (time.perf_counter() - began_s) * 1e3
    moved_A = (known_positions_A(specimen) + position_A(_EASY, 0.0)) % specimen.cell_A
    expected, found = (_inside(positions, frame.field_A) for positions in (moved_A, atoms.positions * frame.sampling_A))
    said = f"{found} atoms of {expected} in {took_ms:.0f} ms with {detector.spec.name}, {detector.backend}"
    return Finding("frame", said, wrong=abs(found - expected) > _MISCOUNT * expected)


def known_positions_A(specimen: Specimen) -> NDArray[np.float64]:
    """(N, 2) of (y, x): maxima of the first exit wave's phase, to the pixel; no lens and no network had a part."""
    wave = specimen.stages[0]
    spectrum = np.zeros(wave.shape, np.complex64)
    spectrum[wave.inside] = wave.coefficients
    phase = np.angle(np.fft.ifft2(spectrum)).astype(np.float32)
    phase -= np.median(phase)
    around = round(0.5 / specimen.sampling_A)
    window = np.ones((2 * around + 1, 2 * around + 1), np.uint8)
    highest = cv2.dilate(np.pad(phase, around, mode="wrap"), window)[around:-around, around:-around]
    peaks = np.argwhere((phase == highest) & (phase > 0.5 * phase.max()))
    return peaks.astype(np.float64) * specimen.sampling_A


def _inside(positions_A: NDArray[np.floating], field_A: tuple[float, float]) -> int:
    inside = (positions_A >= _MARGIN_A) & (positions_A <= np.array(field_A) - _MARGIN_A)
    return int(inside.all(axis=1).sum())
