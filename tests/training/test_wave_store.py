"""Exit waves on disk: what comes back, and that nothing in part, damaged or of another recipe does."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from engine import FileError
from training.exit_waves import Specimen
from training.structures.structure import Sites
from training.wave_store import WaveStore

MADE_OF = {"structures": "Kind", "voltage_kV": 80.0, "seed": 1, "strain": 0.02, "zones": [0.4, 0.6]}


def specimen(k: int, size: int = 8) -> Specimen:
    """Two columns of two classes, and a place where an atom is missing."""
    rng = np.random.default_rng(k)
    sites = Sites(rng.random((3, 2)), np.uint8([0, 1, 3]), (42, 16), np.uint8([[1, 1], [1, 1], [0, 0]]))
    wave = (rng.random((size, size)) + 1j * rng.random((size, size))).astype(np.complex64)
    return Specimen(wave, sites, f"kind {k}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "waves.zarr"


@pytest.fixture
def store(folder: Path) -> WaveStore:
    """Two specimens, all that were asked for."""
    store = WaveStore(folder, MADE_OF)
    store.begin(2)
    for k in (1, 0):
        store.save(k, specimen(k))
    return store


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestRoundTrip:
    def test_all_comes_back_in_order(self, folder: Path, store: WaveStore) -> None:
        for k, read in enumerate(WaveStore(folder, MADE_OF).read()):
            expected = specimen(k)
            np.testing.assert_array_equal(read.wave, expected.wave)
            assert read.wave.dtype == np.complex64
            np.testing.assert_array_equal(read.positions_A, expected.positions_A)
            assert read.sites.class_id.tolist() == [0, 1, 3]
            assert read.sites.elements == (42, 16)
            assert read.sites.content.tolist() == [[1, 1], [1, 1], [0, 0]]
            assert read.label == f"kind {k}"

    def test_without_sites(self, folder: Path, store: WaveStore) -> None:
        none = Sites.of_carbon(np.zeros((0, 2)))
        store.begin(3)
        store.save(2, Specimen(np.ones((4, 4), np.complex64), none))
        assert store.read()[2].sites.content.shape == (0, 1)

    def test_any_reader_of_zarr_can_open_it(self, folder: Path, store: WaveStore) -> None:
        group = zarr.open_group(folder, mode="r")
        assert sorted(group.group_keys()) == ["00000", "00001"]
        np.testing.assert_array_equal(group["00001/wave"][...], specimen(1).wave)
        assert group.attrs["recipe"] == MADE_OF

    def test_more_extend_it_and_fewer_leave_what_is_there(self, folder: Path, store: WaveStore) -> None:
        store.begin(3)
        assert store.missing(3) == [2]
        store.save(2, specimen(2))
        assert len(store.read()) == 3
        store.begin(1)
        assert len(store.read()) == 1
        assert names(folder) == ["00000", "00001", "00002", "zarr.json"]


class TestInPart:
    def test_fewer_than_were_asked_for(self, folder: Path, store: WaveStore) -> None:
        store.begin(5)
        with pytest.raises(FileError, match=r"waves.zarr: expected 5 exit waves, found 2: run .* again; it goes on"):
            store.read()

    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
    def test_a_write_that_ends_half_way_leaves_nothing(
        self, folder: Path, store: WaveStore, monkeypatch: pytest.MonkeyPatch, error: BaseException
    ) -> None:
        create, written = zarr.Group.create_array, []

        def half(group: zarr.Group, name: str, **options: object) -> object:
            if written:
                raise error
            written.append(name)
            return create(group, name, **options)

        store.begin(3)
        monkeypatch.setattr(zarr.Group, "create_array", half)
        with pytest.raises((FileError, KeyboardInterrupt)) as raised:
            store.save(2, specimen(2))
        if isinstance(error, OSError):
            assert "expected room for exit waves, got No space left on device: free some" in str(raised.value)
        assert names(folder) == ["00000", "00001", "zarr.json"]

    def test_what_a_killed_run_left_is_taken_for_nothing(self, folder: Path, store: WaveStore) -> None:
        shutil.copytree(folder / "00000", folder / "00002.part")
        assert store.missing(3) == [2]
        assert len(store.read()) == 2
        store.begin(3)
        assert names(folder) == ["00000", "00001", "zarr.json"]

    @pytest.mark.parametrize("lost", ["wave/c/0/0", "wave/zarr.json", "zarr.json", "class_id/c/0"])
    @pytest.mark.parametrize("empty", [True, False])
    def test_a_damaged_specimen_is_told(self, folder: Path, store: WaveStore, lost: str, empty: bool) -> None:
        path = folder / "00001" / lost
        if empty:
            path.write_bytes(b"")
        else:
            path.unlink()
        with pytest.raises(FileError, match="00001: expected a whole specimen, got a damaged one") as raised:
            store.read()
        assert "\n" not in str(raised.value)


class TestAlone:
    def test_another_writer_is_refused_and_may_come_after(self, folder: Path) -> None:
        with (
            WaveStore(folder, MADE_OF).alone(),
            pytest.raises(FileError, match="expected nobody else to write here"),
            WaveStore(folder, MADE_OF).alone(),
        ):
            pytest.fail("two at once")
        with WaveStore(folder, MADE_OF).alone():
            assert folder.is_dir()

    def test_a_file_system_without_locks_goes_without(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*_: object) -> None:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr("fcntl.flock", unknown)
        with WaveStore(folder, MADE_OF).alone():
            WaveStore(folder, MADE_OF).begin(1)
        assert names(folder) == ["zarr.json"]


class TestAnotherRecipe:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"voltage_kV": 300.0}, "got those of voltage_kV 80.0, here 300.0: remove it, or choose another --folder"),
            ({"seed": 2, "strain": 0.0}, "got those of seed 1, here 2 and 1 more"),
            ({"zones": [0.5, 0.5]}, r"got those of zones \[0.4, 0.6\], here \[0.5, 0.5\]"),
            ({"ripple_A": 1.0}, "got those of ripple_A None, here 1.0"),
        ],
    )
    def test_is_refused_and_left_as_it_is(
        self, folder: Path, store: WaveStore, change: dict[str, object], said: str
    ) -> None:
        before = (folder / "zarr.json").read_bytes()
        other = WaveStore(folder, MADE_OF | change)
        for use in (lambda: other.begin(4), other.read):
            with pytest.raises(FileError, match=said):
                use()
        assert (folder / "zarr.json").read_bytes() == before

    def test_without_a_specimen_yet_it_is_taken_over(self, folder: Path, store: WaveStore) -> None:
        for k in range(2):
            (folder / f"{k:05d}").rename(folder / f"{k:05d}.part")
        other = WaveStore(folder, MADE_OF | {"voltage_kV": 300.0})
        other.begin(1)
        other.save(0, specimen(0))
        assert len(other.read()) == 1
        assert not other.empty
        with pytest.raises(FileError, match=r"got those of voltage_kV 300.0, here 80.0"):
            store.begin(1)

    @pytest.mark.parametrize("content", ["", "{}", "[]", json.dumps({"zarr_format": 3, "node_type": "group"})])
    def test_a_group_that_is_none_of_ours(self, folder: Path, content: str) -> None:
        folder.mkdir(parents=True)
        (folder / "zarr.json").write_text(content)
        for use in (lambda: WaveStore(folder, MADE_OF).begin(4), WaveStore(folder, MADE_OF).read):
            with pytest.raises(FileError, match=r"got a zarr.json that cannot be read .*: remove it, or choose"):
                use()

    def test_specimens_of_nobody_knows_what(self, folder: Path, store: WaveStore) -> None:
        (folder / "zarr.json").unlink()
        with pytest.raises(FileError, match=r"got a folder without zarr\.json"):
            store.begin(2)

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(FileError, match="got Not a directory"):
            WaveStore(tmp_path / "file" / "waves.zarr", MADE_OF).begin(1)

    def test_none_there_says_what_to_do(self, folder: Path) -> None:
        with pytest.raises(FileError, match="expected exit waves, found none: run `atomstream-train simulate` first"):
            WaveStore(folder, MADE_OF).read()
