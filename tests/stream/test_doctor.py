"""The doctor: what it says of a machine in order, and of one that is not."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine import Atoms, Frame
from engine.errors import ModelError
from engine.gpu_probe import Part
from stream import doctor
from stream.camera import Specimen, position_A, read_specimen
from stream.doctor import Finding


class Oracle:
    """Stands in for a detector: knows where the atoms are, and may lose the first few of them."""

    backend = "oracle f32"
    spec = SimpleNamespace(name="oracle")

    def __init__(self, positions_A: NDArray[np.float64], lost: int = 0) -> None:
        self.positions_A, self.lost = positions_A, lost

    def detect(self, frame: Frame) -> Atoms:
        y, x = (self.positions_A[self.lost :] / frame.sampling_A).astype(np.float32).T
        none = np.zeros(len(y), np.float32)
        return Atoms(y, x, none.astype(np.uint8), none, none, none, none.astype(np.uint8))


@pytest.fixture(scope="module")
def specimen(specimen_file: Path) -> Specimen:
    return read_specimen(specimen_file)


class TestSelfTest:
    def test_the_known_positions_are_the_atoms(
        self, tmp_path: Path, write_specimen: Callable[..., NDArray[np.float64]]
    ) -> None:
        truth = write_specimen(tmp_path / "graphene.npz")
        known = doctor.known_positions_A(read_specimen(tmp_path / "graphene.npz"))
        assert len(known) == len(truth)
        distance = np.linalg.norm(known[:, None] - truth % 25.6, axis=-1)
        assert distance.min(axis=1).max() < 0.2

    @pytest.mark.parametrize(("lost", "wrong"), [(0, False), (60, True)])
    def test_a_miscount_is_wrong(self, specimen: Specimen, lost: int, wrong: bool) -> None:
        moved_A = (doctor.known_positions_A(specimen) + position_A(doctor._EASY, 0)) % specimen.cell_A
        finding = doctor.count_atoms(specimen, Oracle(moved_A, lost))  # type: ignore[arg-type]
        assert finding.wrong is wrong
        assert "with oracle, oracle f32" in finding.text

    def test_of_another_family_it_is_enough_that_it_loads(
        self, monkeypatch: pytest.MonkeyPatch, specimen: Specimen, tiny_model: Path
    ) -> None:
        monkeypatch.setattr(doctor, "read_specimen", lambda: specimen)
        monkeypatch.setattr(doctor, "obstacle", lambda: "no GPU")
        (finding,) = doctor.self_test(str(tiny_model))
        assert not finding.wrong
        assert finding.text.endswith("; no frame of test to try")

    def test_no_model_is_wrong(self, monkeypatch: pytest.MonkeyPatch, specimen: Specimen) -> None:
        monkeypatch.setattr(doctor, "read_specimen", lambda: specimen)
        (finding,) = doctor.self_test("grafene")
        assert finding.wrong
        assert "'grafene'" in finding.text


class TestModels:
    def shipped(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> list[Finding]:
        monkeypatch.setattr(doctor, "list_models", lambda: (path.stem,))
        monkeypatch.setattr(doctor, "find_spec", lambda name: path)
        return list(doctor.models())

    def test_as_shipped(self, monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
        assert self.shipped(monkeypatch, tiny_model) == [Finding("tiny", "1, as shipped")]

    def test_damaged_or_missing(self, monkeypatch: pytest.MonkeyPatch, build_tiny_model: Callable[..., Path]) -> None:
        path = build_tiny_model()
        network = path.with_suffix(".onnx")
        network.write_bytes(network.read_bytes()[:-1])
        assert self.shipped(monkeypatch, path)[0].wrong
        network.unlink()
        (finding,) = self.shipped(monkeypatch, path)
        assert finding.wrong
        assert "tiny.onnx missing or damaged" in finding.text

    def test_a_spec_that_cannot_be_read(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "bad.json").write_text("{")
        assert self.shipped(monkeypatch, tmp_path / "bad.json")[0].wrong

    def test_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "list_models", lambda: ())
        assert [finding.wrong for finding in doctor.models()] == [True]


class TestProcessor:
    def test_features_that_matter(self, tmp_path: Path) -> None:
        (tmp_path / "cpuinfo").write_text(
            "processor\t: 0\nmodel name\t: Some CPU 9000\nflags\t\t: fpu avx2 avx512f avx512_vnni sse4_2\n"
        )
        name, features = doctor.processor(tmp_path / "cpuinfo")
        assert name.text == "Some CPU 9000"
        assert features.text == "AVX2 yes, AVX512 yes, VNNI yes, BF16 no, AMX no"

    def test_elsewhere(self, tmp_path: Path) -> None:
        (finding,) = doctor.processor(tmp_path / "none")
        assert not finding.wrong


def test_versions_tell_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(package: str) -> str:
        if package == "openvino":
            raise PackageNotFoundError(package)
        return "1.2"

    monkeypatch.setattr(doctor, "version", installed)
    assert [finding.name for finding in doctor.versions() if finding.wrong] == ["openvino"]


def test_backends_say_why_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (Part("driver", "for CUDA 13.0"), Part("cupy", "not installed", "pip install atomstream[gpu]"))
    monkeypatch.setattr(doctor, "parts", lambda: iter(found))
    openvino, driver, cupy = doctor.backends()
    assert "f32" in openvino.text
    assert driver.text == "for CUDA 13.0"
    assert cupy.text == "not installed: pip install atomstream[gpu]"
    assert not any(finding.wrong for finding in (openvino, driver, cupy))  # CPUs are enough


@pytest.mark.parametrize(("reason", "devices"), [("driver: none", ["cpu"]), (None, ["cpu", "cuda"])])
def test_a_gpu_that_should_work_is_tried(
    monkeypatch: pytest.MonkeyPatch, specimen: Specimen, reason: str | None, devices: list[str]
) -> None:
    tried = []

    def load(model: str, device: str) -> Any:
        tried.append(device)
        raise ModelError(f"not on {device}")

    monkeypatch.setattr(doctor, "read_specimen", lambda: specimen)
    monkeypatch.setattr(doctor, "obstacle", lambda: reason)
    monkeypatch.setattr(doctor, "load_detector", load)
    assert [finding.text for finding in doctor.self_test("graphene")] == [f"not on {device}" for device in devices]
    assert tried == devices


@pytest.mark.parametrize("wrong", [False, True])
def test_the_status_is_the_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: bool
) -> None:
    monkeypatch.setattr(doctor, "models", lambda: [Finding("graphene", "1.0, as shipped")])
    monkeypatch.setattr(doctor, "self_test", lambda model: [Finding("frame", f"atoms with {model}", wrong)])
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    assert doctor.run(parser.parse_args([])) == int(wrong)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == ("Wrong: frame." if wrong else "Everything is in order.")
    assert [line for line in lines if not line.startswith(" ")][:-1] == [
        "versions",
        "processor",
        "backends",
        "models",
        "self-test",
    ]


def test_a_model_that_does_not_load_is_a_finding(monkeypatch: pytest.MonkeyPatch, specimen: Specimen) -> None:
    def broken(model: str, device: str) -> Any:
        raise ModelError("no good")

    monkeypatch.setattr(doctor, "read_specimen", lambda: specimen)
    monkeypatch.setattr(doctor, "load_detector", broken)
    assert list(doctor.self_test("graphene")) == [Finding("frame", "no good", wrong=True)]
