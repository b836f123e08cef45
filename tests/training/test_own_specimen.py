"""A specimen of one's own: the tutorial's commands at a size of seconds, and one line for every mistake."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from engine import ModelSpec
from stream.cli import main as atomstream
from tests.stream.test_serve import sending
from training import cli
from training.alone import alone
from training.cli import main
from training.decidable import crystal_sign, element_sign
from training.recipes.own import own
from training.recipes.recipe import Recipe, Round
from training.specimen_file import OwnSpecimen

pytestmark = pytest.mark.timeout(400)  # on a busy machine

PAGE = (Path(__file__).parents[2] / "docs" / "own-specimen.md").read_text()
SMALL = {
    "atomstream-train simulate": "--count 1 --held-out 1",
    "atomstream-train fit": "--workers 0 --threads 1 --steps 18",
    "atomstream-train evaluate": "--frames 1 --precision f32",
    "atomstream detect": "--precision f32",
    "atomstream serve": "--socket pull --policy lossless --output tcp://127.0.0.1:* --metrics-port 0 --precision f32 "
    "--stop-after-frames 2 --json",
}


def commands() -> list[list[str]]:
    """What the page tells users to type, with what makes it small."""
    blocks = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    lines = [shlex.split(line, comments=True) for line in blocks.splitlines()]
    return [[*line, *SMALL.get(" ".join(line[:2]), "").split()] for line in lines]


@pytest.fixture
def small_network(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe as it is but for its network, crops and last round."""

    def small(name: str, specimen: OwnSpecimen) -> Recipe:
        rounds = (Round(18, 2e-3), Round(2, 6e-4, beta=0.0))
        size = {"widths": recipe.widths, "depth": recipe.depth, "crop_px": 64, "batch": 2}
        return replace(own(name, specimen), rounds=rounds, calm_steps=0, **size)

    monkeypatch.setattr(cli, "own", small)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with the page's structure."""
    monkeypatch.chdir(tmp_path)
    (structure,) = re.findall(r"```\n(data_.*?)```", PAGE, re.DOTALL)
    (tmp_path / "SrTiO3.cif").write_text(structure)
    return tmp_path


def test_the_tutorial_from_a_cif_to_live_use(
    few_frames: None, small_network: None, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tifffile.imwrite(place / "movie.tif", np.random.default_rng(0).poisson(50, (2, 200, 200)).astype(np.uint16))
    said = {}
    assert [line[:2] for line in commands()] == [
        *(["atomstream-train", name] for name in ("simulate", "fit", "export", "evaluate")),
        *(["atomstream", name] for name in ("models", "detect", "serve")),
    ]
    for program, *arguments in commands():
        if arguments[0] == "serve":
            with sending(2, size=160) as endpoint:
                assert atomstream([*arguments, "--input", endpoint]) == 0
        else:
            assert {"atomstream": atomstream, "atomstream-train": main}[program](arguments) == 0
        said[arguments[0]] = capsys.readouterr().out
    spec = ModelSpec.read(place / "runs" / "sto" / "export" / "sto.json")
    assert spec.classes == ("Sr", "Ti", "O")
    assert spec.trained["voltage_kV"] == (300.0, 300.0)
    assert spec.measured.keys() == {"openvino f32"}
    assert (place / "runs" / "sto" / "report" / "report.html").exists()
    assert "Sr, Ti, O" in said["models"]
    assert (place / "atoms.csv").read_text().startswith("frame,")
    summary = json.loads(said["serve"].splitlines()[-1])
    assert (summary["model"], summary["processed"]) == ("sto", 2)


STO = "simulate sto --structure SrTiO3.cif --zone 0,0,1 --thickness 20,60 --voltage 300"


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that exit waves were asked for of."""
    asked: list[Recipe] = []
    monkeypatch.setattr(cli, "_store", lambda recipe, *rest: asked.append(recipe))
    return asked


@pytest.fixture
def complaint(place: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """What stderr says of a command that is a mistake."""

    def said(command: str) -> str:
        assert main(shlex.split(command)) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.count("\n") == 1
        return told.err

    return said


class TestSpecimen:
    def test_other_commands_and_the_same_one_need_the_name_alone(self, place: Path, stored: list[Recipe]) -> None:
        for command in (STO, "simulate sto", STO):
            assert main(command.split()) == 0
        first, *others = stored[::3]  # waves, calibration and held_out, each time
        for other in others:
            assert (other.spec, other.images) == (first.spec, first.images)
            atoms = [one.structures.draw(np.random.default_rng(0)).atoms_A for one in (first, other)]
            np.testing.assert_array_equal(*atoms)

    def test_what_was_begun_is_not_changed(
        self, place: Path, stored: list[Recipe], complaint: Callable[[str], str]
    ) -> None:
        main(STO.split())
        (place / "runs" / "sto" / "held_out.zarr" / "00000").mkdir(parents=True)
        before = (place / "runs" / "sto" / "specimen.json").read_bytes()
        assert "specimen.json was begun with, got another" in complaint(STO.replace("0,0,1", "1,1,0"))
        assert (place / "runs" / "sto" / "specimen.json").read_bytes() == before

    def test_two_at_once_do_not_write_each_other_s_specimen(
        self, place: Path, stored: list[Recipe], complaint: Callable[[str], str]
    ) -> None:
        folder = place / "runs" / "sto"
        folder.mkdir(parents=True)
        with alone(folder):  # as another process does, until its exit waves are there
            said = complaint(STO)
            assert "sto: expected nobody else to write here, got another `atomstream-train` that does" in said
            assert not (folder / "specimen.json").exists()
        assert main(STO.split()) == 0
        assert (folder / "specimen.json").exists()

    def test_until_there_are_exit_waves_it_may_be_corrected(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, complaint: Callable[[str], str]
    ) -> None:
        monkeypatch.setattr("training.workers._ANSWER_S", 1.0)
        assert "expected a Dask scheduler" in complaint(f"{STO} --scheduler tcp://127.0.0.1:9")
        monkeypatch.setattr("training.specimen_set.exit_wave", lambda *_: np.ones((8, 8), np.complex64))
        assert main([*STO.replace("300", "200").split(), *["--count", "1", "--held-out", "1", "--workers", "1"]]) == 0
        assert json.loads((place / "runs" / "sto" / "specimen.json").read_text())["voltage_kV"] == 200

    @pytest.mark.parametrize(
        ("options", "classes", "voltage_kV"),
        [
            ("--zone 1,1,0 --thickness 20,60 --voltage 80", ("Sr", "Ti", "O"), 80.0),
            ("--zone=-1,1,0 --shape particle --diameter 10,50 --elements Ti --voltage 300", ("Ti",), 300.0),
            ("--shape as-given --elements O,Sr --voltage 200", ("Sr", "O"), 200.0),
        ],
    )
    def test_shapes_and_elements(
        self, place: Path, stored: list[Recipe], options: str, classes: tuple[str, ...], voltage_kV: float
    ) -> None:
        assert main(["simulate", "sto", "--structure", "SrTiO3.cif", *options.split()]) == 0
        assert stored[0].spec.classes == classes
        assert stored[0].images.voltage_kV == voltage_kV

    @pytest.mark.parametrize(
        ("told", "taught", "reported"),
        [
            ([], (300.0, 1e5), (1e5, 3e4, 1e4, 3e3, 1e3, 300.0)),
            (["--dose", "50,2e3"], (50.0, 2e3), (1e3, 300.0, 100.0)),
            (["--dose", "500,500"], (500.0, 500.0), (500.0,)),
        ],
    )
    def test_doses(
        self, place: Path, stored: list[Recipe], told: list[str], taught: tuple[float, ...], reported: tuple[float, ...]
    ) -> None:
        assert main([*STO.split(), *told]) == 0
        assert main(["simulate", "sto"]) == 0
        for recipe in stored:
            assert (recipe.images.dose_e_A2, recipe.spec.trained["dose_e_A2"]) == (taught, taught)
            assert recipe.doses_e_A2 == reported
            assert taught[0] <= recipe.calm.dose_e_A2[0] <= recipe.calm.dose_e_A2[1] == taught[1]

    def test_exit_waves_are_of_any_dose(self, place: Path, stored: list[Recipe]) -> None:
        main(STO.split())
        (place / "runs" / "sto" / "waves.zarr" / "00000").mkdir(parents=True)
        assert main([*STO.split(), "--dose", "50,2e3"]) == 0
        assert main(["simulate", "sto"]) == 0
        assert stored[-1].images.dose_e_A2 == (50.0, 2e3)

    def test_whether_bright_columns_can_be_told_hangs_on_the_elements(self, place: Path, stored: list[Recipe]) -> None:
        main(STO.split())
        (place / "gold.xyz").write_text('1\nLattice="4.078 0 0 0 4.078 0 0 0 4.078"\nAu 0 0 0\n')
        main(STO.replace("sto", "au").replace("SrTiO3.cif", "gold.xyz").split())
        assert [recipe.images.rule for recipe in stored[::3]] == [crystal_sign, element_sign]

    def test_columns_that_lie_close_are_kept_apart(self, place: Path, stored: list[Recipe]) -> None:
        for zone in ("0,0,1", "1,1,2"):
            main(STO.replace("0,0,1", zone).replace("sto", f"of-{zone[-1]}", 1).split())
        assert stored[0].spec.separation_A == 0.8  # 1.95 A between Ti and O
        assert stored[3].spec.separation_A == pytest.approx(0.6 * 3.905 / np.sqrt(12))


class TestMistakes:
    @pytest.mark.parametrize(
        ("changed", "to", "said"),
        [
            ("0,0,1", "0,0,0", "Expected --zone U,V,W up to 9 and not all 0, got 0,0,0"),
            ("0,0,1", "0,0,10", "Expected --zone U,V,W up to 9"),
            ("0,0,1", "0,1", "argument --zone: expected U,V,W, got '0,1'"),
            ("0,0,1", "5,7,9", "got some that run into each other along 5,7,9"),
            ("20,60", "60,20", "Expected --thickness LOW,HIGH with 2 <= LOW <= HIGH <= 200 A, got 60,20"),
            ("20,60", "20", "argument --thickness: expected LOW,HIGH, got '20'"),
            ("20,60", "nan,60", "got nan,60"),
            ("--zone 0,0,1", "", "Expected --zone with --shape slab, got none: add it"),
            ("--thickness 20,60", "--diameter 9,20", "Expected --thickness with --shape slab, got none"),
            ("--zone 0,0,1", "--zone 0,0,1 --diameter 9,20", "Expected no --diameter with --shape slab, got 9,20"),
            ("--zone 0,0,1", "--shape as-given", "Expected no --thickness with --shape as-given, got 20,60"),
            ("--zone 0,0,1", "--zone 0,0,1 --elements Qq", "Expected symbols of elements, got Qq"),
            ("--zone 0,0,1", "--zone 0,0,1 --elements Au", "Expected --elements of the structure (Sr, Ti, O), got Au"),
            (
                "--voltage 300",
                "--voltage 300 --dose 1e5,300",
                "Expected --dose LOW,HIGH with 1 <= LOW <= HIGH <= 1e+07",
            ),
            ("--voltage 300", "--voltage 300 --dose 0,300", "e/A^2, got 0,300: give the smaller first"),
            ("--voltage 300", "--voltage 300000", "Expected --voltage of 20 to 1500 kV, got 300000"),
            ("--voltage 300", "--voltage 300 --count 0", "--count: expected 1 or more, got 0"),
            ("--voltage 300", "--voltage 300 --scheduler here", "--scheduler: expected tcp://HOST:PORT"),
            ("--voltage 300", "--voltage 300 --workers 2 --scheduler tcp://h:1", "expected one of --workers and"),
            ("--voltage 300", "", "got no --voltage"),
            ("--structure SrTiO3.cif", "", "got no --structure"),
            ("SrTiO3.cif", "gone.cif", "gone.cif: expected a structure file, got No such file or directory"),
            ("sto", "gold", "got 'gold', which is a shipped recipe"),
            ("sto", "../sto", "Expected a name of letters, digits, - and _, got '../sto'"),
        ],
    )
    def test_told(self, place: Path, complaint: Callable[[str], str], changed: str, to: str, said: str) -> None:
        command = STO.replace(changed, to, 1)
        assert command != STO
        assert said in complaint(command)
        assert [path.name for path in place.iterdir()] == ["SrTiO3.cif"]

    @pytest.mark.parametrize("command", ["fit", "export", "evaluate", "simulate"])
    def test_a_name_that_nothing_was_told_of(self, complaint: Callable[[str], str], command: str) -> None:
        said = complaint(f"{command} sto")
        assert "Expected a shipped recipe (gold, gold-quick, graphene, " in said
        assert "or a specimen of your own, got 'sto' without" in said
        assert "`simulate sto --structure FILE` begins one" in said

    @pytest.mark.parametrize(
        "spoilt",
        [
            lambda raw: "{",
            lambda raw: "[]",
            lambda raw: raw.replace('"zone"', '"axis"'),
            lambda raw: raw.replace('"slab"', '"heap"'),
            lambda raw: raw.replace("300.0", '"much"'),
            lambda raw: raw.replace("[38, 22, 8, 8, 8]", "[38, 22, 8]"),
            lambda raw: raw.replace("[38, 22, 8, 8, 8]", "[38, 22, 8, 8, 800]"),
            lambda raw: raw.replace("[38, 22, 8, 8, 8]", "[38, 22, 8, 8, 120]"),
            lambda raw: raw.replace("[0, 0, 1]", "[0, 1]"),
            lambda raw: raw.replace("[0, 0, 1]", "[0, 0, 1.5]"),
            lambda raw: raw.replace("3.905", "Infinity"),
            lambda raw: "[" * 100_000,
        ],
    )
    def test_a_specimen_that_was_changed_by_hand(
        self, place: Path, stored: list[Recipe], complaint: Callable[[str], str], spoilt: Callable[[str], Any]
    ) -> None:
        main(STO.split())
        path = place / "runs" / "sto" / "specimen.json"
        path.write_text(spoilt(path.read_text()))
        assert "specimen.json: expected what `simulate --structure` writes, got" in complaint("fit sto")
