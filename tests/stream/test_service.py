"""The live path in one process: frames over ZeroMQ in, atoms out, every frame accounted for whatever comes."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from engine import CONTAMINATED, EDGE, Atoms, load_detector
from engine.drift import Registration
from engine.errors import ConfigError, DeviceError, FrameError
from engine.frame import Frame
from engine.gpu_detector import GpuDetector
from engine.gpu_group import GpuGroup
from engine.network import Maps
from engine.prepare import Prepared
from engine.spec import ModelSpec
from stream.config import ServeConfig
from stream.messages import Result, encode
from stream.service import Service
from tests.cuda_on_cpu import HostDevice, cuda_on_cpu  # noqa: F401 - a fixture
from tests.engine.test_gpu_detector import HostNetwork
from tests.stream.fakes import ANY_PORT, PATIENCE_S, TRIPLETS, FakeDetector, Gate, SideBySide, bench, wait_until
from tests.stream.test_dectris_v2 import END, IMAGE, START


class TestAnswers:
    def test_every_frame_is_answered_by_its_number(self) -> None:
        with bench(policy="lossless") as peers:
            for number in range(5):
                peers.send(number, series="a", dose=10.0, timestamp=1000.0 + number, note="kept")
            answers = [peers.next("atoms") for _ in range(5)]
        assert [answer.header["frame"] for answer in answers] == [0, 1, 2, 3, 4]
        assert [answer.arrays["x"].tolist() for answer in answers] == [[0], [1], [2], [3], [4]]
        last = answers[-1].header
        assert (last["source"], last["series"], last["shape"], last["count"]) == ("camera", "a", [4, 5], 1)
        assert (last["dose_e_A2"], last["dose_total_e_A2"], last["header"]) == (10, 50, {"note": "kept"})
        assert last["frame_interval_ms"] == 1000
        assert last["in_time"] is True
        assert last["latency_ms"] >= last["age_ms"] > 0
        assert last["age_ms"] == pytest.approx(sum(last["stages_ms"].values()), abs=0.1)

    def test_a_published_frame_over_pub_and_sub(self) -> None:
        with bench(socket="sub") as peers:
            number = 0
            while not peers.results.poll(20) or peers.next("atoms", "status").kind != "atoms":
                peers.send(number := number + 1)  # those before the subscription arrives are lost

    def test_a_preview_shows_the_frame_of_its_atoms(self) -> None:
        ramp = np.arange(20, dtype=np.uint16).reshape(4, 5)
        with bench() as peers:
            peers.send(3, ramp, series="s")
            atoms, preview = peers.next("atoms"), peers.next("preview")
        for key in ("frame", "series", "sampling_A"):
            assert preview.header[key] == atoms.header[key]
        assert (preview.header["shape"], preview.header["frame_shape"]) == ([4, 5], [4, 5])
        assert (np.diff(preview.arrays["picture"].ravel().astype(int)) >= 0).all()

    def test_previews_keep_to_their_rate(self) -> None:
        with bench(policy="lossless", preview_rate=0.01) as peers:
            for number in range(20):
                peers.send(number)
            kinds = [peers.next("atoms", "preview").kind for _ in range(21)]
        assert kinds.count("preview") == 1

    def test_a_warning_travels_with_the_result(self) -> None:
        with bench() as peers:
            peers.send(1, sampling=0.8)
            assert peers.next("atoms").header["warnings"] == ["Model fake expects a sampling of up to 0.75 A/px"]

    @pytest.mark.parametrize(("covered", "count"), [(False, 1), (True, 2)])
    def test_atoms_under_contamination_are_reported_where_asked_for_and_counted(
        self, covered: bool, count: int
    ) -> None:
        class Dirty(FakeDetector):
            def locate(self, frame: Frame, prepared: Prepared, maps: Maps) -> Atoms:
                atom = super().locate(frame, prepared, maps)
                hidden = replace(atom, flags=np.array([CONTAMINATED | EDGE], np.uint8))
                return Atoms(*map(np.concatenate, zip(atom.columns().values(), hidden.columns().values(), strict=True)))

        with bench(Dirty(), covered=covered) as peers:
            peers.send(1)
            answer = peers.next("atoms")
        assert answer.header["count"] == len(answer.arrays["y"]) == count
        assert answer.header["covered"] == 2 - count

    def test_masks_and_references_reach_the_engine(self, tmp_path: Path) -> None:
        np.save(tmp_path / "dark.npy", np.full((4, 5), 100))
        pixels = np.full((4, 5), 150, np.uint16)
        pixels[1, 1] = 65535
        detector = FakeDetector()
        with bench(detector, dark_reference=str(tmp_path / "dark.npy")) as peers:
            peers.send(1, pixels)
            peers.next("atoms")
        (frame,) = detector.seen
        assert frame.pixels[0, 0] == 50
        assert frame.mask is not None
        assert np.argwhere(frame.mask).tolist() == [[1, 1]]

    def test_a_real_model_finds_the_atoms(self, tiny_model: Path, draw_frame: Any) -> None:
        expected = [(20.0, 30.5), (40.25, 12.0)]
        frame: Frame = draw_frame((64, 64), expected)
        with load_detector(tiny_model) as detector, bench(detector) as peers:  # type: ignore[arg-type]
            peers.send(1, frame.pixels)
            answer = peers.next("atoms")
            peers.send(2, np.full((64, 64), 7, np.uint16))
            nothing = peers.next("atoms")
        assert np.allclose(np.stack([answer.arrays["y"], answer.arrays["x"]], 1), expected, atol=0.3)
        assert nothing.header["count"] == len(nothing.arrays["y"]) == 0


class TestPolicies:
    def test_latest_answers_the_newest_and_counts_the_others(self) -> None:
        gate = Gate()
        with bench(FakeDetector(before_infer=gate)) as peers:
            peers.send(1)
            assert gate.reached.wait(PATIENCE_S)
            for number in range(2, 11):
                peers.send(number)
            wait_until(lambda: peers.source.accounting.totals().dropped == {"superseded": 8})
            assert peers.source.accounting.totals().waiting == 2
            gate.open.set()
            assert [peers.next("atoms").header["frame"] for _ in range(2)] == [1, 10]
            assert peers.until_settled(10) == {"superseded": 8}
            assert peers.source.accounting.totals().processed == 2

    def test_latest_under_a_flood_stays_fresh_and_balanced(self) -> None:
        slow = FakeDetector(before_infer=lambda prepared: time.sleep(0.005))
        with bench(slow) as peers:
            for number in range(400):
                peers.send(number, frame_interval=0.001)
            dropped = peers.until_settled(400)
            totals = peers.source.accounting.totals()
        assert totals.received == 400 == totals.processed + dropped["superseded"]
        assert totals.processed >= 2
        assert dropped.keys() == {"superseded"}

    def test_lossless_loses_none_and_holds_the_sender_back(self) -> None:
        slow = FakeDetector(before_infer=lambda prepared: time.sleep(0.001))
        with bench(slow, policy="lossless", queue_frames=2, receive_hwm=2, preview_rate=0) as peers:
            sending = threading.Thread(target=lambda: [peers.send(number) for number in range(300)])
            sending.start()
            numbers = [peers.next("atoms").header["frame"] for _ in range(300)]
            sending.join(PATIENCE_S)
            totals = peers.source.accounting.totals()
        assert numbers == list(range(300))
        assert totals.dropped == {}
        assert totals.missing == 0

    def test_atoms_are_located_while_the_network_runs_on_the_next_frame(self) -> None:
        second_in_network, first_located = threading.Event(), threading.Event()
        entered: list[object] = []

        def infer(prepared: object) -> None:
            entered.append(prepared)
            if len(entered) == 1:
                assert second_in_network.wait(PATIENCE_S)
            else:
                second_in_network.set()
                assert first_located.wait(PATIENCE_S)

        detector = FakeDetector(before_infer=infer, before_locate=lambda frame: first_located.set())
        with bench(detector, policy="lossless", frames_at_once=2) as peers:
            peers.send(1)
            peers.send(2)
            assert [peers.next("atoms").header["frame"] for _ in range(2)] == [1, 2]

    def test_frames_found_side_by_side_are_answered_in_order(self) -> None:
        seen: list[float] = []

        def locate(frame: Frame) -> None:
            number = float(frame.pixels.mean())
            time.sleep(0.004 if number % 3 == 0 else 0.0)
            seen.append(number)

        detector = FakeDetector(before_locate=locate)
        with bench(detector, policy="lossless", frames_at_once=3) as peers:
            for number in range(60):
                peers.send(number, sampling=2 if number % 7 == 3 else 0.2)  # refused in between
            numbers = [peers.next("atoms").header["frame"] for _ in range(60 - 9)]
            assert peers.until_settled(60) == {"sampling_out_of_range": 9}
        assert numbers == [number for number in range(60) if number % 7 != 3]
        assert seen != sorted(seen)  # else nothing was side by side

    def test_latest_takes_one_frame_at_a_time_unless_told(self) -> None:
        infer = SideBySide(lambda _: time.sleep(0.002))
        with bench(FakeDetector(before_infer=infer)) as peers:
            for number in range(50):
                peers.send(number)
                time.sleep(0.001)
            peers.until_settled(50)
        assert max(infer.numbers) == 1

    def test_latest_fills_the_places_of_a_device_with_the_newest_and_no_more(self) -> None:
        """And the answers are in order, whichever is done first."""
        gate = Gate()
        infer = SideBySide(gate)
        detector = FakeDetector(places=3, before_infer=infer)
        with bench(detector) as peers:
            for number in range(3):
                peers.send(number)
                wait_until(lambda number=number: len(infer.numbers) == number + 1)
            for number in range(3, 10):  # there is no place for them: the last wins
                peers.send(number)
            wait_until(lambda: peers.source.accounting.totals().received == 10)
            assert len(detector.seen) == 3
            gate.open.set()
            assert [peers.next("atoms").header["frame"] for _ in range(4)] == [0, 1, 2, 9]
            assert peers.until_settled(10) == {"superseded": 6}
        assert max(infer.numbers) == 3

    def test_latest_is_one_frame_at_a_time_again_once_the_device_is_lost(self) -> None:
        """Frames in the hands of threads that wait for the CPU would grow old there."""
        infer = SideBySide(lambda _: time.sleep(0.002))
        detector = FakeDetector(places=4, before_infer=infer)
        with bench(detector) as peers:
            detector.places = 0
            for number in range(12):  # those that wait already take one more
                peers.send(number)
                peers.until_settled(number + 1)
            infer.numbers.clear()
            for number in range(12, 50):
                peers.send(number)
                time.sleep(0.001)
            peers.until_settled(50)
            assert sum(thread.name.startswith("camera engine") for thread in threading.enumerate()) == 1
        assert max(infer.numbers) == 1


class TestHostile:
    def test_each_bad_message_is_counted_and_the_loop_goes_on(self) -> None:
        header, blob = (bytes(part) for part in encode(np.zeros((4, 5), np.uint16), frame=119))
        bad: list[tuple[str, list[bytes]]] = [
            ("wrong_parts", [header]),
            ("wrong_parts", [header, blob, blob]),
            ("not_json", [b"\x80", blob]),
            ("missing_key", [b"{}", blob]),
            ("wrong_key", [header.replace(b"array-1.0", b"array-9.0"), blob]),
            ("unknown_dtype", [header.replace(b"uint16", b"string"), blob]),
            ("size_mismatch", [header, blob[:-2]]),
            ("too_large", [header.replace(b"[4, 5]", b"[4000, 50000]"), blob]),
            ("unknown_encoding", [header.replace(b"{", b'{"encoding": "jpeg", ', 1), blob]),
            ("empty_frame", [header.replace(b"[4, 5]", b"[0, 5]"), b""]),
            ("no_sampling", [header, blob]),
        ]
        with bench(policy="lossless") as peers:
            for number, (_, message) in enumerate(bad):
                peers.sender.send_multipart(message)
                peers.send(100 + 2 * number)
            peers.send(99)
            peers.send(200, sampling=2.0)
            numbers = [peers.next("atoms").header["frame"] for _ in bad]
            dropped = peers.until_settled(2 * len(bad) + 2)
        assert numbers == list(range(100, 100 + 2 * len(bad), 2))
        expected = [*(reason for reason, _ in bad), "frame_jumped_back", "sampling_out_of_range"]
        assert dropped == {reason: expected.count(reason) for reason in expected}

    def test_a_frame_over_the_limit_is_counted_and_one_far_over_it_is_cut_off(self) -> None:
        with bench(max_frame_MB=0.01) as peers:
            peers.send(1, np.zeros((100, 80), np.uint16))
            assert peers.until_settled(1) == {"too_large": 1}
            assert peers.next("event").header["reason"] == "too_large"
            peers.send(2, np.zeros((1000, 1000), np.uint16))
            assert peers.next("event").header["reason"] == "connection"
            peers.send(3)
            assert peers.next("atoms").header["frame"] == 3
            assert peers.source.accounting.totals().received == 2

    def test_a_fault_is_told_to_subscribers_at_a_bounded_rate(self) -> None:
        with bench() as peers:
            for _ in range(50):
                peers.sender.send_multipart([b"?"])
            fault = peers.next("event")
            assert (fault.header["event"], fault.header["reason"]) == ("fault", "wrong_parts")
            assert "Expected 2 parts" in fault.header["message"]
            assert peers.until_settled(50) == {"wrong_parts": 50}
            peers.send(1)
            seen: list[Result] = []
            while not seen or seen[-1].kind != "atoms":
                seen.append(peers.next("atoms", "event"))
        assert [result.header["event"] for result in seen[:-1]] == ["series_start"]

    @pytest.mark.parametrize("step", ["before_infer", "before_locate"])
    def test_a_mistake_of_ours_costs_one_frame(self, step: str, caplog: pytest.LogCaptureFixture) -> None:
        calls: list[object] = []

        def fail_once(argument: object) -> None:
            calls.append(argument)
            if len(calls) == 1:
                raise MemoryError("not today")

        with bench(FakeDetector(**{step: fail_once}), policy="lossless", frames_at_once=1) as peers:
            for number in (1, 2):
                peers.send(number)
            assert peers.next("atoms").header["frame"] == 2
            assert peers.until_settled(2) == {"internal": 1}
        assert "not today" in caplog.text

    def test_dose_counts_for_dropped_frames_too(self) -> None:
        gate = Gate()
        with bench(FakeDetector(before_infer=gate)) as peers:
            peers.send(1, dose=10.0)
            assert gate.reached.wait(PATIENCE_S)
            for number in (2, 3, 4):
                peers.send(number, dose=10.0)
            wait_until(lambda: peers.source.accounting.totals().received == 4)
            gate.open.set()
            assert [peers.next("atoms").header["dose_total_e_A2"] for _ in range(2)] == [10, 40]


class TestDevice:
    """What a GPU may do to the service."""

    def test_once_it_is_lost_for_good_the_service_says_so(self) -> None:
        def lost(prepared: object) -> None:
            raise DeviceError("GPU 0: expected an answer, got cudaErrorDeviceUnavailable: restart")

        with bench(FakeDetector(before_infer=lost), policy="lossless") as peers:
            assert peers.service.lost is None
            peers.send(1)
            assert peers.until_settled(1) == {"internal": 1}
            fault = peers.next("event").header
            assert (fault["event"], fault["reason"]) == ("fault", "device")
            assert fault["message"] == peers.service.lost
        assert "cudaErrorDeviceUnavailable" in str(peers.service.lost)

    def test_when_another_device_takes_over_results_and_an_event_name_it(self) -> None:
        detector = FakeDetector(backend="tensorrt 11 f16, H200")
        with bench(detector, policy="lossless") as peers:
            peers.send(1)
            assert peers.next("atoms").header["backend"] == "tensorrt 11 f16, H200"
            detector.backend = "openvino f32"
            for number in (2, 3):
                peers.send(number)
            peers.until_settled(3)
            peers.stop()
            told: list[str] = []
            while told[-1:] != ["The service is stopping"]:
                header = peers.next("atoms", "event").header
                told.append(header["backend"] if "backend" in header else header["message"])
        assert told.count("openvino f32") == 2
        said = "Computing with openvino f32 from now on, no longer with tensorrt 11 f16, H200"
        assert told.count(said) == 1
        assert peers.service.lost is None

    def test_a_frame_goes_up_while_another_is_waited_for(
        self,
        cuda_on_cpu: HostDevice,  # noqa: F811
        tiny_model: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """And more threads than there are places for frames on the device do not wait for each other for ever."""
        second_is_up, upload, uploads = threading.Event(), cuda_on_cpu.upload, []

        def count(*arguments: Any) -> None:
            upload(*arguments)
            uploads.append(1)
            if len(uploads) == 2:
                second_is_up.set()

        def wait(*arguments: Any) -> None:
            assert second_is_up.wait(PATIENCE_S / 4)

        monkeypatch.setattr(cuda_on_cpu, "upload", count)
        monkeypatch.setattr(cuda_on_cpu, "synchronize", wait)
        spec = ModelSpec.read(tiny_model)
        detector = GpuDetector(spec, cuda_on_cpu, HostNetwork(cuda_on_cpu, tiny_model, spec))
        with detector, bench(detector, policy="lossless", frames_at_once=4) as peers:  # type: ignore[arg-type]
            for number in range(24):
                peers.send(number, np.full((64, 64), 7, np.uint16))
            assert [peers.next("atoms").header["frame"] for _ in range(24)] == list(range(24))
            assert peers.until_settled(24) == {}

    def test_latest_keeps_every_gpu_of_several_at_work(
        self,
        cuda_on_cpu: HostDevice,  # noqa: F811
        tiny_model: Path,
    ) -> None:
        """Frame after frame, a GPU that waited for the one before would never be two at once."""
        all_are_busy = threading.Barrier(2)
        spec, members = ModelSpec.read(tiny_model), []

        def meet(stream: Any) -> None:
            all_are_busy.wait(PATIENCE_S / 4)

        for _ in range(2):
            device = HostDevice(cuda_on_cpu._functions)
            members.append(GpuDetector(spec, device, HostNetwork(device, tiny_model, spec, meet)))
        detector = GpuGroup(members)
        with detector, bench(detector, policy="latest") as peers:  # type: ignore[arg-type]
            for number in range(4):
                peers.send(number, np.full((64, 64), 7, np.uint16))
                wait_until(lambda number=number: peers.source.accounting.totals().received > number)
                wait_until(lambda: len(peers.source._slot) == 0)
            assert [peers.next("atoms").header["frame"] for _ in range(4)] == [0, 1, 2, 3]
            assert peers.until_settled(4) == {}

    @pytest.mark.parametrize("reason", ["no_engine", "no_memory"])
    def test_what_it_cannot_take_yet_is_a_drop_with_a_reason(self, reason: str) -> None:
        refused: list[object] = []

        def not_yet(prepared: object) -> None:
            if len(refused) < 3:
                refused.append(prepared)
                raise FrameError(reason, "GPU expects something else, got this: wait")

        with bench(FakeDetector(before_infer=not_yet), policy="lossless", frames_at_once=1) as peers:
            for number in range(5):
                peers.send(number)
            assert [peers.next("atoms").header["frame"] for _ in range(2)] == [3, 4]
            assert peers.until_settled(5) == {reason: 3}
            assert peers.service.lost is None


class TestSeries:
    def test_no_result_of_a_series_comes_after_the_next_has_begun(self) -> None:
        with bench(policy="lossless") as peers:
            for series, number in (("a", 7), ("a", 8), ("b", 1), ("a", 9), ("b", 2), ("b", 0)):
                peers.send(number, series=series)
            assert peers.until_settled(6) == {"frame_jumped_back": 1}
            peers.stop()
            told: list[tuple[str, object]] = []
            while told[-1:] != [("stopping", None)]:
                result = peers.next("atoms", "event")
                if result.header.get("event") != "fault":
                    told.append((result.header.get("event", "atoms"), result.header.get("series")))
        assert told == [
            ("series_start", "a"),
            ("atoms", "a"),
            ("atoms", "a"),
            ("series_end", "a"),
            ("series_start", "b"),
            ("atoms", "b"),
            ("atoms", "b"),
            ("series_end", "b"),
            ("series_start", "b"),
            ("atoms", "b"),
            ("series_end", "b"),
            ("stopping", None),
        ]

    def test_what_a_detector_tells_of_a_series_is_no_frame(self) -> None:
        with bench(policy="lossless", dialect="dectris-v2") as peers:
            for message in (START, IMAGE, END, END, b"?"):
                peers.sender.send(message)
            answer = peers.next("atoms").header
            assert peers.until_settled(2) == {"not_cbor": 1}
            totals = peers.source.accounting.totals()
        assert (answer["frame"], answer["series"], answer["shape"], answer["sampling_A"]) == (3, 7, [2, 8], 0.1)
        assert (totals.received, totals.processed) == (2, 1)

    def test_several_messages_that_come_at_once_are_each_booked(self) -> None:
        with bench(policy="lossless", dialect="dectris-v2") as peers:
            peers.sender.send_multipart([START, IMAGE, b"?", IMAGE.replace(b"image_id\3", b"image_id\4"), END])
            assert [peers.next("atoms").header["frame"] for _ in range(2)] == [3, 4]
            assert peers.until_settled(3) == {"not_cbor": 1}


class TestTriplets:
    """A detector of three channels; the x of its one atom is the mean of all pixels."""

    def test_three_messages_of_one_series(self) -> None:
        detector = FakeDetector(TRIPLETS)
        with bench(detector, policy="lossless") as peers:
            for number, defocus in ((2, 0), (0, 50), (1, -50)):
                peers.send(number, series="a", defocus=defocus, dose=10.0)
            answer = peers.next("atoms")
            assert peers.until_settled(3) == {}
            totals = peers.source.accounting.totals()
        header, (frame,) = answer.header, detector.seen
        assert (totals.received, totals.processed, totals.waiting, totals.atoms_mean) == (3, 3, 0, 1)
        assert (header["frame"], header["series"], header["members"]) == (2, "a", [1, 2, 0])
        assert (header["dose_e_A2"], header["dose_total_e_A2"]) == (30, 30)
        assert (header["drift_px"], header["drift_certain"]) == ([[0, 0]] * 3, False)  # constant images tell none
        assert frame.defocus_A == (-50, 0, 50)
        assert frame.pixels[:, 0, 0].tolist() == [1, 2, 0]
        assert answer.arrays["x"].tolist() == [1]

    def test_the_dose_of_a_repeated_member_is_booked_once(self) -> None:
        with bench(FakeDetector(TRIPLETS), policy="lossless") as peers:
            for number in (0, 0, 1, 2, 1):
                peers.send(number, series="a", dose=10.0)
            assert peers.next("atoms").header["dose_total_e_A2"] == 30
            assert peers.until_settled(5) == {"triplet_repeated": 2}
            assert peers.source.accounting.totals().dose_total_e_A2 == 30

    def test_a_drift_that_may_be_a_lattice_vector_off_is_told_and_counted(self) -> None:
        rows, columns = np.mgrid[:96, :96]
        with bench(FakeDetector(TRIPLETS), triplets="count", max_drift=1.6) as peers:
            for number, shift in enumerate((4, 0, 4)):
                waves = np.cos((rows - shift) * np.pi / 8) + np.cos(columns * np.pi / 8)
                peers.send(number, (1000 + 100 * waves).astype(np.uint16))
            answer = peers.next("atoms").header
            assert (answer["drift_certain"], len(answer["warnings"])) == (False, 1)
            assert answer["warnings"][0].startswith("Drift expects one shift that fits best, got another one")
            while not peers.next("status").header["drift_uncertain"]:
                pass
            counted = peers.source.metrics.registry.get_sample_value(
                "atomstream_drift_uncertain_total", {"source": "camera"}
            )
        assert counted == 1

    def test_however_long_a_drift_takes_the_newest_triplet_is_the_next(self, monkeypatch: pytest.MonkeyPatch) -> None:
        begun, go_on = threading.Event(), threading.Event()

        def held_up(*_: object, **__: object) -> Registration:
            begun.set()
            go_on.wait(PATIENCE_S)
            return Registration((0.0, 0.0), 0.0)

        monkeypatch.setattr("stream.alignment.register", held_up)
        with bench(FakeDetector(TRIPLETS), max_drift=1.6) as peers:
            peers.send(0, np.ones((3, 32, 32), np.uint16))
            assert begun.wait(PATIENCE_S)
            for number in range(1, 30):  # more than wait inside ZeroMQ
                peers.send(number, np.ones((3, 32, 32), np.uint16))
            wait_until(lambda: peers.source.accounting.totals().dropped == {"superseded": 28})
            go_on.set()
            assert [peers.next("atoms").header["frame"] for _ in range(2)] == [0, 29]

    def test_a_mistake_of_ours_drops_all_three_and_the_next_are_answered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with bench(FakeDetector(TRIPLETS), policy="lossless", triplets="count", max_drift=1.6) as peers:
            with monkeypatch.context() as broken:
                broken.setattr("stream.alignment.register", lambda *_, **__: 1 / 0)
                for number in range(3):
                    peers.send(number, np.ones((32, 32), np.uint16))
                assert peers.until_settled(3) == {"internal": 3}
            for number in range(3, 6):
                peers.send(number, np.ones((32, 32), np.uint16))
            assert peers.next("atoms").header["members"] == [3, 4, 5]

    def test_drift_is_followed_in_order_though_several_frames_are_worked_on(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[float] = []

        def noted(reference: Any, moved: Any, **_: object) -> Registration:
            seen.append(float(reference[0, 0]))
            time.sleep(0.005)
            return Registration((0.0, 0.0), 0.0)

        monkeypatch.setattr("stream.alignment.register", noted)
        with bench(FakeDetector(TRIPLETS), policy="lossless", max_drift=1.6, frames_at_once=3) as peers:
            for number in range(12):
                peers.send(number, np.full((3, 32, 32), 100 + number, np.uint16))
            assert [peers.next("atoms").header["frame"] for _ in range(12)] == list(range(12))
        assert seen == sorted(seen)
        assert len(set(seen)) == 12

    def test_one_message_of_three_images(self) -> None:
        with bench(FakeDetector(TRIPLETS), policy="lossless") as peers:
            peers.send(7, np.full((3, 4, 5), 9, np.uint16), defocus=[-50, 0, 50])
            header = peers.next("atoms").header
            assert peers.until_settled(1) == {}
        assert (header["frame"], header["members"], header["shape"]) == (7, [7], [4, 5])

    def test_every_three_frames(self) -> None:
        with bench(FakeDetector(TRIPLETS), policy="lossless", triplets="count") as peers:
            for number in (0, 2, 1, 3, 5, 4):
                peers.send(number, frame_interval=0.5)
            headers = [peers.next("atoms").header for _ in range(2)]
            totals = peers.source.accounting.totals()
        assert [header["members"] for header in headers] == [[0, 1, 2], [3, 4, 5]]
        assert headers[-1]["frame_interval_ms"] == 1500
        assert totals.missing == 0

    def test_rolling(self) -> None:
        with bench(FakeDetector(TRIPLETS), policy="lossless", triplets="rolling") as peers:
            for number in range(5):
                peers.send(number, frame_interval=0.5)
            headers = [peers.next("atoms").header for _ in range(3)]
            assert peers.until_settled(5) == {}
            totals = peers.source.accounting.totals()
        assert [header["members"] for header in headers] == [[0, 1, 2], [3, 1, 2], [3, 4, 2]]
        assert [header["frame"] for header in headers] == [2, 3, 4]
        assert headers[-1]["frame_interval_ms"] == 500
        assert totals.processed == 5

    def test_an_incomplete_one_is_given_up_and_told(self) -> None:
        with bench(FakeDetector(TRIPLETS), triplet_timeout=0.05) as peers:
            for number in (0, 1):
                peers.send(number, series="a")
            assert peers.until_settled(2) == {"triplet_incomplete": 2}
            fault = peers.next("event").header
        assert (fault["reason"], fault["event"]) == ("triplet_incomplete", "fault")

    def test_a_superseded_one_counts_for_all_its_frames(self) -> None:
        gate = Gate()
        with bench(FakeDetector(TRIPLETS, before_infer=gate), triplets="count") as peers:
            for number in range(3):
                peers.send(number)
            assert gate.reached.wait(PATIENCE_S)
            for number in range(3, 9):
                peers.send(number)
            wait_until(lambda: peers.source.accounting.totals().dropped == {"superseded": 3})
            gate.open.set()
            assert peers.until_settled(9) == {"superseded": 3}
            assert peers.source.accounting.totals().processed == 6

    def test_a_fault_of_the_engine_counts_for_all_its_frames(self) -> None:
        with bench(FakeDetector(TRIPLETS), triplets="count") as peers:
            for number in range(3):
                peers.send(number, sampling=2.0)
            assert peers.until_settled(3) == {"sampling_out_of_range": 3}

    def test_what_waits_at_the_end_is_counted(self) -> None:
        with bench(FakeDetector(TRIPLETS)) as peers:
            for number in (0, 1):
                peers.send(number, series="a")
            wait_until(lambda: peers.source.accounting.totals().received == 2)
        totals = peers.source.accounting.totals()
        assert (totals.dropped, totals.waiting) == ({"stopping": 2}, 0)

    def test_references_are_applied_before_the_images_are_moved(self, tmp_path: Path) -> None:
        np.save(tmp_path / "dark.npy", np.full((4, 5), 100))
        detector = FakeDetector(TRIPLETS)
        with bench(detector, triplets="count", dark_reference=str(tmp_path / "dark.npy")) as peers:
            for number in range(3):
                peers.send(number, np.full((4, 5), 150, np.uint16))
            peers.next("atoms")
            for number in range(3, 6):
                peers.send(number, np.full((5, 5), 150, np.uint16))
            assert peers.until_settled(6) == {"shape_out_of_range": 3}
        assert (detector.seen[0].pixels == 50).all()

    def test_one_image_where_three_are_wanted_is_told(self) -> None:
        with bench(FakeDetector(TRIPLETS)) as peers:
            peers.send(1)
            assert peers.until_settled(1) == {"missing_key": 1}


class TestStatus:
    def test_the_books_as_published(self) -> None:
        with bench(policy="lossless") as peers:
            for number in (1, 4):
                peers.send(number, dose=5.0, frame_interval=60.0)
            peers.sender.send_multipart([b"?"])
            peers.until_settled(3)
            while (status := peers.next("status").header)["processed"] < 2:
                pass
        assert (status["processed"], status["dropped"], status["missing"]) == (2, {"wrong_parts": 1}, 2)
        assert status["in_time"] == pytest.approx(2 / 3, abs=1e-4)
        assert (status["atoms_mean"], status["dose_total_e_A2"], status["queue"]) == (1, 10, 0)
        assert (status["model"]["name"], status["backend"], status["policy"]) == ("fake", "fake f32", "lossless")
        assert status["frame_interval_ms"] == 60_000
        assert status["latency_ms"]["p99"] >= status["latency_ms"]["p50"] > 0
        assert status["fps_in"] >= 0
        assert status["uptime_s"] >= 0

    def test_metrics_agree_with_it(self) -> None:
        with bench(policy="lossless") as peers:
            peers.send(1)
            peers.sender.send_multipart([b"?"])
            peers.until_settled(2)
            registry, source = peers.source.metrics.registry, {"source": "camera"}
        for name, labels, value in (
            ("frames_received_total", {}, 2),
            ("frames_processed_total", {}, 1),
            ("frames_dropped_total", {"reason": "wrong_parts"}, 1),
            ("stage_seconds_count", {"stage": "publish"}, 1),
            ("latency_seconds_count", {}, 1),
        ):
            assert registry.get_sample_value(f"atomstream_{name}", source | labels) == value


class TestEnd:
    def test_latest_counts_what_waits_as_stopping(self) -> None:
        gate = Gate()
        with bench(FakeDetector(before_infer=gate)) as peers:
            peers.send(1)
            assert gate.reached.wait(PATIENCE_S)
            peers.send(2)
            wait_until(lambda: peers.source.accounting.totals().received == 2)
            threading.Timer(0.1, gate.open.set).start()
        totals = peers.source.accounting.totals()
        assert (totals.received, totals.processed, totals.dropped, totals.waiting) == (2, 1, {"stopping": 1}, 0)

    def test_lossless_answers_what_waits(self) -> None:
        gate = Gate()
        with bench(FakeDetector(before_infer=gate), policy="lossless") as peers:
            for number in range(4):
                peers.send(number)
            wait_until(lambda: peers.source.accounting.totals().received == 4)
            threading.Timer(0.1, gate.open.set).start()
        totals = peers.source.accounting.totals()
        assert (totals.processed, totals.dropped, totals.waiting) == (4, {}, 0)

    def test_what_zeromq_still_holds_is_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        held = [[memoryview(part) for part in encode(np.zeros((4, 5), np.uint16), frame=one)] for one in (7, 8)]
        monkeypatch.setattr("stream.receiver.Receiver.left", lambda receiver: [*held, [memoryview(b"?")]])
        with bench(policy="lossless", sampling=0.2) as peers:
            pass
        totals = peers.source.accounting.totals()
        assert (totals.received, totals.waiting) == (3, 0)
        assert totals.dropped == {"stopping": 2, "wrong_parts": 1}

    def test_the_last_status_is_complete(self) -> None:
        with bench() as peers:
            peers.send(1)
            peers.next("atoms")
            peers.stop()
            while peers.next("event").header["event"] != "stopping":
                pass
            assert peers.next("status").header["processed"] == 1
        assert peers.source.status["processed"] == 1

    def test_a_port_in_use_leaves_nothing_behind(self) -> None:
        with bench() as peers:
            _, taken = peers.endpoints
            before = threading.active_count()
            config = ServeConfig(input=ANY_PORT, input_role="bind", output=taken, metrics_port=0)
            with pytest.raises(ConfigError, match="output: expected an endpoint that is free"):
                Service([config], [FakeDetector()]).__enter__()  # type: ignore[list-item]
            wait_until(lambda: threading.active_count() == before)

    def test_an_endless_sender_does_not_keep_it_from_stopping(self) -> None:
        stop = threading.Event()
        with zmq.Context() as context, context.socket(zmq.PUSH) as sender:
            sender.linger = 0

            def send() -> None:
                number = 0
                while not stop.is_set():
                    if sender.poll(10, zmq.POLLOUT):
                        sender.send_multipart(encode(np.zeros((4, 5), np.uint16), frame=number, sampling=0.2))
                        number += 1

            with bench() as peers:
                sender.connect(peers.endpoints[0])
                thread = threading.Thread(target=send)
                thread.start()
                wait_until(lambda: peers.source.accounting.totals().processed > 10)
            stop.set()
            thread.join(PATIENCE_S)
        totals = peers.source.accounting.totals()
        assert totals.received == totals.processed + sum(totals.dropped.values())
