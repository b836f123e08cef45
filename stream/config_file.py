"""The options of `atomstream serve` from a commented TOML file and from flags of the same names, which override it.

Several sources are an array of tables, [[source]], each with options of its own; what stands above them holds for all.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, FileError, one_line
from stream.config import WORDS, ServeConfig, did_you_mean, help_text, join_sources, option_type, wrong_value

_SOURCE = "source"
_INTRODUCTION = (
    "Atomstream: options of `atomstream serve --config FILE`. A flag of the same name overrides a value here."
)
_SEVERAL = (
    "Several sources: [[source]] at the end, once for each, and below it the options that are its own, source_name "
    "among them; what stands above holds for all."
)

Options = Mapping[str, Field[Any]]


def read_configs(path: Path | None, flags: Mapping[str, str | bool | None]) -> tuple[ServeConfig, ...]:
    """One configuration a source: the file's values, then the flags' over them; a flag that is None was not given."""
    options = {option.name: option for option in fields(ServeConfig)}
    common = {} if path is None else _read_toml(path)
    tables = _tables(path, common.pop(_SOURCE, [{}]), options)
    _check_names(path, common, options)
    for name, text in flags.items():
        if text is None:
            continue
        if len(tables) > 1 and not options[name].metadata["shared"]:
            raise ConfigError(
                f"--{name.replace('_', '-')}: expected an option that all {len(tables)} sources of {path} share, "
                "got one of a single source: write it below its [[source]]"
            )
        for values in (common, *(table for table in tables if name in table)):
            values[name] = _parse(options[name], text) if isinstance(text, str) else text
    with _naming(path, [name for name, text in flags.items() if text is not None]):
        return join_sources(
            [_config(number, common | table, len(tables)) for number, table in enumerate(tables, start=1)]
        )


def config_text(configs: Sequence[ServeConfig]) -> str:
    """The configuration as commented TOML; options that are unset are commented out."""
    options = fields(ServeConfig)
    lines = [*_wrapped(_INTRODUCTION), *_wrapped(_SEVERAL)]
    if len(configs) == 1:
        return "\n".join(lines + _lines(configs[0], options)) + "\n"
    lines += _lines(configs[0], [option for option in options if option.metadata["shared"]])
    for config in configs:
        lines += ["", "", f"[[{_SOURCE}]]"]
        lines += _lines(config, [option for option in options if not option.metadata["shared"]])
    return "\n".join(lines) + "\n"


def add_options(parser: argparse.ArgumentParser) -> None:
    """A flag for every option; what is not given stays None."""
    for option in fields(ServeConfig):
        flag, text = f"--{option.name.replace('_', '-')}", help_text(option).replace("%", "%%")
        if option_type(option) is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            default = "" if option.default is None else f" (default: {option.default})"
            parser.add_argument(flag, metavar=option_type(option).__name__.upper(), help=text + default)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{path}: expected a configuration file, got {error.strerror}: check the path") from None
    except ValueError as error:
        raise ConfigError(f"{path}: expected TOML, got {one_line(error)}: correct the line") from None


def _tables(path: Path | None, given: Any, options: Options) -> list[dict[str, Any]]:
    """The options of each source; one without any where the file knows a single source."""
    if not isinstance(given, list) or not given or not all(isinstance(table, dict) for table in given):
        raise ConfigError(f"{path}: expected [[source]] once for each source, got {given!r:.80}: use double brackets")
    for table in given:
        _check_names(path, table, options)
        for name in table:
            if options[name].metadata["shared"]:
                raise ConfigError(
                    f"{path}: expected {name}, which all sources share, above the first [[source]], "
                    "got it below one: move it up"
                )
    return [dict(table) for table in given]


def _check_names(path: Path | None, values: Mapping[str, Any], options: Options) -> None:
    for name in values:
        if name not in options:
            raise ConfigError(f"{path}: expected a known option, got {name!r}: {did_you_mean(name, options)}")


def _config(number: int, values: Mapping[str, Any], sources: int) -> ServeConfig:
    try:
        return ServeConfig(**values)
    except ConfigError as error:
        raise ConfigError(f"[[source]] {number}: {error}" if sources > 1 else str(error)) from None


@contextmanager
def _naming(path: Path | None, flags: Collection[str]) -> Iterator[None]:
    """A wrong value is told with the file, unless it is that of a flag."""
    try:
        yield
    except ConfigError as error:
        option = re.match(r"(?:\[\[source\]\] \d+: )?(\w*)", str(error))
        if path is None or (option is not None and option[1] in flags):
            raise
        raise ConfigError(f"{path}: {error}") from None


def _parse(option: Field[Any], text: str) -> Any:
    """A flag's text as the option's type."""
    kind = option_type(option)
    try:
        return kind(text)
    except ValueError:
        raise wrong_value(option, WORDS[kind], text) from None


def _lines(config: ServeConfig, options: Sequence[Field[Any]]) -> list[str]:
    lines: list[str] = []
    sections = _sections()
    before = ""
    for option in options:
        value, section = getattr(config, option.name), sections[option.name]
        if section != before:
            lines += ["", f"# ---- {section} ----"]
        before = section
        lines += _wrapped(help_text(option))
        lines.append(f"# {option.name} =" if value is None else f"{option.name} = {_toml(value)}")
    return lines


def _sections() -> dict[str, str]:
    """The section of each option."""
    sections: dict[str, str] = {}
    section = ""
    for option in fields(ServeConfig):
        section = option.metadata["section"] or section
        sections[option.name] = section
    return sections


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 116, initial_indent="# ", subsequent_indent="# ")


def _toml(value: Any) -> str:
    # JSON's numbers, booleans and strings are also TOML's.
    return json.dumps(value, ensure_ascii=False)
