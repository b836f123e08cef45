"""The simulated camera: what it shows, and that its settings and seed alone decide it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import ConfigError, FileError
from stream import camera
from stream.camera import (
    CameraSettings,
    Specimen,
    expected_electrons,
    expose,
    exposures,
    find_specimen,
    list_specimens,
    read_specimen,
)
from stream.cli import main
from stream.sender import Sender

STILL = CameraSettings(defocus=60, defocus_amplitude=0, drift=0, cs=0, astigmatism=0)
TRIPLETS = replace(STILL, focus_step=25.0, focus_shift=0.4)


@pytest.fixture(scope="module")
def specimen(specimen_file: Path) -> Specimen:
    return read_specimen(specimen_file)


def test_the_seed_decides_every_frame(specimen: Specimen) -> None:
    def movie(seed: int) -> NDArray[np.uint16]:
        settings = CameraSettings(seed=seed)
        return np.stack([pixels for pixels, _ in exposures(specimen, settings, (64, 48), 25.0, 3)])

    np.testing.assert_array_equal(movie(7), movie(7))
    assert (movie(7) != movie(8)).any()
    assert (movie(7)[0] != movie(7)[1]).any()


def test_a_frame_depends_on_its_number_only(specimen: Specimen) -> None:
    *_, (last, _) = exposures(specimen, CameraSettings(), (32, 32), 25.0, 5)
    alone, _ = expose(specimen, CameraSettings(), (32, 32), 4, 0.04)
    np.testing.assert_array_equal(last, alone)


def test_counts_have_the_mean_and_the_noise_of_the_dose(specimen: Specimen) -> None:
    pixels, header = expose(specimen, replace(STILL, gain=2.0, offset=30.0), (256, 256), 0, 0.04)
    electrons = (pixels.astype(float) - header["offset"]) / header["gain"]
    assert pixels.dtype == np.uint16
    assert electrons.mean() == pytest.approx(header["dose"] * header["sampling"] ** 2, rel=0.01)
    noise = electrons - expected_electrons(specimen, STILL, (256, 256), 0)
    assert noise.var() == pytest.approx(electrons.mean(), rel=0.02)


def test_the_header_says_what_the_microscope_did(specimen: Specimen) -> None:
    _, header = expose(specimen, CameraSettings(), (64, 64), 25, 0.04)
    assert header["sampling"] == 0.1
    assert header["dose"] == 1e4
    assert header["exposure"] == header["frame_interval"] == 0.04
    assert header["voltage"] == 80e3
    assert header["defocus"] == pytest.approx(camera.focus_A(CameraSettings(), 1.0), abs=0.01)


def test_the_focus_goes_through_contrast_inversion_smoothly() -> None:
    settings = CameraSettings()
    focus = np.array([camera.focus_A(settings, frame / 25) for frame in range(500)])
    assert focus.min() < -40
    assert focus.max() > 40
    assert np.abs(np.diff(focus)).max() < 5


def test_atoms_are_dark_under_focus_and_bright_over_it(
    tmp_path: Path, write_specimen: Callable[..., NDArray[np.float64]]
) -> None:
    atoms_A = write_specimen(tmp_path / "graphene.npz")
    specimen = read_specimen(tmp_path / "graphene.npz")
    shift_A = np.array(camera.position_A(STILL, 0.0))
    for defocus, sign in ((60, -1), (-60, 1)):
        image = expected_electrons(specimen, replace(STILL, defocus=defocus), (256, 256), 0.0)
        at = np.rint((atoms_A + shift_A) / 0.1).astype(int) % 256
        assert sign * (image[tuple(at.T)].mean() - image.mean()) > 0.02 * image.mean()


def test_atoms_get_lost_and_a_new_series_starts_whole(specimen: Specimen) -> None:
    settings = replace(STILL, stage_seconds=1.0)

    def darkness(time_s: float) -> float:
        image = expected_electrons(specimen, settings, (256, 256), time_s)
        return float(((image - image.mean()) ** 2).mean())

    stages = [darkness(second + 0.5) for second in range(4)]
    assert stages[0] > stages[1] > stages[2]
    assert stages[3] == pytest.approx(stages[0], rel=1e-3)
    assert [expose(specimen, settings, (8, 8), 1, time_s)[1]["series"] for time_s in (0.5, 2.5, 3.5)] == [0, 0, 1]


def test_the_specimen_drifts(specimen: Specimen) -> None:
    settings = replace(STILL, drift=3.0)
    moved = np.subtract(camera.position_A(settings, 100.0), camera.position_A(settings, 0.0))
    assert np.hypot(*moved) == pytest.approx(300, abs=8)


class TestTriplets:
    def test_three_frames_of_one_series_whose_focus_rises(self, specimen: Specimen) -> None:
        headers = [header for _, header in exposures(specimen, TRIPLETS, (16, 16), 30.0, 6)]
        assert [header["series"] for header in headers] == [0, 0, 0, 1, 1, 1]
        assert [header["defocus"] for header in headers] == [35, 60, 85] * 2
        assert {header["dose"] for header in headers} == {1e4}
        assert {header["frame_interval"] for header in headers} == {1 / 30}

    def test_the_focus_wanders_on_beneath(self, specimen: Specimen) -> None:
        settings = replace(TRIPLETS, defocus_amplitude=20)
        for number in range(9):
            _, header = expose(specimen, settings, (16, 16), number, 1 / 30)
            step = header["defocus"] - camera.focus_A(settings, number / 30)
            assert step == pytest.approx(25 * (number % 3 - 1), abs=0.01)

    def test_each_step_moves_the_image(self) -> None:
        middle = camera.position_A(TRIPLETS, 1.0)
        moved = [np.subtract(camera.position_A(TRIPLETS, 1.0, step), middle) for step in (-1, 1)]
        assert np.hypot(*moved[0]) == pytest.approx(0.4)
        np.testing.assert_allclose(moved[0], -moved[1])

    def test_each_image_is_of_its_own_focus(self, specimen: Specimen) -> None:
        settings = replace(TRIPLETS, focus_shift=0.0, dose=1e7)
        stepped = expected_electrons(specimen, settings, (64, 64), 0.0, step=1)
        alone = expected_electrons(specimen, replace(settings, defocus=85), (64, 64), 0.0)
        np.testing.assert_array_equal(stepped, alone)

    def test_single_images_know_no_step(self, specimen: Specimen) -> None:
        assert [camera.place_in_triplet(STILL, number) for number in range(4)] == [0, 0, 0, 0]
        assert [camera.place_in_triplet(TRIPLETS, number) for number in range(4)] == [-1, 0, 1, -1]


class TestShippedSpecimens:
    @pytest.mark.parametrize("name", ["graphene", "mos2"])
    def test_what_it_is_and_that_it_decays(self, name: str) -> None:
        specimen = read_specimen(find_specimen(name))
        assert specimen.voltage_kV == 80
        assert len(specimen.stages) == 16
        assert min(specimen.cell_A) > 48
        first, last = (np.abs(specimen.stages[stage].coefficients.ravel()) ** 2 for stage in (0, -1))
        assert last[1:].max() < first[1:].max()  # the strongest reflection of the lattice fades

    def test_a_movie_of_mos2_is_the_same_each_time(self) -> None:
        specimen = read_specimen(find_specimen("mos2"))
        settings = CameraSettings(focus_step=25)
        movie = [list(exposures(specimen, settings, (96, 80), 30.0, 3)) for _ in range(2)]
        for (pixels, header), (again, same) in zip(*movie, strict=True):
            assert (pixels.shape, pixels.dtype) == ((96, 80), np.uint16)
            assert header == same
            np.testing.assert_array_equal(pixels, again)

    def test_one_that_is_none_is_told(self) -> None:
        assert set(list_specimens()) >= {"graphene", "mos2"}
        with pytest.raises(ConfigError, match=r"Expected a shipped specimen \(graphene, mos2\) .* got 'unknown'"):
            find_specimen("unknown")
        assert find_specimen("of/mine.npz") == Path("of/mine.npz")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--specimen unknown", "expected a shipped specimen (graphene, mos2) or a path to exit waves .npz, got"),
        ("--specimen none.npz", "none.npz: expected exit waves of the simulated camera"),
        ("--frames -2", "--frames: expected 1 or more, got -2: leave it out to send without end"),
        ("--frames 0", "--frames: expected 1 or more, got 0"),
        ("--focus-step -3", "focus_step: expected 0 or more, got -3"),
        ("--focus-shift nan", "focus_shift: expected 0 or more, got nan"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["camera", *arguments.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"atomstream: {said}")


def test_a_port_in_use_is_the_only_thing_told(capsys: pytest.CaptureFixture[str]) -> None:
    with Sender("tcp://127.0.0.1:*") as other:
        assert main(["camera", "--frames", "1", "--bind", other.endpoint]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("atomstream: expected an endpoint to bind")


@pytest.mark.parametrize("sampling_A", [0.05, 0.12, 0.37, 0.75])
def test_any_pixel_size_and_field(specimen: Specimen, sampling_A: float) -> None:
    pixels, header = expose(specimen, CameraSettings(sampling=sampling_A), (100, 612), 0, 0.04)
    assert pixels.shape == (100, 612)
    assert header["sampling"] == pytest.approx(sampling_A, rel=0.01)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampling: expected 0\.01 or more, got -1"):
        CameraSettings(sampling=-1)
    with pytest.raises(ConfigError, match="dose"):
        CameraSettings(dose=float("nan"))


@pytest.mark.parametrize("content", [b"", b"PK not a zip", b"\x93NUMPY"])
def test_a_damaged_specimen_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(FileError, match="expected exit waves"):
        read_specimen(tmp_path / "bad.npz")
    with pytest.raises(FileError, match="expected exit waves"):
        read_specimen(tmp_path / "none.npz")


@pytest.mark.parametrize("text", ["512", "x", "0x4", "99999x99999", "-8x8", "8x8x8"])
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected HxW"):
        camera.parse_shape(text)


def test_flags_are_the_settings(monkeypatch: pytest.MonkeyPatch, specimen: Specimen) -> None:
    sent: list[tuple[NDArray[np.uint16], dict[str, object]]] = []
    asked: list[Path] = []
    monkeypatch.setattr(camera, "read_specimen", lambda path: asked.append(path) or specimen)
    monkeypatch.setattr(camera, "run_sender", lambda frames, options: sent.extend(frames) or 0)
    parser = argparse.ArgumentParser()
    camera.add_arguments(parser)
    arguments = "--frames 2 --shape 24x32 --dose 5000 --seed 4 --rate 50 --socket push --connect tcp://127.0.0.1:9"
    arguments += " --specimen mos2 --focus-step 25 --defocus 60 --defocus-amplitude 0"
    assert camera.run(parser.parse_args(arguments.split())) == 0
    assert [pixels.shape for pixels, _ in sent] == [(24, 32)] * 2
    assert sent[0][1]["dose"] == 5000
    assert sent[0][1]["exposure"] == 0.02
    assert [header["defocus"] for _, header in sent] == [35, 60]
    assert asked == [find_specimen("mos2")]
