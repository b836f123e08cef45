"""Sending: both sockets, both roles, numbers, stamps and pace."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import zmq

from engine.errors import ConfigError, FileError
from stream.messages import Message, decode
from stream.sender import Exposure, Sender, Sent, send_frames

ANY_PORT = "tcp://127.0.0.1:*"


def three_frames() -> Iterator[Exposure]:
    for value in range(3):
        yield np.full((2, 3), value, np.uint16), {"sampling": 0.1}


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


def receive(socket: zmq.Socket[bytes], count: int) -> list[Message]:
    socket.rcvtimeo = 20_000
    return [decode(socket.recv_multipart()) for _ in range(count)]


@pytest.mark.parametrize("kind", ["pub", "push"])
@pytest.mark.parametrize("bind", [True, False])
def test_a_receiver_gets_every_frame_in_order(context: zmq.Context[zmq.Socket[bytes]], kind: str, bind: bool) -> None:
    with context.socket(zmq.SUB if kind == "pub" else zmq.PULL) as socket:
        socket.linger = 0
        if kind == "pub":
            socket.subscribe(b"")
        endpoint = ANY_PORT
        if not bind:
            socket.bind(ANY_PORT)
            endpoint = socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        with Sender(endpoint, kind, bind) as sender:
            if bind:
                socket.connect(sender.endpoint)

            def send() -> None:
                sender.wait_for_receiver()
                send_frames(three_frames(), sender, 0, Sent())

            thread = threading.Thread(target=send)
            thread.start()
            messages = receive(socket, 3)
            thread.join()
    assert [message.number for message in messages] == [0, 1, 2]
    assert [int(message.pixels[0, 0]) for message in messages] == [0, 1, 2]
    assert all(message.sampling_A == 0.1 and message.timestamp_s for message in messages)


class Wire:
    """Stands in for the socket and for time; sending takes `cost_s`."""

    def __init__(self, cost_s: float = 0.0) -> None:
        self.time_s, self.cost_s, self.sent_at, self.slept = 100.0, cost_s, list[float](), list[float]()

    def send(self, parts: list[bytes | memoryview]) -> None:
        self.sent_at.append(round(self.time_s, 6))
        self.time_s += self.cost_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time_s += seconds


def send_through(wire: Wire, rate_Hz: float) -> Sent:
    sent = Sent()
    send_frames(three_frames(), wire, rate_Hz, sent, clock=lambda: wire.time_s, now=lambda: 7.0, sleep=wire.sleep)  # type: ignore[arg-type]
    return sent


def test_frames_leave_at_the_rate() -> None:
    wire = Wire(cost_s=0.01)
    sent = send_through(wire, 10)
    assert wire.sent_at == [100.0, 100.1, 100.2]
    assert str(sent) == "3 frames sent in 0.21 s, 9.5 frames/s"


def test_who_falls_behind_does_not_burst() -> None:
    wire = Wire(cost_s=0.5)
    send_through(wire, 10)
    assert wire.sent_at == [100.0, 100.5, 101.0]
    assert wire.slept == []


def test_rate_zero_does_not_wait() -> None:
    wire = Wire()
    send_through(wire, 0)
    assert wire.sent_at == [100.0] * 3


def test_without_a_rate_the_headers_say_when() -> None:
    wire = Wire()
    pixels = np.zeros((2, 3), np.uint16)
    frames = [(pixels, {"sampling": 0.1, "frame_interval": interval_s}) for interval_s in (0.5, 0.1, 0.1)]
    send_frames(frames, wire, None, Sent(), clock=lambda: wire.time_s, sleep=wire.sleep)  # type: ignore[arg-type]
    assert wire.sent_at == [100.0, 100.5, 100.6]


def test_a_frame_that_cannot_be_read_keeps_its_number_and_its_time() -> None:
    wire, sent, parts = Wire(), Sent(), list[list[bytes | memoryview]]()
    frames = list(three_frames())
    frames[1] = (None, frames[1][1])
    send = wire.send
    wire.send = lambda one: (parts.append(one), send(one))[1]  # type: ignore[method-assign]
    send_frames(frames, wire, 10, sent, clock=lambda: wire.time_s, sleep=wire.sleep)  # type: ignore[arg-type]
    assert [decode(one).number for one in parts] == [0, 2]
    assert wire.sent_at == [100.0, 100.2]
    assert (sent.frames, sent.skipped) == (2, 1)
    assert "2 frames sent in" in str(sent)
    assert str(sent).endswith(", 1 skipped that cannot be read")


def test_as_fast_as_they_are_taken_by_a_slow_subscriber(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """More than all queues and buffers hold: an impatient PUB would lose most."""
    count = 60
    frames = [(np.full((1000, 1000), value, np.uint16), {"sampling": 0.1}) for value in range(count)]
    with context.socket(zmq.SUB) as socket, Sender(ANY_PORT, patient=True) as sender:
        socket.linger, socket.rcvhwm = 0, 1
        socket.subscribe(b"")
        socket.connect(sender.endpoint)

        def send() -> None:
            sender.wait_for_receiver()
            send_frames(frames, sender, 0, Sent())

        thread = threading.Thread(target=send)
        thread.start()
        thread.join(1.0)  # the sender is far ahead of whoever takes nothing
        numbers = [message.number for message in receive(socket, count)]
        thread.join()
    assert numbers == list(range(count))


def test_an_error_does_not_drop_what_is_on_its_way(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Frames so large that the last has not left when the sender ends."""
    frames = [(np.full((2000, 2000), value, np.uint16), {"sampling": 0.1}) for value in range(4)]
    with context.socket(zmq.PULL) as socket:
        socket.linger, socket.rcvhwm = 0, 1
        socket.bind(ANY_PORT)

        def send() -> None:
            with (
                contextlib.suppress(FileError),
                Sender(socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0"), "push", False) as sender,
            ):
                send_frames(frames, sender, 0, Sent())
                raise FileError("the next one is damaged")

        thread = threading.Thread(target=send)
        thread.start()
        messages = receive(socket, 4)
        thread.join()
    assert [message.number for message in messages] == [0, 1, 2, 3]


def test_a_sender_that_was_held_goes_on_at_the_rate() -> None:
    wire, held_s = Wire(), iter([0.0, 5.0, 0.0])

    def hold() -> None:
        wire.time_s += next(held_s)

    send_frames(three_frames(), wire, 10, Sent(), hold=hold, clock=lambda: wire.time_s, sleep=wire.sleep)  # type: ignore[arg-type]
    assert wire.sent_at == [100.0, 105.0, 105.1]


def test_an_endpoint_in_use_is_told() -> None:
    with Sender(ANY_PORT) as first, pytest.raises(ConfigError, match=r"Expected an endpoint.*in use.*choose another"):
        Sender(first.endpoint)


def test_an_endpoint_that_is_none_is_told() -> None:
    with pytest.raises(ConfigError, match="got 'nowhere'"):
        Sender("nowhere", bind=False)
