"""atomstream-train: simulate, fit, export, evaluate. Everything a run depends on is in its recipe."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import isfinite
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from engine import AtomstreamError, ConfigError, Detector, ModelSpec, load_detector
from engine.device import OUT_OF_MEMORY
from engine.errors import writing
from engine.shipped import find_spec
from training import specimen_file, specimen_set
from training.alone import alone
from training.exit_waves import Specimen
from training.options import OWN, parser
from training.recipes import RECIPES
from training.recipes.own import own
from training.recipes.recipe import Recipe
from training.specimen_file import OwnSpecimen
from training.specimen_set import SpecimenSet
from training.structures.own import OwnRanges
from training.wave_store import WaveStore
from training.workers import Workers

# Added to the recipe's seed: what thresholds are set on shares nothing with training, and held-out specimens and their
# frames nothing with either. Beyond are those of fresh sets, to be scored once when all else is settled.
_CALIBRATION_SEED, HELD_OUT_SEED = 500, 1000
_CALIBRATION = 60  # specimens, at most

_BESIDE = 50  # frames, at most, of what is measured beside F1 against dose


def main(argv: list[str] | None = None) -> int:
    """Run a command; errors of the user's making are one line and exit status 2."""
    try:
        options = parser((simulate, fit, export, evaluate)).parse_args(argv)
        folder = options.folder or Path("runs") / options.recipe
        options.run(_recipe(folder, options), folder, options)
    except AtomstreamError as error:
        print(f"atomstream-train: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:  # torch and CUDA say it their own way
        if not (isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))):
            raise
        print(
            "atomstream-train: expected room in memory, got none left: end other programs, take fewer --workers, a "
            "smaller specimen or crop_px; the same command goes on from here",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("atomstream-train: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _recipe(folder: Path, options: argparse.Namespace) -> Recipe:
    """The shipped recipe of this name, or that of the user's own specimen, told of or written down."""
    name, told = options.recipe, [flag for flag in OWN if getattr(options, flag, None) is not None]
    if name in RECIPES:
        if told:
            raise ConfigError(
                f"Expected a name of your own with --{told[0]}, got {name!r}, which is a shipped recipe: choose another"
            )
        return RECIPES[name]()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", name):
        raise ConfigError(f"Expected a name of letters, digits, - and _, got {name!r}: choose another")
    path = folder / "specimen.json"
    if told:
        return own(name, _told(options))
    if not path.exists():
        raise ConfigError(
            f"Expected a shipped recipe ({', '.join(sorted(RECIPES))}) or a specimen of your own, got {name!r} without "
            f"{path}: `simulate {name} --structure FILE` begins one, see atomstream-train simulate --help"
        )
    return own(name, specimen_file.read_specimen(path))


def _told(options: argparse.Namespace) -> OwnSpecimen:
    """The specimen that the options tell of."""
    for flag in ("structure", "voltage"):
        if getattr(options, flag) is None:
            raise ConfigError(f"Expected --structure and --voltage of a specimen of your own, got no --{flag}: add it")
    return specimen_file.specimen_of(
        options.structure,
        options.shape or "slab",
        options.elements or (),
        options.voltage,
        options.dose or specimen_file.DOSE_E_A2,
        zone=options.zone,
        thickness_A=options.thickness,
        diameter_A=options.diameter,
    )


def simulate(recipe: Recipe, folder: Path, options: argparse.Namespace) -> None:
    """Exit waves for training and, from another seed, for evaluation; or those the simulated camera plays."""
    from training import playback

    if options.playback:
        playback.write_playback(options.playback, recipe)
        return
    count, held_out = options.count or recipe.specimens, options.held_out or recipe.held_out
    counts = {_held_out_seed(recipe, options): held_out}
    if options.held_out_seed is None or options.count:  # else a fresh set for a network that is there already
        counts = {recipe.seed: count, recipe.seed + _CALIBRATION_SEED: min(count, _CALIBRATION)} | counts
    with Workers(options.scheduler, options.workers) as workers, _alone(recipe, folder):
        if options.structure is not None:
            _write_down(recipe, folder, options)
        for seed, count in counts.items():
            _store(recipe, folder, seed, count, workers)


@contextmanager
def _alone(recipe: Recipe, folder: Path) -> Iterator[None]:
    """Of a specimen of the user's own: nobody else writes another one down before there are exit waves of this."""
    if not isinstance(recipe.structures, OwnRanges):
        yield
        return
    with _alone_in(folder):
        yield


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """A folder, made where it is not there, that nobody else writes to meanwhile."""
    with writing(folder, "a place to write to", "choose another --folder"):
        folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        yield


def _write_down(recipe: Recipe, folder: Path, options: argparse.Namespace) -> None:
    """The specimen that was told of, for the commands that follow; what exit waves are there of is not changed, nor the
    dose that a fit learns from."""
    assert isinstance(recipe.structures, OwnRanges)
    specimen = OwnSpecimen(options.structure.name, options.voltage, recipe.images.dose_e_A2, recipe.structures)
    path = folder / "specimen.json"
    if path.exists() and any(not WaveStore(store, {}).empty for store in folder.glob("*.zarr")):
        begun = specimen_file.read_specimen(path)
        if not (folder / "fit" / "checkpoint.pt").exists():
            begun = replace(begun, dose_e_A2=specimen.dose_e_A2)  # waves are of any dose
        if specimen_file.as_json(begun) != specimen_file.as_json(specimen):
            raise ConfigError(
                f"Expected the specimen that {path} was begun with, got another: choose another name, or remove the "
                "folder"
            )
    specimen_file.write_specimen(specimen, path)


def _store(recipe: Recipe, folder: Path, seed: int, count: int, workers: Workers) -> None:
    specimens, store = _specimens(recipe, folder, seed)
    bar = _bar()
    task = bar.add_task(store.stem, total=count)

    def show(done: int) -> None:
        bar.start()  # not before there is something to show: a mistake is one line
        bar.update(task, completed=done)

    try:
        specimen_set.simulate(specimens, store, count, workers, show)
    finally:
        if bar.live.is_started:
            bar.stop()


def _held_out_seed(recipe: Recipe, options: argparse.Namespace) -> int:
    """Of the specimens to evaluate on and of their frames; ConfigError of one that training may know."""
    least = recipe.seed + HELD_OUT_SEED
    seed = least if options.held_out_seed is None else int(options.held_out_seed)
    if seed < least:
        raise ConfigError(
            f"Expected --held-out-seed of {least} or more, got {seed}: lower ones are those of training and export"
        )
    return seed


def _is_usual(recipe: Recipe, seed: int) -> bool:
    """Of a recipe's seeds for evaluation the one that is taken where none is asked for."""
    return seed == recipe.seed + HELD_OUT_SEED


def _specimens(recipe: Recipe, folder: Path, seed: int) -> tuple[SpecimenSet, Path]:
    """Those of a seed, the recipe's own to train on and others to calibrate or to evaluate on, and where they are."""
    names = {0: "waves", _CALIBRATION_SEED: "calibration", HELD_OUT_SEED: "held_out"}
    name = names.get(seed - recipe.seed, f"held_out-{seed}")
    return SpecimenSet.of(recipe, seed), folder / f"{name}.zarr"


def _read(recipe: Recipe, folder: Path, seed: int) -> list[Specimen]:
    return specimen_set.read_specimens(*_specimens(recipe, folder, seed))


def _minutes(seconds: float) -> float:
    return round(seconds / 60, 1)


def fit(recipe: Recipe, folder: Path, options: argparse.Namespace) -> None:
    """Train, from the last checkpoint where there is one."""
    # Before torch comes: its threads wait asleep, not in a loop on the core that draws the next samples. A step of the
    # graphene recipe takes 0.41 s then, 0.6 s else.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    from training.fit import fit as run
    from training.report import loss_curves

    if options.threads:
        torch.set_num_threads(options.threads)
    if options.steps:
        recipe = replace(recipe, rounds=(replace(recipe.rounds[0], steps=options.steps), *recipe.rounds[1:]))
    start = _start(options.start, recipe, folder)  # before the exit waves, that take a while to read
    specimens = _read(recipe, folder, recipe.seed)
    with _alone_in(folder / "fit"), _bar() as bar:
        task = bar.add_task("fit", total=recipe.all_steps)
        shown = _Losses(bar, task)
        run(specimens, recipe, folder / "fit", options.workers, shown, start)
    if (folder / "fit" / "losses.jsonl").exists():
        loss_curves(folder / "fit" / "losses.jsonl", folder / "fit" / "losses.png")


def _start(model: str | None, recipe: Recipe, folder: Path) -> str:
    """The model to begin with, by the name or path that its card will say; ConfigError of one of other images, or where
    a fit is there that began otherwise."""
    from training.checkpoint import begun_with

    if not model:
        return ""
    checkpoint = folder / "fit" / "checkpoint.pt"
    if checkpoint.exists():
        if (begun := begun_with(checkpoint)) != model:
            raise ConfigError(
                f"Expected a fit that began with {model}, got {checkpoint}, which began with {begun or 'nothing'}: "
                "leave --start out to go on, or remove it"
            )
        return model  # that need not be there any more
    channels, expected = ModelSpec.read(find_spec(model)).channels, recipe.spec.channels
    if channels != expected:
        raise ConfigError(
            f"Expected --start with a model of {expected} image{'s' * (expected > 1)} at a time, as the recipe "
            f"{recipe.spec.name} makes, got {channels} of {model}: choose another"
        )
    return model


def export(recipe: Recipe, folder: Path, options: argparse.Namespace) -> None:
    """ONNX, INT8 and spec from the last checkpoint; or the TensorRT engine of a model that is exported already."""
    if options.tensorrt:
        build_engine(recipe, folder, options)
        return
    if options.model or options.precision != "auto":
        raise ConfigError("Expected --model and --precision with --tensorrt only, got them without: add --tensorrt")
    from training.checkpoint import describe_fit, learned_from, seconds_taken
    from training.export import export as run
    from training.fit import read_network

    begun, checkpoint = monotonic(), folder / "fit" / "checkpoint.pt"
    tell = Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print
    network, data = read_network(checkpoint, recipe), learned_from(checkpoint)
    if (step := data["steps"]) < recipe.all_steps:
        tell(
            f"{checkpoint}: expected the recipe's {recipe.all_steps} steps, got {step}: unless you asked for fewer, "
            "run `atomstream-train fit` again, it goes on"
        )
    notes = "; ".join(note for note in (recipe.spec.notes, describe_fit(checkpoint, recipe.all_steps)) if note)
    recipe = replace(recipe, spec=replace(recipe.spec, notes=notes, data=data))
    output = options.output or folder / "export"
    specimens, unseen = (_read(recipe, folder, recipe.seed + more) for more in (0, _CALIBRATION_SEED))
    spec = run(network, recipe, specimens, unseen, output, tell)
    path = output / f"{spec.name}.json"
    seeds = (recipe.seed, recipe.seed + _CALIBRATION_SEED, recipe.seed + HELD_OUT_SEED)
    simulated_s = sum(specimen_set.seconds_taken(*_specimens(recipe, folder, seed)) for seed in seeds)
    taken_s = {"simulate": simulated_s, "fit": seconds_taken(checkpoint), "export": monotonic() - begun}
    replace(spec, wall_time_min={name: _minutes(seconds) for name, seconds in taken_s.items() if seconds}).write(path)
    print(f"{path}: threshold {spec.threshold:g}")


def build_engine(recipe: Recipe, folder: Path, options: argparse.Namespace) -> None:
    """The engine that `serve` would build at its first start, into the same cache."""
    from engine.gpu import build_ahead

    exported = folder / "export" / f"{recipe.spec.name}.json"
    model = options.model or (exported if exported.exists() else recipe.spec.name)
    for gpu, path in build_ahead(model, options.precision, options.memory_MB).items():
        print(f"{path}: engine of {model} for {gpu}")


def evaluate(recipe: Recipe, folder: Path, options: argparse.Namespace) -> None:
    """Report on held-out specimens, and the figures into the model's spec."""
    from training.evaluate import by_label
    from training.evaluate import evaluate as run
    from training.report import make_folder, write_report

    begun = monotonic()
    model = find_spec(options.model) if options.model else folder / "export" / f"{recipe.spec.name}.json"
    seed = _held_out_seed(recipe, options)
    is_usual = _is_usual(recipe, seed)
    report = options.report or folder / ("report" if is_usual else f"report-{seed}")
    specimens = _read(recipe, folder, seed)
    frames = options.frames or len(specimens)
    _check_model(model, recipe)
    make_folder(report)  # before the frames, that take minutes
    ModelSpec.read(model).write(model)  # figures go there
    with load_detector(model, precision=options.precision) as detector, _bar() as bar:
        task = bar.add_task("evaluate", total=frames)
        results = run(
            detector,
            specimens,
            recipe.images,
            seed,
            frames,
            recipe.doses_e_A2,
            progress=lambda done: bar.update(task, completed=done),
            classical=True,
        )
        classes = detector.spec.classes
        what = detector.backend if is_usual else f"{detector.backend}, held-out seed {seed}"
        beside = _beside(detector, specimens, recipe, seed, min(_BESIDE, frames))
    table = write_report(results, f"{recipe.spec.name}, {what}", report, classes, beside)
    spec, figures = ModelSpec.read(model), _figures(table, classes, by_label(results), beside)
    taken = {}
    if is_usual and options.precision == "auto":  # what it takes to make the model; others are beside
        taken["evaluate"] = _minutes(monotonic() - begun)
    spec = replace(spec, measured={**spec.measured, what: figures}, wall_time_min=spec.wall_time_min | taken)
    spec.write(model)
    for name, row in ({f"{dose} e/A^2": row for dose, row in table.items()} | beside).items():
        print(f"{name:>14}  " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))


def _beside(
    detector: Detector, specimens: list[Specimen], recipe: Recipe, seed: int, frames: int
) -> dict[str, dict[str, float]]:
    """Figures of frames that evaluation leaves out: graphene whose focus inverts, what dirt covers in part."""
    from training.covered import covered, summarise_covered
    from training.decidable import graphene_sign
    from training.focus_ramp import DOSE_E_A2, ramps, summarise_ramps

    images, found = recipe.images, {}
    dose = recipe.doses_e_A2[:2][-1]  # the second highest, if there are two: noise is not what they are about
    if images.rule is graphene_sign:
        ramped = summarise_ramps(ramps(detector, specimens, images, seed, frames))
        found[f"{DOSE_E_A2:g} e/A^2, focus through zero contrast"] = ramped
    if images.contamination_chance:  # else the network never saw any
        in_part = summarise_covered(covered(detector, specimens, images, seed, frames, dose))
        found[f"{dose:g} e/A^2, under contamination in part"] = in_part
    return found


def _check_model(model: Path, recipe: Recipe) -> None:
    """ConfigError where the figures of this recipe's frames would say nothing of the model."""
    spec = ModelSpec.read(model)
    for name in ("family", "classes", "channels"):
        expected, got = getattr(recipe.spec, name), getattr(spec, name)
        if got != expected:
            raise ConfigError(
                f"Expected a model of {name} {expected}, as the recipe {recipe.spec.name} makes, got {got} of {model}: "
                "evaluate it with its own recipe"
            )


def _figures(
    table: dict[str, dict[str, float]],
    classes: Sequence[str],
    kinds: dict[str, dict[str, dict[str, float]]],
    beside: dict[str, dict[str, float]],
) -> dict[str, dict[str, float]]:
    """What the card says: of each dose, over how many frames that can be decided and how many not; of each kind of
    specimen F1 alone, a row each, over how many of them; all of the rest."""
    keys = ("f1", "f1_standard_error", "rmse_pm", "bound_pm", *(f"f1_{name}" for name in classes if len(classes) > 1))
    keys = (*keys, "frames", "undecidable")
    rows = {f"{dose} e/A^2": {key: row[key] for key in keys} for dose, row in table.items()}
    for kind, row in kinds.items():
        frames = max((one["frames"] for one in row.values()), default=0)  # optics decide, so at each dose as many
        rows[kind] = {"kind_frames": frames} | {f"f1_at_{dose}": one["f1"] for dose, one in row.items()}
    rows |= beside
    return {name: {k: round(v, 4) for k, v in row.items() if isfinite(v)} for name, row in rows.items()}


class _Losses:
    """Shows step and losses in a progress bar."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def __call__(self, step: int, losses: dict[str, float]) -> None:
        said = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        self._bar.update(self._task, completed=step, description=f"fit  {said}")


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


if __name__ == "__main__":
    sys.exit(main())
