"""Where exit waves are computed: in this process, in several of this machine, or by the workers of a Dask cluster.

Dask carries Python objects between its machines: connect to a cluster that you trust. Only this process writes.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from multiprocessing import resource_tracker
from time import monotonic
from typing import Any, Self, TypeVar

from engine import AtomstreamError, ConfigError, FileError
from engine.cores import usable_cores
from engine.errors import one_line

T = TypeVar("T")

_WAITING = 2  # tasks a thread that are on their way, so that none ever waits for work
_WORTH = 16  # tasks a process: for fewer, starting it and importing abTEM takes longer than it saves
_ANSWER_S, _LOOK_S = 5.0, 2.0  # a scheduler's first answer; between two looks whether there are workers
NO_WORKERS_S = 60.0


class _UnreachableError(Exception):
    """The scheduler does not answer any more."""


class Workers:
    """A context manager that starts or connects to what it needs once there is work.

    Parameters
    ----------
    scheduler : str or None
        tcp://HOST:PORT of a Dask cluster; without it one of this machine.
    processes : int or None
        Of this machine, 1 for this one alone; without it one a core, or a single one for little work or on a GPU.
    """

    def __init__(self, scheduler: str | None = None, processes: int | None = None) -> None:
        if scheduler is not None:
            _check_address(scheduler)
        if processes is not None and processes < 1:
            raise ConfigError(f"--workers: expected 1 or more, got {processes}: leave it out for one a core")
        if scheduler is not None and processes is not None:
            raise ConfigError("--workers: expected one of --workers and --scheduler, got both: leave one out")
        self._scheduler, self._processes = scheduler, processes
        self._client: Any = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def each(self, compute: Callable[[int], T], numbers: Sequence[int]) -> Iterator[tuple[int, T]]:
        """Number and result as they come; FileError where workers die or leave, then what came before is not lost.

        Connects at once: ConfigError where no scheduler answers.
        """
        if numbers and self._client is None:
            self._client = self._connected(len(numbers))
        if self._client is None:
            return ((number, compute(number)) for number in numbers)
        return self._dealt(compute, numbers)

    def _connected(self, tasks: int) -> Any:
        """A client of the cluster, or None where this process does the work."""
        if self._scheduler is not None:
            _check_scheduler(self._scheduler)
            return self._client_of(self._scheduler)
        processes = self._processes or min(_most_processes(), max(1, tasks // _WORTH))
        if processes == 1:
            return None
        import distributed

        with _ctrl_c_later():
            cluster = self._open.enter_context(
                distributed.LocalCluster(
                    n_workers=processes,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    # Not None: that takes port 8787 of every address for all that is not the dashboard.
                    dashboard_address="127.0.0.1:0",
                    worker_dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,  # what went wrong is told here, in one line
                )
            )
            return self._client_of(cluster)

    def _client_of(self, cluster: Any) -> Any:
        import distributed

        for name in ("distributed", "distributed.client"):  # the second has a level of its own
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what went wrong is told here, in one line
        return self._open.enter_context(closing(distributed.Client(cluster, timeout=_ANSWER_S)))

    def _dealt(self, compute: Callable[[int], T], numbers: Sequence[int]) -> Iterator[tuple[int, T]]:
        """Through Dask, which gives the task of a worker that died to another one, three times."""
        from distributed import CancelledError, wait
        from distributed.comm import CommClosedError

        left, running, seen = list(reversed(numbers)), {}, monotonic()
        try:
            while left or running:
                threads = self._threads()
                seen = monotonic() if threads else seen
                if monotonic() - seen > NO_WORKERS_S:
                    raise self._left_alone()
                while left and len(running) < _WAITING * max(1, threads):
                    number = left.pop()
                    running[self._client.submit(compute, number, pure=False)] = number
                try:
                    done = wait(list(running), timeout=_LOOK_S, return_when="FIRST_COMPLETED").done
                except TimeoutError:
                    continue
                for future in done:
                    yield running.pop(future), self._result(future)
        except (CancelledError, _UnreachableError, CommClosedError):
            raise FileError(
                f"{self._place}: expected the scheduler to stay, got no connection any more: start it, and run again; "
                "it goes on"
            ) from None

    def _threads(self) -> int:
        try:
            return sum(self._client.nthreads().values())
        except OSError as error:
            raise _UnreachableError from error

    def _result(self, future: Any) -> Any:
        from distributed import CancelledError, KilledWorker
        from distributed.comm import CommClosedError

        try:
            return future.result()
        except (AtomstreamError, CancelledError, CommClosedError):
            raise
        except KilledWorker:
            raise FileError(
                f"{self._place}: expected the workers to live, got a specimen at which several were ended, which a "
                "lack of memory does: take fewer at once, and run again; it goes on"
            ) from None
        except Exception as error:
            if self._scheduler is None:
                raise
            cause = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            raise FileError(
                f"{self._place}: expected an exit wave, got {cause}: install this atomstream[training] there, on the "
                "scheduler and every worker, and run again; it goes on"
            ) from None

    def _left_alone(self) -> FileError:
        return FileError(
            f"{self._place}: expected workers, got none for {NO_WORKERS_S:g} s: start some "
            f"(dask worker {self._scheduler or ''}), and run again; it goes on"
        )

    @property
    def _place(self) -> str:
        return self._scheduler or "this machine"


def _most_processes() -> int:
    """One a core; a GPU is one process's."""
    from training.exit_waves import device

    if device() == "gpu":
        return 1
    return usable_cores()


def _check_address(scheduler: str) -> None:
    match = re.fullmatch(r"tcp://(?:[^\s:/@\[\]]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})", scheduler)
    if match is None or not 0 < int(match[1]) < 65536:
        raise ConfigError(
            f"--scheduler: expected tcp://HOST:PORT of a Dask scheduler, got {scheduler!r}: it prints its address"
        )


def _check_scheduler(scheduler: str) -> None:
    """ConfigError in seconds where none answers: Dask's own client waits for ever for a port that says nothing."""
    try:
        kind = asyncio.run(asyncio.wait_for(_identity(scheduler), _ANSWER_S + 1)).get("type")
        cause = f"a {kind}"
    except Exception as error:  # of what a port may say that is no scheduler's, Dask makes all kinds, MemoryError too
        kind, cause = None, one_line(error)[:100] or "no answer"
    if kind != "Scheduler":
        raise ConfigError(
            f"--scheduler: expected a Dask scheduler, got {scheduler!r} ({cause}): start it (dask scheduler), or check "
            "the address"
        )


async def _identity(scheduler: str) -> dict[str, Any]:
    from distributed.comm import connect

    comm = await connect(scheduler, timeout=_ANSWER_S)
    try:
        await comm.write({"op": "identity", "reply": True})
        return dict(await comm.read())
    finally:
        comm.abort()


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Ctrl-C meanwhile comes after; what starts meanwhile never hears it: it is for this process to end it."""
    heard: list[int] = []
    resource_tracker.ensure_running()  # else it starts meanwhile, and unblocks the signal for all that start later
    handler = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        with _blocked() if hasattr(signal, "pthread_sigmask") else nullcontext():  # not on Windows
            yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if heard:
        raise KeyboardInterrupt


@contextmanager
def _blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
