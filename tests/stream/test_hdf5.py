"""HDF5 as detectors write it: a master that names files of data, bitshuffle-LZ4, and what is no frame."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import ConfigError, FileError
from stream.files import read_frames

STACK = np.random.default_rng(1).poisson(3, (7, 48, 40)).astype(np.uint16)
BITSHUFFLE = {"compression": 32008, "compression_opts": (0, 2)}
OF_DETECTOR = "entry/instrument/detector/detectorSpecific"


def write_dectris(folder: Path, parts: Sequence[NDArray[Any]], **options: Any) -> Path:
    """A master, and its files of data beside it; gives the master."""
    options = options or {"compression": "gzip"}
    master = folder / "series_1_master.h5"
    with h5py.File(master, "w") as file:
        for number, part in enumerate(parts, 1):
            name = f"series_1_data_{number:06d}.h5"
            file[f"entry/data/data_{number:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
            with h5py.File(folder / name, "w") as data:
                data.create_dataset("entry/data/data", data=part, chunks=(1, *part.shape[1:]), **options)
        file[f"{OF_DETECTOR}/pixel_mask"] = np.zeros((480, 400), np.uint32)
        file[f"{OF_DETECTOR}/flatfield"] = np.ones((480, 400), np.float32)
        file[f"{OF_DETECTOR}/detectorModule_000/trimbit"] = np.ones((480, 400), np.uint8)
        file[f"{OF_DETECTOR}/detectorModule_000/countrate_correction_table"] = np.ones((2, 100_000), np.float32)
    return master


def read(path: Path) -> NDArray[Any]:
    with read_frames(path) as recording:
        assert len(recording) == len(list(recording))
        return np.stack([recording[number] for number in range(len(recording))])


def refuse(path: Path, match: str) -> None:
    with pytest.raises(FileError, match=match) as caught, read_frames(path) as recording:
        list(recording)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class TestMaster:
    def test_plays_its_files_in_their_order(self, tmp_path: Path) -> None:
        master = write_dectris(tmp_path, [STACK[:3], STACK[3:6], STACK[6:]])
        np.testing.assert_array_equal(read(master), STACK)
        np.testing.assert_array_equal(read(tmp_path / "series_1_data_000002.h5"), STACK[3:6])
        with read_frames(master) as recording:
            for number in (6, 0, 4, -1):
                np.testing.assert_array_equal(recording[number], STACK[number])
            with pytest.raises(FileError):
                recording[7]

    def test_triplets(self, tmp_path: Path) -> None:
        triplets = STACK[:6].reshape(2, 3, 48, 40)
        with read_frames(write_dectris(tmp_path, [triplets[:1], triplets[1:]])) as recording:
            assert recording.images == 3
            np.testing.assert_array_equal(np.stack(list(recording)), triplets)

    def test_files_that_differ(self, tmp_path: Path) -> None:
        for other in (STACK[3:, :40], STACK[3:].astype(np.uint32)):
            master = write_dectris(tmp_path, [STACK[:3], other])
            refuse(master, r"expected data files of one shape and type, got 4. x 40 uint.. in series_1_data_000002")

    def test_a_file_that_is_missing_half_or_another(self, tmp_path: Path) -> None:
        master = write_dectris(tmp_path, [STACK[:3], STACK[3:]])
        second = tmp_path / "series_1_data_000002.h5"
        second.write_bytes(second.read_bytes()[:4000])
        refuse(master, "got series_1_data_000002.h5: .*: save it again")
        with h5py.File(second, "w") as file:
            file["other"] = STACK
        refuse(master, "expected frames at /entry/data/data of series_1_data_000002.h5, got none")
        second.unlink()
        refuse(master, "expected its data files beside it, got no 'series_1_data_000002.h5': copy it there")

    def test_nothing_outside_of_its_folder_is_opened(self, tmp_path: Path) -> None:
        inner, outer = tmp_path / "inner", tmp_path / "outer"
        for folder in (inner, outer):
            folder.mkdir()
            write_dectris(folder, [STACK])
        data = "series_1_data_000001.h5"
        (inner / data).unlink()
        (inner / "linked.h5").symlink_to(outer / data)
        for name in (f"../outer/{data}", str(outer / data), "linked.h5", "..", "."):
            with h5py.File(inner / "master.h5", "w") as file:
                file["entry/data/data_000001"] = h5py.ExternalLink(name, "/entry/data/data")
            refuse(inner / "master.h5", "expected data files beside it, got '.*': put them there, or name them")

    @pytest.mark.parametrize("how", ["external link", "soft link", "raw", "virtual"])
    def test_nor_by_a_file_of_data(self, tmp_path: Path, how: str) -> None:
        folder, secret = tmp_path / "here", tmp_path / "secret.h5"
        folder.mkdir()
        master = write_dectris(folder, [STACK])
        with h5py.File(secret, "w") as file:
            file["data"] = STACK
        with h5py.File(folder / "series_1_data_000001.h5", "w") as file:
            if how == "external link":
                file["entry/data/data"] = h5py.ExternalLink(str(secret), "data")
            elif how == "soft link":
                file["away"] = h5py.ExternalLink(str(secret), "/")
                file["entry/data"] = h5py.SoftLink("/away")
            elif how == "raw":
                file.create_dataset("entry/data/data", (1, 4, 5), np.uint8, external=[(str(secret), 0, 20)])
            else:
                layout = h5py.VirtualLayout(STACK.shape, STACK.dtype)
                layout[:] = h5py.VirtualSource(str(secret), "data", STACK.shape)
                file.create_virtual_dataset("entry/data/data", layout)
        refuse(master, "expected frames at /entry/data/data of series_1_data_000001.h5, got none")

    def test_one_that_names_itself(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["entry/data/data_000001"] = h5py.ExternalLink("a.h5", "/entry/data/data_000001")
        refuse(tmp_path / "a.h5", "expected frames at /entry/data/data_000001 of a.h5, got none")


class TestWhatIsNoFrame:
    @pytest.mark.parametrize("name", ["pixel_mask", "flatfield", "Mask", "bad_pixel_mask", "trimbit"])
    def test_masks_and_corrections_of_a_detector(self, tmp_path: Path, name: str) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file[f"entry/{name}"] = np.zeros((480, 400), np.uint32)
        refuse(tmp_path / "a.h5", f"expected a dataset .* of numbers, got /entry/{name}: name another file")
        with h5py.File(tmp_path / "a.h5", "a") as file:
            file["entry/data"] = STACK
        np.testing.assert_array_equal(read(tmp_path / "a.h5"), STACK)


class TestCompressed:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        """Only writing needs HDF5's own filter."""
        pytest.importorskip("bitshuffle.h5")

    def write(self, path: Path, stack: NDArray[Any], chunks: tuple[int, ...] | None) -> Path:
        with h5py.File(path, "w") as file:
            file.create_dataset("entry/data/data", data=stack, chunks=chunks or stack.shape, **BITSHUFFLE)
        return path

    def test_a_master(self, tmp_path: Path) -> None:
        np.testing.assert_array_equal(read(write_dectris(tmp_path, [STACK[:4], STACK[4:]], **BITSHUFFLE)), STACK)

    @pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<u4", "<f4", "<f8"])
    @pytest.mark.parametrize("chunks", [(1, 48, 40), (3, 48, 40), (2, 20, 17), None])
    def test_chunks_of_any_shape(self, tmp_path: Path, dtype: str, chunks: tuple[int, ...] | None) -> None:
        stack = STACK.astype(dtype)
        np.testing.assert_array_equal(read(self.write(tmp_path / "a.h5", stack, chunks)), stack)
        np.testing.assert_array_equal(read(self.write(tmp_path / "b.h5", stack[0], chunks and chunks[1:])), stack[:1])

    def test_triplets(self, tmp_path: Path) -> None:
        triplets = STACK[:6].reshape(2, 3, 48, 40)
        np.testing.assert_array_equal(read(self.write(tmp_path / "a.h5", triplets, (1, 1, 48, 40))), triplets)

    def test_a_damaged_chunk_is_no_end_of_the_process(self, tmp_path: Path) -> None:
        """By its own filter bitshuffle reads as far as the chunk says, which is not there."""
        path = self.write(tmp_path / "a.h5", STACK, (1, 48, 40))
        with h5py.File(path, "a") as file:
            dataset = file["entry/data/data"]
            _, blob = dataset.id.read_direct_chunk((1, 0, 0))
            for number, start in ((1, 0), (2, 8), (3, 12)):
                damaged = blob[:start] + b"\0\0\0\1" + blob[start + 4 :]
                dataset.id.write_direct_chunk((number, 0, 0), damaged)
            dataset.id.write_direct_chunk((4, 0, 0), STACK[4].tobytes(), filter_mask=1)
        with read_frames(path) as recording:
            for number in (0, 4, 5):
                np.testing.assert_array_equal(recording[number], STACK[number])
            for number in (1, 2, 3):
                with pytest.raises(FileError, match=rf"got damaged compressed pixels at \({number}, 0, 0\)"):
                    recording[number]

    def test_without_the_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        master = write_dectris(tmp_path, [STACK], **BITSHUFFLE)
        monkeypatch.setitem(sys.modules, "bitshuffle", None)
        with pytest.raises(ConfigError, match=r"Expected the package bitshuffle .* 'atomstream\[dectris\]'"):
            read_frames(master)

    def test_another_filter_that_is_not_there(self, tmp_path: Path) -> None:
        """Of a process that does not know bitshuffle's filter, whose LZ4 is not used here."""
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("a", data=STACK, chunks=(1, 48, 40), compression=32008, compression_opts=(0, 0))
        look = f"from pathlib import Path; from stream.files import read_frames; read_frames(Path({str(path)!r}))"
        done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False)
        assert "expected gzip or bitshuffle with LZ4, got the filter bitshuffle" in done.stderr.splitlines()[-1]
