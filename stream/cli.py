"""The command `atomstream`: one parser, one module a sub-command, imported when it is the one asked for.

Every mistake of a user ends as one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from types import FrameType
from typing import NoReturn

from engine.errors import AtomstreamError, ConfigError
from stream.config import did_you_mean

COMMANDS = (
    *("detect", "serve", "replay", "follow", "camera", "watch", "overlay"),
    *("record", "export", "analyze", "models", "doctor", "demo"),
)

_INTERRUPTED = 130
_FULL = (errno.ENOSPC, errno.EDQUOT)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ours, and that guesses no abbreviations."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"expected what '{self.prog} --help' lists, got: {message}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        status: int = options.run(options)
        print(end="", flush=True)  # what cannot be written is told here, with no trace
        return status
    except AtomstreamError as error:
        return _tell(str(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of our output is gone, as after `| head`
        _drop_output()
        return 0
    except OSError as error:
        if error.errno not in _FULL or error.filename is not None:
            raise
        return _tell(f"standard output: expected room to write, got {error.strerror}: write to another disk")
    finally:
        signal.signal(signal.SIGTERM, before)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Options of the command line; ConfigError for what is not known."""
    parser = _Parser(prog="atomstream", description="Finds the atoms in a microscope's live picture.")
    parser.add_argument("--version", action="version", version=f"atomstream {version('atomstream')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    name = next((word for word in argv if not word.startswith("-")), None)
    if name is not None and name not in COMMANDS:
        raise ConfigError(f"expected a command, got {name!r}: {did_you_mean(name, COMMANDS)}")
    for command in COMMANDS if name is None else (name,):
        module = import_module(f"stream.{command}")
        added = commands.add_parser(command, help=module.HELP, description=module.__doc__, allow_abbrev=False)
        module.add_arguments(added)
        added.set_defaults(run=module.run)
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        known = list(commands.choices[options.command]._option_string_actions)
        raise ConfigError(
            f"expected the options of 'atomstream {options.command}', got {unknown[0]!r}: "
            f"{did_you_mean(unknown[0].partition('=')[0], known)}"
        )
    return options


def _tell(error: str) -> int:
    """A mistake in one line, and its exit status."""
    text = " ".join(error.split())
    print(f"atomstream: {'e' + text[1:] if text.startswith('Expected ') else text}", file=sys.stderr)
    try:
        print(end="", flush=True)
    except OSError:
        _drop_output()
    return 2


def _drop_output() -> None:
    """Python must not try to write at its end what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
