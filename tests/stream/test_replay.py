"""Recorded frames on the wire: which, in what order, and what their headers say."""

from __future__ import annotations

import argparse
import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zmq

from engine.errors import ConfigError, FileError
from stream import replay
from stream.cli import main
from stream.messages import Message, decode
from stream.sender import Sender
from tests.stream.test_formats import write_dm

STACK = np.arange(2 * 3 * 4, dtype=np.uint16).reshape(2, 3, 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", STACK)
    np.save(tmp_path / "b.npy", STACK[0] + 100)
    (tmp_path / "index.csv").write_text("file,sampling_A_per_px\nb.npy,0.3\na.npy,0.2\n")
    return tmp_path


def parse(*arguments: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    replay.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def replayed(count: int, *arguments: object, statuses: list[int] | None = None) -> list[Message]:
    """What a PULL socket gets from `atomstream replay`; into `statuses` its exit status."""
    ended = [] if statuses is None else statuses
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.linger = 0
        socket.rcvtimeo = 20_000
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        options = parse(*arguments, "--socket", "push", "--connect", f"tcp://127.0.0.1:{port}")
        thread = threading.Thread(target=lambda: ended.append(replay.run(options)))
        thread.start()
        messages = [decode(socket.recv_multipart()) for _ in range(count)]
        thread.join()
    return messages


def test_frames_arrive_as_they_were_recorded(folder: Path) -> None:
    messages = replayed(
        3, folder / "a.npy", folder / "b.npy", "--sampling", 0.12, "--rate", 200, "--dose", 900, "--source", "old"
    )
    np.testing.assert_array_equal([message.pixels for message in messages], [*STACK, STACK[0] + 100])
    assert [message.number for message in messages] == [0, 1, 2]
    for message in messages:
        assert (message.sampling_A, message.dose_e_A2, message.frame_interval_s) == (0.12, 900, 0.005)
        assert message.header["source"] == "old"
        assert message.header["exposure"] == 0.005


def test_stamps_go_up(folder: Path) -> None:
    stamps = [message.timestamp_s or 0 for message in replayed(3, "--index", folder / "index.csv", "--rate", 100)]
    assert 0 < stamps[0] < stamps[1] < stamps[2]


def test_as_fast_as_they_are_taken_says_no_interval(folder: Path) -> None:
    message = replayed(1, folder / "b.npy", "--sampling", 0.12, "--rate", 0)[0]
    assert message.frame_interval_s is None


@pytest.mark.parametrize(("flags", "interval_s"), [((), 0.02), (("--rate", 200), 0.005)])
def test_real_time_is_that_of_the_file(
    folder: Path, flags: tuple[object, ...], interval_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    tifffile.imwrite(folder / "a.tif", STACK, imagej=True, metadata={"finterval": 0.02})
    messages = replayed(3, folder / "a.tif", folder / "b.npy", "--sampling", 0.12, *flags)
    assert [message.frame_interval_s for message in messages] == [interval_s, interval_s, interval_s if flags else 0.04]
    assert ("25 to 50 frames/s" in capsys.readouterr().err) == (not flags)


@pytest.mark.parametrize("named", [True, False])
def test_the_index_gives_order_and_pixel_size(folder: Path, named: bool) -> None:
    messages = replayed(3, *([folder] if named else []), "--index", folder / "index.csv", "--rate", 0)
    assert [message.sampling_A for message in messages] == [0.3, 0.2, 0.2]
    assert [int(message.pixels[0, 0]) for message in messages] == [100, 0, 12]


def test_single_files_look_up_their_pixel_size(folder: Path) -> None:
    assert replay.find_recordings([folder / "a.npy"], folder / "index.csv", None) == [(folder / "a.npy", 0.2)]
    assert replay.find_recordings([folder / "a.npy"], folder / "index.csv", 0.5) == [(folder / "a.npy", 0.5)]
    with pytest.raises(FileError, match="expected a file that"):
        replay.find_recordings([folder / "c.npy"], folder / "index.csv", None)


def test_a_loop_starts_a_new_series(folder: Path) -> None:
    looped = replay.exposures([(folder / "a.npy", 0.2)], {}, loop=True)
    assert [header["series"] for _, header in itertools.islice(looped, 5)] == [0, 0, 1, 1, 2]


@pytest.fixture
def damaged(folder: Path) -> Path:
    """Five frames, of which two cannot be uncompressed."""
    path = folder / "damaged.tif"
    noise = np.random.default_rng(1).integers(0, 255, (5, 64, 64), np.uint8)
    tifffile.imwrite(path, noise, photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offsets = [tiff.pages[number].dataoffsets[0] for number in (1, 4)]
    content = bytearray(path.read_bytes())
    for offset in offsets:
        content[offset : offset + 40] = bytes(40)
    path.write_bytes(content)
    return path


def test_what_is_behind_a_damaged_frame_is_sent(
    folder: Path, damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses: list[int] = []
    messages = replayed(4, damaged, folder / "b.npy", "--sampling", 0.12, "--rate", 0, statuses=statuses)
    assert [message.number for message in messages] == [0, 2, 3, 5]
    np.testing.assert_array_equal(messages[3].pixels, STACK[0] + 100)
    assert statuses == [2]
    err = capsys.readouterr().err
    assert err.count("skipped: frame 1 of") == 1
    assert "frame 4 of" not in err
    assert "4 frames sent in" in err
    assert "2 skipped that cannot be read" in err.splitlines()[-1]


def test_a_file_that_went_after_the_start_is_skipped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent = list(replay.exposures([(folder / "absent.npy", 0.2), (folder / "a.npy", 0.2)], {}))
    assert [pixels is None for pixels, _ in sent] == [True, False, False]
    assert "skipped: " in capsys.readouterr().err


def test_a_loop_without_a_frame_that_can_be_read_ends(folder: Path) -> None:
    with pytest.raises(FileError, match="expected frames that can be read, got none"):
        list(replay.exposures([(folder / "absent.npy", 0.2)], {}, loop=True))


def test_mistakes_are_told_before_the_first_frame(folder: Path) -> None:
    np.save(folder / "c.npy", np.array([{}], dtype=object), allow_pickle=True)
    for arguments, match in (
        ((folder / "a.npy", folder / "c.npy", "--sampling", 0.1), "expected numbers, got Python objects"),
        ((folder / "a.npy",), "state it with --sampling"),
        ((folder,), "got a folder"),
        (("--index", folder / "none.csv"), "expected an index"),
    ):
        with pytest.raises(FileError, match=match):
            replay.run(parse(*arguments))
    with pytest.raises(ConfigError, match="Expected files to replay"):
        replay.run(parse())
    with pytest.raises(ConfigError, match="--sampling: expected a number over 0, got -1"):
        replay.run(parse(folder / "a.npy", "--sampling", "-1"))


def test_a_wrong_size_in_the_index_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "index.csv").write_text("file,sampling_A_per_px\na.npy,nan\n")
    assert main(["replay", "--index", str(folder / "index.csv")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("index.csv: expected a pixel size over 0 in row 2, got 'nan': correct it")


def test_a_port_in_use_is_the_only_thing_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Sender("tcp://127.0.0.1:*") as other:
        assert main(["replay", str(folder / "a.npy"), "--sampling", "0.1", "--bind", other.endpoint]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("atomstream: expected an endpoint to bind")


def test_frames_of_vendors_and_their_folders(folder: Path) -> None:
    frames = folder / "Hour_00/Minute_00/Second_00"
    frames.mkdir(parents=True)
    for number in range(2):
        write_dm(frames / f"a_Frame_{number:04}.dm4", STACK[number])
    messages = replayed(2, folder, "--rate", 0)
    np.testing.assert_array_equal([message.pixels for message in messages], STACK)
    assert [message.sampling_A for message in messages] == [pytest.approx(0.125)] * 2
    (message,) = replayed(1, frames / "a_Frame_0000.dm4", "--sampling", 0.3)
    assert message.sampling_A == 0.3


def test_paused_needs_a_terminal(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--paused: expected a terminal"):
        replay.run(parse(folder / "a.npy", "--sampling", 1, "--paused"))
