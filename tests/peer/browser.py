"""A headless Chromium with a page in it, driven over the DevTools protocol. A context manager; blocks.

The picture in the documentation, while `atomstream demo` runs:
`python -m tests.peer.browser http://127.0.0.1:8080/ docs/overlay.png`.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image
from websockets.sync.client import connect

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
START_S = 60.0


class Browser:
    """One page. What it logged as an error or was refused by its policy is in `complaints`."""

    def __init__(self, executable: str, size: tuple[int, int] = (1280, 800)) -> None:
        self.complaints: list[str] = []
        self._executable = executable
        self._size = size
        self._sent = 0
        self._stack = ExitStack()

    def __enter__(self) -> Browser:
        profile = Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        command = [self._executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._stack.callback(process.wait, 30)
        self._stack.callback(process.terminate)
        port_file = profile / "DevToolsActivePort"
        wait_until(lambda: port_file.exists() and port_file.read_text().count("\n"), START_S)
        port = port_file.read_text().splitlines()[0]
        self._socket = self._stack.enter_context(connect(_page_address(port), max_size=None, open_timeout=START_S))
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")
        width, height = self._size
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; complaints that come meanwhile are kept."""
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._sent:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return dict(message["result"])
            self._note(message)

    def open(self, url: str) -> None:
        """Load a page."""
        self.command("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; promises are awaited."""
        answer = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """The text of one element as it is shown."""
        return str(self.value(f"document.querySelector({json.dumps(selector)}).textContent"))

    def key(self, key: str) -> None:
        """Press and release a key."""
        self.command("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        self.command("Input.dispatchKeyEvent", type="keyUp", key=key)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A mouse event at a place of the page, for example "mouseMoved"."""
        self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def screenshot(self, path: Path) -> None:
        """The page as PNG."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot")["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")


def wait_until(true: Callable[[], Any], timeout_s: float = 30.0) -> None:
    """Return once it is true; AssertionError when it never was."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def _page_address(port: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=START_S) as answer:
        return str(next(target for target in json.load(answer) if target["type"] == "page")["webSocketDebuggerUrl"])


def take_picture(url: str, path: Path, wait_s: float = 65.0) -> None:
    """The page once its lines hold a minute; few colours keep a picture of noise small."""
    with Browser(shutil.which("chromium") or "chromium") as browser:
        browser.open(url)
        time.sleep(wait_s)
        browser.screenshot(path)
    with Image.open(path) as image:
        few = image.convert("RGB").quantize(44, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


if __name__ == "__main__":
    take_picture(sys.argv[1], Path(sys.argv[2]))
