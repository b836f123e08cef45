"""The training loop: it learns, it resumes to the very same weights, and its losses say what they should."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine import FileError
from tests.training.specimens import CALM
from training import fit as module
from training.checkpoint import describe_fit, seconds_taken
from training.dataset import loader
from training.exit_waves import Specimen
from training.fit import WARM_UP, fit, loss_terms, rate, read_network
from training.recipes.recipe import Recipe, Round
from training.unet import UNet


@pytest.fixture
def always_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step."""
    monkeypatch.setattr(module, "CHECKPOINT_S", -1.0)


def state(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.state_dict())


def same(one: nn.Module, other: nn.Module) -> bool:
    return state(one).keys() == state(other).keys() and all(
        torch.equal(value, state(other)[name]) for name, value in state(one).items()
    )


class TestFit:
    @pytest.mark.usefixtures("always_saving")
    def test_a_fit_to_other_specimens_or_input_is_neither_gone_on_with_nor_read(
        self, recipe: Recipe, specimens: list[Specimen], tmp_path: Path
    ) -> None:
        fit(specimens, replace(recipe, rounds=(Round(1, 1e-3),)), tmp_path, 0)
        rippled = replace(recipe, structures=replace(CALM, ripple_A=0.5))
        closer = replace(recipe, spec=replace(recipe.spec, level_A=5.0))
        for other in (rippled, closer):
            for use in (
                lambda other=other: fit(specimens, other, tmp_path, 0),
                lambda other=other: module.read_network(tmp_path / "checkpoint.pt", other),
            ):
                with pytest.raises(FileError, match="expected a fit to this recipe's specimens and network input, got"):
                    use()
        module.read_network(tmp_path / "checkpoint.pt", recipe)

    def test_it_learns(
        self, recipe: Recipe, specimens: list[Specimen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch = next(iter(loader(specimens, recipe, 0, 0)))
        monkeypatch.setattr(module, "loader", lambda *_: [batch] * 160)
        monkeypatch.setattr(module, "WARM_UP", 5)
        shown: list[int] = []
        rounds = (Round(128, 2e-3), Round(32, 6e-4, beta=0.0))
        fit(specimens, replace(recipe, rounds=rounds), tmp_path, 0, lambda step, _: shown.append(step))
        logged = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
        assert shown == [row["step"] for row in logged] == list(range(20, 161, 20))
        assert set(logged[0]) == {"step", "heat", "position", "contamination"}
        network = UNet(1, recipe.widths, recipe.depth)
        before = loss_terms(network(batch[0].flatten(0, 1)), batch[1].flatten(0, 1))
        for name in ("heat", "position"):
            assert logged[-1][name] < 0.8 * float(before[name].detach())

    @pytest.mark.usefixtures("always_saving")
    @pytest.mark.parametrize("interrupted_at", [2, 5])  # before and in the polish
    def test_resumed_it_gives_the_weights_of_one_run(
        self,
        recipe: Recipe,
        specimens: list[Specimen],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        interrupted_at: int,
    ) -> None:
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        whole.mkdir()
        parts.mkdir()
        expected = fit(specimens, recipe, whole, workers=0)

        real = module.loss_terms
        calls = []

        def interrupt(*arguments: object, **options: object) -> dict[str, Tensor]:
            calls.append(1)
            if len(calls) > interrupted_at:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        monkeypatch.setattr(module, "loss_terms", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(specimens, recipe, parts, workers=0)
        monkeypatch.setattr(module, "loss_terms", real)
        checkpoint = torch.load(parts / "checkpoint.pt", weights_only=True)
        assert checkpoint["step"] == interrupted_at
        torch.save(checkpoint | {"seconds": 600.0}, parts / "checkpoint.pt")
        torch.manual_seed(99)  # whatever has been drawn meanwhile
        shown: list[int] = []
        resumed = fit(specimens, recipe, parts, 0, lambda step, _: shown.append(step))
        assert same(resumed, expected)
        assert shown == [interrupted_at]
        assert same(read_network(parts / "checkpoint.pt", recipe), expected)
        assert 600 < seconds_taken(parts / "checkpoint.pt") < 700
        torch.save({name: value for name, value in checkpoint.items() if name != "seconds"}, parts / "checkpoint.pt")
        assert seconds_taken(parts / "checkpoint.pt") == 0
        assert describe_fit(parts / "checkpoint.pt", 6) == f"fit: {interrupted_at} of 6 steps"

    @pytest.mark.usefixtures("always_saving")
    def test_steps_run_again_are_logged_once(self, recipe: Recipe, specimens: list[Specimen], tmp_path: Path) -> None:
        fit(specimens, recipe, tmp_path, workers=0)
        log = tmp_path / "losses.jsonl"
        log.write_text("".join(json.dumps({"step": step, "heat": 1.0}) + "\n" for step in (2, 4, 6, 20, 40)))
        fit(specimens, recipe, tmp_path, workers=0)
        assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [2, 4, 6]

    def test_a_checkpoint_beyond_the_last_step_is_the_end(
        self, recipe: Recipe, specimens: list[Specimen], tmp_path: Path
    ) -> None:
        expected = fit(specimens, recipe, tmp_path, workers=0)
        assert same(fit(specimens, replace(recipe, rounds=recipe.rounds[:1]), tmp_path, workers=0), expected)

    def test_second_looks_learn_from_their_round_on(
        self, recipe: Recipe, specimens: list[Specimen], tmp_path: Path
    ) -> None:
        early = replace(recipe, rounds=(Round(3, 1e-2, deeper=False),))
        torch.manual_seed(early.seed)
        untrained = state(UNet(1, recipe.widths, recipe.depth))
        looks = [name for name in untrained if "looks" in name]
        before = state(fit(specimens, early, tmp_path, workers=0))
        assert all(torch.equal(before[name], untrained[name]) for name in looks)
        later = state(fit(specimens, replace(early, rounds=(*early.rounds, Round(3, 1e-2))), tmp_path, workers=0))
        assert not any(torch.equal(later[name], before[name]) for name in looks if name.endswith("tell.1.weight"))

    def test_a_checkpoint_of_another_network_is_one_line(
        self, recipe: Recipe, specimens: list[Specimen], tmp_path: Path
    ) -> None:
        fit(specimens, recipe, tmp_path, workers=0)
        other = replace(recipe, widths=(8, 24))
        for read in (
            lambda: fit(specimens, other, tmp_path, workers=0),
            lambda: read_network(tmp_path / "checkpoint.pt", other),
        ):
            with pytest.raises(FileError, match="expected a checkpoint of this recipe's network, got another"):
                read()

    def test_a_damaged_checkpoint_and_a_torn_log_are_no_traceback(
        self, recipe: Recipe, specimens: list[Specimen], tmp_path: Path
    ) -> None:
        (tmp_path / "losses.jsonl").write_text('{"step": 1, "heat": 1.0}\n{"step": 2, "he')
        fit(specimens, recipe, tmp_path, workers=0)
        (tmp_path / "checkpoint.pt").write_bytes((tmp_path / "checkpoint.pt").read_bytes()[:-100])
        for read in (
            lambda: fit(specimens, recipe, tmp_path, workers=0),
            lambda: read_network(tmp_path / "checkpoint.pt", recipe),
        ):
            with pytest.raises(FileError, match="expected a whole checkpoint, got a damaged one"):
                read()

    def test_no_checkpoint_says_what_to_do(self, recipe: Recipe, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="expected a checkpoint, found none: run"):
            read_network(tmp_path / "checkpoint.pt", recipe)

    def test_a_finished_run_is_left_as_it_is(self, recipe: Recipe, specimens: list[Specimen], tmp_path: Path) -> None:
        short = replace(recipe, rounds=(Round(2, 1e-3),))
        expected = fit(specimens, short, tmp_path, workers=0)
        written = (tmp_path / "checkpoint.pt").read_bytes()
        assert same(fit(specimens, short, tmp_path, workers=0), expected)
        assert (tmp_path / "checkpoint.pt").read_bytes() == written

    def test_weights_are_averaged(self, recipe: Recipe, specimens: list[Specimen], tmp_path: Path) -> None:
        averaged = fit(specimens, replace(recipe, rounds=(Round(4, 0.1), Round(2, 0.03))), tmp_path, workers=0)
        last = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["network"]
        assert not averaged.training
        assert not torch.equal(averaged.head.weight, last["head.weight"])


def maps(**filled: float) -> Tensor:
    """(1, 6, 4, 4) targets: zero but for these, heat counting everywhere."""
    names = ("heat", "dy", "dx", "near", "covered", "weight")
    values = {"weight": 1.0, **filled}
    return torch.stack([torch.full((4, 4), values.get(name, 0.0)) for name in names])[None]


def raw(**filled: float) -> Tensor:
    """(1, 5, 4, 4) maps of a network that is sure there is nothing, but for these."""
    names = {"heat": -20.0, "dy": 0.0, "dx": 0.0, "log_sigma": 0.0, "covered": -20.0}
    return torch.stack([torch.full((4, 4), filled.get(name, value)) for name, value in names.items()])[None]


class TestLosses:
    def test_the_right_answer_costs_nothing(self) -> None:
        assert {k: pytest.approx(float(v), abs=1e-5) for k, v in loss_terms(raw(), maps()).items()} == {
            "heat": 0,
            "position": 0,
            "contamination": 0,
        }

    def test_a_missed_atom_costs_and_one_that_is_hidden_does_not(self) -> None:
        assert loss_terms(raw(), maps(heat=1))["heat"] > 100
        assert loss_terms(raw(), maps(heat=1, weight=0))["heat"] == 0

    def test_the_best_sigma_is_the_error(self) -> None:
        # Per axis 0.3 px of error: of all widths exp(log sigma) = 0.3 is the likeliest.
        truth = maps(near=1, dy=0.3, dx=-0.3)
        widths = torch.linspace(-2, 0, 101)
        cost = [float(loss_terms(raw(log_sigma=float(w)), truth, beta=0.0)["position"]) for w in widths]
        assert float(widths[cost.index(min(cost))].exp()) == pytest.approx(0.3, rel=0.02)

    @pytest.mark.parametrize(("beta", "expected"), [(0.0, 1.0), (0.5, 0.2)])
    def test_beta_weights_with_the_width(self, beta: float, expected: float) -> None:
        log_sigma = torch.tensor(0.2).log().item()
        errors = [torch.tensor(d) for d in (0.1, 0.2)]
        one, two = (
            loss_terms(raw(log_sigma=log_sigma, dy=float(d)), maps(near=1), beta=beta)["position"] for d in errors
        )
        plain = 2 * 0.5 * (0.2**2 - 0.1**2) / 0.2**2  # positions weigh twice
        assert float(two - one) == pytest.approx(plain * expected, rel=1e-4)

    def test_the_gradient_of_sigma_is_not_weighted_away(self) -> None:
        answer = raw(log_sigma=-1.0).requires_grad_()
        loss_terms(answer, maps(near=1))["position"].backward()
        # d/ds of (0 exp(-2 s) + 2 s) exp(s), the last factor held: 2 exp(-1), over 16 cells; positions weigh twice
        assert float(answer.grad[0, 3].sum()) == pytest.approx(4 * 0.36788, rel=1e-3)

    def test_far_from_atoms_offsets_do_not_count(self) -> None:
        assert loss_terms(raw(dy=5.0, log_sigma=1.0), maps())["position"] == 0

    def test_contamination(self) -> None:
        assert loss_terms(raw(covered=0.0), maps(covered=1))["contamination"] == pytest.approx(0.3 * 0.6931, rel=1e-3)


def test_the_rate_warms_up_once_and_falls_in_every_round(recipe: Recipe) -> None:
    again = Round(400, 2e-3)
    long = replace(recipe, rounds=(again, Round(200, 6e-4), again))
    assert [rate(step, long) for step in (0, WARM_UP - 1, WARM_UP)] == pytest.approx([2e-3 / WARM_UP, 2e-3, 2e-3])
    assert [rate(step, long) for step in (400, 600)] == [6e-4, 2e-3]
    for first, last in ((WARM_UP, 399), (400, 599), (600, 999)):
        rates = [rate(step, long) for step in range(first, last + 1)]
        assert rates == sorted(rates, reverse=True)
        assert rates[-1] < 0.01 * rates[0]
    with pytest.raises(IndexError, match="expected a step of the recipe's 1000"):
        rate(1000, long)
