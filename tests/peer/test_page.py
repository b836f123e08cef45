"""The page in a real browser shows what was sent, and says so when it is no longer alive."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import zmq
from PIL import Image

from tests.peer.browser import Browser, wait_until
from tests.peer.conftest import running_overlay
from tests.synthetic import atoms_message, event_message, preview_message, status_message

pytestmark = [pytest.mark.peer, pytest.mark.timeout(300)]

HOSTILE = "<img src=x onerror=\"document.title='broken'\"><b>"
POSITIONS = np.array([[1.0, 1.0], [4.0, 6.0]])
SHADES = np.array([[10, 60], [120, 240]], np.uint8).repeat(4, axis=0).repeat(4, axis=1)  # 8 x 8, four quarters


class Service:
    """Publishes its `messages` again and again, each round with the next frame number."""

    def __init__(self):
        self.messages = []
        self.frame = 0
        self._stop = threading.Event()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self.endpoint = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def close(self):
        self._stop.set()
        self._thread.join()
        self._socket.close()
        self._context.term()

    def show(self, source="camera", positions=POSITIONS, pixels=SHADES, series="sheet", **changes):
        """Messages of one small frame and its figures."""
        same = {"series": series}
        frame = {"shape": list(pixels.shape), "sampling_A": 0.5, "timestamp": time.time(), **changes}
        return [
            lambda number: atoms_message(positions, source, frame=number, **same, **frame),
            lambda number: preview_message(pixels, source, frame=number, **same, frame_shape=list(pixels.shape)),
            lambda number: status_message(source, received=number),
        ]

    def _loop(self):
        while not self._stop.wait(0.1):
            self.frame += 1
            for build in self.messages:
                self._socket.send_multipart(build(self.frame))


@pytest.fixture(scope="module")
def service():
    service = Service()
    yield service
    service.close()


@pytest.fixture(scope="module")
def browser(chromium):
    with Browser(chromium) as browser:
        yield browser


@pytest.fixture(scope="module")
def address(overlay, service):
    return overlay(service.endpoint)


@pytest.fixture
def page(browser, service, address):
    """The page, live with one small frame."""
    service.messages = service.show()
    return reopened(browser, address)


def reopened(browser, address):
    browser.open(address)
    wait_until(lambda: state(browser) == "live")
    browser.complaints.clear()
    return browser


def state(page):
    return page.value("document.body?.dataset.state")


def pixel(page, y, x):
    """Colour of the canvas where the frame's pixel (y, x) has its centre."""
    return page.value(
        f"""(() => {{
          const canvas = document.getElementById("picture");
          const edge = Math.min(canvas.width, canvas.height);
          const at = (place, size) => Math.round((size - edge) / 2 + (place + 0.5) / 8 * edge);
          const [x, y] = [at({x}, canvas.width), at({y}, canvas.height)];
          return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data];
        }})()"""
    )


class TestWhatIsShown:
    def test_pixels_are_those_of_the_preview(self, page):
        page.key("a")  # atoms off
        wait_until(lambda: pixel(page, 0, 0)[:3] == [10] * 3)
        shown = [[pixel(page, y, x)[0] for x in (0, 3, 4, 7)] for y in (0, 6)]
        assert shown == [[10, 10, 60, 60], [120, 120, 240, 240]]

    def test_rings_are_where_the_atoms_are(self, page):
        radius = 0.5 / 0.5  # A over A/px
        for y, x in POSITIONS:
            for ring_y, ring_x in ((y + radius, x), (y, x - radius)):
                red, _, blue, _ = pixel(page, ring_y, ring_x)
                assert blue > red + 40, "blue, as the first class"
        assert len(set(pixel(page, 6, 1)[:3])) == 1, "grey, as no atom is near"

    def test_figures_are_those_of_the_service(self, page):
        wait_until(lambda: page.text("#latency-p99") == "12.4")
        assert page.text("#atoms-now") == "2"
        assert page.text("#fps") == "25.0 / 24.9"
        assert page.text("#in-time") == "99.7"
        assert page.text("#dose-total") == "1.23 × 10⁷"
        assert page.text("#model") == "graphene 1"
        assert page.text("#dropped") == "superseded3not finite1"
        assert "8 × 8 px · 0.5 Å/px" in page.text("#frame-label")
        assert page.complaints == []

    def test_atoms_of_several_classes_are_counted_apart(self, page, service):
        service.messages = service.show(classes=["Mo", "S", "vacancy_S"])
        wait_until(lambda: page.text("#legend") == "Mo1S1vacancy_S0")
        red, _, blue, _ = pixel(page, POSITIONS[1, 0] + 1, POSITIONS[1, 1])
        assert red > blue + 40, "orange, as the second class"
        page.key("c")
        wait_until(lambda: page.text("#legend") == "score 01")
        page.key("c")
        wait_until(lambda: page.text("#legend") == "Mo1S1vacancy_S0")
        assert page.complaints == []

    def test_what_comes_is_text_whatever_it_says(self, page, service):
        service.messages = [
            *service.show(warnings=[f"warning {HOSTILE}"], series=HOSTILE, classes=[HOSTILE]),
            lambda number: event_message("fault", f"fault {HOSTILE}"),
            lambda number: status_message(model=HOSTILE, backend=HOSTILE, dropped={HOSTILE: 3}, policy=HOSTILE),
        ]
        wait_until(lambda: f"fault {HOSTILE}" in page.text("#messages") and HOSTILE in page.text("#frame-label"))
        wait_until(lambda: HOSTILE in page.text("#model") and HOSTILE in page.text("#legend"))
        assert page.value("document.querySelectorAll('aside img, aside b b, main img').length") == 0
        assert page.value("document.title") == "Atomstream"

    def test_hovering_tells_what_is_known_of_an_atom(self, page):
        wait_until(lambda: page.text("#legend") == "C")  # the frames of the test before may still be shown
        box = page.value("(b => [b.left, b.top, b.width, b.height])(picture.getBoundingClientRect())")
        edge = min(box[2:])
        y, x = POSITIONS[1]
        place = [box[axis] + (box[axis + 2] - edge) / 2 + ((x, y)[axis] + 0.5) / 8 * edge for axis in (0, 1)]
        page.mouse("mouseMoved", *place)
        wait_until(lambda: not page.value("tooltip.hidden"))
        assert page.text("#tooltip").splitlines() == [
            "C   score 0.865   σ 7.0 pm",
            "y 4.00 px   2.000 Å",
            "x 6.00 px   3.000 Å",
        ]


class TestWhatIsTakenAway:
    def test_csv(self, page, address):
        permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
        page.command("Browser.grantPermissions", origin=address.rstrip("/"), permissions=permissions)
        page.key(" ")
        page.key("x")
        wait_until(lambda: "Copied 2 atoms" in page.text("#toast"))
        head, *rows = page.value("navigator.clipboard.readText()").splitlines()
        assert head == "frame,time_s,y,x,class,score,sigma_pm,sampling_A"
        assert [row.split(",")[2:] for row in rows] == [
            ["1.000", "1.000", "C", "0.5500", "6.00", "0.5"],
            ["4.000", "6.000", "C", "0.8650", "7.00", "0.5"],
        ]

    def test_png(self, page, tmp_path):
        page.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        page.key("s")
        wait_until(lambda: list(tmp_path.glob("atomstream_camera_sheet_*.png")))
        with Image.open(next(tmp_path.glob("*.png"))) as image:
            assert image.size == (1536, 1536 + 40)
            assert image.convert("RGB").getpixel((1535, 1535)) == (240, 240, 240)


class TestAlive:
    def test_pause_freezes_the_picture_and_says_so(self, page):
        page.key(" ")
        wait_until(lambda: state(page) == "paused")
        label, received = page.text("#frame-label"), page.text("#counts")
        assert page.text("#notice-text") == "PAUSED"
        wait_until(lambda: page.text("#counts") != received)
        assert page.text("#frame-label") == label, "figures go on, the picture does not"
        page.key(" ")
        wait_until(lambda: state(page) == "live" and page.text("#frame-label") != label)

    def test_silence_is_seen(self, page, service):
        service.messages = []
        wait_until(lambda: state(page) == "stale")
        assert page.text("#notice-text").startswith("No frame for ")
        assert "grayscale" in page.value("getComputedStyle(picture).filter")
        service.messages = service.show()
        wait_until(lambda: state(page) == "live")
        assert page.value("getComputedStyle(picture).filter") == "none"

    def test_an_old_picture_is_not_shown_as_new(self, page, service, address):
        service.messages = []
        wait_until(lambda: state(page) == "stale")
        page.open(address)
        wait_until(lambda: state(page) == "stale" and page.text("#frame-label"))

    def test_a_slow_exposure_is_not_called_stale(self, page, service):
        service.messages = service.show(series="slow", frame_interval_ms=60_000)
        wait_until(lambda: page.text("#frame-label").startswith("series slow"))
        service.messages = []
        time.sleep(3)
        assert state(page) == "live"

    def test_an_overlay_that_ends_is_missed_and_found_again(self, browser, service, address):
        service.messages = service.show()
        with running_overlay(service.endpoint) as other:
            reopened(browser, other)
        wait_until(lambda: state(browser) == "lost")
        assert browser.text("#notice-text") == "Connection lost"
        with running_overlay(service.endpoint, "--port", other.rstrip("/").rsplit(":", 1)[1]):
            wait_until(lambda: state(browser) == "live")


def test_several_sources_can_be_chosen_from(page, service):
    assert page.value("document.getElementById('source-choice').hidden")
    service.messages = [*service.show(), *service.show("second", POSITIONS[:1])]
    wait_until(lambda: not page.value("document.getElementById('source-choice').hidden"))
    page.value(
        "{ const s = document.getElementById('source'); s.value = 'second'; s.dispatchEvent(new Event('change')) }"
    )
    wait_until(lambda: page.text("#atoms-now") == "1")
    assert page.value("document.getElementById('source').value") == "second"
