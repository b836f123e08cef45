"""The bench of the GPU path: end to end on the device that the tests have on the CPU, at a tiny size."""

import itertools
import json

import numpy as np
import pytest

from bench import gpu
from bench.gpu import Case, Subject, main, measure_case
from bench.gpu_report import BEGIN, END, roofline, rows, section
from bench.gpu_speed import Counting, Pace, agreement, paced, sustained
from bench.report import replace_between
from bench.roofline import Limits
from engine import Atoms, Frame, ModelError
from engine.gpu import network_bytes
from engine.spec import ModelSpec
from engine.torch_network import TorchNetwork
from tests.cuda_on_cpu import HostDevice, cuda_on_cpu  # noqa: F401 - a fixture

LIMITS = Limits(1e12, {"f32": 1e12, "f16": 2e12, "int8": 4e12}, 5e10, 2e10)
PACE = Pace(seconds=0.01, rounds=2, frames=5, repeats=2)
CASE = Case((96, 112), 0.2, 50, 1000)


@pytest.fixture(scope="module")
def cases(cuda_on_cpu, tiny_model, draw_frame):  # noqa: F811
    """Both precisions that torch has, and one it lacks."""
    spec = ModelSpec.read(tiny_model)

    def opened(device, precision):
        if precision == "int8":
            raise ModelError("torch runs no INT8 network: install TensorRT")
        return TorchNetwork(device, network_bytes(spec, tiny_model.parent, precision), precision, "cpu")

    places = [(y, x) for y in range(20, 80, 20) for x in range(20, 100, 20)]
    frames = []
    for k in range(3):
        pixels = draw_frame(CASE.shape, [(y + k, x - k) for y, x in places]).pixels
        frames.append(Frame(pixels.astype(np.uint16), CASE.sampling_A))
    free = itertools.count(9_000_000, -2_000_000).__next__  # somebody takes memory meanwhile
    subject = Subject(tiny_model, cuda_on_cpu, opened, LIMITS, free)
    return list(measure_case(CASE, frames, subject, ("f32", "f16", "int8"), PACE))


class TestEndToEnd:
    def test_the_same_atoms_and_nothing_allocated(self, cases):
        for case in cases[:2]:
            assert case["same_atoms"]["f1"] == 1.0
            assert case["same_atoms"]["atoms"] == 12
            assert case["allocations"] == 0
            assert case["memory_grown_MB"] == 2.0
            assert case["backend"].startswith("torch ")
            assert case["network_input"] == [96, 112]
        assert cases[0]["same_atoms"]["largest_px"] < 0.02

    def test_every_part_has_its_time_and_its_floor(self, cases):
        for case in cases[:2]:
            assert [part["name"] for part in case["parts"]] == ["up", "prepare", "network", "peaks", "down"]
            for part in case["parts"]:
                assert part["share"] == pytest.approx(part["floor_s"] / part["seconds"])
            assert 0 < case["peaks_share"] < 1
            assert case["fps"] > 0
        floors = [case["parts"][2]["floor_s"] for case in cases[:2]]
        assert floors[0] == 2 * floors[1]

    def test_a_precision_that_is_not_there_is_said(self, cases):
        assert cases[2]["missing"] == "torch runs no INT8 network: install TensorRT"

    def test_the_page_says_what_was_measured_on_what(self, cases, tmp_path):
        results = {
            "gpu": "CPU sm_0",
            "date": "2026-11-24T12:00:00+00:00",
            "commit": "0123456789ab",
            "versions": {"Python": "3.11.7", "cupy-cuda13x": None},
            "model": {"name": "tiny", "version": "1", "sha256": {}},
            "cases": cases,
        }
        page = tmp_path / "page.md"
        page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
        replace_between(page, BEGIN, END, section(json.loads(json.dumps(results))))
        text = page.read_text()
        for part in ("CPU sm_0", "network run by torch", "0123456789ab", "**No TensorRT there", "FLOP", "| up |"):
            assert part in text
        assert "Not measured: 96 x 112 at 0.2 A/px in int8 (torch runs no INT8 network" in text
        assert "None" not in text
        assert "old" not in text


def reached(case):
    return {what.removeprefix("- ").split(",")[0].split(" (")[0]: row[2] for what, *row in rows(case)}


class TestReport:
    CASE = {  # noqa: RUF012
        "frame": "512 x 512 at 0.1 A/px",
        "precision": "f16",
        "backend": "tensorrt 11.4 f16, H200 sm_90",
        "target_fps": 4000,
        "target_p99_ms": 1,
        "fps": 4100.0,
        "range": [4000.0, 4200.0],
        "latency_ms": {"p50": 0.4, "p99": 0.5},
        "latency_ms_at_target": {"p50": 0.6, "p99": 0.9},
        "allocations": 0,
        "memory_grown_MB": 0.0,
        "same_atoms": {"f1": 0.9995, "largest_px": 0.04, "atoms": 990},
        "peaks_share": 0.04,
        "floor_s": 1e-4,
        "parts": [{"name": "network", "bytes": 3e7, "operations": 5e9, "seconds": 2e-4, "floor_s": 1e-4, "share": 0.5}],
    }

    def test_all_that_is_asked_for(self):
        marks = reached(self.CASE)
        assert marks.pop("latency of a frame alone") is None
        assert len(marks) == 5
        assert set(marks.values()) == {True}

    @pytest.mark.parametrize(
        ("changes", "what"),
        [
            ({"fps": 3999.0}, "512 x 512 at 0.1 A/px"),
            ({"latency_ms_at_target": {"p50": 0.6, "p99": 1.1}}, "latency at 4000 frames/s"),
            ({"peaks_share": 0.06}, "peaks"),
            ({"allocations": 1}, "allocations after warm-up"),
            ({"memory_grown_MB": 2.0}, "allocations after warm-up"),
            ({"same_atoms": {"f1": 0.998, "largest_px": 0.04, "atoms": 1}}, "the CPU's atoms"),
            ({"same_atoms": {"f1": 1.0, "largest_px": 0.051, "atoms": 1}}, "the CPU's atoms"),
            ({"precision": "f32"}, "the CPU's atoms"),  # there positions have to be nearer
        ],
    )
    def test_what_falls_short(self, changes, what):
        marks = reached(self.CASE | changes)
        assert [name for name, mark in marks.items() if mark is False] == [what]

    def test_nothing_is_asked_of_positions_in_int8(self):
        assert reached(self.CASE | {"precision": "int8"})["the CPU's atoms"] is None

    def test_the_roofline_in_units_that_can_be_read(self):
        title, network, interval = roofline(self.CASE)
        assert title[0] == "**512 x 512 at 0.1 A/px, f16**"
        assert network == ("network", "30 MB", "5 GFLOP", "200 us", "100 us", "50%")
        assert interval[3:] == ("244 us", "100 us", "41%")


class TestRates:
    class Detector:
        def __init__(self):
            self.seen = []

        def detect(self, frame):
            self.seen.append(frame)

    def test_frames_come_at_their_rate_whether_or_not_earlier_ones_are_done(self):
        now, slept = [100.0], []

        def sleep(seconds):
            slept.append(seconds)
            now[0] += seconds

        detector = self.Detector()
        latencies = paced(detector, ["a", "b"], 10.0, 5, clock=lambda: now[0], sleep=sleep)
        assert slept == pytest.approx([0.1] * 4)
        assert sorted(detector.seen) == ["a", "a", "a", "b", "b"]
        assert len(latencies) == 5

    def test_what_comes_too_late_counts_from_when_it_was_due(self):
        clock = itertools.chain([0.0], itertools.repeat(7.0)).__next__  # nothing is done for seven seconds
        latencies = paced(self.Detector(), ["a"], 1.0, 3, clock=clock, sleep=lambda seconds: pytest.fail("early"))
        assert latencies == [7.0, 6.0, 5.0]

    def test_all_workers_count(self):
        detector = self.Detector()
        clock = itertools.chain([0.0], itertools.repeat(2.0)).__next__
        assert sustained(detector, ["a"], 1.0, clock) == len(detector.seen) / 2.0

    def test_allocations_are_counted_and_made(self):
        device = Counting(HostDevice({}))
        assert device.zeros((2,), np.float32).shape == device.pinned((2,), np.uint8).shape == (2,)
        device.constant(np.zeros(3))
        assert device.allocations == 3
        assert device.name == HostDevice.name


def atoms(*positions):
    y, x = np.array(positions, np.float32).reshape(-1, 2).T
    one = np.ones(len(y), np.float32)
    return Atoms(y, x, np.zeros(len(y), np.uint8), one, one, one, np.zeros(len(y), np.uint8))


class TestAgreement:
    def test_the_same(self):
        frame = atoms((1, 2), (30, 40))
        assert agreement([frame], [frame], 0.1) == {"f1": 1.0, "largest_px": 0.0, "atoms": 2}

    def test_moved_missing_and_invented(self):
        ours, reference = atoms((1, 2.25), (90, 90)), atoms((1.125, 2), (30, 40), (60, 60))
        assert agreement([ours], [reference], 0.1) == {"f1": 0.4, "largest_px": 0.25, "atoms": 3}

    def test_none_at_all(self):
        assert agreement([Atoms.none()], [Atoms.none()], 0.1)["f1"] == 1.0
        assert agreement([Atoms.none()], [atoms((1, 1))], 0.1)["f1"] == 0.0


def test_without_a_gpu_one_line_says_why(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("engine.gpu.obstacle", lambda: "driver: no NVIDIA driver: install driver 580 or newer")
    assert main(["--output", str(tmp_path / "gpu.json")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "bench: Expected a GPU that can be used, got driver: no NVIDIA driver: install driver 580 or newer\n"
    )
    assert not list(tmp_path.iterdir())


def test_the_page_of_the_documentation_has_its_place(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(gpu._PAGE.read_text())
    replace_between(page, BEGIN, END, "measured")
    assert "\n\nmeasured\n" in page.read_text()
