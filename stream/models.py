"""List the models that are shipped, or print the card of one: what it takes, was trained on and measured at."""

from __future__ import annotations

import argparse

from engine.shipped import find_spec, list_models, model_card
from engine.spec import ModelSpec

HELP = "list the shipped models, or print the card of one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The name whose card to print."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a shipped model, or the path of a spec .json")


def run(options: argparse.Namespace) -> int:
    """Print the list, or the card."""
    print(model_card(options.name) if options.name else model_list(list_models()))
    return 0


def model_list(names: tuple[str, ...]) -> str:
    """A line for each model."""
    if not names:
        return "No model is installed: install Atomstream again, or give the path of a spec .json of your own"
    specs = [ModelSpec.read(find_spec(name)) for name in names]
    rows = [(spec.name, spec.version, spec.family, ", ".join(spec.classes), _sampling(spec)) for spec in specs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("   ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _sampling(spec: ModelSpec) -> str:
    low, high = spec.trained.get("sampling_A", (0.0, 0.0))
    return f"{low:g} to {high:g} A/px" if high else ""
