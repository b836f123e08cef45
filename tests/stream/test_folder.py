"""Which files are new and complete: files that grow, move, vanish, are links, and folders that go and come back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.errors import FileError
from stream.folder import Folder, Mark


class Watched:
    """A folder, and time that passes when told to."""

    def __init__(self, root: Path, everything: bool = False) -> None:
        self.root, self.time_s = root, 0.0
        self.folder = Folder(root, 1.0, 10.0, everything, lambda: self.time_s)

    def write(self, name: str, content: str = "x", at_s: float = 0) -> Path:
        path = self.root / name
        path.write_text(content)
        os.utime(path, (1e9 + at_s, 1e9 + at_s))
        return path

    def after(self, seconds: float) -> list[str]:
        """What is to be tried so many seconds later."""
        self.time_s += seconds
        return [str(path.relative_to(self.root)) for path in self.folder.look()]

    def settled(self) -> list[str]:
        """What is complete, once it had the time to be."""
        return self.after(0) + self.after(1)

    def finish(self) -> list[str]:
        """As `settled`, and done with all of it."""
        names = self.settled()
        for name in names:
            self.folder.done(self.root / name)
        return names


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


class TestWhatIsComplete:
    def test_a_file_that_has_not_changed_for_a_while(self, watched: Watched) -> None:
        watched.write("a.tif")
        assert watched.after(5) == []  # seen for the first time
        assert watched.after(0.9) == []
        assert watched.after(0.1) == ["a.tif"]

    def test_a_file_that_grows_is_left_alone(self, watched: Watched) -> None:
        for length in range(1, 20):
            watched.write("a.tif", "x" * length, at_s=length)
            assert watched.after(0.9) == []
        assert watched.after(1) == ["a.tif"]

    def test_a_change_without_another_size(self, watched: Watched) -> None:
        for number in range(3):
            watched.write("a.tif", at_s=number)
            assert watched.after(0.9) == []

    def test_in_the_order_in_which_they_were_finished_then_by_number(self, watched: Watched) -> None:
        for name, at_s in (("b_9", 2), ("b_10", 2), ("b_2", 2), ("c", 1), ("a", 3)):
            watched.write(name, at_s=at_s)
        assert watched.settled() == ["c", "b_2", "b_9", "b_10", "a"]

    def test_below_the_folder_too(self, watched: Watched) -> None:
        (watched.root / "Hour_00/Minute_01").mkdir(parents=True)
        watched.write("Hour_00/Minute_01/a.dm4")
        assert watched.settled() == ["Hour_00/Minute_01/a.dm4"]

    def test_once(self, watched: Watched) -> None:
        watched.write("a.tif")
        assert watched.finish() == ["a.tif"]
        assert watched.after(1000) == []

    def test_not_what_was_there_before_unless_it_changes(self, tmp_path: Path) -> None:
        (tmp_path / "old.tif").write_text("x")
        watched = Watched(tmp_path)
        assert watched.settled() == []
        watched.write("old.tif", "xx")
        assert watched.settled() == ["old.tif"]

    def test_or_unless_asked(self, tmp_path: Path) -> None:
        (tmp_path / "old.tif").write_text("x")
        assert Watched(tmp_path, everything=True).settled() == ["old.tif"]

    def test_a_change_while_it_is_read_is_seen(self, watched: Watched) -> None:
        path = watched.write("a.tif")
        watched.settled()
        assert watched.folder.unchanged(path)
        watched.write("a.tif", "xx")
        assert not watched.folder.unchanged(path)
        path.unlink()
        assert not watched.folder.unchanged(path)


class TestTrials:
    def test_ever_more_seldom_and_not_for_ever(self, watched: Watched) -> None:
        path, tried_s = watched.write("a.tif"), []
        watched.after(0)
        for _ in range(100):
            if watched.after(0.5):
                tried_s.append(watched.time_s)
                if not watched.folder.retry(path):
                    break
        assert tried_s == [1, 2, 4, 8, 16]
        assert watched.after(1000) == []

    def test_anew_once_it_changes(self, watched: Watched) -> None:
        path = watched.write("a.tif")
        watched.finish()
        watched.write("a.tif", "xx")
        assert watched.settled() == ["a.tif"]
        assert watched.folder.retry(path)


class TestNames:
    def test_a_renamed_file_is_no_new_one(self, watched: Watched) -> None:
        path = watched.write("a.tif")
        watched.finish()
        watched.folder.note(path, Mark(3, 7))
        path.rename(watched.root / "b.tif")
        assert watched.settled() == []
        assert watched.folder.mark(watched.root / "b.tif") == Mark(3, 7)

    def test_unless_only_now_its_name_says_what_it_is(self, watched: Watched) -> None:
        watched.write("a.tmp")
        watched.finish()
        (watched.root / "a.tmp").rename(watched.root / "a.tif")
        assert watched.settled() == ["a.tif"]

    def test_another_file_in_its_place_is_new(self, watched: Watched) -> None:
        watched.write("live.tif", at_s=1)
        watched.finish()
        watched.write("next", at_s=2).rename(watched.root / "live.tif")
        assert watched.settled() == ["live.tif"]

    def test_a_deleted_file_is_forgotten(self, watched: Watched) -> None:
        path = watched.write("a.tif")
        watched.finish()
        path.unlink()
        assert watched.settled() == []
        watched.write("a.tif")
        assert watched.settled() == ["a.tif"]

    def test_hidden_names_are_none(self, watched: Watched) -> None:
        (watched.root / ".git").mkdir()
        for name in (".a.tif", ".git/b.tif"):
            watched.write(name)
        assert watched.settled() == []


class TestLinks:
    def test_a_link_to_a_file_elsewhere(self, watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> None:
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "a.tif"
        (watched.root / "link.tif").symlink_to(elsewhere)
        assert watched.settled() == []
        elsewhere.write_text("x")
        assert watched.settled() == ["link.tif"]

    @pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
    def test_two_names_of_one_file(self, watched: Watched, link: object) -> None:
        watched.write("b.tif")
        link(watched.root / "c.tif", watched.root / "b.tif")  # type: ignore[operator]
        assert watched.settled() == ["b.tif"]

    def test_a_link_that_comes_first_by_name(self, watched: Watched) -> None:
        watched.write("b.tif")
        (watched.root / "a.tif").symlink_to(watched.root / "b.tif")
        assert watched.settled() == ["b.tif"]

    def test_folders_that_lead_in_a_circle(self, watched: Watched) -> None:
        (watched.root / "again").symlink_to(watched.root)
        watched.write("a.tif")
        assert watched.settled() == ["a.tif"]

    def test_what_has_no_content_is_not_waited_for(self, watched: Watched) -> None:
        os.mkfifo(watched.root / "pipe.tif")
        (watched.root / "folder.tif").mkdir()
        assert watched.settled() == []


class TestTheFolderItself:
    def test_has_to_be_one(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        for name, got in (("none", "got nothing of that name"), ("file", "got a file")):
            with pytest.raises(FileError, match=f"expected a folder to follow, {got}"):
                Watched(tmp_path / name)

    def test_that_went_and_comes_back_holds_nothing_new(self, tmp_path: Path) -> None:
        (tmp_path / "share").mkdir()
        watched = Watched(tmp_path / "share")
        watched.write("a.tif")
        watched.finish()
        (tmp_path / "share").rename(tmp_path / "away")
        assert watched.settled() == []
        (tmp_path / "share").mkdir()  # the empty place of a share that is not mounted
        assert watched.settled() == []
        (tmp_path / "share").rmdir()
        (tmp_path / "away").rename(tmp_path / "share")
        watched.write("b.tif")
        assert watched.settled() == ["b.tif"]

    def test_one_in_it_that_cannot_be_read_does_not_hide_the_rest(
        self, watched: Watched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (watched.root / "closed").mkdir()
        watched.write("closed/a.tif")
        watched.finish()
        scandir = os.scandir

        def refuse(path: Path) -> object:
            if Path(path).name == "closed":
                raise PermissionError
            return scandir(path)

        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", refuse)
            watched.write("b.tif")
            assert watched.finish() == ["b.tif"]
        assert watched.settled() == []  # it was not forgotten meanwhile

    def test_looks_that_take_long_are_made_less_often(self, tmp_path: Path) -> None:
        times = iter([0.0, 3.0])
        assert Folder(tmp_path, 1.0, 10.0, False, lambda: next(times)).pause_s == 3.0
        assert Watched(tmp_path).folder.pause_s == 0.5
