"""Where blocks are worked on: processes of this machine, or the workers of a Dask cluster. Rows as they come.

A cluster's workers need Atomstream installed, and the files under the same names. Dask carries Python objects between
its machines: connect to a cluster that you trust.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from engine.errors import ConfigError, FileError, one_line
from stream.blocks import Block, Job, Rows, analyse_block

_WORKER_S = 30.0  # how long a cluster may be without any
_WAITING = 2  # blocks a worker that are on their way, so that none ever waits for work


def work_here(job: Job, blocks: Sequence[Block], workers: int) -> Iterator[tuple[Block, Rows]]:
    """In so many processes, each with one engine thread. Spawned: a forked one inherits locks of threads it lacks."""
    context = multiprocessing.get_context("spawn")
    left = list(reversed(blocks))
    running: dict[Future[Rows], Block] = {}
    with ProcessPoolExecutor(workers, context, initializer=_follow_parent) as pool:
        try:
            while left or running:
                while left and len(running) < _WAITING * workers:
                    block = left.pop()
                    with _ctrl_c_later():
                        running[pool.submit(analyse_block, job, block)] = block
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            raise FileError(
                "expected the workers to live, got one that was ended, which a lack of memory does: "
                "take fewer --workers and run again; it goes on"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def work_on_cluster(job: Job, blocks: Sequence[Block], scheduler: str) -> Iterator[tuple[Block, Rows]]:
    """On a Dask cluster, by the address of its scheduler."""
    try:
        import distributed as dask
    except ImportError:
        raise ConfigError(
            "--scheduler: expected Dask, got an install without it: pip install 'atomstream[cluster]'"
        ) from None
    distributed: Any = dask  # typed in part
    try:
        client = distributed.Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        cause = one_line(error)[:120]
        raise ConfigError(f"--scheduler: expected a Dask scheduler, got {scheduler!r} ({cause}): start it") from None
    for name in ("distributed", "distributed.client"):  # the second has a level of its own
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a lost connection is told by our own error
    with client:
        _wait_for_worker(client, scheduler)
        at_once = _WAITING * max(1, sum(client.nthreads().values()))
        left = list(reversed(blocks))
        running: dict[Any, Block] = {}

        def submit() -> Any:
            block = left.pop()
            future = client.submit(analyse_block, job, block, pure=False)
            running[future] = block
            return future

        try:
            done = distributed.as_completed([submit() for _ in range(min(at_once, len(left)))])
            for future in done:
                yield running.pop(future), future.result()
                if left:
                    done.add(submit())
        except (CancelledError, distributed.comm.CommClosedError, distributed.KilledWorker) as error:
            raise FileError(
                f"--scheduler: expected the cluster to live, got {scheduler!r} lost ({type(error).__name__}): "
                "start it and run again; it goes on"
            ) from None


def _wait_for_worker(client: Any, scheduler: str) -> None:
    if client.nthreads():
        return
    print(f"waiting for a worker of {scheduler}", file=sys.stderr, flush=True)
    try:
        client.wait_for_workers(1, timeout=_WORKER_S)
    except TimeoutError:
        raise ConfigError(
            f"--scheduler: expected workers at {scheduler}, got none in {_WORKER_S:g} s: "
            f"start one, dask worker {scheduler}"
        ) from None


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Processes that start meanwhile do not hear Ctrl-C, even before they have read what they should do about it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow_parent() -> None:
    """Ctrl-C is the parent's to handle; and a worker whose parent was killed would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)
