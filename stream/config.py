"""The options of `atomstream serve`: one typed table. What cannot be, or cannot work together, is a ConfigError."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args, get_type_hints

from engine.cores import usable_cores
from engine.errors import ConfigError, FileError, ModelError

_LABEL = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MOST = 1e12
_MOST_WAITING = 1_000_000
_MOST_SIDE_BY_SIDE = 8  # unless told: each holds a copy of the network's buffers
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _option(
    default: Any,
    text: str,
    *,
    section: str = "",
    choices: tuple[str, ...] = (),
    least: float = -_MOST,
    most: float = _MOST,
    shared: bool = False,
) -> Any:
    """A field with what the file's comments, the flags' help and the checks need; `section` opens one in the file.

    A `shared` one holds for all sources of a service.
    """
    metadata = {"help": text, "section": section, "choices": choices, "least": least, "most": most, "shared": shared}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Everything `serve` can be told of one source; what all sources share is alike in each of them."""

    source_name: str = _option(
        "camera", "name of this source in every topic, result and metric: 1 to 64 of A-Z a-z 0-9 _ -", section="Source"
    )

    model: str = _option("graphene", "a shipped model by name, or the path of a model spec .json", section="Model")
    device: str = _option(
        "auto",
        "what computes; auto: the first GPU if it works, else the CPU; cuda:all: frames are dealt round all GPUs",
        choices=("auto", "cpu", "cuda", "cuda:all"),
    )
    backend: str = _option("auto", "what runs the network: openvino on the CPU, tensorrt or torch on a GPU, or auto")
    precision: str = _option("auto", "auto, f32, bf16, f16 or int8; auto takes the fastest that model and device have")
    memory_MB: float = _option(
        4096.0, "of a GPU's memory, roughly, in 10^6 bytes; larger frames run in strips", least=1
    )
    covered: bool = _option(
        False, "report atoms under contamination too, flagged; else results say only how many they are"
    )
    threads: int | None = _option(
        None, "CPU threads of the network; unset: all cores, divided among the sources", least=1, most=1024
    )

    frames_at_once: int | None = _option(
        None,
        "frames in the network side by side, each on its share of the threads; "
        "unset: 1 with policy latest, for the least latency; one a thread, up to 8, with lossless, for the most "
        "frames; on a GPU as many as it has places for, 3",
        least=1,
        most=64,
    )

    input: str = _option("tcp://127.0.0.1:5555", "endpoint that frames come from", section="Frames in")
    input_role: str = _option("connect", "who waits for whom", choices=("connect", "bind"))
    dialect: str = _option(
        "native",
        "how frames are written: native is PSI array-1.0, as EPICS areaDetector (ADZMQ) and our own senders write it; "
        "dectris-v1 and dectris-v2 are the streams of DECTRIS detectors (need socket = pull)",
        choices=("native", "dectris-v1", "dectris-v2"),
    )
    channel: str | None = _option(None, "threshold to take of dectris-v2, like threshold_1; unset: the first")
    socket: str = _option("sub", "sub for a sender's PUB, pull for a sender's PUSH", choices=("sub", "pull"))
    policy: str = _option(
        "latest",
        "latest: the newest frame is processed, older waiting ones are dropped and counted; "
        "lossless: none is dropped, the sender is held back (needs socket = pull)",
        choices=("latest", "lossless"),
    )
    queue_frames: int = _option(8, "frames that may wait with policy lossless", least=1, most=_MOST_WAITING)
    receive_hwm: int = _option(
        16, "messages ZeroMQ may hold on the way in (its high-water mark)", least=1, most=_MOST_WAITING
    )
    max_frame_MB: float = _option(256.0, "a larger frame is dropped, in 10^6 bytes", least=0.001)
    max_frame_pixels: int = _option(67_108_864, "a frame of more pixels is dropped", least=1)
    axis_order: str = _option(
        "auto",
        "order of the header's shape; auto: height first, but width first where htype is a list (ADZMQ up to 1.3)",
        choices=("auto", "height_first", "width_first"),
    )

    triplets: str = _option(
        "series",
        "what makes three frames a triplet: series: they have one value of it; count: every three by their number; "
        "defocus: three values in a row; rolling: the newest three, with every frame; a message of three images is one",
        section="Three images, for models that take a defocus triplet",
        choices=("series", "count", "defocus", "rolling"),
    )
    triplet_timeout: float = _option(5.0, "seconds that a triplet waits for its next member", least=0.01)
    triplet_first: int | None = _option(
        None,
        "by count, the number of any frame that a triplet begins with: of a sender that counts from 1 and was met "
        "halfway it cannot be told; unset: 1 where its first frame is 1, else 0",
        least=0,
    )
    max_drift: float = _option(
        1.0,
        "A that the specimen may move between two members beyond what it moved in the triplet before; "
        "more than half a period of a lattice cannot be told from less; 0: no drift is taken out",
        least=0,
    )

    sampling: float | None = _option(
        None, "A/px, for frames whose header has none", section="What a frame's header may leave out", least=1e-6
    )
    dose: float | None = _option(None, "e/A^2 in a frame; else from the counts where the gain is known", least=0)
    gain: float | None = _option(None, "counts per electron", least=1e-12)
    offset: float | None = _option(None, "counts of a pixel without electrons; not used beside a dark reference")
    frame_interval: float | None = _option(
        None, "seconds from frame to frame, whatever the header says; unset: header, timestamps or arrivals", least=1e-6
    )

    dark_reference: str | None = _option(
        None, ".npy of the frame's shape, subtracted from the counts", section="Detector"
    )
    gain_reference: str | None = _option(None, ".npy of the frame's shape, multiplied after the dark is subtracted")
    saturated_counts: float | None = _option(
        None,
        "pixels of so many counts or more are filled from their neighbours; 0: none; "
        "unset: those at the largest value of a 16-bit or wider integer type",
        least=0,
    )

    output: str = _option(
        "tcp://127.0.0.1:5556", "endpoint that results are published at", section="Results out", shared=True
    )
    send_hwm: int = _option(
        100,
        "results ZeroMQ may hold for a slow subscriber before it loses some",
        least=1,
        most=_MOST_WAITING,
        shared=True,
    )
    preview_rate: float = _option(10.0, "preview pictures a second; 0: none", least=0)
    preview_size: int = _option(512, "longer side of a preview in pixels", least=16, most=65536)
    status_interval: float = _option(1.0, "seconds from status to status", least=0.05)

    record: str | None = _option(
        None, "endpoint for `atomstream record`, like tcp://127.0.0.1:5557; unset: no recording", section="Recording"
    )
    record_frames: bool = _option(False, "record the pixels too, as the sender sent them")
    record_buffer_MB: float = _option(
        256.0, "what may wait for the recorder, in 10^6 bytes; what does not fit is lost and counted", least=0.001
    )
    record_hold: bool = _option(False, "with policy lossless: hold the sender back rather than lose a result")

    metrics_host: str = _option("127.0.0.1", "address of the Prometheus metrics", section="Metrics", shared=True)
    metrics_port: int = _option(9464, "port of the Prometheus metrics; 0: off", least=0, most=65535, shared=True)

    stop_after_seconds: float | None = _option(None, "end by itself after so long", section="End", least=0, shared=True)
    stop_after_frames: int | None = _option(
        None, "end by itself once so many frames of all sources are processed or dropped", least=1, shared=True
    )
    json: bool = _option(
        False, "end with a line of JSON: what was received, processed and dropped, and how fast", shared=True
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            _check(option, getattr(self, option.name))
        if not _LABEL.fullmatch(self.source_name):
            raise ConfigError(f"source_name: expected 1 to 64 of A-Z a-z 0-9 _ -, got {self.source_name!r}: rename it")
        for name in ("input", "output", "record"):
            check_port(name, getattr(self, name) or "")
        if self.input in (self.output, self.record) and not self.input.endswith((":*", ":0")):
            raise ConfigError(
                f"input: expected another endpoint than output and record, got {self.input!r}: change one"
            )
        if self.dialect.startswith("dectris") and self.socket == "sub":
            raise ConfigError(
                f"dialect: expected socket 'pull' with {self.dialect!r}, got 'sub': the detector sends with PUSH, "
                "so set socket = pull"
            )
        if self.policy == "lossless" and self.socket == "sub":
            raise ConfigError(
                "policy: expected socket 'pull' with policy 'lossless', got 'sub': a PUB silently drops frames for a "
                "slow SUB, so send with PUSH and set socket = pull, or choose policy 'latest'"
            )

        if self.record_hold and (self.record is None or self.policy == "latest"):
            raise ConfigError(
                f"record_hold: expected policy 'lossless' and an endpoint as record, got policy {self.policy!r}, "
                f"record {self.record!r}: the newest frame never waits, so set both, or leave record_hold out"
            )

    @property
    def side_by_side(self) -> int:
        """Frames in the network at once."""
        if self.frames_at_once is not None:
            return self.frames_at_once
        return 1 if self.policy == "latest" else min(_MOST_SIDE_BY_SIDE, self.threads or usable_cores())


def check_port(name: str, endpoint: str) -> None:
    """ConfigError for a port that cannot be: ZeroMQ connects to it without a word."""
    port = endpoint.rpartition(":")[2]
    if endpoint.startswith("tcp://") and port != "*" and not (port.isdecimal() and int(port) <= 65535):
        raise ConfigError(f"{name}: expected tcp://HOST:PORT, a port up to 65535, got {endpoint!r}: correct it")


def join_sources(configs: Sequence[ServeConfig]) -> tuple[ServeConfig, ...]:
    """The sources of one service, unset threads shared out; ConfigError where two have what is one source's alone."""
    for name, what in (("source_name", "a name"), ("record", "an endpoint")):
        values = [getattr(config, name) for config in configs]
        for value in values:
            # Of an endpoint that ends in :* the system makes a new one each time.
            if value is not None and not value.endswith(":*") and values.count(value) > 1:
                raise ConfigError(
                    f"{name}: expected {what} of its own for each source, got {value!r} {values.count(value)} times: "
                    f"set another {name} below its [[source]]"
                )
    share = max(1, usable_cores() // len(configs))
    alone = len(configs) == 1
    return tuple(one if alone or one.threads is not None else replace(one, threads=share) for one in configs)


@contextmanager
def telling(config: ServeConfig, sources: int) -> Iterator[None]:
    """What goes wrong with one source of several says which it is."""
    try:
        yield
    except (ConfigError, FileError, ModelError) as error:
        if sources == 1:
            raise
        raise type(error)(f"{config.source_name}: {error}") from None


def did_you_mean(name: str, known: Collection[str]) -> str:
    """The remedy for a name that is not known."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(known)}"


def option_type(option: dataclasses.Field[Any]) -> type:
    """The type of an option without its None."""
    hint = get_type_hints(ServeConfig)[option.name]
    kind: type = (get_args(hint) or (hint,))[0]
    return kind


def help_text(option: dataclasses.Field[Any]) -> str:
    """What an option means, and what it can be."""
    text: str = option.metadata["help"]
    choices: tuple[str, ...] = option.metadata["choices"]
    return f"{text} ({' or '.join(choices)})" if choices else text


def wrong_value(option: dataclasses.Field[Any], expected: str, got: object) -> ConfigError:
    """What is said of a value that an option cannot have."""
    return ConfigError(f"{option.name}: expected {expected}, got {got!r}: correct it ({option.metadata['help']})")


def _check(option: dataclasses.Field[Any], value: Any) -> None:
    kind, choices = option_type(option), option.metadata["choices"]
    least, most = option.metadata["least"], option.metadata["most"]
    if value is None and option.default is None:
        return
    # In Python a bool is an int, and in TOML 1 is no float: the first is a mistake here, the second is meant.
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise wrong_value(option, WORDS[kind], value)
    if choices and value not in choices:
        raise wrong_value(option, " or ".join(choices), value)
    if isinstance(value, int | float) and not least <= value <= most:
        raise wrong_value(option, f"{WORDS[kind]} from {least:g} to {most:g}", value)
