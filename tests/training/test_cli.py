"""The commands that made the shipped network, at a size of seconds; and one line for every mistake."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
import torch
import zarr

from engine import Frame, ModelSpec, load_detector
from tests.training.specimens import CALM
from tests.training.test_workers import LOOPBACK
from training import cli, playback, specimen_set
from training import evaluate as evaluation
from training.checkpoint import begun_with, learned_from
from training.cli import main
from training.recipes import RECIPES
from training.recipes.recipe import Recipe, Round
from training.wave_store import WaveStore

pytestmark = pytest.mark.timeout(400)  # on a busy machine the four commands take a minute or two


def commands(folder: Path) -> list[list[str]]:
    """Everything from exit waves to the report."""
    at = ["tiny", "--folder", str(folder)]
    return [
        ["simulate", *at, "--held-out", "1"],
        ["fit", *at, "--workers", "0", "--threads", "1", "--steps", "18"],
        ["export", *at],
        ["evaluate", *at, "--frames", "1", "--precision", "f32"],
    ]


@pytest.fixture(scope="module")
def tiny(recipe: Recipe) -> Recipe:
    return replace(recipe, spec=replace(recipe.spec, name="tiny"), batch=2)


@pytest.fixture(scope="module")
def folder(few_frames: None, tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from its first command to its last."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "tiny", lambda: tiny)
        for command in commands(folder):
            assert main(command) == 0
    return folder


@pytest.fixture
def tiny_without_waves(tiny: Recipe, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Known by its name, its specimens none: for what is told before they are looked at."""
    monkeypatch.setitem(RECIPES, "tiny", lambda: tiny)
    monkeypatch.setattr(specimen_set, "read_specimens", lambda *_: [])
    return tiny


class TestEndToEnd:
    def test_exit_waves_for_training_and_for_evaluation(self, folder: Path) -> None:
        names = ("waves", "calibration", "held_out")
        groups = [zarr.open_group(folder / f"{name}.zarr", mode="r") for name in names]
        assert [sorted(group.group_keys()) for group in groups] == [["00000", "00001"], ["00000", "00001"], ["00000"]]
        assert groups[0]["00000/wave"].shape == (160, 160)
        one, two, three = (group["00000/positions_A"][...] for group in groups)
        assert not any(np.array_equal(*pair) for pair in ((one, two), (two, three), (one, three)))

    def test_what_is_taught_may_be_drawn_from_other_ranges_than_what_is_scored(
        self, tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = replace(tiny, taught_structures=replace(CALM, ripple_A=0.5))
        monkeypatch.setitem(RECIPES, "tiny", lambda: other)
        assert main(["simulate", "tiny", "--folder", str(tmp_path), "--count", "1", "--held-out", "1"]) == 0
        one, two = (zarr.open_group(tmp_path / f"{name}.zarr", mode="r") for name in ("waves", "held_out"))
        assert (one.attrs["recipe"]["ripple_A"], two.attrs["recipe"]["ripple_A"]) == (0.5, CALM.ripple_A)

    def test_a_cluster_makes_the_same(
        self, folder: Path, tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(RECIPES, "tiny", lambda: tiny)
        with distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1", **LOOPBACK
        ) as cluster:
            assert main([*commands(tmp_path)[0], "--scheduler", cluster.scheduler_address]) == 0
        for k in range(2):
            here, there = (zarr.open_group(at / "waves.zarr" / f"{k:05d}", mode="r") for at in (folder, tmp_path))
            np.testing.assert_array_equal(there["positions_A"][...], here["positions_A"][...])
            np.testing.assert_allclose(there["wave"][...], here["wave"][...], atol=1e-5)  # FFTW's plans may differ

    def test_losses_as_numbers_and_as_a_picture(self, folder: Path) -> None:
        (line,) = (folder / "fit" / "losses.jsonl").read_text().splitlines()
        assert json.loads(line)["step"] == 20
        assert (folder / "fit" / "losses.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize("precision", ["f32", "int8"])
    def test_a_model_that_loads_and_runs(self, folder: Path, precision: str) -> None:
        frame = Frame(np.random.default_rng(0).poisson(100, (100, 120)).astype(np.float32), 0.2)
        with load_detector(folder / "export" / "tiny.json", precision=precision, threads=1) as detector:
            assert detector.spec.name == "tiny"
            atoms = detector.detect(frame)
        assert np.isfinite(atoms.positions).all()
        assert np.isfinite(atoms.sigma_pm).all()

    def test_the_card_says_what_the_network_learned_from(self, folder: Path, tiny: Recipe) -> None:
        data = ModelSpec.read(folder / "export" / "tiny.json").data
        assert (data["steps"], data["specimens"]["count"]) == (20, 2)
        assert data["images"]["defocus_A"] == list((tiny.taught or tiny.images).defocus_A)
        assert "begun_with" not in data

    def test_the_report_and_what_the_model_s_card_says_of_it(self, folder: Path) -> None:
        assert (folder / "report" / "report.html").exists()
        figures = json.loads((folder / "report" / "report.json").read_text())
        beside = [f"30000 e/A^2, {what}" for what in ("focus through zero contrast", "under contamination in part")]
        assert list(figures) == ["100000", "30000", "10000", "3000", "1000", *beside]
        measured = ModelSpec.read(folder / "export" / "tiny.json").measured
        assert list(measured) == ["openvino f32"]
        keys = [f"{dose} e/A^2" for dose in list(figures)[:5]]
        assert list(measured["openvino f32"]) == [*keys, *beside]
        assert measured["openvino f32"][beside[1]]["covered_frames"] == 1
        for row in (measured["openvino f32"][key] for key in keys):
            assert row["frames"] + row["undecidable"] == 1
        assert "NaN" not in (folder / "export" / "tiny.json").read_text()

    def test_a_fresh_set_is_of_its_own_seed_and_stands_beside(
        self, folder: Path, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(RECIPES, "tiny", lambda: tiny)
        seeds, frames = [], []
        drawn = evaluation.evaluate

        def evaluated(*asked: Any, **more: Any) -> Any:
            seeds.append(asked[3])
            frames.append(asked[4])
            return drawn(*asked, **more)

        monkeypatch.setattr(evaluation, "evaluate", evaluated)
        fresh, model = tmp_path / "tiny", tmp_path / "model" / "tiny.json"
        shutil.copytree(folder / "export", model.parent)
        at = ["tiny", "--folder", str(fresh), "--held-out-seed", "2000"]
        assert main(["simulate", *at, "--held-out", "1", "--workers", "1"]) == 0
        assert [path.name for path in fresh.iterdir()] == ["held_out-2000.zarr"]  # nothing to train on again
        both = (zarr.open_group(path, mode="r") for path in (fresh / "held_out-2000.zarr", folder / "held_out.zarr"))
        one, usual = (store["00000/positions_A"][...] for store in both)
        assert not np.array_equal(one, usual)
        assert main(["evaluate", *at, "--frames", "1", "--model", str(model)]) == 0
        assert main(["evaluate", *at, "--model", str(model)]) == 0
        assert (seeds, frames) == ([2000, 2000], [1, 1])  # without --frames all that are there, not all of the recipe's
        assert (fresh / "report-2000" / "report.html").exists()
        before, after = (ModelSpec.read(path).measured for path in (folder / "export" / "tiny.json", model))
        (key,) = after.keys() - before.keys()
        assert key == "openvino int8, held-out seed 2000"
        assert {name: after[name] for name in before} == before
        assert "evaluate" not in ModelSpec.read(model).wall_time_min  # that is of the usual set

    def test_the_card_says_how_long_it_took(
        self, folder: Path, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(RECIPES, "tiny", lambda: tiny)
        before = ModelSpec.read(folder / "export" / "tiny.json").wall_time_min
        assert list(before) == ["simulate", "fit", "export"]  # an evaluation at f32 is none of it
        shutil.copytree(folder / "export", tmp_path / "model")
        model = tmp_path / "model" / "tiny.json"
        at = ["tiny", "--folder", str(folder), "--model", str(model), "--report", str(tmp_path / "report")]
        assert main(["evaluate", *at, "--frames", "1"]) == 0
        taken = ModelSpec.read(model).wall_time_min
        assert list(taken) == [*before, "evaluate"]
        assert 0 < sum(taken.values()) < 30

    def test_a_fit_begins_with_a_model_and_with_no_other_afterwards(
        self,
        folder: Path,
        tiny: Recipe,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setitem(RECIPES, "tiny", lambda: tiny)
        shutil.copytree(folder / "waves.zarr", tmp_path / "waves.zarr")
        shutil.copytree(folder / "export", tmp_path / "model")
        model = tmp_path / "model" / "tiny.json"
        command = ["fit", "tiny", "--folder", str(tmp_path), "--workers", "0", "--threads", "1", "--steps", "1"]
        assert main([*command, "--start", str(model)]) == 0
        assert begun_with(tmp_path / "fit" / "checkpoint.pt") == str(model)
        assert learned_from(tmp_path / "fit" / "checkpoint.pt")["begun_with"] == str(model)
        model.unlink()
        assert main([*command, "--start", str(model)]) == 0  # goes on, here from its end
        capsys.readouterr()
        said = complaint(capsys, *command, "--start", "graphene")
        assert "Expected a fit that began with graphene, got" in said
        assert f"which began with {model}: leave --start out to go on" in said
        said = complaint(capsys, "fit", "tiny", "--folder", str(folder), "--start", "graphene")
        assert "which began with nothing: leave --start out" in said

    def test_an_unfinished_fit_is_told_of_and_noted(
        self,
        folder: Path,
        tiny: Recipe,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        noted: list[str] = []
        longer = replace(tiny, rounds=(Round(4198, 2e-3), Round(2, 6e-4)))

        def exported(network: object, recipe: Recipe, *_: object) -> ModelSpec:
            noted.append(recipe.spec.notes)
            return recipe.spec

        monkeypatch.setattr("training.export.export", exported)
        for recipe in (tiny, longer):
            monkeypatch.setitem(RECIPES, "tiny", lambda recipe=recipe: recipe)
            assert main(["export", "tiny", "--folder", str(folder), "--output", str(tmp_path)]) == 0
            told = capsys.readouterr().err
            assert ("expected the recipe's 4200 steps, got 20: unless" in told) == (recipe is longer)
        assert "fit: 20 steps" in noted[0]
        assert "fit: 20 of 4200 steps" in noted[1]

    def test_the_same_commands_go_on_where_they_stopped(
        self, folder: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(RECIPES, "tiny", lambda: tiny)
        before = {
            path: path.stat().st_mtime_ns
            for path in [*folder.glob("waves.zarr/**/*"), *folder.glob("fit/*.pt")]
            if path.is_file()
        }
        assert len(before) > 10
        for command in commands(folder)[:2]:
            assert main(command) == 0
        assert {path: path.stat().st_mtime_ns for path in before} == before


def complaint(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What stderr says of a mistake."""
    assert main(list(argv)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("atomstream-train: ")
    return said.err


class TestMistakes:
    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (["fit", "silicene"], "'silicene' without runs/silicene/specimen.json"),
            (["fit", "graphene", "--step", "few"], "argument --steps: expected 1 or more, got few"),
            (["fit", "graphene", "--epochs", "3"], "unrecognized arguments: --epochs 3"),
            (["paint", "graphene"], "invalid choice: 'paint'"),
            ([], "the following arguments are required: command"),
        ],
    )
    def test_unknown_words(self, capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
        text = complaint(capsys, *argv)
        assert said in text
        assert "--help" in text

    @pytest.mark.parametrize(
        ("command", "said"),
        [
            ("fit", "expected exit waves, found none: run `atomstream-train simulate` first"),
            ("export", "expected a checkpoint, found none: run `atomstream-train fit` first"),
            ("evaluate", "expected exit waves, found none: run `atomstream-train simulate` first"),
        ],
    )
    def test_what_is_not_there_yet(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, said: str
    ) -> None:
        assert said in complaint(capsys, command, "graphene", "--folder", str(tmp_path))

    @pytest.mark.parametrize(
        ("model", "said"),
        [
            ("graphen", "Expected a shipped model (gold, graphene, mos2) or a path to a spec .json, got 'graphen'"),
            ("none.json", "none.json: expected a model spec, got No such file or directory"),
            ("mos2", "Expected --start with a model of 1 image at a time, as the recipe graphene makes, got 3 of mos2"),
        ],
    )
    def test_a_model_that_no_fit_can_begin_with_is_told_before_exit_waves_are_read(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, said: str
    ) -> None:
        assert said in complaint(capsys, "fit", "graphene", "--folder", str(tmp_path), "--start", model)

    def test_evaluation_without_a_model(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(specimen_set, "read_specimens", lambda *_: [])
        assert "expected a model spec" in complaint(capsys, "evaluate", "graphene", "--folder", str(tmp_path))

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (["--scheduler", "localhost:8786"], "--scheduler: expected tcp://HOST:PORT of a Dask scheduler, got"),
            (["--scheduler", "tcp://127.0.0.1:9"], "expected a Dask scheduler, got 'tcp://127.0.0.1:9' (Timed out"),
            (["--scheduler", "tcp://h:1", "--workers", "2"], "--workers: expected one of --workers and --scheduler"),
            (["--workers", "0"], "--workers: expected 1 or more, got 0"),
            (["--count", "0"], "--count: expected 1 or more, got 0"),
            (["--held-out", "-3"], "--held-out: expected 1 or more, got -3"),
            (
                ["--held-out-seed", "1000"],
                "Expected --held-out-seed of 1001 or more, got 1000: lower ones are those of",
            ),
        ],
    )
    def test_where_and_how_many(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: list[str], said: str
    ) -> None:
        assert said in complaint(capsys, "simulate", "graphene", "--folder", str(tmp_path), *flags)

    @pytest.mark.parametrize(
        ("command", "said"),
        [
            ("fit --workers -1", "--workers: expected 0 or more, got -1"),
            ("fit --threads -1", "--threads: expected 1 or more, got -1"),
            ("fit --steps 0", "--steps: expected 1 or more, got 0"),
            ("fit --steps -5", "--steps: expected 1 or more, got -5"),
            ("evaluate --frames 0", "--frames: expected 1 or more, got 0"),
            ("evaluate --held-out-seed 1", "Expected --held-out-seed of 1001 or more, got 1"),
        ],
    )
    def test_too_few(self, capsys: pytest.CaptureFixture[str], command: str, said: str) -> None:
        name, *flags = command.split()
        assert said in complaint(capsys, name, "graphene", *flags)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"family": "gold"}, "Expected a model of family graphene, as the recipe tiny makes, got gold of"),
            ({"classes": ("C", "N")}, "Expected a model of classes ('C',), as"),
            ({"channels": 3}, "Expected a model of channels 1, as"),
        ],
    )
    def test_figures_go_into_no_other_model_s_card(
        self,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        tiny_without_waves: Recipe,
        change: dict[str, object],
        said: str,
    ) -> None:
        replace(tiny_without_waves.spec, **change).write(tmp_path / "other.json")
        at = ("--folder", str(tmp_path), "--model", str(tmp_path / "other.json"))
        told = complaint(capsys, "evaluate", "tiny", *at)
        assert said in told
        assert "evaluate it with its own recipe" in told

    @pytest.mark.usefixtures("tiny_without_waves")
    def test_a_fit_that_has_no_place_is_one_line(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        (tmp_path / "fit").touch()
        said = complaint(capsys, "fit", "tiny", "--folder", str(tmp_path))
        assert f"{tmp_path / 'fit'}: expected a place to write to, got File exists: choose another --folder" in said

    def test_a_card_that_cannot_be_written_is_told_before_the_frames(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_without_waves: Recipe
    ) -> None:
        tiny_without_waves.spec.write(tmp_path / "tiny.json")
        (tmp_path / ".tiny.json.part").mkdir()  # in the way of the next one
        said = complaint(capsys, "evaluate", "tiny", "--folder", str(tmp_path), "--model", str(tmp_path / "tiny.json"))
        assert "tiny.json: expected a place to write a model spec to, got Is a directory: free some room" in said

    def test_a_report_that_cannot_be_written_is_told_before_the_frames(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_without_waves: Recipe
    ) -> None:
        tiny_without_waves.spec.write(tmp_path / "tiny.json")
        at = (
            "--folder",
            str(tmp_path),
            "--model",
            str(tmp_path / "tiny.json"),
            "--report",
            str(tmp_path / "tiny.json"),
        )
        assert "tiny.json: expected a place to write to, got File exists" in complaint(capsys, "evaluate", "tiny", *at)

    def test_a_store_of_another_recipe(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        WaveStore(tmp_path / "waves.zarr", {"structures": "SheetRanges", "voltage_kV": 60.0}).begin(1)
        (tmp_path / "waves.zarr" / "00000").mkdir()
        for command in ("simulate", "fit"):
            said = complaint(capsys, command, "graphene", "--folder", str(tmp_path))
            assert "waves.zarr: expected exit waves of this recipe, got those of voltage_kV 60.0, here 80.0 and" in said

    def test_stopped_by_hand(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(cli, "_store", stop)
        assert main(["simulate", "graphene", "--folder", str(tmp_path)]) == 130
        assert "the same command goes on from here" in capsys.readouterr().err

    @pytest.mark.parametrize("by", ["NumPy", "torch"])
    def test_no_memory_left_is_one_line(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
    ) -> None:
        def asked_too_much(*_: object) -> None:
            np.empty(2**46) if by == "NumPy" else torch.empty(2**46)

        monkeypatch.setattr(specimen_set.SpecimenSet, "specimen", asked_too_much)
        assert main(["simulate", "graphene", "--folder", str(tmp_path), "--count", "1", "--workers", "1"]) == 2
        said = capsys.readouterr().err.splitlines()[-1]  # below the bar
        assert said.startswith("atomstream-train: expected room in memory")
        assert "the same command goes on" in said

    def test_other_errors_of_torch_are_not_hidden(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(specimen_set.SpecimenSet, "specimen", lambda *_: torch.ones(2) @ torch.ones(3))
        with pytest.raises(RuntimeError, match="size"):
            main(["simulate", "graphene", "--folder", str(tmp_path), "--count", "1", "--workers", "1"])


def test_the_card_has_a_row_of_f1_for_each_kind_of_specimen() -> None:
    doses = {"100000": {"frames": 12, "f1": 0.98765, "f1_standard_error": 0.01}}
    kinds = {"[110]": doses | {"300": {"frames": 12, "f1": 0.5, "f1_standard_error": 0.1}}, "[211]": {}}
    beside = {"30000 e/A^2, in dirt": {"clear_f1": 0.9}}
    assert (
        cli._figures({}, ("Au",), kinds, beside)
        == {
            "[110]": {"kind_frames": 12, "f1_at_100000": 0.9877, "f1_at_300": 0.5},
            "[211]": {"kind_frames": 0},
        }
        | beside
    )


def test_simulate_writes_the_waves_of_the_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(playback, "write_playback", lambda path, recipe: asked.append((path, recipe.spec.name)))
    assert main(["simulate", "mos2", "--folder", str(tmp_path), "--playback", str(tmp_path / "waves.npz")]) == 0
    assert asked == [(tmp_path / "waves.npz", "mos2")]
    assert not list(tmp_path.glob("*.zarr"))


def test_waves_of_what_the_camera_does_not_play_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = complaint(capsys, "simulate", "gold", "--folder", str(tmp_path), "--playback", str(tmp_path / "waves.npz"))
    assert "Expected a recipe whose specimen the simulated camera plays (graphene, mos2)" in said
