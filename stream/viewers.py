"""Results in, news for each browser out: the newest picture when it asks for one, figures and events as they come.

Nothing waits for a browser: it is told the newest once it is ready, whatever it missed. The overlay's thread.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from stream.messages import Result
from stream.pictures import Pairing, Picture

_SOURCES_KEPT = 16  # whoever publishes under ever new names gets no more memory than this
_EVENTS_KEPT = 50  # a page opened later still sees the last faults
_MAX_TEXT = 500  # characters of an event's message


@dataclass(frozen=True, slots=True)
class Report:
    """A status or an event: what it says and when it came."""

    content: dict[str, Any]
    received_s: float

    def text(self, now_s: float) -> str:
        """As the browser takes it."""
        return json.dumps(self.content | {"waited_s": now_s - self.received_s})


@dataclass(slots=True)
class Feed:
    """The newest of one source, and how many of each came before it."""

    pairing: Pairing = field(default_factory=Pairing)
    picture: Picture | None = None
    picture_s: float = 0.0
    pictures: int = 0
    status: Report | None = None
    statuses: int = 0
    events: deque[Report] = field(default_factory=lambda: deque(maxlen=_EVENTS_KEPT))
    events_taken: int = 0


class Feeds:
    """What was received of every source, and the viewers to tell."""

    def __init__(self, endpoint: str, only: str | None = None) -> None:
        self.endpoint = endpoint
        self.by_source: dict[str, Feed] = {}
        self._only = only
        self.viewers: set[Viewer] = set()

    def take(self, result: Result, now_s: float) -> None:
        """Keep what is new and wake the viewers. Raises ValueError, KeyError or TypeError for what cannot be shown."""
        source = result.source
        if self._only not in (None, source) or (source not in self.by_source and len(self.by_source) >= _SOURCES_KEPT):
            return
        feed = self.by_source.setdefault(source, Feed())
        if result.kind == "status":
            feed.status = Report(result.header | {"kind": "status"}, now_s)
            feed.statuses += 1
        elif result.kind == "event":
            feed.events.append(Report(_event(result.header), now_s))
            feed.events_taken += 1
        elif (picture := feed.pairing.take(result)) is not None:
            feed.picture, feed.picture_s = picture, now_s
            feed.pictures += 1
        else:
            return
        for viewer in self.viewers:
            viewer.wake.set()

    def join(self) -> Viewer:
        """A new viewer; it is woken until it leaves."""
        viewer = Viewer(self)
        self.viewers.add(viewer)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """No longer wake this viewer."""
        self.viewers.discard(viewer)


class Viewer:
    """One browser: what it asked for and what it has been told."""

    def __init__(self, feeds: Feeds) -> None:
        self.wake = asyncio.Event()
        self.wake.set()
        self._feeds = feeds
        self._source: str | None = None
        self._wants_picture = False
        self._hello: dict[str, Any] = {}
        self._told = Feed()  # only its counts

    def hear(self, text: str) -> None:
        """What the browser says: {"want": "picture"} or {"source": name}. Anything else is ignored."""
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(message, dict):
            return
        if message.get("want") == "picture":
            self._wants_picture = True
        if isinstance(message.get("source"), str) and message["source"] in self._feeds.by_source:
            self._source = message["source"]
        self.wake.set()

    def news(self, now_s: float) -> list[str | bytes]:
        """What this browser does not know yet, ready to send. One picture at most, and only if it asked."""
        by_source = self._feeds.by_source
        source = self._source or next(iter(by_source), None)
        news: list[str | bytes] = []
        hello = {"kind": "hello", "endpoint": self._feeds.endpoint, "sources": list(by_source), "source": source}
        if hello != self._hello:
            if source != self._hello.get("source"):
                self._told = Feed()
            self._hello = hello
            news.append(json.dumps(hello))
        if source is not None:
            news += self._news_of(by_source[source], now_s)
        return news

    def _news_of(self, feed: Feed, now_s: float) -> list[str | bytes]:
        told, news = self._told, list[str | bytes]()
        if feed.status is not None and feed.statuses > told.statuses:
            told.statuses = feed.statuses
            news.append(feed.status.text(now_s))
        fresh = min(feed.events_taken - told.events_taken, len(feed.events))
        told.events_taken = feed.events_taken
        news += [event.text(now_s) for event in list(feed.events)[len(feed.events) - fresh :]]
        if self._wants_picture and feed.picture is not None and feed.pictures > told.pictures:
            self._wants_picture = False
            told.pictures = feed.pictures
            news.append(feed.picture.message(now_s - feed.picture_s))
        return news


def _event(header: dict[str, Any]) -> dict[str, Any]:
    text = {key: str(header.get(key, ""))[:_MAX_TEXT] for key in ("event", "message")}
    return text | {"kind": "event"}
