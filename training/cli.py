"""atomstream-train: simulate, fit, export, evaluate. Everything a run depends on is in its recipe."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from engine import AtomstreamError, ConfigError, ModelSpec, load_detector
from training import specimen_file, specimen_set
from training.exit_waves import Specimen
from training.recipes import RECIPES
from training.recipes.own import own
from training.recipes.recipe import Recipe
from training.specimen_set import SpecimenSet
from training.structures.own import SHAPES
from training.workers import Workers

HELD_OUT_SEED = 1000  # added to the recipe's seed: held-out specimens and their frames share nothing with training

_RAMPS = 50  # frames whose focus runs through zero contrast


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}: see {self.prog} --help")


def main(argv: list[str] | None = None) -> int:
    """Run a command; errors of the user's making are one line and exit status 2."""
    try:
        options = _parser().parse_args(argv)
        folder = options.folder or Path("runs") / options.recipe
        options.run(_recipe(folder, options), folder, options)
    except AtomstreamError as error:
        print(f"atomstream-train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("atomstream-train: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _recipe(folder: Path, options: argparse.Namespace) -> Recipe:
    """The shipped recipe of this name, or that of the user's own specimen, which `simulate --structure` writes down."""
    name, told = options.recipe, [flag for flag in _OWN if getattr(options, flag, None) is not None]
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
        return _told(name, path, options)
    if not path.exists():
        raise ConfigError(
            f"Expected a shipped recipe ({', '.join(sorted(RECIPES))}) or a specimen of your own, got {name!r} without "
            f"{path}: `simulate {name} --structure FILE` begins one, see atomstream-train simulate --help"
        )
    return own(name, specimen_file.read_specimen(path))


def _told(name: str, path: Path, options: argparse.Namespace) -> Recipe:
    """The recipe of the structure that the options tell of, once it is written down; what was begun is not changed."""
    for flag in ("structure", "voltage"):
        if getattr(options, flag) is None:
            raise ConfigError(f"Expected --structure and --voltage of a specimen of your own, got no --{flag}: add it")
    specimen = specimen_file.specimen_of(
        options.structure,
        options.shape or "slab",
        options.elements or (),
        options.voltage,
        zone=options.zone,
        thickness_A=options.thickness,
        diameter_A=options.diameter,
    )
    recipe = own(name, specimen)
    if not path.exists():
        specimen_file.write_specimen(specimen, path)
    elif specimen_file.as_json(specimen_file.read_specimen(path)) != specimen_file.as_json(specimen):
        raise ConfigError(
            f"Expected the specimen that {path} was begun with, got another: choose another name, or remove the folder"
        )
    return recipe


def simulate(recipe: Recipe, folder: Path, options: argparse.Namespace) -> None:
    """Exit waves for training and, from another seed, for evaluation; or those the simulated camera plays."""
    from training import playback

    if options.playback:
        playback.write_playback(options.playback, recipe)
        return
    for flag in ("count", "held_out"):
        asked = getattr(options, flag)
        if asked is not None and asked < 1:
            raise ConfigError(f"Expected 1 or more of --{flag.replace('_', '-')}, got {asked}: ask for some")
    with Workers(options.scheduler, options.workers) as workers:
        for held_out, count in ((False, options.count), (True, options.held_out)):
            _store(recipe, folder, held_out, count, workers)


def _store(recipe: Recipe, folder: Path, held_out: bool, count: int | None, workers: Workers) -> None:
    specimens, store = _specimens(recipe, folder, held_out)
    if count is None:
        count = recipe.held_out if held_out else recipe.specimens
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


def _specimens(recipe: Recipe, folder: Path, held_out: bool) -> tuple[SpecimenSet, Path]:
    """What is trained on, or evaluated on, and where it is stored."""
    seed, name = (recipe.seed + HELD_OUT_SEED, "held_out") if held_out else (recipe.seed, "waves")
    return SpecimenSet(recipe.structures, recipe.images.voltage_kV, seed), folder / f"{name}.zarr"


def _read(recipe: Recipe, folder: Path, held_out: bool = False) -> list[Specimen]:
    return specimen_set.read_specimens(*_specimens(recipe, folder, held_out))


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
    specimens = _read(recipe, folder)
    (folder / "fit").mkdir(parents=True, exist_ok=True)
    with _bar() as bar:
        task = bar.add_task("fit", total=recipe.all_steps)
        shown = _Losses(bar, task)
        run(specimens, recipe, folder / "fit", options.workers, shown)
    if (folder / "fit" / "losses.jsonl").exists():
        loss_curves(folder / "fit" / "losses.jsonl", folder / "fit" / "losses.png")


def export(recipe: Recipe, folder: Path, options: argparse.Namespace) -> None:
    """ONNX, INT8 and spec from the last checkpoint; or the TensorRT engine of a model that is exported already."""
    if options.tensorrt:
        build_engine(recipe, folder, options)
        return
    if options.model or options.precision != "auto":
        raise ConfigError("Expected --model and --precision with --tensorrt only, got them without: add --tensorrt")
    from training.export import export as run
    from training.fit import describe_fit, read_network

    checkpoint = folder / "fit" / "checkpoint.pt"
    network = read_network(checkpoint, recipe)
    notes = "; ".join(note for note in (recipe.spec.notes, describe_fit(checkpoint)) if note)
    recipe = replace(recipe, spec=replace(recipe.spec, notes=notes))
    output = options.output or folder / "export"
    spec = run(network, recipe, _read(recipe, folder), output, Console(stderr=True).print)
    print(f"{output / spec.name}.json: threshold {spec.threshold:g}")


def build_engine(recipe: Recipe, folder: Path, options: argparse.Namespace) -> None:
    """The engine that `serve` would build at its first start, into the same cache."""
    from engine.gpu import build_ahead

    exported = folder / "export" / f"{recipe.spec.name}.json"
    model = options.model or (exported if exported.exists() else recipe.spec.name)
    for gpu, path in build_ahead(model, options.precision, options.memory_MB).items():
        print(f"{path}: engine of {model} for {gpu}")


def evaluate(recipe: Recipe, folder: Path, options: argparse.Namespace) -> None:
    """Report on held-out specimens, and the figures into the model's spec."""
    from training.decidable import graphene_sign
    from training.evaluate import evaluate as run
    from training.focus_ramp import DOSE_E_A2, ramps, summarise_ramps
    from training.report import write_report

    model = options.model or folder / "export" / f"{recipe.spec.name}.json"
    seed = recipe.seed + HELD_OUT_SEED
    specimens = _read(recipe, folder, held_out=True)
    with load_detector(model, precision=options.precision) as detector, _bar() as bar:
        task = bar.add_task("evaluate", total=options.frames)
        results = run(
            detector,
            specimens,
            recipe.images,
            seed,
            options.frames,
            recipe.doses_e_A2,
            progress=lambda done: bar.update(task, completed=done),
            classical=True,
        )
        backend, classes = detector.backend, detector.spec.classes
        ramped: dict[str, float] = {}
        if recipe.images.rule is graphene_sign:
            ramped = summarise_ramps(ramps(detector, specimens, recipe.images, seed, min(_RAMPS, options.frames)))
    table = write_report(results, f"{recipe.spec.name}, {backend}", options.report or folder / "report", classes)
    spec = ModelSpec.read(model)
    keys = ("f1", "rmse_pm", "bound_pm", *(f"f1_{name}" for name in classes if len(classes) > 1))
    figures = {
        f"{dose} e/A^2": {key: round(row[key], 4) for key in keys if isfinite(row[key])} for dose, row in table.items()
    }
    if ramped:
        figures[f"{DOSE_E_A2:g} e/A^2, focus through zero contrast"] = {k: round(v, 4) for k, v in ramped.items()}
    replace(spec, measured={**spec.measured, backend: figures}).write(model)
    for dose, row in table.items():
        print(f"{dose:>8} e/A^2  " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    print("  ".join(f"{key} {value:.4g}" for key, value in ramped.items()), end="\n" if ramped else "")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="atomstream-train", description="Simulate specimens, fit a network, export and evaluate it.")
    commands = parser.add_subparsers(dest="command", required=True)
    for run in (simulate, fit, export, evaluate):
        command = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        command.add_argument("recipe", metavar="NAME", help=f"{', '.join(sorted(RECIPES))}, or a specimen of your own")
        command.add_argument("--folder", type=Path, help="of the run (runs/NAME)")
        command.set_defaults(run=run)
        for flags, settings in _FLAGS[run.__name__]:
            command.add_argument(flags, **settings)
    return parser


def _listed(kind: Callable[[str], Any], form: str) -> Callable[[str], tuple[Any, ...]]:
    """Reads values written as `form` is, with commas between."""

    def read(text: str) -> tuple[Any, ...]:
        try:
            values = tuple(kind(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) != len(form.split(",")):
            raise argparse.ArgumentTypeError(f"expected {form}, got {text!r}")
        return values

    return read


_OWN: dict[str, dict[str, Any]] = {  # of simulate, for a specimen of the user's own
    "structure": {
        "type": Path,
        "metavar": "FILE",
        "help": f"atoms of your own specimen ({', '.join(specimen_file.FORMATS)}, POSCAR)",
    },
    "shape": {
        "choices": list(SHAPES),
        "help": "a crystal slab (the default), a particle cut from it, or its atoms alone",
    },
    "zone": {
        "type": _listed(int, "U,V,W"),
        "metavar": "U,V,W",
        "help": "what of the crystal lies along the beam; --zone=-1,1,0",
    },
    "thickness": {"type": _listed(float, "LOW,HIGH"), "metavar": "LOW,HIGH", "help": "of slabs, in A"},
    "diameter": {"type": _listed(float, "LOW,HIGH"), "metavar": "LOW,HIGH", "help": "of particles, in A"},
    "elements": {
        "type": lambda text: tuple(text.split(",")),
        "metavar": "A,B",
        "help": "whose columns are found (all but H)",
    },
    "voltage": {"type": float, "metavar": "KV", "help": "of the microscope, in kV"},
}

_FLAGS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "simulate": [
        ("--count", {"type": int, "help": "specimens to train on (the recipe's)"}),
        ("--held-out", {"type": int, "help": "specimens to evaluate on (the recipe's)"}),
        ("--scheduler", {"metavar": "ADDRESS", "help": "of a Dask cluster, tcp://HOST:PORT (one of this machine)"}),
        ("--workers", {"type": int, "metavar": "N", "help": "processes of this machine, 1: this one (one a core)"}),
        ("--playback", {"type": Path, "metavar": "NPZ", "help": "write only the exit waves of the simulated camera"}),
        *((f"--{name}", settings) for name, settings in _OWN.items()),
    ],
    "fit": [
        ("--steps", {"type": int, "help": "of the first round (the recipe's)"}),
        ("--workers", {"type": int, "default": 1, "help": "processes that draw samples (1)"}),
        ("--threads", {"type": int, "help": "of the training itself (all cores)"}),
    ],
    "export": [
        ("--output", {"type": Path, "help": "folder of the model (FOLDER/export)"}),
        (
            "--tensorrt",
            {
                "action": "store_true",
                "help": "only build the engine of an exported model, for the GPUs of this machine",
            },
        ),
        ("--model", {"help": "with --tensorrt: spec or name of the model (FOLDER/export/NAME.json, else the shipped)"}),
        ("--precision", {"default": "auto", "help": "with --tensorrt: auto, f16, f32 or int8"}),
        (
            "--memory-MB",
            {
                "type": float,
                "default": 4096.0,
                "metavar": "MB",
                "help": "with --tensorrt: as serve will have it (4096)",
            },
        ),
    ],
    "evaluate": [
        ("--model", {"type": Path, "help": "spec of the model (FOLDER/export/NAME.json)"}),
        ("--precision", {"default": "auto", "help": "auto, f32, bf16 or int8"}),
        ("--frames", {"type": int, "default": 70, "help": "settings, each at every dose (70)"}),
        ("--report", {"type": Path, "help": "folder of the report (FOLDER/report)"}),
    ],
}


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
