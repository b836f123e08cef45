"""The ZeroMQ socket that frames come in by: SUB or PULL, bind or connect. Belongs to the receive thread.

A connection that libzmq cut because a message was over the limit is made again, and said as a fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import zmq
from zmq.utils.monitor import recv_monitor_message

from engine.errors import ConfigError

# A sender that is gone without a word is noticed by TCP itself, in about 4 s. ZeroMQ's heartbeats would be quicker, but
# take a sender that is held back for a dead one, lose its messages, and can abort the process (docs/decisions).
_KEEPALIVE = {zmq.TCP_KEEPALIVE: 1, zmq.TCP_KEEPALIVE_IDLE: 1, zmq.TCP_KEEPALIVE_INTVL: 1, zmq.TCP_KEEPALIVE_CNT: 3}
_SMALLEST_LIMIT = 276  # a lower MAXMSGSIZE breaks the handshake
_GIVEN_UP_S = 1.0  # libzmq announces a new attempt within a tenth of this, or never
_EVENTS = zmq.EVENT_CONNECTED | zmq.EVENT_CONNECT_DELAYED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_DISCONNECTED


class Receiver:
    """A socket that gives the parts of one message at a time.

    Parameters
    ----------
    socket, role : str
        "sub" or "pull"; "connect" or "bind".
    hwm : int
        Messages that may wait inside ZeroMQ.
    max_bytes : int
        A larger part cuts the connection before it is allocated.
    fault : callable
        Told what went wrong with the connection.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        *,
        socket: str,
        role: str,
        hwm: int,
        max_bytes: int,
        fault: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connects = role == "connect"
        self._hwm = hwm
        self._max_bytes = max_bytes
        self._fault = fault
        self._now = now
        self._lost_s: float | None = None
        self._socket = context.socket(zmq.SUB if socket == "sub" else zmq.PULL)
        self._socket.linger = 0
        self._socket.set_hwm(hwm)
        self._socket.setsockopt(zmq.MAXMSGSIZE, max(max_bytes, _SMALLEST_LIMIT))
        for option, value in _KEEPALIVE.items():
            self._socket.setsockopt(option, value)
        if socket == "sub":
            self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._monitor = self._socket.get_monitor_socket(_EVENTS)
        try:
            (self._socket.connect if self._connects else self._socket.bind)(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise endpoint_error("input", endpoint, error) from None
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    def receive(self, timeout_s: float) -> list[memoryview] | None:
        """Parts of the next message; None when none came in time. The parts are ZeroMQ's own memory, not copies."""
        ready = dict(self._poller.poll(int(timeout_s * 1000)))
        if self._monitor in ready:
            self._watch()
        if self._lost_s is not None and self._now() - self._lost_s > _GIVEN_UP_S:
            self._connect_again()
        if self._socket not in ready:
            return None
        return [part.buffer for part in self._socket.recv_multipart(zmq.NOBLOCK, copy=False)]

    def left(self) -> Iterator[list[memoryview]]:
        """What waits inside ZeroMQ at the end: no more than may, since a sender that goes on fills it again."""
        for _ in range(self._hwm):
            if not self._socket.poll(0):
                return
            yield [part.buffer for part in self._socket.recv_multipart(zmq.NOBLOCK, copy=False)]

    def close(self) -> None:
        """Close the socket; what it still holds is lost."""
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _watch(self) -> None:
        """Note a lost connection, and that libzmq itself has begun to make it again."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            lost = event == zmq.EVENT_DISCONNECTED
            self._lost_s = self._now() if lost and self._connects else None
            if lost and not self._connects:
                self._fault(f"A sender left, or sent a part of more than {self._max_bytes} bytes")

    def _connect_again(self) -> None:
        """After a part over the limit libzmq never tries again (4.3.5); after any other loss it does so by itself."""
        self._lost_s = None
        self._fault(
            f"Expected parts of at most {self._max_bytes} bytes, got a larger one, which cut the connection: "
            "raise max_frame_MB; connecting again"
        )
        self._socket.disconnect(self.endpoint)
        self._socket.connect(self.endpoint)


def endpoint_error(option: str, endpoint: str, error: zmq.ZMQError) -> ConfigError:
    """One line for an endpoint that ZeroMQ refused."""
    number = error.errno or 0
    expected, remedy = {
        int(zmq.EADDRINUSE): ("an endpoint that is free", "stop the other program, or choose another port"),
        int(zmq.EINVAL): ("an endpoint", "write it like tcp://127.0.0.1:5555"),
        int(zmq.EPROTONOSUPPORT): ("a tcp:// or ipc:// endpoint", "write it like tcp://127.0.0.1:5555"),
    }.get(number, ("an endpoint of this machine", "choose one of its addresses"))
    return ConfigError(f"{option}: expected {expected}, got {endpoint!r} ({zmq.strerror(number)}): {remedy}")
