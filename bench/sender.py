"""The sender's process, `python -m bench.sender`: frames out of memory, as fast as they are taken or at a rate."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.sender import Exposure, Sender, Sent, send_frames


def repeat(
    pixels: NDArray[Any],
    header: dict[str, Any],
    count: int,
    pause_s: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Exposure]:
    """The frames over and over; a pause comes before the last, so that it finds an idle receiver."""
    for number in range(count):
        if pause_s and number == count - 1:
            sleep(pause_s)
        yield pixels[number % len(pixels)], header


def main() -> None:
    """Connect, send, say what was sent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("frames", metavar="NPY")
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--socket", choices=("push", "pub"), default="push")
    parser.add_argument("--header", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--pause", type=float, default=0.0, metavar="S", help="before the last frame")
    options = parser.parse_args()
    pixels = np.load(options.frames)
    sent = Sent()
    with Sender(options.endpoint, options.socket, bind=False) as sender:
        sender.wait_for_receiver()
        send_frames(repeat(pixels, options.header, options.count, options.pause), sender, options.rate, sent)
    print(json.dumps({"frames": sent.frames, "seconds": sent.seconds}))


if __name__ == "__main__":
    main()
