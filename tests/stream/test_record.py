"""The command `record` beside a running service: as a user runs it, killed, and with nowhere left to write."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from stream.archived import Archived
from stream.cli import main
from stream.superblock import release
from tests.stream.fakes import ANY_PORT, PATIENCE_S, Bench, bench, wait_until

ROOT = Path(__file__).parents[2]
LAST_SECOND = 1.0


@contextmanager
def service(**options: object) -> Iterator[Bench]:
    with bench(policy="lossless", preview_rate=0, record=ANY_PORT, **options) as peers:
        yield peers


@contextmanager
def recorder(peers: Bench, path: Path, *flags: str, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, connected; killed at the end if it still runs."""
    code = f"import sys; {before}from stream.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "record", "--endpoint", str(peers.source.record_endpoint)]
    command += ["--output", str(path), "--reserve-MB", "1", "--json", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            wait_until(lambda: process.poll() is not None or recording(peers)["connected"])
            yield process
        finally:
            process.kill()


def recording(peers: Bench) -> dict[str, object]:
    status: dict[str, object] = peers.source._outlet.figures(time.perf_counter())["recording"]
    return status


def send(peers: Bench, numbers: range, every_s: float = 0.0) -> None:
    for number in numbers:
        peers.send(number, np.full((8, 8), number % 251, np.uint8), dose=1.5)
        time.sleep(every_s)


def numbers(path: Path) -> list[int]:
    with Archived(path) as archived:
        return [frame.row["record"] for frame in archived]


def test_everything_until_the_service_ends(tmp_path: Path) -> None:
    with service(record_frames=True) as peers, recorder(peers, tmp_path / "a.h5") as process:
        send(peers, range(1, 41))
        peers.until_settled(40)
        peers.stop()
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert "40 atoms in 40 frames" in err
    assert "gaps none · serve has ended" in err
    assert json.loads(out) == {
        "output": str(tmp_path / "a.h5"), "frames": 40, "atoms": 40, "gaps": {}, "images_left_out": 0
    }  # fmt: skip
    with Archived(tmp_path / "a.h5") as archived:
        assert archived.complete
        for number, frame in enumerate(archived, start=1):
            assert (frame.row["frame"], frame.atoms.x.tolist(), frame.row["dose_e_A2"]) == (number, [number % 251], 1.5)
            image = archived.image(frame)
            assert image is not None
            assert image.tolist() == np.full((8, 8), number % 251).tolist()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_it_closes_the_file(tmp_path: Path, number: int) -> None:
    with service() as peers, recorder(peers, tmp_path / "a.h5") as process:
        send(peers, range(1, 6))
        wait_until(lambda: recording(peers)["written"] == 5)
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert "5 atoms in 5 frames" in err
    with Archived(tmp_path / "a.h5") as archived:
        assert archived.complete


def kill_at_random(path: Path, seed: int) -> None:
    """Kill a recorder at any moment: what the service took for written is there, and all but the last second."""
    with service() as peers:
        stop = threading.Event()

        def feed() -> None:
            number = 0
            while not stop.wait(0.005):
                peers.send(number := number + 1)

        thread = threading.Thread(target=feed)
        with recorder(peers, path) as process:
            thread.start()
            wait_until(path.exists)
            time.sleep(random.Random(seed).uniform(0.0, 1.5))
            written = recording(peers)["written"]
            process.kill()
            process.wait(PATIENCE_S)
            killed = time.time()
        stop.set()
        thread.join(PATIENCE_S)
        with Archived(path) as archived:
            frames = list(archived)
            assert archived.gaps() == []
        found = [frame.row["record"] for frame in frames]
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= int(str(written))
        # What was answered more than a second before is there: the next one after what is there came later.
        with recorder(peers, path.with_suffix(".next.h5")):
            wait_until(path.with_suffix(".next.h5").exists)
            wait_until(lambda: recording(peers)["waiting"] == 0)
        with Archived(path.with_suffix(".next.h5")) as archived:
            following = [frame.row for frame in archived if frame.row["record"] > len(found)]
        assert following[0]["record"] == len(found) + 1
        assert following[0]["answered"] > killed - LAST_SECOND
        assert release(path)


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random(tmp_path: Path, seed: int) -> None:
    kill_at_random(tmp_path / "a.h5", seed)


@pytest.mark.peer
@pytest.mark.timeout(900)
def test_killed_at_random_fifty_times(tmp_path: Path) -> None:
    for seed in range(100, 150):
        kill_at_random(tmp_path / f"{seed}.h5", seed)


def test_a_disk_with_too_little_room(tmp_path: Path) -> None:
    """All results are lost, counted and told; the service answers every frame."""
    with service() as peers, recorder(peers, tmp_path / "a.h5", "--reserve-MB", "900000000") as process:
        send(peers, range(1, 21))
        fault = peers.next("event").header
        while fault["event"] != "fault":
            fault = peers.next("event").header
        assert fault["reason"] == "record"
        assert "free some, or record elsewhere" in fault["message"]
        wait_until(lambda: recording(peers)["gaps"] == {"disk_full": 20})
        assert peers.until_settled(20) == {}
        peers.stop()
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert json.loads(out)["gaps"] == {"disk_full": 20}
    with Archived(tmp_path / "a.h5") as archived:
        assert [(gap.first, gap.count, gap.reason) for gap in archived.gaps()] == [(1, 20, "disk_full")]


def test_a_write_that_fails(tmp_path: Path) -> None:
    """The limit of a file's size stands in for a disk that another program filled: the recorder says so and ends."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); "
    with service() as peers:
        with recorder(peers, tmp_path / "a.h5", "--compression", "none", before=limit) as process:
            number = 0
            while process.poll() is None:
                peers.send(number := number + 1)
                time.sleep(0.002)
            out, err = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 2
            assert "expected room for the recording, got File too large: free some" in err.splitlines()[-1]
            assert out == ""
        messages: list[str] = []
        while not any("File too large" in message for message in messages):
            messages.append(peers.next("event").header["message"])
        peers.send(number + 1)
        assert peers.until_settled(number + 1) == {}
        written = int(str(recording(peers)["written"]))
        with recorder(peers, tmp_path / "b.h5"):  # another one goes on where it failed
            wait_until(lambda: recording(peers)["waiting"] == 0)
    found = numbers(tmp_path / "a.h5")
    assert found[:written] == list(range(1, written + 1))
    assert numbers(tmp_path / "b.h5") == list(range(written + 1, number + 2))


def test_it_waits_for_a_service_that_comes_later(tmp_path: Path) -> None:
    with service() as first:
        endpoint = str(first.source.record_endpoint)
    code = "import sys; from stream.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "record", "--endpoint", endpoint, "--output", str(tmp_path / "a.h5")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"waiting for serve, started with --record {endpoint}\n"
        with bench(policy="lossless", record=endpoint) as peers:
            send(peers, range(1, 4))
            wait_until(lambda: recording(peers)["written"] == 3)
            peers.stop()
            process.communicate(timeout=PATIENCE_S)
    assert numbers(tmp_path / "a.h5") == [1, 2, 3]


def test_stopped_before_a_service_came(tmp_path: Path) -> None:
    code = "import sys; from stream.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "record", "--endpoint", "tcp://127.0.0.1:9", "--json"]
    command += ["--output", str(tmp_path / "a.h5")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert err == "nothing was recorded: no serve answered at tcp://127.0.0.1:9\n"
    assert json.loads(out)["output"] is None
    assert not (tmp_path / "a.h5").exists()


class TestMistakes:
    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            ([], "--output: expected the name of a new file, got none"),
            (["--output", "a.csv"], "a.csv: expected a name in .h5, .hdf5, .hdf, .nxs, got '.csv': rename it"),
            (["--output", "absent/a.h5"], "expected a folder to record to"),
            (["--output", "a.h5", "--reserve-MB", "-1"], "--reserve-MB: expected a number from 0 to 10^9, got -1"),
            (["--output", "a.h5", "--max-message-MB", "nan"], "--max-message-MB: expected a number from 0 to 10^9"),
            (["--output", "a.h5", "--endpoint", "nowhere"], "endpoint: expected an endpoint, got 'nowhere'"),
            (["--output", "a.h5", "--compression", "zip"], "argument --compression: invalid choice: 'zip'"),
            (["--repair", "absent.h5"], "absent.h5: expected a recording, got No such file"),
        ],
    )
    def test_one_line(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        flags: list[str],
        expected: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["record", *flags]) == 2
        err = capsys.readouterr().err
        assert expected in err
        assert err.count("\n") == 1

    def test_a_file_that_is_there_is_kept(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "a.h5").write_text("mine")
        assert main(["record", "--output", str(tmp_path / "a.h5")]) == 2
        assert "expected a new file to record to" in capsys.readouterr().err
        assert (tmp_path / "a.h5").read_text() == "mine"
