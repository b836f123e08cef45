"""The options of serve: one table for the file, the flags and the checks."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError, FileError
from stream.config import ServeConfig
from stream.config_file import add_options, config_text, read_configs

OTHER: dict[str, Any] = {str: "other", int: 33, float: 0.5, bool: True}


def write(path: Path, text: str) -> Path:
    file = path / "atomstream.toml"
    file.write_text(text)
    return file


def read_config(path: Path | None, flags: dict[str, Any]) -> ServeConfig:
    (config,) = read_configs(path, flags)
    return config


def refused(path: Path | None = None, **flags: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(path, flags)
    return str(caught.value)


class TestFile:
    def test_the_written_file_reads_back_as_it_was(self, tmp_path: Path) -> None:
        for config in (
            ServeConfig(),
            ServeConfig(source_name="OneView", sampling=0.125, policy="lossless", socket="pull", threads=2, json=True),
            ServeConfig(dark_reference='C:\\dark "1".npy', stop_after_seconds=2.5, preview_rate=0),
        ):
            assert read_config(write(tmp_path, config_text([config])), {}) == config

    def test_it_explains_every_option(self) -> None:
        lines = config_text([ServeConfig()]).splitlines()
        for option in fields(ServeConfig):
            (at,) = [
                number for number, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{option.name} =")
            ]
            assert lines[at - 1].startswith("# ")
        assert "# sampling =" in lines
        assert max(map(len, lines)) <= 120

    def test_a_whole_number_is_a_number(self, tmp_path: Path) -> None:
        assert read_config(write(tmp_path, "sampling = 1\n"), {}).sampling == 1

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("sorce_name = 'x'", "expected a known option, got 'sorce_name': did you mean 'source_name'?"),
            ("zzz = 1", "expected a known option, got 'zzz': choose from source_name, model, "),
            ("[serve]\nmodel = 'x'", "expected a known option, got 'serve'"),
            ("threads = 'two'", "threads: expected a whole number, got 'two': "),
            ("threads = true", "threads: expected a whole number, got True: "),
            ("threads = 2.0", "threads: expected a whole number, got 2.0: "),
            ("threads = 0", "threads: expected a whole number from 1 to 1024, got 0: "),
            ("json = 1", "json: expected true or false, got 1: "),
            ("model = 3", "model: expected text, got 3: "),
            ("sampling = nan", "sampling: expected a number from "),
            ("preview_rate = inf", "preview_rate: expected a number from 0 to "),
            ("metrics_port = 99999", "metrics_port: expected a whole number from 0 to 65535, got 99999: "),
            ("input = 'tcp://127.0.0.1:5556'", "input: expected another endpoint than output and record, got 'tcp"),
            ("policy = 'fast'", "policy: expected latest or lossless, got 'fast': "),
            ("model = ", "expected TOML, got "),
        ],
    )
    def test_mistakes(self, tmp_path: Path, text: str, expected: str) -> None:
        assert expected in refused(write(tmp_path, text))

    @pytest.mark.parametrize("text", ["sampling = 'x'", "policy = 'lossless'", "[[source]]\nthreads = 0"])
    def test_a_wrong_value_is_told_with_its_file_and_a_remedy(self, tmp_path: Path, text: str) -> None:
        said = refused(write(tmp_path, text), dose="5")
        option = text.split("\n")[-1].split()[0]
        assert said.startswith(f"{tmp_path / 'atomstream.toml'}: {option}: expected ")
        assert ": correct it (" in said or "set socket = pull" in said

    def test_a_wrong_value_of_a_flag_is_not_the_file_s(self, tmp_path: Path) -> None:
        assert refused(write(tmp_path, "sampling = 0.1"), sampling="-1").startswith("sampling: expected a number from ")

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="absent.toml: expected a configuration file"):  # noqa: RUF043
            read_config(tmp_path / "absent.toml", {})


class TestFlags:
    def test_every_option_is_a_flag(self) -> None:
        parser = argparse.ArgumentParser()
        add_options(parser)
        nothing = vars(parser.parse_args([]))
        assert nothing == {option.name: None for option in fields(ServeConfig)}
        given = vars(parser.parse_args(["--max-frame-MB", "12.5", "--json", "--threads", "2"]))
        config = read_config(None, given)
        assert (config.max_frame_MB, config.json, config.threads) == (12.5, True, 2)

    def test_help_can_be_shown(self) -> None:
        parser = argparse.ArgumentParser()
        add_options(parser)
        assert "--source-name" in parser.format_help()

    def test_they_override_the_file(self, tmp_path: Path) -> None:
        file = write(tmp_path, "sampling = 0.1\nmodel = 'mine'\njson = true\n")
        config = read_config(file, {"sampling": "0.2", "json": False, "model": None})
        assert (config.sampling, config.model, config.json) == (0.2, "mine", False)

    def test_mistakes(self) -> None:
        assert refused(threads="many").startswith(
            "threads: expected a whole number, got 'many': correct it (CPU threads"
        )
        assert refused(sampling="-1").startswith("sampling: expected a number from 1e-06 to ")
        assert refused(policy="fast").startswith("policy: expected latest or lossless, got 'fast': ")


class TestTogether:
    def test_lossless_needs_pull_and_says_why(self) -> None:
        assert "a PUB silently drops frames for a slow SUB" in refused(policy="lossless")
        assert read_config(None, {"policy": "lossless", "socket": "pull"}).policy == "lossless"

    @pytest.mark.parametrize("dialect", ["dectris-v1", "dectris-v2"])
    def test_detectors_push(self, dialect: str) -> None:
        assert f"dialect: expected socket 'pull' with '{dialect}', got 'sub'" in refused(dialect=dialect)
        assert read_config(None, {"dialect": dialect, "socket": "pull"}).dialect == dialect

    @pytest.mark.parametrize("name", ["", "a/b", "a b", "ä", "x" * 65, "a\n"])
    def test_a_source_name_fits_in_a_topic_and_a_label(self, name: str) -> None:
        assert refused(source_name=name).startswith("source_name: expected 1 to 64 of ")


class TestSources:
    TWO = "output = 'tcp://127.0.0.1:6000'\npolicy = 'lossless'\nsocket = 'pull'\n"
    TWO += "[[source]]\nsource_name = 'left'\nsampling = 0.1\n[[source]]\nsource_name = 'right'\npolicy = 'latest'\n"

    def test_each_has_what_is_above_and_its_own(self, tmp_path: Path) -> None:
        left, right = read_configs(write(tmp_path, self.TWO), {})
        assert (left.source_name, left.policy, left.sampling) == ("left", "lossless", 0.1)
        assert (right.source_name, right.policy, right.sampling) == ("right", "latest", None)
        assert left.output == right.output == "tcp://127.0.0.1:6000"

    def test_the_written_file_reads_back_as_it_was(self, tmp_path: Path) -> None:
        configs = read_configs(write(tmp_path, self.TWO), {})
        assert read_configs(write(tmp_path, config_text(configs)), {}) == configs

    def test_they_share_the_cores_unless_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("stream.config.usable_cores", lambda: 8)
        text = self.TWO + "[[source]]\nsource_name = 'third'\nthreads = 5\n"
        configs = read_configs(write(tmp_path, text), {})
        assert [config.threads for config in configs] == [2, 2, 5]
        assert [config.side_by_side for config in configs] == [2, 1, 5]
        monkeypatch.setattr("stream.config.usable_cores", lambda: 1)
        assert [config.threads for config in read_configs(write(tmp_path, self.TWO), {})] == [1, 1]
        assert read_config(None, {}).threads is None

    def test_flags_for_all_and_for_the_only_one(self, tmp_path: Path) -> None:
        path = write(tmp_path, self.TWO)
        assert [config.json for config in read_configs(path, {"json": True})] == [True, True]
        assert "--policy: expected an option that all 2 sources of" in refused(path, policy="latest")
        one = write(tmp_path, "[[source]]\nsource_name = 'left'\nsampling = 0.1\n")
        assert read_config(one, {"sampling": "0.2", "dose": "5"}).sampling == 0.2

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (
                "[[source]]\n[[source]]",
                "source_name: expected a name of its own for each source, got 'camera' 2 times",
            ),
            ("[[source]]\nsource_name='a'\n[[source]]\nsource_name='a'", "got 'a' 2 times: set another source_name"),
            (
                "record = 'tcp://127.0.0.1:1'\n[[source]]\nsource_name='a'\n[[source]]",
                "record: expected an endpoint of its own for each source, got 'tcp://127.0.0.1:1' 2 times: ",
            ),
            ("[source]\nsource_name = 'a'", "expected [[source]] once for each source, got {'source_name': 'a'}: "),
            ("source = 3", "expected [[source]] once for each source, got 3: "),
            ("source = []", "expected [[source]] once for each source, got []: "),
            ("[[source]]\nmodell = 'x'", "expected a known option, got 'modell': did you mean 'model'?"),
            (
                "[[source]]\nmetrics_port = 1",
                "expected metrics_port, which all sources share, above the first",
            ),
            ("[[source]]\n[[source]]\nsource_name='b'\nthreads = 0", "[[source]] 2: threads: expected a whole number"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, text: str, expected: str) -> None:
        said = refused(write(tmp_path, text))
        assert expected in said
        assert "\n" not in said
