"""The overlay as a browser and a service meet it: HTTP, WebSocket, ZeroMQ."""

import argparse
import asyncio
import json
import re
import socket
import struct
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import zmq
from starlette.websockets import WebSocketDisconnect

from engine.errors import ConfigError
from stream import overlay
from stream.overlay import build_app, check_endpoint, listen, may_read, own_names, subscribe
from stream.viewers import Feeds
from tests.synthetic import atoms_message, message, preview_message, status_message

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer Starlette would rather have httpx2
    from starlette.testclient import TestClient

PAGE = Path(overlay.__file__).parent / "page"
NAMES = frozenset({"localhost", "testserver"})
ORIGIN = {"origin": "http://testserver"}
PIXELS = np.zeros((2, 2), np.uint8)


@pytest.fixture
def publisher():
    """A PUB socket as the service has it, and its endpoint."""
    with zmq.Context() as context, context.socket(zmq.PUB) as out:
        out.setsockopt(zmq.LINGER, 0)
        out.setsockopt(zmq.SNDTIMEO, 10_000)
        port = out.bind_to_random_port("tcp://127.0.0.1")
        yield out, f"tcp://127.0.0.1:{port}"


@pytest.fixture
def client(publisher):
    """The running application behind a test client."""
    app = build_app(Feeds(publisher[1]), NAMES)
    with TestClient(app) as client:
        yield client


class TestHttp:
    def test_the_page_may_load_nothing_from_elsewhere(self, client):
        answer = client.get("/")
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy.pop("default-src") == policy.pop("base-uri") == policy.pop("form-action") == "'none'"
        assert policy.pop("frame-ancestors") == "'none'"
        assert set(policy.values()) == {"'self'"}
        assert answer.headers["x-content-type-options"] == "nosniff"

    @pytest.mark.parametrize("path", sorted(path.name for path in PAGE.iterdir()))
    def test_every_file_of_the_page_is_served_as_what_it_is(self, client, path):
        answer = client.get(f"/{path}")
        kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
        assert answer.status_code == 200
        assert answer.headers["content-type"].split(";")[0] == kinds[Path(path).suffix]

    @pytest.mark.parametrize("path", ["/../overlay.py", "/%2e%2e/overlay.py", "/nothing", "/a%00b"])
    def test_nothing_else_is_served(self, client, path):
        assert client.get(path).status_code == 404

    def test_health(self, client):
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok", "sources": 0, "viewers": 0})


class TestFilesOfThePage:
    @pytest.mark.parametrize("path", sorted(PAGE.iterdir()), ids=lambda path: path.name)
    def test_no_reference_to_another_host(self, path):
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text, re.IGNORECASE)

    @pytest.mark.parametrize("path", sorted(PAGE.glob("*.js")), ids=lambda path: path.name)
    def test_no_text_becomes_html(self, path):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", path.read_text())

    def test_every_element_that_a_script_asks_for_is_there(self):
        ids = []
        parser = HTMLParser()
        parser.handle_starttag = lambda tag, attributes: ids.extend(value for key, value in attributes if key == "id")
        parser.feed((PAGE / "index.html").read_text())
        scripts = "".join(path.read_text() for path in PAGE.glob("*.js"))
        asked = set(re.findall(r'(?:byId|\bset|new Line)\("([\w-]+)"', scripts))
        assert len(ids) == len(set(ids))
        assert asked
        assert asked <= set(ids)


class TestWebSocket:
    def test_figures_and_pictures_reach_the_browser(self, client, publisher):
        send_until_heard(client, publisher[0])
        with client.websocket_connect("/stream", headers=ORIGIN) as browser:
            hello, status = browser.receive_json(), browser.receive_json()
            assert (hello["source"], status["received"]) == ("camera", 1250)
            browser.send_text('{"want": "picture"}')
            publisher[0].send_multipart(atoms_message(np.ones((5, 2)), frame=8))
            publisher[0].send_multipart(preview_message(PIXELS, frame=8))
            while (picture := browser.receive().get("bytes")) is None:
                pass  # figures that were still on their way
            size, waited_s = struct.unpack_from("<If", picture)
            header = json.loads(picture[8 : 8 + size])
            assert (header["frame"], header["count"]) == (8, 5)
            assert 0 <= waited_s < 60

    @pytest.mark.parametrize("origin", [{}, {"origin": "http://elsewhere.example"}, {"origin": "null"}])
    def test_another_origin_is_refused(self, client, origin):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/stream", headers=origin):
            pass

    def test_bytes_and_nonsense_of_a_browser_do_no_harm(self, client, publisher):
        send_until_heard(client, publisher[0])
        with client.websocket_connect("/stream", headers=ORIGIN) as browser:
            browser.send_bytes(b"\xff\x00")
            browser.send_text("{")
            assert browser.receive_json()["kind"] == "hello"

    def test_a_browser_that_left_is_forgotten(self, client):
        with client.websocket_connect("/stream", headers=ORIGIN) as browser:
            browser.receive_json()
            assert client.get("/healthz").json()["viewers"] == 1
        assert client.get("/healthz").json()["viewers"] == 0


class TestMayRead:
    @pytest.mark.parametrize(
        "host", ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "192.168.1.7", "LOCALHOST:8080", "testserver"]
    )
    def test_our_own_page(self, host):
        assert may_read({"host": host, "origin": f"http://{host}"}, NAMES)
        assert may_read({"host": host, "origin": f"https://{host}"}, NAMES), "behind a proxy with TLS"

    @pytest.mark.parametrize(
        ("host", "origin"),
        [
            ("localhost:8080", "http://localhost:9999"),
            ("localhost:8080", "http://elsewhere.example"),
            ("localhost:8080", "null"),
            ("localhost:8080", ""),
            ("", ""),
            ("elsewhere.example:8080", "http://elsewhere.example:8080"),
            ("[::1", "http://[::1"),
            ("localhost.elsewhere.example", "http://localhost.elsewhere.example"),
        ],
    )
    def test_anything_else(self, host, origin):
        assert not may_read({"host": host, "origin": origin}, NAMES)

    def test_names_of_this_machine_and_those_allowed(self):
        names = own_names("127.0.0.1", ["Scope.example"])
        assert {"localhost", "127.0.0.1", "scope.example", socket.gethostname().lower()} <= names


class TestSubscriber:
    def run(self, publisher, parts_list):
        """Take in all of these, then a status that proves that it goes on."""
        feeds = Feeds(publisher[1])

        async def go():
            task = asyncio.create_task(subscribe(feeds))
            while "after" not in feeds.by_source:
                for parts in [*parts_list, status_message("after")]:
                    publisher[0].send_multipart(parts)
                await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(go())
        return feeds

    @pytest.mark.parametrize(
        "parts",
        [
            [b"atoms"],
            [b"atoms/camera", b"no json"],
            [b"atoms/camera", b"{}"],
            [b"atoms/camera", b'{"htype": "atomstream-atoms-1.0", "columns": 3}'],
            message("atoms", "camera", {"frame": 1, "columns": [{"name": "y", "dtype": "|O"}]}, b"12345678"),
            message("preview", "camera", {"frame": 1, "shape": [1 << 40, 1 << 40]}, b"1"),
            message("preview", "camera", {"frame": 1, "shape": [-1, 4]}, b"1234"),
            message("unknown", "camera", {}),
            [b"status/camera", b"[" * 60_000],
        ],
        ids=range(9),
    )
    def test_malformed_messages_do_not_kill_it(self, publisher, parts, caplog):
        self.run(publisher, [parts])
        assert len(caplog.records) <= 1

    def test_a_picture_that_cannot_be_drawn_is_no_picture(self, publisher):
        feeds = self.run(publisher, [atoms_message(np.ones((1, 2)), sampling_A=-1), preview_message(PIXELS)])
        assert feeds.by_source["camera"].picture is None

    def test_silence_makes_a_new_connection(self, publisher, monkeypatch):
        monkeypatch.setattr(overlay, "_SILENCE_MS", 50)
        connections = []
        plain = overlay._subscriber
        monkeypatch.setattr(overlay, "_subscriber", lambda *given: connections.append(given) or plain(*given))

        async def go():
            task = asyncio.create_task(subscribe(Feeds(publisher[1])))
            while len(connections) < 3:
                await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(go())


class TestOptions:
    def test_loopback_is_the_default(self):
        parser = argparse.ArgumentParser()
        overlay.add_arguments(parser)
        options = parser.parse_args([])
        assert (options.endpoint, options.host, options.port) == ("tcp://127.0.0.1:5556", "127.0.0.1", 8080)

    def test_a_port_in_use(self):
        with listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match=r"free, got .*choose another port"):
            listen("127.0.0.1", taken.getsockname()[1])

    @pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 70_000), ("203.0.113.9", 0)])
    def test_an_address_that_is_not_ours(self, host, port):
        with pytest.raises(ConfigError, match="--port"):
            listen(host, port)

    @pytest.mark.parametrize("endpoint", ["", "5556", "http://127.0.0.1:5556", "tcp://127.0.0.1"])
    def test_an_endpoint_that_is_none(self, endpoint):
        with pytest.raises(ConfigError, match=r"--endpoint:? expect"):
            check_endpoint(endpoint)


def send_until_heard(client, out):
    """Publish figures until the subscription is through and the overlay has a source."""
    while client.get("/healthz").json()["sources"] == 0:
        out.send_multipart(status_message())
