"""The options of atomstream-train, each checked as it is read: a mistake is told before anything is done."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from engine import ConfigError
from training import specimen_file
from training.recipes import RECIPES
from training.structures.own import SHAPES


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}: see {self.prog} --help")


def parser(runs: Iterable[Callable[..., None]]) -> argparse.ArgumentParser:
    """A command for each of these functions, by its name; ConfigError of what cannot be read."""
    parser = _Parser(prog="atomstream-train", description="Simulate specimens, fit a network, export and evaluate it.")
    commands = parser.add_subparsers(dest="command", required=True)
    for run in runs:
        command = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        command.add_argument("recipe", metavar="NAME", help=f"{', '.join(sorted(RECIPES))}, or a specimen of your own")
        command.add_argument("--folder", type=Path, help="of the run (runs/NAME)")
        command.set_defaults(run=run)
        for flags, settings in _FLAGS[run.__name__]:
            command.add_argument(flags, **settings)
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    """Reads a whole number that is no smaller."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"expected {least} or more, got {text}")
        return value

    return read


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


OWN: dict[str, dict[str, Any]] = {  # of simulate, for a specimen of the user's own
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
    "dose": {
        "type": _listed(float, "LOW,HIGH"),
        "metavar": "LOW,HIGH",
        "help": "of a frame, in e/A^2 ({:g},{:g})".format(*specimen_file.DOSE_E_A2),
    },
}

_HELD_OUT_SEED: tuple[str, dict[str, Any]] = (
    "--held-out-seed",
    {
        "type": _at_least(0),
        "metavar": "N",
        "help": "of the specimens to evaluate on, a store of their own (1000 + the recipe's)",
    },
)

_FLAGS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "simulate": [
        ("--count", {"type": _at_least(1), "help": "specimens to train on (the recipe's)"}),
        ("--held-out", {"type": _at_least(1), "help": "specimens to evaluate on (the recipe's)"}),
        _HELD_OUT_SEED,
        ("--scheduler", {"metavar": "ADDRESS", "help": "of a Dask cluster, tcp://HOST:PORT (one of this machine)"}),
        (
            "--workers",
            {"type": _at_least(1), "metavar": "N", "help": "processes, 1: this one alone (one a core)"},
        ),
        ("--playback", {"type": Path, "metavar": "NPZ", "help": "write only the exit waves of the simulated camera"}),
        *((f"--{name}", settings) for name, settings in OWN.items()),
    ],
    "fit": [
        (
            "--start",
            {"metavar": "MODEL", "help": "begin with the weights of a shipped model or of a spec .json"},
        ),
        ("--steps", {"type": _at_least(1), "help": "of the first round (the recipe's)"}),
        ("--workers", {"type": _at_least(0), "default": 1, "help": "processes that draw samples, 0: this one (1)"}),
        ("--threads", {"type": _at_least(1), "help": "of the training itself (all cores)"}),
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
        ("--model", {"help": "spec or name of the model (FOLDER/export/NAME.json)"}),
        ("--precision", {"default": "auto", "help": "auto, f32, bf16 or int8"}),
        ("--frames", {"type": _at_least(1), "help": "settings, each at every dose (all that are held out)"}),
        _HELD_OUT_SEED,
        ("--report", {"type": Path, "help": "folder of the report (FOLDER/report, FOLDER/report-N of another seed)"}),
    ],
}
