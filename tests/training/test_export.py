"""Weights to what ships: the exported files say what the network says, with threshold, sigma and hashes that fit."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine import Atoms, ConfigError, FileError, Frame, ModelSpec, load_detector
from engine.network import Maps, OpenVinoNetwork
from engine.prepare import Prepared, prepare
from engine.spec import file_sha256
from tests.training.analytic import LOG_SIGMA_PX, Spots
from tests.training.specimens import SHARP
from training import evaluate as evaluation
from training import export as module
from training.evaluate import Result, calibration_error, evaluate, sigma_ratio, summarise
from training.exit_waves import Specimen
from training.export import Exported, _whole, covered_threshold, export, quantise, write_network
from training.recipes.graphene import graphene
from training.recipes.recipe import Recipe
from training.score import Score
from training.unet import COVERED, DX, DY, HEAT, LOG_SIGMA, UNet

pytestmark = [pytest.mark.usefixtures("few_frames"), pytest.mark.timeout(400)]  # torch is slow to export


@dataclass(frozen=True)
class Model:
    """What `export` wrote and said."""

    folder: Path
    spec: ModelSpec
    said: list[str]

    @property
    def card(self) -> Path:
        return self.folder / f"{self.spec.name}.json"


@pytest.fixture(scope="module")
def spots(recipe: Recipe) -> Recipe:
    """A recipe whose frames the analytic network can read."""
    return replace(recipe, images=SHARP, doses_e_A2=(1e5, 3e4, 1e4))


@pytest.fixture(scope="module")
def model(
    few_frames: None, spots: Recipe, specimens: list[Specimen], tmp_path_factory: pytest.TempPathFactory
) -> Model:
    folder, said = tmp_path_factory.mktemp("run") / "export", []
    spec = export(Spots(), spots, specimens, specimens, folder, said.append)
    return Model(folder, spec, said)


def frames(shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(1, 1, *shape)).astype(np.float32)


def maps_of(exported: nn.Module, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        return exported(torch.from_numpy(pixels))[0].numpy()


@pytest.fixture(scope="module")
def network() -> UNet:
    """Normalisations that have seen other frames than they will."""
    torch.manual_seed(0)
    network = UNet(1, (8, 16), (1, 1))
    with torch.no_grad():
        for _ in range(20):
            network(3 + 2 * torch.randn(2, 1, 32, 32))
    return network.eval()


@pytest.fixture(scope="module")
def raw(network: UNet) -> Tensor:
    with torch.no_grad():
        return network(torch.from_numpy(frames((32, 48))))[0]


class TestExported:
    def test_the_maps_are_the_network_s(self, network: UNet, raw: Tensor, recipe: Recipe) -> None:
        maps = maps_of(Exported(network, recipe.spec, 0.25).eval(), frames((32, 48)))
        assert maps.shape == (6, 16, 24)
        expected = [torch.sigmoid(raw[HEAT]), raw[DY], raw[DX], raw[LOG_SIGMA] + 0.25, torch.sigmoid(raw[COVERED])]
        for got, want in zip(maps[[0, 2, 3, 4, 5]], expected, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-5)

    def test_normalisations_are_folded_away(self, network: UNet, recipe: Recipe) -> None:
        exported = Exported(network, recipe.spec)
        assert not any(isinstance(part, nn.BatchNorm2d) for part in exported.modules())
        assert any(isinstance(part, nn.BatchNorm2d) for part in network.modules())  # what trains stays as it was

    def test_peaks_are_scores_without_a_higher_one_beside_them(self, network: UNet, recipe: Recipe) -> None:
        score, peak = maps_of(Exported(network, recipe.spec).eval(), frames((32, 48)))[:2]
        padded = np.pad(score, 1, constant_values=-1)
        around = np.stack([padded[y : y + 16, x : x + 24] for y in range(3) for x in range(3)]).max(axis=0)
        np.testing.assert_array_equal(peak, np.where(score >= around, score, 0))
        assert 0 < (peak > 0).mean() < 0.3

    @pytest.mark.parametrize(("separation_A", "size"), [(0.5, 1), (0.8, 3), (1.2, 5)])
    def test_the_neighbourhood_lies_within_the_separation(
        self, network: UNet, recipe: Recipe, separation_A: float, size: int
    ) -> None:
        spec = replace(recipe.spec, separation_A=separation_A)
        assert Exported(network, spec).neighbourhood.kernel_size == size
        assert (size // 2) * np.sqrt(2) * spec.stride * spec.sampling_A <= separation_A


class TestFiles:
    def test_the_file_holds_the_graph_and_no_notes(self, model: Model) -> None:
        nodes = onnx.load(model.folder / f"{model.spec.name}.onnx").graph.node
        assert not any(node.metadata_props or node.doc_string for node in nodes)

    def test_every_file_has_its_hash(self, model: Model) -> None:
        names = {f"{model.spec.name}{suffix}" for suffix in (".onnx", ".int8.xml", ".int8.bin", ".int8.onnx")}
        assert {path.name for path in model.folder.iterdir()} == {*names, model.card.name}
        assert model.spec.sha256 == {name: file_sha256(model.folder / name) for name in names}

    def test_the_card_is_what_was_returned(self, model: Model) -> None:
        assert ModelSpec.read(model.card) == model.spec
        assert model.said == ["ONNX", "threshold and sigma", "INT8"]

    @pytest.mark.parametrize("shape", [(32, 48), (64, 16), (160, 96)])
    def test_onnx_says_what_torch_says(self, model: Model, shape: tuple[int, int]) -> None:
        network = OpenVinoNetwork(model.folder / f"{model.spec.name}.onnx", "f32", channels=1, maps=6, threads=1)
        pixels = frames(shape)
        got = network.infer(pixels).values
        offset = float(got[4, 0, 0]) - LOG_SIGMA_PX
        kept = Exported(Spots(), model.spec, offset).eval()
        for weight in kept.parameters():
            if weight.ndim > 1:
                weight.data = weight.data.half().float()  # as the file keeps them
        np.testing.assert_allclose(got, maps_of(kept, pixels), atol=1e-5)
        network.close()


def judged(score: NDArray[np.float32], is_there: NDArray[np.bool_]) -> Result:
    """Of a frame whose atoms have these scores."""
    zeros = np.zeros(len(score), np.float32)
    bytes_ = zeros.astype(np.uint8)
    right, wrong = np.flatnonzero(is_there), np.flatnonzero(~is_there)
    pairs = Score(1.0, 1.0, 1.0, np.zeros((len(right), 2)), right, right, wrong, {})
    atoms = Atoms(zeros, zeros, bytes_, score, zeros, zeros, bytes_)
    return Result(0, 1e4, 1.0, True, pairs, None, atoms)  # type: ignore[arg-type]


class TestInterrupted:
    """`export` over an earlier model that ends half-way."""

    @pytest.fixture
    def earlier(self, model: Model, tmp_path: Path) -> dict[str, bytes]:
        for path in model.folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        return contents(tmp_path)

    @pytest.mark.parametrize("step", ["calibrate", "evaluate", "quantise_for_gpu"])
    def test_it_leaves_the_earlier_model_and_nothing_else(
        self,
        earlier: dict[str, bytes],
        spots: Recipe,
        specimens: list[Specimen],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        step: str,
    ) -> None:
        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(module, "quantise", lambda *_: None)  # takes seconds
        monkeypatch.setattr(module, step, stop)
        with pytest.raises(KeyboardInterrupt):
            export(Spots(), replace(spots, seed=2), specimens, specimens, tmp_path)
        assert contents(tmp_path) == earlier

    def test_a_full_disk_is_one_line(
        self,
        earlier: dict[str, bytes],
        spots: Recipe,
        specimens: list[Specimen],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def on_a_full_disk(*arguments: object, **options: object) -> ModelSpec:
            (tmp_path / ".export.part" / "graphene.onnx").symlink_to("/dev/full")
            return write_network(*arguments, **options)

        monkeypatch.setattr(module, "write_network", on_a_full_disk)
        with pytest.raises(FileError, match="expected room for a model, got No space left on device: free some, or"):
            export(Spots(), spots, specimens, specimens, tmp_path)
        assert contents(tmp_path) == earlier

    def test_openvino_s_full_disk_is_an_os_error(self, model: Model, tmp_path: Path) -> None:
        onnx_file = tmp_path / "graphene.onnx"
        onnx_file.write_bytes((model.folder / "graphene.onnx").read_bytes())
        (tmp_path / "graphene.int8.bin").symlink_to("/dev/full")
        with pytest.raises(OSError, match="iostream error"):
            quantise(onnx_file, [frames((64, 64))])

    def test_what_a_killed_run_left_goes(self, tmp_path: Path) -> None:
        left = tmp_path / ".export.part"
        left.mkdir()
        (left / "graphene.onnx").touch()
        with _whole(tmp_path) as partial:
            (partial / "other.json").touch()
        assert [path.name for path in tmp_path.iterdir()] == ["other.json"]

    def test_a_place_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(FileError, match="got Not a directory"), _whole(tmp_path / "file" / "export"):
            pytest.fail("nowhere to write")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def copied(model: Model, folder: Path) -> Path:
    """The folder, with the model's files, that a calibration writes into."""
    return shutil.copytree(model.folder, folder, dirs_exist_ok=True)


class TestCalibration:
    def test_the_threshold_is_the_highest_of_the_best(
        self, model: Model, specimens: list[Specimen], spots: Recipe
    ) -> None:
        lowest = replace(model.spec, threshold=0.15, chance=(0.0, 1.0))
        lowest.write(model.folder / "lowest.json")
        with load_detector(model.folder / "lowest.json", precision="f32", threads=1) as detector:
            results = evaluate(detector, specimens, spots.images, spots.seed + 1, 3, (1e5, 3e4))
        (model.folder / "lowest.json").unlink()
        f1 = {t: np.mean([r.above(t).score.f1 for r in results if r.decidable]) for t in (0.15, model.spec.threshold)}
        assert f1[model.spec.threshold] >= f1[0.15] - 0.001
        above = np.mean([r.above(model.spec.threshold + 0.026).score.f1 for r in results if r.decidable])
        assert above < f1[model.spec.threshold]

    @pytest.mark.parametrize("precision", ["f32", "int8"])
    def test_the_detector_finds_the_atoms_and_knows_its_errors(
        self, model: Model, specimens: list[Specimen], spots: Recipe, precision: str
    ) -> None:
        with load_detector(model.card, precision=precision, threads=1) as detector:
            results = evaluate(detector, specimens, spots.images, 77, 3, (1e5,))
        (row,) = summarise(results).values()
        assert row["f1"] > 0.97
        assert row["rmse_pm"] < 12
        assert sigma_ratio(results) == pytest.approx(1, abs=0.25)

    def test_a_score_is_made_the_chance_that_an_atom_is_there(self) -> None:
        rng = np.random.default_rng(0)
        raw = rng.uniform(0.3, 0.9, 20000).astype(np.float32)
        logit = np.log(raw / (1 - raw))
        is_there = rng.random(len(raw)) < 1 / (1 + np.exp(-(1.0 + 2.0 * logit)))
        offset, slope = module.fit_chance([judged(raw, is_there)])
        assert offset == pytest.approx(1.0, abs=0.1)
        assert slope == pytest.approx(2.0, abs=0.15)
        spec = replace(graphene().spec, chance=(offset, slope))
        assert calibration_error([judged(raw, is_there)]) > 0.1
        assert calibration_error([judged(spec.chance_of(raw), is_there)]) < 0.02

    @pytest.mark.parametrize("there", [True, False])
    def test_where_all_are_there_or_none_it_stays_a_curve_that_rises(self, there: bool) -> None:
        offset, slope = module.fit_chance([judged(np.linspace(0.2, 0.9, 50, dtype=np.float32), np.full(50, there))])
        assert np.isfinite(offset)
        assert slope > 0
        assert module.fit_chance([]) == (0.0, 1.0)

    def test_what_finds_nothing_keeps_its_own_sigma(
        self, model: Model, specimens: list[Specimen], spots: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(evaluation, "GOOD_F1", 1.1)  # no frame is good enough to tell
        _, offset = module.calibrate(model.spec, spots, specimens, copied(model, tmp_path))
        assert offset == 0.0

    def test_without_a_frame_that_tells_where_the_atoms_are_there_is_no_threshold(
        self, model: Model, specimens: list[Specimen], spots: Recipe, tmp_path: Path
    ) -> None:
        nobody = replace(spots, images=replace(spots.images, rule=lambda *_: False))
        with pytest.raises(ConfigError, match="got none in 3 settings: simulate a thinner specimen"):
            module.calibrate(model.spec, nobody, specimens, copied(model, tmp_path))


class Suspects:
    """A network that sees contamination alone: 0.95 in the left share of its map, elsewhere `elsewhere`."""

    def __init__(self, spec: ModelSpec, left: float, elsewhere: float) -> None:
        self.spec, self.left, self.elsewhere = spec, left, elsewhere

    def prepare(self, frame: Frame) -> Prepared:
        return prepare(frame, self.spec)

    def infer(self, prepared: Prepared) -> Maps:
        height, width = (size // self.spec.stride for size in prepared.shape)
        values = np.full((6, height, width), self.elsewhere, np.float32)
        values[:, :, : round(self.left * width)] = 0.95
        return Maps(values)


@pytest.mark.parametrize(
    ("left", "elsewhere", "expected"),
    [(0.0, 0.6, (0.2, 0.2)), (0.5, 0.4, (0.41, 0.6)), (1.0, 0.0, (0.62, 0.62))],
    ids=["mere suspicion hides nothing", "suspicion near to a patch does", "what is sure hides it at any threshold"],
)
def test_contamination_is_suspected_from_where_hardly_a_clear_atom_is_taken_for_covered(
    spots: Recipe,
    specimens: list[Specimen],
    monkeypatch: pytest.MonkeyPatch,
    left: float,
    elsewhere: float,
    expected: tuple[float, float],
) -> None:
    monkeypatch.setattr(module, "_FLAGGED_CLEAR", 0.75)  # in frames this small one atom of 200 would be hardly any
    detector: Any = Suspects(spots.spec, left, elsewhere)
    low, high = expected
    assert low <= covered_threshold(detector, spots, specimens) <= high
