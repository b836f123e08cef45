"""Files of microscope vendors: their frames, their pixel size, and what is damaged or missing."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rsciio.emd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.errors import ConfigError, FileError
from stream.files import read_frames
from stream.formats import is_movie_folder
from stream.hdf5 import HDF5
from tests.stream.archives import STARTED, archive, record

STACK = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5) * 1000
NM = 0.0125  # of a pixel
_DM_TYPES = {"int16": (1, 2), "float32": (2, 6), "uint16": (10, 4), "int32": (7, 3), "complex64": (3, 6)}
_SER_TYPES = {"uint16": 2, "int16": 5, "float32": 7}


class DigitalMicrograph:
    """The tags of a DM3 or DM4 file, written as Gatan's software does."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.long = ">q" if version == 4 else ">l"

    def file(self, pixels: NDArray[Any], scale: float, units: str) -> bytes:
        code, element = _DM_TYPES[pixels.dtype.name]
        dimensions = [
            self.group(
                "", self.value("Origin", 6, "<f", 0.0), self.value("Scale", 6, "<f", one), self.text("Units", unit)
            )
            for one, unit in [(scale, units)] * 2 + [(1.0, "s")] * (pixels.ndim - 2)
        ]
        brightness = self.group("Brightness", self.text("Units", ""), self.value("Scale", 6, "<f", 1.0))
        data = self.group(
            "ImageData",
            self.group("Calibrations", brightness, self.group("Dimension", *dimensions)),
            self.tag("Data", [20, element, pixels.size * (2 if pixels.dtype.kind == "c" else 1)], pixels.tobytes()),
            self.value("DataType", 5, "<L", code),
            self.group("Dimensions", *(self.value("", 5, "<L", size) for size in pixels.shape[::-1])),
            self.value("PixelDepth", 5, "<L", pixels.itemsize),
        )
        image = self.group("", data, self.group("ImageTags"), self.text("Name", "frame"))
        root = self.content(self.group("ImageList", image))
        return (
            struct.pack(">l", self.version) + struct.pack(self.long, len(root)) + struct.pack(">l", 1) + root + bytes(8)
        )

    def content(self, *tags: bytes) -> bytes:
        return b"\1\0" + struct.pack(self.long, len(tags)) + b"".join(tags)

    def group(self, name: str, *tags: bytes) -> bytes:
        return self.named(20, name, self.content(*tags))

    def value(self, name: str, code: int, form: str, value: float) -> bytes:
        return self.tag(name, [code], struct.pack(form, value))

    def text(self, name: str, text: str) -> bytes:
        return self.tag(name, [20, 4, len(text)], text.encode("utf-16-le"))

    def tag(self, name: str, kind: list[int], content: bytes) -> bytes:
        described = b"".join(struct.pack(self.long, one) for one in [len(kind), *kind])
        return self.named(21, name, b"%%%%" + described + content)

    def named(self, kind: int, name: str, content: bytes) -> bytes:
        size = struct.pack(">q", len(content)) if self.version == 4 else b""
        return struct.pack(">BH", kind, len(name)) + name.encode() + size + content


def write_dm(path: Path, pixels: NDArray[Any], scale: float = NM, units: str = "nm") -> None:
    path.write_bytes(DigitalMicrograph(int(path.suffix[-1])).file(pixels, scale, units))


def write_ser(path: Path, pixels: NDArray[Any], every_s: int = 0) -> None:
    """A series of images as TIA writes it; its rows go up."""
    count, height, width = pixels.shape
    first = struct.pack("<HHHLLLL", 0x4949, 0x0197, 0x0210, 0x4122, 0x4152, count, count)
    dimension = struct.pack("<LddL", count, 0.0, 1.0, 0) + struct.pack("<L", 6) + b"Number" + struct.pack("<L", 0)
    offsets_at = len(first) + 8 + len(dimension)
    elements = [
        struct.pack("<ddLddLHLL", 0.0, NM * 1e-9, 0, 0.0, NM * 1e-9, 0, _SER_TYPES[one.dtype.name], width, height)
        + one[::-1].tobytes()
        + struct.pack("<HHL", 0x4152, 0, 1_700_000_000 + number * every_s)
        for number, one in enumerate(pixels)
    ]
    data_at = offsets_at + 8 * count
    offsets = [data_at + number * len(elements[0]) for number in range(count)]
    tags = [offset + len(elements[0]) - 8 for offset in offsets]
    table = struct.pack(f"<{2 * count}L", *offsets, *tags)
    path.write_bytes(first + struct.pack("<LL", offsets_at, 1) + dimension + table + b"".join(elements))


def write_emd(path: Path, pixels: NDArray[Any]) -> None:
    names = ["z", "y", "x"][-pixels.ndim :]
    axes = [
        {
            "name": name,
            "size": size,
            "offset": 0.0,
            "scale": NM,
            "units": "nm",
            "navigate": name == "z",
            "index_in_array": at,
        }
        for at, (name, size) in enumerate(zip(names, pixels.shape, strict=True))
    ]
    signal = {
        "data": pixels,
        "axes": axes,
        "metadata": {"General": {"title": "a"}, "Signal": {}},
        "original_metadata": {},
    }
    rsciio.emd.file_writer(str(path), signal | {"learning_results": {}, "models": None, "package_info": {}})


def write_velox(
    path: Path, images: dict[str, NDArray[Any]], height_nm: float = NM, width_nm: float = NM, scan: bool = False
) -> None:
    """Images as Velox lays them out: (H, W, T) and, for every frame, a column of JSON; lengths in metres."""
    metadata: dict[str, Any] = {
        "Core": {"MetadataDefinitionVersion": "7.9"},
        "Instrument": {"InstrumentClass": "Titan", "InstrumentId": "1"},
        "BinaryResult": {
            "DetectorIndex": "0",
            "PixelSize": {"width": str(width_nm * 1e-9), "height": str(height_nm * 1e-9)},
            "Offset": {"x": "0", "y": "0"},
            "PixelUnitX": "m",
            "PixelUnitY": "m",
        },
        "Detectors": {"Detector-0": {"DetectorName": "BM-Ceta", "ExposureTime": "0.04"}},
        "Scan": {"FrameTime": "0.5"} if scan else {},
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1700000000"}},
        "Optics": {"AccelerationVoltage": "300000"},
    }
    said = json.dumps(metadata).encode()
    with h5py.File(path, "w") as file:
        file.create_dataset("Version", data=[b'{"format": "Velox", "version": "11"}'], dtype=h5py.string_dtype())
        for name, pixels in images.items():
            frames = pixels if pixels.ndim == 3 else pixels[None]
            group = file.create_group(f"Data/Image/{name}")
            data = np.moveaxis(frames, 0, -1)
            group.create_dataset("Data", data=data, chunks=(*data.shape[:2], 1))
            column = np.zeros((65_536, len(frames)), np.uint8)
            column[: len(said)] = np.frombuffer(said, np.uint8)[:, None]
            group.create_dataset("Metadata", data=column)
            group["FrameLookupTable"] = np.arange(len(frames))


def write_hdf5(path: Path, pixels: NDArray[Any]) -> None:
    with h5py.File(path, "w") as file:
        file["entry/data/frames"] = pixels
        file["entry/small"] = np.zeros((2, 2))
        file["entry/names"] = np.array([[b"a", b"b"]])


WRITERS = {".dm3": write_dm, ".dm4": write_dm, ".ser": write_ser, ".emd": write_emd, ".h5": write_hdf5}


def read(path: Path) -> tuple[NDArray[Any], float | None]:
    with read_frames(path) as recording:
        frames = np.stack(list(recording))
        assert frames.shape == (len(recording), *recording.shape)
        assert frames.dtype.isnative
        return frames, recording.sampling_A


class TestGood:
    @pytest.mark.parametrize("suffix", WRITERS)
    def test_a_movie(self, tmp_path: Path, suffix: str) -> None:
        WRITERS[suffix](tmp_path / f"a{suffix}", STACK)
        frames, sampling_A = read(tmp_path / f"a{suffix}")
        assert frames.dtype == STACK.dtype
        np.testing.assert_array_equal(frames, STACK)
        assert sampling_A == (None if suffix == ".h5" else pytest.approx(0.125))

    @pytest.mark.parametrize("suffix", [".dm3", ".dm4", ".emd", ".h5"])
    def test_one_frame(self, tmp_path: Path, suffix: str) -> None:
        WRITERS[suffix](tmp_path / f"a{suffix}", STACK[1])
        np.testing.assert_array_equal(read(tmp_path / f"a{suffix}")[0], STACK[1:2])

    @pytest.mark.parametrize("dtype", ["int16", "float32", "int32"])
    def test_types(self, tmp_path: Path, dtype: str) -> None:
        write_dm(tmp_path / "a.dm4", STACK.astype(dtype) - 7)
        np.testing.assert_array_equal(read(tmp_path / "a.dm4")[0], STACK.astype(dtype) - 7)

    @pytest.mark.parametrize(
        ("scale", "units", "sampling_A"),
        [
            (0.1, "Å", 0.1),
            (12.5, "pm", 0.125),
            (1.25e-5, "µm", 0.125),
            (5.0, "1/nm", None),
            (1.0, "", None),
            (99, "µm", None),
        ],
    )
    def test_pixel_size_where_it_is_beyond_doubt(
        self, tmp_path: Path, scale: float, units: str, sampling_A: float | None
    ) -> None:
        write_dm(tmp_path / "a.dm4", STACK, scale, units)
        assert read(tmp_path / "a.dm4")[1] == (sampling_A and pytest.approx(sampling_A))


def interval_s(path: Path) -> float | None:
    with read_frames(path) as recording:
        return recording.interval_s


class TestInterval:
    """Seconds from one frame to the next."""

    def test_of_a_time_axis(self, tmp_path: Path) -> None:
        write_dm(tmp_path / "a.dm4", STACK)
        write_dm(tmp_path / "one.dm4", STACK[0])
        write_velox(tmp_path / "scan.emd", {"a": STACK}, scan=True)
        write_velox(tmp_path / "camera.emd", {"a": STACK})
        write_emd(tmp_path / "space.emd", STACK)
        names = ("a.dm4", "one.dm4", "scan.emd", "camera.emd", "space.emd")
        assert [interval_s(tmp_path / name) for name in names] == [1.0, None, 0.5, 0.04, None]

    def test_of_stamps_in_whole_seconds(self, tmp_path: Path) -> None:
        write_ser(tmp_path / "a.ser", STACK, every_s=2)
        write_ser(tmp_path / "fast.ser", STACK)
        assert [interval_s(tmp_path / name) for name in ("a.ser", "fast.ser")] == [2.0, None]

    def test_of_the_names_of_a_oneview_folder(self, tmp_path: Path) -> None:
        """Four frames a second; the last second was cut off."""
        for second, frames in enumerate((4, 4, 1)):
            folder = tmp_path / f"Hour_00/Minute_00/Second_{second:02}"
            folder.mkdir(parents=True)
            for number in range(frames):
                write_dm(folder / f"a_Frame_{number:04}.dm4", STACK[0])
            assert interval_s(tmp_path) == (0.25 if second else None)

    @pytest.mark.parametrize("suffix", HDF5)
    def test_every_name_that_a_recording_may_have(self, tmp_path: Path, suffix: str) -> None:
        assert read(archive(tmp_path / f"a{suffix}", [record(1, pixels=STACK[0])]))[1] == 0.2

    @pytest.mark.parametrize("stamped", [True, False])
    def test_of_recordings_of_ours_and_their_pixel_size(self, tmp_path: Path, stamped: bool) -> None:
        """By the sender's clock, else ours; one of five results came without its pixels, and one was late."""
        records = []
        for number, at in enumerate((0.0, 0.1, 0.2, 0.3, 0.7)):
            clocks = {"timestamp": STARTED + at if stamped else None, "answered": STARTED + 2 * at}
            records.append(record(number + 1, pixels=None if number == 3 else STACK[0], **clocks))
        with read_frames(archive(tmp_path / "a.h5", records)) as recording:
            assert len(recording) == 4
            assert recording.interval_s == pytest.approx(0.1 if stamped else 0.2, rel=1e-3)
            assert recording.sampling_A == 0.2


class TestVelox:
    UUID = "2a1c7f0b52a84d0e9b7d3f6a1c5e8d47"

    @pytest.mark.parametrize("scan", [False, True])
    @pytest.mark.parametrize("frames", [1, 3])
    def test_frames_and_their_pixel_size(self, tmp_path: Path, frames: int, scan: bool) -> None:
        write_velox(tmp_path / "a.emd", {self.UUID: STACK[:frames]}, scan=scan)
        pixels, sampling_A = read(tmp_path / "a.emd")
        np.testing.assert_array_equal(pixels, STACK[:frames])
        assert pixels.dtype == np.uint16
        assert sampling_A == pytest.approx(0.125)

    def test_rows_are_rows(self, tmp_path: Path) -> None:
        """H and W differ, and so may their pixels: then the size is not beyond doubt."""
        write_velox(tmp_path / "a.emd", {self.UUID: STACK}, height_nm=2 * NM)
        pixels, sampling_A = read(tmp_path / "a.emd")
        assert pixels.shape == (3, 4, 5)
        assert sampling_A is None

    def test_what_was_derived_from_the_picture_is_not_taken_for_it(self, tmp_path: Path) -> None:
        parts = np.dtype([("realFloatHalfEven", "<f4"), ("imagFloatHalfEven", "<f4")])
        write_velox(tmp_path / "a.emd", {"0" * 32: np.ones((4, 3), parts), self.UUID: STACK})
        np.testing.assert_array_equal(read(tmp_path / "a.emd")[0], STACK)

    def test_half_written_or_without_an_image(self, tmp_path: Path) -> None:
        path = tmp_path / "a.emd"
        write_velox(path, {})
        with pytest.raises(FileError, match="expected "):
            read_frames(path)
        write_velox(path, {self.UUID: STACK})
        path.write_bytes(path.read_bytes()[:40_000])
        with pytest.raises(FileError, match="expected "), read_frames(path) as recording:
            list(recording)


class TestOneView:
    def write(self, folder: Path, when: tuple[int, int, int, int], pixels: NDArray[Any]) -> Path:
        hour, minute, second, frame = when
        seconds = folder / f"Hour_{hour:02}/Minute_{minute:02}/Second_{second:02}"
        seconds.mkdir(parents=True, exist_ok=True)
        path = seconds / f"Capture1_Hour_{hour:02}_Minute_{minute:02}_Second_{second:02}_Frame_{frame:04}.dm4"
        write_dm(path, pixels)
        return path

    def test_frames_in_the_order_they_were_taken(self, tmp_path: Path) -> None:
        times = [(0, 0, 9, 1), (0, 0, 10, 0), (0, 0, 9, 0), (0, 1, 0, 0), (1, 0, 0, 0)]
        order = [1, 2, 0, 3, 4]
        for when, value in zip(times, order, strict=True):
            self.write(tmp_path, when, np.full((4, 5), value, np.uint16))
        assert is_movie_folder(tmp_path)
        frames, sampling_A = read(tmp_path)
        assert frames[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
        assert sampling_A == pytest.approx(0.125)

    def test_another_shape_in_between_is_told(self, tmp_path: Path) -> None:
        self.write(tmp_path, (0, 0, 0, 0), STACK[0])
        odd = self.write(tmp_path, (0, 0, 0, 1), STACK[0, :3])
        with read_frames(tmp_path) as recording, pytest.raises(FileError, match=odd.name):
            recording[1]

    def test_any_other_folder(self, tmp_path: Path) -> None:
        write_dm(tmp_path / "a_Frame_0000.dm4", STACK[0])
        assert not is_movie_folder(tmp_path)
        with pytest.raises(FileError, match="expected a folder with Hour_00/Minute_00/Second_00"):
            read_frames(tmp_path)


class TestBad:
    def refuse(self, path: Path, match: str) -> None:
        with pytest.raises(FileError, match=match) as caught, read_frames(path) as recording:
            list(recording)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("suffix", WRITERS)
    def test_not_there_or_garbage(self, tmp_path: Path, suffix: str) -> None:
        self.refuse(tmp_path / f"none{suffix}", "No such file")
        for content in (b"", b"hello", bytes(3000), b"\0\0\0\4" + bytes(100), b"\x89HDF\r\n\x1a\n" + bytes(50)):
            (tmp_path / f"a{suffix}").write_bytes(content)
            self.refuse(tmp_path / f"a{suffix}", "expected ")

    @pytest.mark.parametrize("suffix", WRITERS)
    def test_half_written(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a{suffix}"
        WRITERS[suffix](path, np.tile(STACK, (1, 8, 8)))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        self.refuse(path, "expected ")

    def test_no_real_numbers(self, tmp_path: Path) -> None:
        write_dm(tmp_path / "a.dm4", np.zeros((4, 4), np.complex64))
        self.refuse(tmp_path / "a.dm4", "expected real numbers, got complex64")

    def test_hdf5_without_frames(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["line"] = np.zeros(5)
            file["text"] = np.array([[b"a"]])
        self.refuse(tmp_path / "a.h5", "expected a dataset")

    def test_hdf5_that_points_to_another_file_is_not_followed(self, tmp_path: Path) -> None:
        np.arange(20, dtype=np.uint16).tofile(tmp_path / "secret")
        write_hdf5(tmp_path / "other.h5", STACK)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("raw", (4, 5), np.uint16, external=[(str(tmp_path / "secret"), 0, 40)])
            file["link"] = h5py.ExternalLink("other.h5", "entry/data/frames")
            layout = h5py.VirtualLayout((3, 4, 5), np.uint16)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "entry/data/frames", (3, 4, 5))
            file.create_virtual_dataset("virtual", layout)
        self.refuse(tmp_path / "a.h5", "expected a dataset")

    def test_an_hdf5_bomb_is_not_uncompressed(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("a", (40_000, 300, 200), np.uint8, chunks=(40_000, 300, 100), compression="gzip")
        self.refuse(tmp_path / "a.h5", "expected chunks of at most 1073741824 bytes")
        with h5py.File(tmp_path / "b.h5", "w") as file:
            file.create_dataset("b", (2, 60_000, 60_000), np.uint8, chunks=(1, 100, 100), compression="gzip")
        self.refuse(tmp_path / "b.h5", "expected at most 67108864 pixels a frame")

    @pytest.mark.parametrize("suffix", [".dm3", ".dm4", ".ser", ".h5"])
    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_damaged_files_are_read_or_refused(self, tmp_path: Path, suffix: str, data: st.DataObject) -> None:
        good = tmp_path / f"good{suffix}"
        if not good.exists():
            WRITERS[suffix](good, STACK)
        content = bytearray(good.read_bytes())
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
            content[at] = data.draw(st.sampled_from([0, 1, 0x7F]))
        bad = tmp_path / f"bad{suffix}"
        bad.write_bytes(content)
        refusal = ""
        try:
            read(bad)
        except FileError as error:
            refusal = str(error)
        assert refusal == "" or str(bad) in refusal


class TestWithoutThePackages:
    @pytest.mark.parametrize("suffix", [".dm4", ".h5"])
    def test_it_is_told_in_one_line(self, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        WRITERS[suffix](tmp_path / f"a{suffix}", STACK)
        for name in ("rsciio", "rsciio.digitalmicrograph", "h5py"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ConfigError, match=r"Expected the package (rosettasciio|h5py) .* 'atomstream\[formats\]'"):
            read_frames(tmp_path / f"a{suffix}")

    def test_nothing_of_it_is_imported_before_such_a_file_is_opened(self) -> None:
        look = "import sys, stream.serve, stream.replay, stream.detect; print({'rsciio', 'h5py'} & {*sys.modules})"
        done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"
