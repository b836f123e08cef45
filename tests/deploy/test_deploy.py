"""Files of the deployment agree with the program: its options, its metrics; and nothing is open to the world."""

import configparser
import json
import re
import shlex
import tomllib
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from stream.cli import parse
from stream.config import ServeConfig
from stream.metrics import Metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
FOREIGN = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text()))


@pytest.fixture(scope="module")
def dashboard():
    return json.loads((DEPLOY / "grafana/dashboards/atomstream.json").read_text())


@pytest.fixture(scope="module")
def labels():
    """Labels of every sample that `serve` exposes, by its name."""
    registry = Metrics("camera", "graphene", "openvino", ("C",), lambda: 0).registry
    found = {}
    for family in registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def check_expression(expression, labels):
    """Every metric in it is one of ours, and so is every label it selects or groups by."""
    names = set(re.findall(r"\b(?:atomstream|process)_\w+|\bup\b", expression))
    assert names, expression
    assert names <= set(labels) | FOREIGN, expression
    used = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", expression))
    for group in re.findall(r"(?:by|ignoring) \(?([\w, ]+)\)", expression):
        used |= set(re.split(r", ?", group))
    assert used <= set().union(*(labels.get(name, set()) for name in names)) | {"job", "instance"}, expression


class TestCompose:
    def test_commands_are_ones_that_atomstream_takes(self, compose):
        ours = {name: service for name, service in compose["services"].items() if "build" in service}
        assert set(ours) == {"serve", "overlay", "camera"}
        for name, service in ours.items():
            assert parse(service["command"]).command == name

    def test_ports_are_published_on_loopback_only(self, compose):
        ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
        assert len(ports) == 4
        assert all(port.startswith("127.0.0.1:") for port in ports)

    def test_files_that_are_mounted_exist(self, compose):
        mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", [])]
        sources = [mount.split(":")[0] for mount in mounts]
        assert any(source.startswith("./") for source in sources)
        for source in sources:
            assert (DEPLOY / source).exists() if source.startswith("./") else source in compose["volumes"]

    def test_parts_find_each_other(self, compose):
        services = compose["services"]
        scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"][0]
        assert scraped["static_configs"][0]["targets"] == [f"serve:{ServeConfig().metrics_port}"]
        source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())
        assert source["datasources"][0]["url"] == "http://prometheus:9090"
        provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/atomstream.yaml").read_text())
        folder = provider["providers"][0]["options"]["path"]
        assert f"./grafana/dashboards:{folder}:ro" in services["grafana"]["volumes"]
        assert parse(services["overlay"]["command"]).endpoint == "tcp://serve:5556"

    def test_our_containers_can_write_nothing_and_gain_nothing(self, compose):
        for service in compose["services"].values():
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]
            assert service.get("read_only", "build" not in service)


class TestImage:
    text = (ROOT / "Dockerfile").read_text()

    def test_what_is_copied_exists_and_is_let_through(self):
        sources = [word for line in re.findall(r"^COPY (?!--from)(.+)", self.text, re.M) for word in line.split()[:-1]]
        let_through = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.M))
        assert set(sources) == let_through
        assert [source for source in sources if not (ROOT / source).exists()] == []

    def test_it_runs_as_nobody_in_particular(self):
        assert re.findall(r"^USER (\d+)", self.text, re.M) == ["10001"]
        assert self.text.index("USER 10001") < self.text.index("ENTRYPOINT")

    def test_default_command_is_one_that_atomstream_takes(self):
        command = json.loads(re.search(r"^CMD (\[.*\])$", self.text, re.M).group(1))
        options = parse(command)
        assert (options.command, options.metrics_host) == ("serve", "0.0.0.0")

    def test_health_check_asks_where_the_metrics_are(self):
        assert f"http://127.0.0.1:{ServeConfig().metrics_port}/metrics" in self.text

    def test_live_use_only_as_pinned(self):
        (extras,) = re.findall(r"^RUN pip install .*--constraint constraints.txt '\.\[(.*)\]'$", self.text, re.M)
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        pinned = (ROOT / "constraints.txt").read_text()
        assert extras.split(",") == ["dectris", "record"]
        for extra in extras.split(","):
            for requirement in project[extra]:
                assert re.search(rf"^{re.split('[<>=!]', requirement)[0]}==", pinned, re.M)


class TestUnits:
    @pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
    def test_command_is_one_that_atomstream_takes(self, path):
        program, *arguments = shlex.split(read_unit(path)["Service"]["ExecStart"])
        assert program == "/opt/atomstream/bin/atomstream"
        assert parse(arguments).command in ("serve", "overlay")

    @pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
    def test_hardened(self, path):
        service = read_unit(path)["Service"]
        assert service["DynamicUser"] == service["NoNewPrivileges"] == service["ProtectHome"] == "yes"
        assert service["ProtectSystem"] == "strict"
        assert service["CapabilityBoundingSet"] == ""


def read_unit(path):
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read(path)
    return unit


class TestDashboard:
    def test_queries_use_metrics_and_labels_that_exist(self, dashboard, labels):
        expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        assert len(expressions) > 15
        for expression in expressions:
            check_expression(expression, labels)

    def test_every_metric_is_shown(self, dashboard, labels):
        text = json.dumps(dashboard)
        ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in labels if name.startswith("atomstream_")}
        assert [name for name in sorted(ours) if name not in text] == []

    def test_panels_do_not_overlap(self, dashboard):
        boxes = [panel["gridPos"] for panel in dashboard["panels"]]
        assert all(box["x"] + box["w"] <= 24 for box in boxes)
        for one, other in combinations(boxes, 2):
            beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert beside or below

    def test_legends_use_labels_that_exist(self, dashboard, labels):
        known = set().union(*labels.values()) | {"instance"}
        legends = [target["legendFormat"] for panel in dashboard["panels"] for target in panel["targets"]]
        assert {name for legend in legends for name in re.findall(r"{{(\w+)}}", legend)} <= known


def test_alerts_use_metrics_and_labels_that_exist(labels):
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) >= 4
    for rule in rules:
        check_expression(rule["expr"], labels)
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("warning", "critical")
