"""What a browser is told: the newest, once it is ready, and nothing twice."""

import json
import struct

import numpy as np
import pytest

from stream.messages import decode_result
from stream.viewers import Feeds
from tests.synthetic import atoms_message, event_message, preview_message, status_message

PIXELS = np.zeros((2, 2), np.uint8)


def show(feeds, frame, now_s=0.0, source="camera"):
    """A whole picture arrives."""
    feeds.take(decode_result(atoms_message(np.ones((1, 2)), source, frame=frame)), now_s)
    feeds.take(decode_result(preview_message(PIXELS, source, frame=frame)), now_s)


def tell(feeds, parts, now_s=0.0):
    feeds.take(decode_result(parts), now_s)


def read(news):
    """Texts as dicts, pictures as (frame, seconds waited)."""
    out = []
    for message in news:
        if isinstance(message, str):
            out.append(json.loads(message))
        else:
            size, waited_s = struct.unpack_from("<If", message)
            out.append((json.loads(message[8 : 8 + size])["frame"], waited_s))
    return out


def ask(viewer, now_s=0.0):
    """The pictures of an answer to a browser that wants one."""
    viewer.hear('{"want": "picture"}')
    return [message for message in read(viewer.news(now_s)) if isinstance(message, tuple)]


def kinds(news):
    return [message["kind"] if isinstance(message, dict) else "picture" for message in read(news)]


@pytest.fixture
def feeds():
    return Feeds("tcp://127.0.0.1:5556")


@pytest.fixture
def viewer(feeds):
    return feeds.join()


class TestPictures:
    def test_none_comes_unasked(self, feeds, viewer):
        show(feeds, 1)
        assert kinds(viewer.news(0)) == ["hello"]

    def test_a_slow_browser_gets_the_newest_and_only_that(self, feeds, viewer):
        for frame in range(50):
            show(feeds, frame)
        assert ask(viewer) == [(49, 0.0)]
        assert ask(viewer) == []

    def test_one_that_asked_before_gets_it_when_it_comes(self, feeds, viewer):
        assert ask(viewer) == []
        show(feeds, 5)
        assert "picture" in kinds(viewer.news(0))
        show(feeds, 6)
        assert "picture" not in kinds(viewer.news(0))

    def test_how_long_a_picture_lay_here_is_said(self, feeds, viewer):
        show(feeds, 5, now_s=100.0)
        assert ask(viewer, now_s=160.0) == [(5, 60.0)]

    def test_slow_and_quick_browsers_do_not_touch_each_other(self, feeds, viewer):
        quick = feeds.join()
        for frame in range(3):
            show(feeds, frame)
            assert ask(quick) == [(frame, 0.0)]
        assert ask(viewer) == [(2, 0.0)]


class TestReports:
    def test_status_comes_once_and_only_the_newest(self, feeds, viewer):
        for received in range(3):
            tell(feeds, status_message(received=received))
        hello, status = read(viewer.news(2.0))
        assert (hello["sources"], status["kind"], status["received"], status["waited_s"]) == (
            ["camera"],
            "status",
            2,
            2.0,
        )
        assert viewer.news(2.0) == []

    def test_every_event_comes_once_in_order(self, feeds, viewer):
        for number in range(3):
            tell(feeds, event_message("fault", f"number {number}"))
        assert [news["message"] for news in read(viewer.news(0))[1:]] == ["number 0", "number 1", "number 2"]
        tell(feeds, event_message("fault", "number 3"))
        assert [news["message"] for news in read(viewer.news(0))] == ["number 3"]

    def test_a_page_opened_later_sees_the_last_fifty(self, feeds):
        for number in range(80):
            tell(feeds, event_message("fault", str(number)))
        news = read(feeds.join().news(0))[1:]
        assert [event["message"] for event in news] == [str(number) for number in range(30, 80)]

    def test_a_long_message_is_cut(self, feeds, viewer):
        tell(feeds, event_message("fault", "x" * 5000))
        assert len(read(viewer.news(0))[1]["message"]) == 500


class TestSources:
    def test_the_first_is_shown_until_another_is_chosen(self, feeds, viewer):
        show(feeds, 1, source="left")
        show(feeds, 2, source="right")
        assert ask(viewer) == [(1, 0.0)]
        viewer.hear('{"source": "right"}')
        assert read(viewer.news(0))[0] == {
            "kind": "hello",
            "endpoint": "tcp://127.0.0.1:5556",
            "sources": ["left", "right"],
            "source": "right",
        }
        assert ask(viewer) == [(2, 0.0)]

    def test_figures_of_the_chosen_one_come_at_once(self, feeds, viewer):
        tell(feeds, status_message("left"))
        tell(feeds, status_message("right"))
        viewer.news(0)
        viewer.hear('{"source": "right"}')
        assert [news["source"] for news in read(viewer.news(0))] == ["right", "right"]

    def test_only_the_named_source_is_kept(self):
        feeds = Feeds("tcp://127.0.0.1:5556", only="camera")
        show(feeds, 1, source="camera2")
        show(feeds, 2, source="camera")
        assert list(feeds.by_source) == ["camera"]

    def test_ever_new_names_are_not_kept(self, feeds):
        for number in range(100):
            tell(feeds, status_message(f"source{number}"))
        assert len(feeds.by_source) == 16

    @pytest.mark.parametrize(
        "text", ["", "no json", "[]", "3", '{"source": 3}', '{"source": "unknown"}', "[" * 2000, '{"want": "all"}']
    )
    def test_nonsense_of_a_browser_is_ignored(self, feeds, viewer, text):
        show(feeds, 1)
        viewer.hear(text)
        assert kinds(viewer.news(0)) == ["hello"]


def test_a_viewer_is_woken_until_it_leaves(feeds, viewer):
    viewer.wake.clear()
    tell(feeds, atoms_message(np.ones((1, 2))))
    assert not viewer.wake.is_set(), "atoms without their picture are no news"
    tell(feeds, status_message())
    assert viewer.wake.is_set()
    viewer.wake.clear()
    feeds.leave(viewer)
    tell(feeds, status_message())
    assert not viewer.wake.is_set()
