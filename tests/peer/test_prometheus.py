"""Prometheus reads a running `atomstream serve`, and takes our rules and every query of the dashboard."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from contextlib import ExitStack, contextmanager
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
import yaml
import zmq

from stream.messages import encode
from tests.deploy.test_deploy import DEPLOY
from tests.peer.browser import wait_until
from tests.peer.conftest import COMMAND, END_S

pytestmark = [pytest.mark.peer, pytest.mark.timeout(300)]

ALERTS_TEST = DEPLOY.parent / "tests/deploy/alerts_test.yml"
PATIENCE_S = 60.0


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextmanager
def process(*command, **options):
    """A program that is asked to end, and does, when the context ends."""
    with subprocess.Popen([str(word) for word in command], **options) as running:
        try:
            yield running
        finally:
            running.terminate()
            running.wait(END_S)


@contextmanager
def sending():
    """A PUB with 20 frames a second; its endpoint."""
    stop = threading.Event()
    with zmq.Context() as context, context.socket(zmq.PUB) as out:
        out.setsockopt(zmq.LINGER, 0)
        port = out.bind_to_random_port("tcp://127.0.0.1")

        def send():
            number = 0
            while not stop.wait(0.05):
                out.send_multipart(encode(np.full((64, 64), 7, np.uint16), frame=number, sampling=0.2, dose=100.0))
                number += 1

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{port}"
        finally:
            stop.set()
            thread.join()


@pytest.fixture(scope="module")
def serve(tiny_model):
    """Port of the metrics of a running `atomstream serve` that frames arrive at."""
    port = free_port()
    with sending() as came_in:
        options = ["--model", tiny_model, "--input", came_in, "--output", "tcp://127.0.0.1:*", "--metrics-port", port]
        with process(COMMAND, "serve", *options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            wait_until(lambda: "frames_processed_total" in read(f"http://127.0.0.1:{port}/metrics"), PATIENCE_S)
            yield port


@pytest.fixture(scope="module")
def server(prometheus, serve, tmp_path_factory):
    """Address of a Prometheus with the deployed configuration, but for where it looks."""
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "500ms", "evaluation_interval": "1s"}
    configuration["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{serve}"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    shutil.copy(DEPLOY / "prometheus/alerts.yml", folder)
    address = f"127.0.0.1:{free_port()}"
    options = [
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
    ]
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("w"))
        stack.enter_context(process(prometheus, *options, stdout=log, stderr=log))
        wait_until(lambda: read(f"http://{address}/-/ready"), PATIENCE_S)
        yield f"http://{address}"


def read(url):
    """The text at this address; empty while nobody answers."""
    try:
        with urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    except OSError:  # not listening yet, or too busy to answer in time
        return ""


def query(server, expression):
    """The series that answer a query."""
    answer = json.loads(read(f"{server}/api/v1/query?{urlencode({'query': expression})}") or "{}")
    assert answer.get("status") == "success", expression
    return answer["data"]["result"]


def test_what_serve_processed_can_be_asked_for(server):
    expression = 'atomstream_frames_processed_total{source="camera"}'
    wait_until(lambda: any(float(series["value"][1]) > 10 for series in query(server, expression)), PATIENCE_S)
    wait_until(lambda: query(server, f"rate({expression}[1m]) > 0"), PATIENCE_S)
    assert query(server, 'atomstream_frames_dropped_total{reason="not_json"}')[0]["value"][1] == "0"


def test_every_query_of_the_dashboard_is_one(server):
    dashboard = json.loads((DEPLOY / "grafana/dashboards/atomstream.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            query(server, target["expr"].replace("$source", ".*").replace("$__rate_interval", "1m"))


def test_the_alerts_are_loaded(server):
    groups = json.loads(read(f"{server}/api/v1/rules"))["data"]["groups"]
    assert "AtomstreamDeadlineMissed" in [rule["name"] for group in groups for rule in group["rules"]]


def test_the_format_of_the_metrics(promtool, serve):
    text = read(f"http://127.0.0.1:{serve}/metrics")
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@pytest.mark.parametrize("command", [["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]])
def test_configuration_and_rules(promtool, tmp_path, command):
    for path in (*(DEPLOY / "prometheus").iterdir(), ALERTS_TEST):
        shutil.copy(path, tmp_path)
    checked = subprocess.run([promtool, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
