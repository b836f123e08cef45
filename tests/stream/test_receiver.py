"""The socket that frames come in by: both kinds, both roles, and what happens after a part over the limit."""

from __future__ import annotations

import socket as sockets
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import zmq

from engine.errors import ConfigError
from stream.receiver import Receiver
from tests.stream.fakes import ANY_PORT, PATIENCE_S, wait_until

LIMIT = 1000


class Ticking:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


def receiver(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, faults: list[str] | None = None, **changes: object
) -> Receiver:
    options = {"socket": "pull", "role": "bind", "hwm": 4, "max_bytes": LIMIT} | changes
    return Receiver(context, endpoint, fault=(faults if faults is not None else []).append, **options)  # type: ignore[arg-type]


def take(from_: Receiver) -> list[bytes]:
    """The next message, as bytes."""
    got: list[list[memoryview]] = []

    def came() -> bool:
        parts = from_.receive(0.05)
        if parts is not None:
            got.append(parts)
        return bool(got)

    wait_until(came)
    return [bytes(part) for part in got[0]]


def sender(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    made = context.socket(kind)
    made.linger, made.sndtimeo = 0, round(PATIENCE_S * 1000)
    return made


def bind_once_free(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Bind to an endpoint that another socket is just about to leave."""

    def bound() -> bool:
        try:
            socket.bind(endpoint)
        except zmq.ZMQError:
            return False
        return True

    wait_until(bound)


@pytest.mark.parametrize("role", ["bind", "connect"])
def test_pull(context: zmq.Context[zmq.Socket[bytes]], role: str) -> None:
    with sender(context, zmq.PUSH) as push:
        port = push.bind_to_random_port("tcp://127.0.0.1") if role == "connect" else 0
        with receiver(context, f"tcp://127.0.0.1:{port or '*'}", role=role) as pull:
            if role == "bind":
                push.connect(pull.endpoint)
            push.send_multipart([b"header", b"blob"])
            assert take(pull) == [b"header", b"blob"]
            assert pull.receive(0) is None


def test_sub_hears_every_topic(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with sender(context, zmq.XPUB) as publisher:
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        with receiver(context, f"tcp://127.0.0.1:{port}", socket="sub", role="connect") as sub:
            assert publisher.recv() == b"\1"  # subscribed to all
            publisher.send_multipart([b"{}", b"blob"])
            assert take(sub) == [b"{}", b"blob"]


def test_an_array_outlives_the_message_and_the_socket(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with sender(context, zmq.PUSH) as push:
        with receiver(context, ANY_PORT) as pull:
            push.connect(pull.endpoint)
            push.send_multipart([b"header", bytes(range(200))])
            parts = None
            while parts is None:
                parts = pull.receive(0.05)
            pixels = np.frombuffer(parts[1], np.uint8)
            del parts
        assert pixels.tolist() == list(range(200))


@pytest.mark.parametrize("sent", [0, 3, 6])
def test_what_waits_at_the_end_but_no_more_than_may(context: zmq.Context[zmq.Socket[bytes]], sent: int) -> None:
    with receiver(context, "inproc://frames", hwm=4) as frames, sender(context, zmq.PUSH) as push:
        push.connect("inproc://frames")  # within a process what is sent is there at once
        for number in range(sent):
            push.send_multipart([b"%d" % number, b"pixels"])
        assert [bytes(parts[0]) for parts in frames.left()] == [b"%d" % number for number in range(min(sent, 4))]


def test_it_holds_a_sender_back(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """More than the high-water marks and the network's own buffers hold waits in the sender."""
    with sender(context, zmq.PUSH) as push:
        push.sndhwm = 1
        with receiver(context, ANY_PORT, hwm=1, max_bytes=10_000_000) as pull:
            push.connect(pull.endpoint)
            sent: list[int] = []

            def send() -> None:
                for number in range(40):
                    push.send_multipart([b"%d" % number, bytes(1_000_000)])
                    sent.append(number)

            thread = threading.Thread(target=send)
            thread.start()
            thread.join(0.3)
            assert thread.is_alive()
            assert len(sent) < 40
            assert [take(pull)[0] for _ in range(40)] == [b"%d" % number for number in range(40)]
            thread.join(PATIENCE_S)


def test_a_sender_held_back_for_long_is_not_taken_for_dead(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """With ZeroMQ's heartbeats the connection broke after 1.2 s, and what was on its way was lost."""
    with sender(context, zmq.PUSH) as push:
        push.sndhwm = 1
        port = push.bind_to_random_port("tcp://127.0.0.1")
        with receiver(context, f"tcp://127.0.0.1:{port}", role="connect", hwm=1, max_bytes=10_000_000) as pull:
            thread = threading.Thread(
                target=lambda: [push.send_multipart([b"%d" % number, bytes(1_000_000)]) for number in range(30)]
            )
            thread.start()
            thread.join(2.0)
            assert thread.is_alive()
            assert [take(pull)[0] for _ in range(30)] == [b"%d" % number for number in range(30)]
            thread.join(PATIENCE_S)


class TestOversize:
    def test_a_connecting_receiver_connects_again_and_says_so(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        faults, clock = list[str](), Ticking()
        with sender(context, zmq.PUSH) as push:
            endpoint = f"tcp://127.0.0.1:{push.bind_to_random_port('tcp://127.0.0.1')}"
            with receiver(context, endpoint, faults, role="connect", now=clock) as pull:
                push.send_multipart([b"before", b""])
                assert take(pull) == [b"before", b""]
                push.send_multipart([b"large", bytes(50 * LIMIT)])

                def said() -> bool:
                    clock.now_s += 0.2
                    assert pull.receive(0.01) is None
                    return bool(faults)

                wait_until(said)
                push.send_multipart([b"after", b""])
                assert take(pull) == [b"after", b""]
        assert faults == [
            f"Expected parts of at most {LIMIT} bytes, got a larger one, which cut the connection: "
            "raise max_frame_MB; connecting again"
        ]

    def test_a_bound_receiver_says_so_and_goes_on(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        faults: list[str] = []
        with sender(context, zmq.PUSH) as push, receiver(context, ANY_PORT, faults) as pull:
            push.connect(pull.endpoint)
            push.send_multipart([b"large", bytes(50 * LIMIT)])
            wait_until(lambda: pull.receive(0.01) is None and bool(faults))
            push.send_multipart([b"after", b""])
            assert take(pull) == [b"after", b""]
        assert f"more than {LIMIT} bytes" in faults[0]

    def test_a_sender_that_just_leaves_is_no_fault_to_a_connecting_receiver(
        self, context: zmq.Context[zmq.Socket[bytes]]
    ) -> None:
        faults = list[str]()
        with sockets.create_server(("127.0.0.1", 0)) as reserved:
            port = reserved.getsockname()[1]
        with receiver(context, f"tcp://127.0.0.1:{port}", faults, role="connect") as pull:
            for message in (b"first", b"second"):
                with sender(context, zmq.PUSH) as push:
                    bind_once_free(push, f"tcp://127.0.0.1:{port}")
                    push.send_multipart([message, b""])
                    assert take(pull) == [message, b""]
        assert faults == []


class TestEndpoint:
    def test_in_use(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        with (
            receiver(context, ANY_PORT) as first,
            pytest.raises(
                ConfigError, match=r"input: expected an endpoint that is free, got .* \(Address already in use\)"
            ),
        ):
            receiver(context, first.endpoint)

    @pytest.mark.parametrize("endpoint", ["nonsense", "tcp://127.0.0.1:port", "tcp://no.such.host.invalid:5555"])
    def test_that_is_none(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        with pytest.raises(ConfigError, match="input: expected an endpoint"):
            receiver(context, endpoint)
