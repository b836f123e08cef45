"""A recording on disk: what goes in comes out, at any moment, and what does not fit says so."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from engine.errors import ConfigError, FileError, FrameError
from stream import archive as archive_module
from stream.archive import Archive
from stream.archived import Archived, Gap
from stream.exposure import DRIFT_COLUMNS
from stream.superblock import lookup3, release
from tests.stream.archives import BEGIN, STARTED, archive, child, found, record


def frames(path: Path) -> list[int]:
    with Archived(path) as archived:
        return [frame.row["record"] for frame in archived]


class TestThereAndBack:
    def test_atoms_and_what_is_known_of_their_frame(self, tmp_path: Path) -> None:
        header = {"stage_x": 1.5, "note": "é"}
        records = [
            record(1),
            record(2, 0, series=7, in_time=None, covered=40),
            record(
                3, 2, warnings=["w", "v"], header=header, drift_px=[[1.5, -2], [0, 0], [0.25, 3]], drift_certain=False
            ),
        ]
        with Archived(archive(tmp_path / "a.h5", records)) as archived:
            first, second, third = archived
            assert (archived.classes, archived.complete, len(archived)) == (("C", "N"), True, 3)
        for frame, number, count in ((first, 1, 3), (second, 2, 0), (third, 3, 2)):
            for name, column in found(count, number).columns().items():
                assert getattr(frame.atoms, name).tolist() == column.tolist()
            assert frame.row["record"] == number
        assert (first.series, second.series) == ("a", 7)
        assert (third.warnings, third.header) == (("w", "v"), header)
        assert (first.warnings, first.header) == ((), {})
        assert (first.row["in_time"], second.row["in_time"]) == (1, -1)
        assert [third.row[name] for name in (*DRIFT_COLUMNS, "drift_certain")] == [1.5, -2, 0.25, 3, 0]
        assert math.isnan(first.row["drift_last_x_px"])
        assert (first.row["covered"], second.row["covered"]) == (-1, 40)
        row = first.row
        assert (row["frame"], row["timestamp"], row["elapsed_s"], row["height"]) == (101, STARTED + 1, 1.5, 64)
        assert (row["latency_ms"], row["network_ms"], row["sampling_A"]) == (12.5, 2.5, 0.2)
        assert math.isnan(row["dose_e_A2"])

    def test_of_an_older_program(self, tmp_path: Path) -> None:
        """It told no drift."""
        path = archive(tmp_path / "a.h5", [record(1)])
        with h5py.File(path, "r+") as file:
            for name in (*DRIFT_COLUMNS, "drift_certain"):
                del file["entry/frames"][name]
        assert frames(path) == [1]

    def test_pixels(self, tmp_path: Path) -> None:
        pixels = [np.arange(12, dtype=np.uint16).reshape(3, 4) * k for k in range(3)]
        other = np.zeros((4, 4), np.uint16)
        made = Archive(tmp_path / "a.h5", BEGIN, record(1, pixels=pixels[0]))
        for number, one in enumerate([pixels[0], pixels[1], other, None, pixels[2]], start=1):
            made.add(record(number, pixels=one))
        assert made.images_left_out == 1
        made.close()
        with Archived(tmp_path / "a.h5") as archived:
            images = [archived.image(frame) for frame in archived]
        assert [None if image is None else image.tolist() for image in images] == [
            pixels[0].tolist(), pixels[1].tolist(), None, None, pixels[2].tolist()
        ]  # fmt: skip

    def test_many_frames_and_texts(self, tmp_path: Path) -> None:
        records = [record(k, k % 5, header={"k": k % 1500}) for k in range(1, 3001)]
        with Archived(archive(tmp_path / "a.h5", records)) as archived:
            for k, frame in enumerate(archived, start=1):
                assert (frame.row["record"], len(frame.atoms), frame.header) == (k, k % 5, {"k": k % 1500})
                assert frame.atoms.y.tolist() == found(k % 5, k).y.tolist()

    def test_gaps_that_go_on_are_one(self, tmp_path: Path) -> None:
        made = Archive(tmp_path / "a.h5", BEGIN, None)
        made.gap(1, 2, "buffer_full", 10.0)
        made.gap(5, 1, "disk_full", 11.0)
        made.flush()
        made.gap(6, 3, "disk_full", 12.0)
        made.gap(9, 1, "stopping", 13.0)
        made.close()
        with Archived(tmp_path / "a.h5") as archived:
            assert archived.gaps() == [
                Gap(1, 2, "buffer_full", 10), Gap(5, 4, "disk_full", 11), Gap(9, 1, "stopping", 13)
            ]  # fmt: skip
            assert list(archived) == []

    def test_without_a_frame(self, tmp_path: Path) -> None:
        assert frames(archive(tmp_path / "a.h5", [])) == []

    @pytest.mark.parametrize("compression", ["gzip", "lzf", "none"])
    def test_compressions(self, tmp_path: Path, compression: str) -> None:
        made = Archive(tmp_path / "a.h5", BEGIN, record(1), compression)
        made.add(record(1))
        made.close()
        assert frames(tmp_path / "a.h5") == [1]
        with h5py.File(tmp_path / "a.h5") as file:
            assert (file["entry/atoms/y"].compression or "none") == compression

    def test_values_that_no_column_holds(self, tmp_path: Path) -> None:
        strange = {"frame": 2**70, "shape": "x", "stages_ms": 3, "in_time": 7, "dose_e_A2": 10**400, "latency_ms": "1"}
        strange |= {"drift_px": [["a", 1], 2], "drift_certain": "no"}
        with Archived(archive(tmp_path / "a.h5", [record(1, **strange)])) as archived:
            (frame,) = archived
        assert (frame.row["frame"], frame.row["height"], frame.row["in_time"]) == (-1, -1, -1)
        assert frame.row["drift_certain"] == -1
        assert math.isnan(frame.row["dose_e_A2"])
        assert math.isnan(frame.row["latency_ms"])


class TestWhileItGrows:
    def test_what_was_flushed_can_be_read_by_another_process(self, tmp_path: Path) -> None:
        made = Archive(tmp_path / "a.h5", BEGIN, record(1))
        code = "import sys; from pathlib import Path; from stream.archived import Archived\n"
        code += "print([f.row['record'] for f in Archived(Path(sys.argv[1]))])"
        seen = []
        for number in (1, 2):
            made.add(record(number))
            made.flush()
            made.add(record(10 + number))  # not flushed
            seen.append(json.loads(child(code, tmp_path / "a.h5").stdout))
        made.close()
        assert seen == [[1], [1, 11, 2]]

    def test_columns_of_different_lengths_are_read_as_far_as_all_reach(self, tmp_path: Path) -> None:
        path = archive(tmp_path / "a.h5", [record(1), record(2)])
        with h5py.File(path, "r+", libver="latest") as file:
            file["entry/frames/header"].resize(1, axis=0)
        assert frames(path) == [1]


def killed(path: Path) -> None:
    """A recorder that dies with rows in its hands."""
    code = "import os, sys; from pathlib import Path; from stream.archive import Archive\n"
    code += "from tests.stream.archives import BEGIN, record\n"
    code += "made = Archive(Path(sys.argv[1]), BEGIN, record(1))\n"
    code += "for number in range(1, 3000):\n    made.add(record(number, 50))\n    if number % 7 == 0: made.flush()\n"
    code += "os.kill(os.getpid(), 9)"
    assert child(code, path).returncode == -9


class TestKilled:
    def test_it_opens_and_holds_what_was_flushed(self, tmp_path: Path) -> None:
        killed(tmp_path / "a.h5")
        assert frames(tmp_path / "a.h5") == list(range(1, 2998 - 2998 % 7 + 1))
        with Archived(tmp_path / "a.h5") as archived:
            assert not archived.complete

    def test_released_it_opens_for_any_program(self, tmp_path: Path) -> None:
        path = tmp_path / "a.h5"
        killed(path)
        with pytest.raises(OSError, match="already open for write"):
            h5py.File(path, "r")
        assert release(path) is True
        with h5py.File(path, "r") as file:
            assert len(file["entry/frames/record"]) == 2996
            assert file["entry/atoms/y"][-1] == found(50, 2996).y[-1]
        assert release(path) is False

    def test_one_that_still_grows_is_left_alone(self, tmp_path: Path) -> None:
        made = Archive(tmp_path / "a.h5", BEGIN, None)
        with pytest.raises(FileError, match="got one in use: end its recorder first"):
            release(tmp_path / "a.h5")
        made.close()

    def test_other_files_are_left_as_they_are(self, tmp_path: Path) -> None:
        for content in (b"", b"text", b"\x89HDF\r\n\x1a\n" + bytes(99)):
            (tmp_path / "a.h5").write_bytes(content)
            with pytest.raises(FileError, match="expected an HDF5 file as `atomstream record` writes it"):
                release(tmp_path / "a.h5")
            assert (tmp_path / "a.h5").read_bytes() == content
        with pytest.raises(FileError, match="No such file"):
            release(tmp_path / "absent.h5")

    def test_the_checksum_is_that_of_its_author(self) -> None:
        assert lookup3(b"") == 0xDEADBEEF
        assert lookup3(b"Four score and seven years ago") == 0x17770551


class TestNexus:
    def test_every_plot_is_described(self, tmp_path: Path) -> None:
        pixels = np.zeros((3, 4), np.uint16)
        with h5py.File(archive(tmp_path / "a.h5", [record(1, pixels=pixels), record(2, pixels=pixels)])) as file:
            assert (file.attrs["NX_class"], file.attrs["default"]) == ("NXroot", "entry")
            entry = file["entry"]
            assert (entry.attrs["NX_class"], entry.attrs["default"]) == ("NXentry", "frames")
            for name in ("frames", "atoms", "images"):
                group = entry[name]
                assert group.attrs["NX_class"] == "NXdata"
                signal = group[group.attrs["signal"]]
                axes = list(group.attrs["axes"])
                assert len(axes) == signal.ndim or name == "atoms"  # a scatter plot has two axes
                for axis in axes:
                    if axis != ".":
                        assert group[axis].shape == signal.shape
                        assert group.attrs[f"{axis}_indices"] == 0
            assert entry["start_time"][()].decode() == "2023-11-14T22:13:20.000+00:00"
            assert entry["end_time"][()].decode() > entry["start_time"][()].decode()
            assert entry["frames/latency_ms"].attrs["units"] == "ms"

    def test_model_and_configuration(self, tmp_path: Path) -> None:
        with h5py.File(archive(tmp_path / "a.h5", [record(1)])) as file:
            entry = file["entry"]
            assert (entry["model"].attrs["name"], entry["model"].attrs["backend"]) == ("fake", "fake f32")
            assert json.loads(entry["configuration"][()]) == BEGIN["configuration"]
            assert json.loads(entry["model/spec"][()]) == BEGIN["spec"]


class TestMistakes:
    def test_a_file_that_is_there_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "a.h5").write_text("mine")
        with pytest.raises(FileError, match="expected a new file to record to"):
            Archive(tmp_path / "a.h5", BEGIN, None)
        assert (tmp_path / "a.h5").read_text() == "mine"

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="No such file"):
            Archive(tmp_path / "absent" / "a.h5", BEGIN, None)

    def test_columns_that_change(self, tmp_path: Path) -> None:
        made = Archive(tmp_path / "a.h5", BEGIN, record(1))
        other = record(2)
        del other.columns["flags"]
        with pytest.raises(FrameError, match="Expected the columns"):
            made.add(other)
        made.add(record(3))
        made.close()
        assert frames(tmp_path / "a.h5") == [3]

    def test_a_disk_that_is_full(self, tmp_path: Path) -> None:
        """A limit of the file's size stands in for a full disk; the file keeps what was flushed before."""
        code = "import os, resource, sys; from pathlib import Path; from engine.errors import FileError\n"
        code += "from stream.archive import Archive; from tests.stream.archives import BEGIN, record\n"
        code += "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
        code += "made = Archive(Path(sys.argv[1]), BEGIN, record(1), 'none')\n"
        code += "try:\n    for number in range(1, 10_000): made.add(record(number, 50)); made.flush()\n"
        code += "except FileError as error: print(number, error, flush=True)\nos._exit(0)"
        number, said = child(code, tmp_path / "a.h5").stdout.split(maxsplit=1)
        assert "expected room for the recording, got File too large: free some" in said
        assert frames(tmp_path / "a.h5") == list(range(1, int(number)))

    def test_without_h5py(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(ConfigError, match="pip install 'atomstream\\[record\\]'"):
            Archive(tmp_path / "a.h5", BEGIN, None)


class TestHostileFiles:
    @pytest.mark.parametrize("content", [b"", b"text", b"\x89HDF\r\n\x1a\n" + bytes(100)])
    def test_what_is_no_hdf5(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.h5").write_bytes(content)
        with pytest.raises(FileError, match="expected a recording"):
            Archived(tmp_path / "a.h5")

    def test_another_hdf5_file(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
            file["x"] = 1
        with pytest.raises(FileError, match="expected a recording of `atomstream record`, got another file"):
            Archived(tmp_path / "a.h5")

    @pytest.mark.parametrize(
        ("name", "value"),
        [("atoms_stop", 2**60), ("atoms_stop", -1), ("atoms_stop", 7), ("atoms_start", 2), ("header", 99)],
    )
    def test_tables_that_lie(self, tmp_path: Path, name: str, value: int) -> None:
        path = archive(tmp_path / "a.h5", [record(1), record(2)])
        with h5py.File(path, "r+", libver="latest") as file:
            file[f"entry/frames/{name}"][1] = value
        with pytest.raises(FileError, match="expected a readable recording"):
            frames(path)

    @pytest.mark.parametrize("chunks", [(10**8,), (10, 10)])
    def test_chunks_that_no_recorder_makes(self, tmp_path: Path, chunks: tuple[int, ...]) -> None:
        path = archive(tmp_path / "a.h5", [record(1)])
        with h5py.File(path, "r+", libver="latest") as file:
            del file["entry/atoms/y"]
            most = (None,) * len(chunks)
            file["entry/atoms"].create_dataset("y", (3,) * len(chunks), "f4", chunks=chunks, maxshape=most)
        with pytest.raises(FileError, match="in chunks of"):
            Archived(path)

    def test_a_table_that_is_missing(self, tmp_path: Path) -> None:
        path = archive(tmp_path / "a.h5", [record(1)])
        with h5py.File(path, "r+", libver="latest") as file:
            del file["entry/atoms/y"]
        with pytest.raises(FileError, match="expected the tables of a recording"):
            Archived(path)


def test_texts_are_known_again_only_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "_TEXTS_KNOWN", 2)
    headers: list[dict[str, Any]] = [{"k": k} for k in (1, 1, 2, 3, 1)]
    records = [record(k, header=header, series=None) for k, header in enumerate(headers, start=1)]
    with Archived(archive(tmp_path / "a.h5", records)) as archived:
        assert [frame.header for frame in archived] == headers
        assert [frame.row["header"] for frame in archived] == [0, 0, 1, 2, 3]
