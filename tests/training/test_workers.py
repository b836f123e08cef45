"""Where work is done: here, in processes, on a Dask cluster; and what is told when a cluster does not do it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import dask
import distributed
import pytest

from engine import ConfigError, FileError
from training import workers as module
from training.workers import Workers


def squared(number: int) -> tuple[int, int]:
    """And the process that did it."""
    return number**2, os.getpid()


def deadly(number: int) -> None:
    os._exit(1)


def refused(number: int) -> None:
    raise ConfigError(f"Expected another number, got {number}: choose one")


def broken(number: int) -> None:
    raise ValueError("first line\nsecond line")


def held_up(path: Path, number: int, begun: str = "begun") -> int:
    """Waits for a file, and says so with another."""
    path.with_name(f"{number}.{begun}").touch()
    while not path.exists():
        sleep(0.02)
    return number


LOOPBACK = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A scheduler on loopback with a worker in this process."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1", **LOOPBACK
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Workers]:
    """Two processes; a task is given up at the first that it ends."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), Workers(processes=2) as workers:
        yield workers


INTERRUPTED = """
import distributed, functools, pathlib, sys
from tests.training.test_workers import held_up
from training.workers import Workers

folder = pathlib.Path(sys.argv[1])

class Cluster(distributed.LocalCluster):
    def __init__(self, *_, **options):
        (folder / "starting").touch()
        super().__init__(**options)

if __name__ == "__main__":
    distributed.LocalCluster = Cluster
    try:
        with Workers(processes=2) as workers:
            list(workers.each(functools.partial(held_up, folder / "never", begun="working"), [1, 2]))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
"""


class TestHere:
    def test_little_work_is_done_by_this_process(self) -> None:
        with Workers() as workers:
            assert list(workers.each(squared, [3, 1])) == [(3, (9, os.getpid())), (1, (1, os.getpid()))]

    def test_so_is_all_with_one_worker(self) -> None:
        with Workers(processes=1) as workers:
            assert {pid for _, (_, pid) in workers.each(squared, range(100))} == {os.getpid()}

    @pytest.mark.parametrize(
        ("tasks", "device", "expected"),
        [(1, "cpu", 1), (31, "cpu", 1), (32, "cpu", 2), (900, "cpu", 4), (900, "gpu", 1)],
    )
    def test_processes_are_as_many_as_are_worth_it(
        self, monkeypatch: pytest.MonkeyPatch, tasks: int, device: str, expected: int
    ) -> None:
        started = []

        @contextmanager
        def cluster(n_workers: int, **_: object) -> Iterator[str]:
            started.append(n_workers)
            yield "cluster"

        monkeypatch.setattr("training.exit_waves.device", lambda: device)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4))
        monkeypatch.setattr(distributed, "LocalCluster", cluster)
        monkeypatch.setattr(Workers, "_client_of", lambda self, cluster: cluster)
        with Workers() as workers:
            assert workers._connected(tasks) == ("cluster" if expected > 1 else None)
        assert started == [expected] * (expected > 1)

    def test_processes_of_a_cluster_of_its_own(self, own_cluster: Workers) -> None:
        results = dict(own_cluster.each(squared, range(20)))
        again = dict(own_cluster.each(squared, range(3)))
        assert {number: square for number, (square, _) in results.items()} == {n: n**2 for n in range(20)}
        pids = {pid for found in (results, again) for _, pid in found.values()}
        assert os.getpid() not in pids
        assert len(pids) == 2  # the same two both times

    def test_a_specimen_at_which_processes_die_is_one_line(self, own_cluster: Workers) -> None:
        with pytest.raises(FileError, match="this machine: expected the workers to live"):
            list(own_cluster.each(deadly, [1]))

    @pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX")
    def test_ctrl_c_is_one_line_whenever_it_comes(self, tmp_path: Path) -> None:
        for begun in ("starting", "working"):
            process = subprocess.Popen(
                [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            wait_until(lambda begun=begun: any(tmp_path.glob(f"*{begun}")))
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all hear it
            _, said = process.communicate(timeout=60)
            assert said.decode() == "stopped\n"


class TestCluster:
    def test_results_come_back_and_no_more_is_on_the_way_than_is_needed(
        self, cluster: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        submit, sent, at_once = distributed.Client.submit, [], []

        def counted(client: Any, *arguments: Any, **options: Any) -> Any:
            sent.append(arguments[1])
            return submit(client, *arguments, **options)

        monkeypatch.setattr(distributed.Client, "submit", counted)
        with Workers(cluster.scheduler_address) as workers:
            for received, (number, (square, _)) in enumerate(workers.each(squared, range(12))):
                assert square == number**2
                at_once.append(len(sent) - received)
        assert len(at_once) == 12
        assert max(at_once) == 2  # for the one thread of the one worker

    def test_without_work_nothing_is_connected_to(self) -> None:
        with Workers("tcp://127.0.0.1:9") as workers:
            assert list(workers.each(squared, [])) == []

    def test_errors_of_the_user_s_making_come_back_as_they_are(self, cluster: Any) -> None:
        with Workers(cluster.scheduler_address) as workers, pytest.raises(ConfigError, match="Expected another number"):
            list(workers.each(refused, [4]))

    def test_others_are_one_line_that_names_the_cluster(self, cluster: Any) -> None:
        with Workers(cluster.scheduler_address) as workers, pytest.raises(FileError) as raised:
            list(workers.each(broken, [4]))
        said = str(raised.value)
        assert said.startswith(f"{cluster.scheduler_address}: expected an exit wave, got ValueError: first line second")
        assert "\n" not in said

    def test_a_worker_that_leaves_is_replaced_by_another(self, tmp_path: Path) -> None:
        go = tmp_path / "go"
        with scheduler() as (address, worker), Workers(address) as workers:
            first, second = worker(), None
            results = workers.each(partial(held_up, go), [1, 2])
            found: list[tuple[int, int]] = []
            thread = threading.Thread(target=lambda: found.extend(results))
            thread.start()
            wait_until(lambda: any(tmp_path.glob("*.begun")))
            first.kill()
            second = worker()
            go.touch()
            thread.join(60)
            assert second.poll() is None
            assert sorted(found) == [(1, 1), (2, 2)]

    def test_no_worker_there_is_told_after_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "NO_WORKERS_S", 1.0)
        with (
            scheduler() as (address, _),
            Workers(address) as workers,
            pytest.raises(FileError, match=rf"got none for 1 s: start some \(dask worker {address}\)"),
        ):
            list(workers.each(squared, [1]))

    def test_a_scheduler_that_ends_is_told(self, tmp_path: Path) -> None:
        with scheduler() as (address, worker):
            worker()
            with Workers(address) as workers:
                results = workers.each(partial(held_up, tmp_path / "go"), [1, 2])
                threading.Timer(4, end, [worker.scheduler]).start()
                with pytest.raises(FileError, match="expected the scheduler to stay, got no connection any more"):
                    list(results)


class TestMistakes:
    @pytest.mark.parametrize(
        "address",
        [
            *("", "scheduler.json", "127.0.0.1:8786", "http://host:8786", "tls://host:8786", "tcp://127.0.0.1"),
            *("tcp://:8786", "tcp://host:0", "tcp://host:99999", "tcp://a b:1", "tcp://u@h:1", "tcp://host:8786/x"),
        ],
    )
    def test_no_address(self, address: str) -> None:
        with pytest.raises(ConfigError, match=r"--scheduler: expected tcp://HOST:PORT of a Dask scheduler, got '"):
            Workers(address)

    @pytest.mark.parametrize("address", ["tcp://[::1]:8786", "tcp://node-1.example.org:1"])
    def test_addresses(self, address: str) -> None:
        Workers(address)

    @pytest.mark.parametrize("banner", [None, b"", b"SSH-2.0-OpenSSH\r\n" + bytes(64)])
    def test_nothing_there_or_something_else(self, banner: bytes | None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
            if banner is None:
                server.close()
            else:
                threading.Thread(target=answer, args=(server, banner), daemon=True).start()
            begun = monotonic()
            with Workers(address) as workers, pytest.raises(ConfigError) as raised:
                list(workers.each(squared, [1]))
        said = str(raised.value)
        assert said.startswith(f"--scheduler: expected a Dask scheduler, got '{address}' (")
        assert said.endswith("start it (dask scheduler), or check the address")
        assert "\n" not in said
        assert monotonic() - begun < 20

    def test_a_worker_s_address_in_place_of_the_scheduler_s(self, cluster: Any) -> None:
        address = cluster.workers[0].address
        with Workers(address) as workers, pytest.raises(ConfigError, match=r"\(a Worker\)"):
            list(workers.each(squared, [1]))

    def test_processes_that_cannot_be(self) -> None:
        with pytest.raises(ConfigError, match="--workers: expected 1 or more, got 0"):
            Workers(processes=0)
        with pytest.raises(ConfigError, match="--workers: expected one of --workers and --scheduler, got both"):
            Workers("tcp://host:1", 2)


def answer(server: socket.socket, banner: bytes) -> None:
    """As a program that is no scheduler: says its banner, and waits."""
    taken = []
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        taken.append(peer)
        peer.sendall(banner)


@contextmanager
def scheduler() -> Iterator[tuple[str, Any]]:
    """`dask scheduler` of its own on loopback, and what starts a `dask worker` of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    processes = [started("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-show")]

    def worker() -> subprocess.Popen[bytes]:
        processes.append(started("worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"))
        return processes[-1]

    worker.scheduler = processes[0]  # type: ignore[attr-defined]
    try:
        wait_until(lambda: answers(port))
        yield address, worker
    finally:
        for process in processes:
            end(process)


def started(*arguments: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(30)


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


def wait_until(condition: Any, seconds: float = 60) -> None:
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline
        sleep(0.05)
