"""The page: a subscriber of its own process to the results, a WebSocket to each browser.

One thread, one event loop. The subscriber only ever stores the newest, so no browser can slow it down.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
import zmq
import zmq.asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketDisconnect

from engine.errors import ConfigError
from stream.config import check_port
from stream.messages import decode_result
from stream.viewers import Feeds, Viewer

HELP = "serve the page that shows the live frame with the atoms over it"

KINDS = ("atoms", "preview", "status", "event")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_PAGE = Path(__file__).parent / "page"
_SILENCE_MS = 5000  # a service that runs sends its status every second
_WAITING_MESSAGES = 200
_MAX_PART_BYTES = 64 << 20
_MAX_REQUEST_BYTES = 4096  # a browser has little to say
_MAX_CONNECTIONS = 64
_COMPLAINT_S = 10.0
_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `atomstream overlay`."""
    parser.add_argument("--endpoint", default="tcp://127.0.0.1:5556", help="where the results come from (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve the page at (%(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port of the page, 0 takes a free one (%(default)s)")
    parser.add_argument("--source", metavar="NAME", help="show this source only (all, with a choice)")
    parser.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="also answer to this host name, for example of a proxy; may be repeated",
    )


def run(options: argparse.Namespace) -> int:
    """Serve the page until interrupted."""
    check_endpoint(options.endpoint)
    with listen(options.host, options.port) as listener:
        host, port = listener.getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        print(f"overlay: http://{name}:{port}/ shows the results of {options.endpoint}", flush=True)
        app = build_app(Feeds(options.endpoint, options.source), own_names(options.host, options.allow_host))
        config = uvicorn.Config(
            app,
            lifespan="on",
            ws="websockets-sansio",
            ws_max_size=_MAX_REQUEST_BYTES,
            ws_ping_interval=5.0,
            ws_ping_timeout=10.0,
            ws_per_message_deflate=False,  # noise does not compress
            limit_concurrency=_MAX_CONNECTIONS,
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    return 0


def check_endpoint(endpoint: str) -> None:
    """Raises ConfigError for an address that ZeroMQ cannot connect to."""
    check_port("--endpoint", endpoint)
    with zmq.Context() as context, context.socket(zmq.SUB) as probe:
        try:
            probe.connect(endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(
                f"--endpoint expects an address as tcp://127.0.0.1:5556, got {endpoint!r} ({error}): "
                "give the one that `atomstream serve` publishes at"
            ) from None


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes the browsers' connections. Raises ConfigError where it cannot be had."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port: expected 0 to 65535, got {port}: choose a free port, or 0 for any")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port}: expected an address that is free, got {error}: "
            "choose another port, or 0 for any free one"
        ) from None


def own_names(host: str, allowed: Collection[str]) -> frozenset[str]:
    """Host names under which a browser may reach the page, beside any address in digits."""
    machine = socket.gethostname()
    return frozenset(name.lower() for name in ("localhost", host, machine, f"{machine}.local", *allowed))


def build_app(feeds: Feeds, names: frozenset[str]) -> Starlette:
    """The web application; it subscribes while it runs."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(subscribe(feeds))
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def health(_: Request) -> Response:
        return JSONResponse(
            {"status": "ok", "sources": len(feeds.by_source), "viewers": len(feeds.viewers)}, headers=HEADERS
        )

    async def stream(websocket: WebSocket) -> None:
        if may_read(websocket.headers, names):
            await websocket.accept()
            await converse(websocket, feeds)
        else:
            await websocket.close()  # before accept: the browser gets 403

    return Starlette(
        routes=[
            Route("/healthz", health),
            WebSocketRoute("/stream", stream),
            Mount("/", Page(directory=_PAGE, html=True)),
        ],
        lifespan=lifespan,
    )


class Page(StaticFiles):
    """The files of the page, under headers that let them load nothing from elsewhere."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file, as StaticFiles answers it."""
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def may_read(headers: Mapping[str, str], names: frozenset[str]) -> bool:
    """Whether a WebSocket was opened by our own page, reached under a name that is ours.

    Any web page can open a WebSocket to this machine, so its origin must be this server. A page can also have its
    own name resolve to this machine and pass for the same origin: names nobody gave us are refused.
    """
    host = headers.get("host", "").lower()
    try:
        origin = urlsplit(headers.get("origin", "").lower()).netloc
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return host != "" and origin == host and (name in names or _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def converse(websocket: WebSocket, feeds: Feeds) -> None:
    """Tell one browser what is new and hear what it wants, until it goes."""
    viewer = feeds.join()
    try:
        async with asyncio.TaskGroup() as tasks:
            teller = tasks.create_task(_tell(websocket, viewer))
            await _hear(websocket, viewer)
            teller.cancel()
    except* WebSocketDisconnect:
        pass  # it went while it was told something
    finally:
        feeds.leave(viewer)


async def _tell(websocket: WebSocket, viewer: Viewer) -> None:
    while True:
        await viewer.wake.wait()
        viewer.wake.clear()
        for message in viewer.news(time.monotonic()):
            await (websocket.send_text(message) if isinstance(message, str) else websocket.send_bytes(message))


async def _hear(websocket: WebSocket, viewer: Viewer) -> None:
    while (message := await websocket.receive())["type"] == "websocket.receive":
        viewer.hear(message.get("text") or "")


async def subscribe(feeds: Feeds, clock: Callable[[], float] = time.monotonic) -> None:
    """Feed what the service publishes, for ever; whatever cannot be read is told in the log, at a bounded rate."""
    complained_s = -_COMPLAINT_S
    with zmq.asyncio.Context() as context:
        while True:
            with _subscriber(context, feeds.endpoint) as results:
                # After a message over the limit ZeroMQ never connects again, so silence means a new socket.
                while await results.poll(_SILENCE_MS):
                    parts = await results.recv_multipart()
                    try:
                        feeds.take(decode_result(parts), clock())
                    except Exception as error:
                        if clock() - complained_s >= _COMPLAINT_S:
                            complained_s = clock()
                            _log.warning("expected results of atomstream at %s, got %r", feeds.endpoint, error)


def _subscriber(context: zmq.asyncio.Context, endpoint: str) -> zmq.asyncio.Socket:
    results = context.socket(zmq.SUB)
    results.setsockopt(zmq.LINGER, 0)
    results.setsockopt(zmq.RCVHWM, _WAITING_MESSAGES)
    results.setsockopt(zmq.MAXMSGSIZE, _MAX_PART_BYTES)
    for kind in KINDS:
        results.subscribe(kind)
    results.connect(endpoint)
    return results
