"""Files that other software writes, on the wire: whole, once, in order, and counted where they cannot be."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zmq
from numpy.typing import NDArray

from engine.errors import FileError
from stream import follow
from stream.cli import parse
from stream.folder import Folder
from stream.follow import Follower
from stream.messages import decode
from stream.sender import Exposure
from tests.stream.test_files import write_mrc
from tests.stream.test_formats import WRITERS, write_dm
from tests.stream.test_hdf5 import write_dectris

STACK = np.arange(4 * 4 * 5, dtype=np.uint16).reshape(4, 4, 5)


class Watched:
    """A follower whose time passes in no time; `meanwhile` is called in its pauses."""

    def __init__(self, root: Path, sampling_A: float | None = 0.1, everything: bool = False) -> None:
        self.root, self.time_s = root, 0.0
        self.meanwhile: Callable[[], None] = lambda: None
        folder = Folder(root, 0.2, 10.0, everything, lambda: self.time_s)
        self.follower = Follower(folder, sampling_A, {"source": "test"}, self.sleep, lambda: self.time_s)
        self._frames: Iterator[Exposure] = iter(())

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds
        self.meanwhile()
        if self.time_s >= self.until_s:
            raise TimeoutError

    def frames(self, seconds: float = 1.0, after: Callable[[int], None] = lambda count: None) -> list[Exposure]:
        """What it sends within so many seconds; `after` is called with their number after each frame."""
        self.until_s, sent = self.time_s + seconds, []
        with contextlib.suppress(TimeoutError):
            for exposure in self.follower:
                sent.append(exposure)
                after(len(sent))
        return sent

    def values(self, seconds: float = 1.0) -> list[int]:
        """The first pixel of each."""
        return [int(pixels[0, 0]) for pixels, _ in self.frames(seconds)]

    def write(self, name: str, *values: int, at_s: float | None = None) -> Path:
        """A .npy of constant frames."""
        path = self.root / name
        np.save(path, np.stack([np.full((4, 5), value, np.uint16) for value in values]))
        if at_s is not None:
            os.utime(path, (1e9 + at_s, 1e9 + at_s))
        return path


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def half(path: Path) -> bytes:
    """Leave half of a file; gives the whole."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return whole


def write_any(path: Path, pixels: NDArray[np.uint16]) -> None:
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="minisblack")
    else:
        {".npy": np.save, ".mrc": write_mrc, **WRITERS}[path.suffix](path, pixels)


class TestWhatIsSent:
    def test_new_files_in_order_with_what_is_known_of_them(self, watched: Watched) -> None:
        assert watched.frames() == []
        watched.write("b.npy", 1, 2, at_s=1)
        watched.write("a.npy", 3, at_s=2)
        frames = watched.frames()
        assert [int(pixels[0, 0]) for pixels, _ in frames] == [1, 2, 3]
        assert [header["file"] for _, header in frames] == ["b.npy", "b.npy", "a.npy"]
        assert [header["image"] for _, header in frames] == [0, 1, 0]
        assert {(header["sampling"], header["source"]) for _, header in frames} == {(0.1, "test")}
        assert str(watched.follower) == "2 files sent, skipped: none"

    @pytest.mark.parametrize("suffix", [".npy", ".tif", ".mrc", ".dm3", ".dm4", ".ser", ".emd", ".h5"])
    def test_every_kind_and_only_once_it_is_whole(self, watched: Watched, suffix: str) -> None:
        path = watched.root / f"a{suffix}"
        write_any(path, np.tile(STACK, (1, 8, 8)))
        whole = half(path)
        assert watched.frames(2) == []
        assert not watched.follower.skipped
        path.write_bytes(whole)
        np.testing.assert_array_equal([pixels for pixels, _ in watched.frames(2)], np.tile(STACK, (1, 8, 8)))

    def test_frames_of_a_oneview_folder_while_it_is_written(self, tmp_path: Path) -> None:
        watched, seconds = Watched(tmp_path, None), tmp_path / "Hour_00/Minute_00/Second_00"
        seconds.mkdir(parents=True)
        for number in range(2):
            write_dm(seconds / f"a_Frame_{number:04}.dm4", STACK[number])
            ((pixels, header),) = watched.frames()
            np.testing.assert_array_equal(pixels, STACK[number])
            assert header["sampling"] == pytest.approx(0.125)
            assert header["file"] == f"Hour_00/Minute_00/Second_00/a_Frame_{number:04}.dm4"

    def test_old_files_only_when_asked(self, tmp_path: Path) -> None:
        Watched(tmp_path).write("a.npy", 1)
        assert Watched(tmp_path).values() == []
        assert Watched(tmp_path, everything=True).values() == [1]

    def test_renamed_or_touched_files_are_not_sent_again(self, watched: Watched) -> None:
        path = watched.write("a.npy", 1, 2)
        assert watched.values() == [1, 2]
        os.utime(path)
        assert watched.values() == []
        path.rename(watched.root / "b.npy")
        assert watched.values() == []
        assert watched.follower.files == 1

    def test_of_a_file_that_got_longer_what_is_new(self, watched: Watched) -> None:
        watched.write("a.npy", 1, 2)
        assert watched.values() == [1, 2]
        watched.write("a.npy", 1, 2, 3, 4)
        assert watched.values() == [3, 4]

    def test_of_a_tiff_that_pages_are_appended_to_what_is_new(self, watched: Watched) -> None:
        for values in [(1, 2), (3,), (4, 5)]:
            for value in values:
                page = np.full((4, 5), value, np.uint16)
                tifffile.imwrite(watched.root / "a.tif", page, append=True, photometric="minisblack")
            assert watched.values() == [*values]

    def test_of_a_tiff_that_is_cut_off_nothing_before_it_is_whole(self, watched: Watched) -> None:
        path = watched.root / "a.tif"
        for page in STACK:
            tifffile.imwrite(path, page, append=True, photometric="minisblack")
        whole = half(path)
        assert watched.values(2) == []
        path.write_bytes(whole)
        assert watched.values(2) == STACK[:, 0, 0].tolist()
        half(path)
        assert watched.values(20) == []
        assert str(watched.follower) == "1 files sent, skipped: 1 unreadable"

    def test_of_a_detectors_master_its_files_by_themselves(self, watched: Watched) -> None:
        write_dectris(watched.root, [STACK[:2], STACK[2:]])
        frames = watched.frames()
        assert sorted(int(pixels[0, 0]) for pixels, _ in frames) == STACK[:, 0, 0].tolist()
        assert str(watched.follower) == "2 files sent, skipped: 1 names_others"

    @pytest.mark.parametrize("values", [(5,), (5, 6), (5, 6, 7)])
    def test_of_a_file_that_was_written_anew_all_of_it(self, watched: Watched, values: tuple[int, ...]) -> None:
        watched.write("live.npy", 1, 2)
        assert watched.values() == [1, 2]
        watched.write("live.npy", *values)
        assert watched.values() == [*values]

    def test_a_file_that_is_appended_to_is_sent_once_that_ends(self, watched: Watched) -> None:
        lengths = iter(range(2, 8))

        def append() -> None:
            if (length := next(lengths, None)) is not None:
                watched.write("a.npy", *range(length))

        watched.write("a.npy", 0)
        watched.meanwhile = append
        assert watched.values(2) == [0, 1, 2, 3, 4, 5, 6]
        assert next(lengths, None) is None

    def test_a_file_that_is_written_to_while_it_is_sent_goes_on_later(self, watched: Watched) -> None:
        def write_on(count: int) -> None:
            if count == 2:
                watched.write("a.npy", 1, 2, 3, 4)

        watched.write("a.npy", 1, 2, 3)
        frames = watched.frames(3, write_on)
        assert [int(pixels[0, 0]) for pixels, _ in frames] == [1, 2, 3, 4]

    def test_a_file_cut_off_while_it_is_sent_ends_nothing(self, watched: Watched) -> None:
        """A page that is mapped, and then is no more, would end the process."""
        path = watched.write("a.npy", *[1] * 20_000)
        frames = watched.frames(30, lambda count: os.truncate(path, 4096) if count == 10 else None)
        assert sum(int(pixels[-1, -1]) for pixels, _ in frames) == 10
        assert watched.follower.skipped == {"unreadable": 1}


class TestWhatIsSkipped:
    def test_by_reason(self, watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
        (watched.root / "a.tif").write_text("hello")
        (watched.root / "notes.txt").write_text("hello")
        watched.write("b.npy", 1)
        assert watched.values(30) == [1]
        assert str(watched.follower) == "1 files sent, skipped: 1 unknown_kind, 1 unreadable"
        assert f"{watched.root / 'a.tif'}: expected a readable file of frames" in caplog.text

    def test_a_kind_that_is_not_read_is_told_once(self, watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("a.txt", "b.txt", "c.log"):
            (watched.root / name).write_text("hello")
        watched.frames()
        assert watched.follower.skipped == {"unknown_kind": 3}
        assert capsys.readouterr().err.count("left out") == 2

    def test_after_patience_only(self, watched: Watched) -> None:
        (watched.root / "a.tif").write_text("hello")
        watched.frames(9)
        assert str(watched.follower) == "0 files sent, skipped: none, 1 not complete yet"
        watched.frames(9)
        assert watched.follower.skipped == {"unreadable": 1}

    def test_one_that_is_damaged_within_is_sent_up_to_there(self, watched: Watched) -> None:
        noise = np.random.default_rng(1).integers(0, 255, (3, 64, 64), np.uint8)
        path = watched.root / "a.tif"
        tifffile.imwrite(path, noise, photometric="minisblack", compression="zlib")
        with tifffile.TiffFile(path) as tiff:
            offset = tiff.pages[2].dataoffsets[0]
        content = bytearray(path.read_bytes())
        content[offset : offset + 40] = bytes(40)
        path.write_bytes(content)
        np.testing.assert_array_equal([pixels for pixels, _ in watched.frames(30)], noise[:2])
        assert watched.follower.skipped == {"unreadable": 1}

    def test_without_a_pixel_size(self, tmp_path: Path) -> None:
        watched = Watched(tmp_path, sampling_A=None)
        watched.write("a.npy", 1)
        assert watched.values() == []
        assert watched.follower.skipped == {"no_sampling": 1}

    def test_without_its_reader(self, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("rsciio", "rsciio.digitalmicrograph"):
            monkeypatch.setitem(sys.modules, name, None)
        write_dm(watched.root / "a.dm4", STACK)
        assert watched.frames() == []
        assert watched.follower.skipped == {"no_reader": 1}

    def test_deleted_before_it_was_read(self, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
        path, read = watched.write("a.npy", 1), follow.read_frames

        def delete(path: Path) -> object:
            path.unlink()
            return read(path)

        monkeypatch.setattr(follow, "read_frames", delete)
        assert watched.values() == []
        assert watched.follower.skipped == {"gone": 1}
        assert not path.exists()

    def test_too_large(self, watched: Watched) -> None:
        shape = (1, 10_000, 10_000)
        np.lib.format.open_memmap(watched.root / "a.npy", mode="w+", dtype=np.uint8, shape=shape)
        assert watched.frames(30) == []
        assert watched.follower.skipped == {"unreadable": 1}

    def test_a_name_that_is_no_text_is_made_one(self, watched: Watched) -> None:
        path = watched.write("a.npy", 1).rename(os.fsdecode(bytes(watched.root) + b"/\xff.npy"))
        ((_, header),) = watched.frames()
        assert header["file"] == "\N{REPLACEMENT CHARACTER}.npy"
        assert path.exists()


class TestCommand:
    def test_frames_arrive_numbered_until_it_is_interrupted(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        np.save(tmp_path / "old.npy", STACK[0])
        pending = [("a.npy", STACK[:2]), ("b.npy", STACK[2:])]
        received = threading.Event()

        def sleep(seconds: float) -> None:
            if pending:
                name, frames = pending.pop(0)
                np.save(tmp_path / name, frames)
            elif received.wait(seconds):
                raise KeyboardInterrupt

        with zmq.Context() as context, context.socket(zmq.PULL) as socket:
            socket.linger, socket.rcvtimeo = 0, 20_000
            port = socket.bind_to_random_port("tcp://127.0.0.1")
            options = parse(
                f"follow {tmp_path} --sampling 0.12 --dose 900 --settle 0.01 "
                f"--socket push --connect tcp://127.0.0.1:{port}".split()
            )
            thread = threading.Thread(target=follow.run, args=(options, sleep))
            thread.start()
            messages = [decode(socket.recv_multipart()) for _ in range(4)]
            received.set()
            thread.join()
        assert [message.number for message in messages] == [0, 1, 2, 3]
        np.testing.assert_array_equal([message.pixels for message in messages], STACK)
        assert {(message.sampling_A, message.dose_e_A2) for message in messages} == {(0.12, 900)}
        assert messages[3].header["file"] == "b.npy"
        told = capsys.readouterr().err
        assert "4 frames sent" in told
        assert "2 files sent, skipped: none" in told

    def test_mistakes_are_told_first(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="expected a folder to follow"):
            follow.run(parse(["follow", str(tmp_path / "none")]))

    @pytest.mark.parametrize("number", ["0", "-1", "nan", "wide"])
    def test_numbers_are_over_zero(self, number: str) -> None:
        with pytest.raises(argparse.ArgumentTypeError, match=f"expected a number over 0, got {number}"):
            follow._positive(number)
