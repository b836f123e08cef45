"""Three exposures become one of three images that lie on each other; nothing that was masked comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import FrameError
from engine.frame import Frame
from stream.config import ServeConfig
from stream.exposure import Exposure
from stream.messages import decode, encode
from stream.references import References
from stream.stacker import Stacker
from tests.engine.test_drift import shifted, textured

SHAPE = (128, 160)
SAMPLING_A = 0.2
STILL = (0.0, 0.0)


def image(shift: tuple[float, float] = STILL, seed: int = 0) -> NDArray[np.float32]:
    pattern = textured(SHAPE, seed)
    return (1000 + 40 * shifted(pattern / pattern.std(), shift)).astype(np.float32)


def exposure(number: int, pixels: NDArray[Any], arrival_s: float = 0.0, epoch: int = 1, **keys: Any) -> Exposure:
    message = decode(encode(pixels, frame=number, sampling=SAMPLING_A, **keys))
    frame = Frame(message.pixels, SAMPLING_A, message.mask, message.dose_e_A2, message.defocus_A)
    return Exposure(message, frame, epoch, arrival_s, arrival_s, None, None, None, 10.0 * number)


def stacker(references: References | None = None, **options: Any) -> Stacker:
    return Stacker(ServeConfig(**({"triplets": "count"} | options)), references or References(), now=lambda: 9.0)


def stack(*pixels: NDArray[Any], by: Stacker | None = None, first: int = 0, **keys: Any) -> Exposure:
    by = by or stacker()
    for number, one in enumerate(pixels):
        ready, refused = by.add(exposure(first + number, one, **keys))
        assert refused == ()
    assert ready is not None
    return by.stack(ready)


def drift(of: Exposure) -> tuple[tuple[float, float], ...]:
    assert of.triplet is not None
    return of.triplet.drift_px


class TestDrift:
    def test_taken_out_and_told(self) -> None:
        ready = stack(image((-2.3, 0.8)), image(), image((1.6, -3.4)))
        np.testing.assert_allclose(drift(ready), [(2.3, -0.8), STILL, (-1.6, 3.4)], atol=0.05)
        mask = ready.frame.mask
        assert mask is not None
        assert mask[:2].all()
        assert not mask[4:-4, 4:-4].any()
        apart = np.abs(ready.frame.pixels - image())[:, ~mask]
        assert apart.max() < 12  # of a contrast of 40
        assert ready.triplet is not None
        assert ready.triplet.drift_doubt is None

    def test_none(self) -> None:
        ready = stack(*[image()] * 3)
        assert (ready.frame.pixels == image()).all()
        assert ready.frame.mask is None

    def test_what_was_sent_is_kept(self) -> None:
        images = np.stack([image((2.0, 0.0)), image(), image((-2.0, 0.0))]).astype(np.uint16)
        for ready in (stack(*images), stack(images)):
            assert ready.frame.pixels.dtype == np.float32
            assert ready.sent_pixels().dtype == np.uint16
            np.testing.assert_array_equal(ready.sent_pixels(), images)

    def test_three_images_of_one_message(self) -> None:
        whole = np.stack([image((-2.3, 0.8)), image(), image((1.6, -3.4))])
        ready = stack(whole, first=5, defocus=[-50, 0, 50])
        np.testing.assert_allclose(drift(ready), [(2.3, -0.8), STILL, (-1.6, 3.4)], atol=0.05)
        assert (ready.frame.defocus_A, ready.frames) == ((-50, 0, 50), 1)

    def test_three_images_of_one_message_are_put_in_order(self) -> None:
        whole = np.stack([image((1.6, -3.4)), image((-2.3, 0.8)), image()])
        ready = stack(whole, first=5, defocus=[50, -50, 0])
        np.testing.assert_allclose(drift(ready), [(2.3, -0.8), STILL, (-1.6, 3.4)], atol=0.05)
        assert (ready.frame.defocus_A, ready.message.defocus_A) == ((-50, 0, 50),) * 2
        assert ready.triplet is not None
        assert ready.triplet.doubts == ()

    @pytest.mark.parametrize("defocus", [[0, 0, 0], [50, 0.02, 0.03]])
    def test_images_of_one_focus_are_told(self, defocus: list[float]) -> None:
        ready = stack(np.stack([image()] * 3), defocus=defocus)
        assert ready.triplet is not None
        assert "A triplet expects three defoci, got " in ready.triplet.doubts[-1]

    def test_a_steady_one_is_followed(self) -> None:
        """It grows to more than the limit for one step."""
        by = stacker(max_drift=0.6)  # 3 px
        for step, size in enumerate((2.0, 4.0, 6.0)):
            ready = stack(image((-size, 0.0)), image(), image((size, 0.0)), by=by, first=3 * step)
            np.testing.assert_allclose(drift(ready), [(size, 0), STILL, (-size, 0)], atol=0.1)

    def test_of_rolling_triplets_too_whose_order_changes(self) -> None:
        """Frame 3 takes the place of frame 0: from 2.5 px on one side of frame 1 to 5 px on the other."""
        by = stacker(max_drift=0.6, triplets="rolling")  # 3 px
        for number in range(8):
            gathered, _ = by.add(exposure(number, image((2.5 * number, 0.0))))
            if gathered is None:
                continue
            ready = by.stack(gathered)
            assert ready.triplet is not None
            middle = ready.triplet.members[1]
            moved = [(2.5 * (middle - one), 0.0) for one in ready.triplet.members]
            np.testing.assert_allclose(drift(ready), moved, atol=0.1)

    def test_but_not_into_the_next_series(self) -> None:
        by = stacker(max_drift=0.6)
        for step, size in enumerate((2.0, 4.0)):
            stack(image((-size, 0.0)), image(), image((size, 0.0)), by=by, first=3 * step)
        ready = stack(*[image()] * 3, by=by, epoch=2)
        np.testing.assert_allclose(drift(ready), [STILL] * 3, atol=0.02)

    def test_into_the_next_where_each_is_a_series_of_its_own(self) -> None:
        by = stacker(max_drift=0.6)
        for step, size in enumerate((2.0, 4.0, 6.0, 8.0)):
            images = np.stack([image((-size, 0.0)), image(), image((size, 0.0))])
            ready = stack(images, by=by, epoch=step + 1)
            np.testing.assert_allclose(drift(ready), [(size, 0), STILL, (-size, 0)], atol=0.1)

    def test_three_that_contradict_each_other_are_told(self) -> None:
        """Each two have a pattern in common, that moved as no other did."""
        a, b, c = (image(seed=seed) for seed in range(3))
        moved_a, moved_c = image((5.0, 0.0)), image((-5.0, 0.0), seed=2)
        by = stacker(max_drift=2)
        ready = stack(a + c, moved_a + b, b + moved_c, by=by)
        assert ready.triplet is not None
        assert "two that contradict the third" in str(ready.triplet.drift_doubt)
        still = stack(*[image()] * 3, by=by, first=3)
        np.testing.assert_allclose(drift(still), [STILL] * 3, atol=0.02)

    @pytest.mark.parametrize(("apart_px", "doubted"), [(1.5, False), (3.9, True), (5.5, True)])
    def test_a_shift_that_a_lattice_vector_more_would_explain_as_well(self, apart_px: float, doubted: bool) -> None:
        """Of a pattern that repeats every 16 pixels: 5.5 one way is 2.5 the other way, of another contrast.

        Where the two images fall on different sides, that is told as a contradiction.
        """
        rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
        rng = np.random.default_rng(3)

        def pattern(shift: float) -> NDArray[np.float32]:
            waves = np.cos((rows - shift) * np.pi / 8) + np.cos(columns * np.pi / 8)
            return (1000 + 40 * waves + rng.normal(0, 5, SHAPE)).astype(np.float32)

        by = stacker(max_drift=1.6)  # 8 px
        ready = stack(pattern(apart_px), pattern(0), pattern(apart_px), by=by)
        assert ready.triplet is not None
        assert (ready.triplet.drift_doubt is not None) == doubted
        followed = stack(*[pattern(0)] * 3, by=by, first=3)
        np.testing.assert_allclose(drift(followed), [STILL] * 3, atol=0.05)

    def test_switched_off(self) -> None:
        ready = stack(image((-2.0, 0.0)), image(), image((2.0, 0.0)), by=stacker(max_drift=0.0))
        assert drift(ready) == (STILL,) * 3
        assert (ready.frame.pixels[0] == image((-2.0, 0.0))).all()


class TestMasks:
    def test_a_masked_pixel_stays_masked_where_it_went(self) -> None:
        counts = [image(one).astype(np.uint16) for one in ((-4.0, 0.0), STILL, STILL)]
        counts[0][60, 70] = 65535
        ready = stack(*counts)
        mask = ready.frame.mask
        assert mask is not None
        assert mask[64, 70]
        assert not mask[20:50].any()
        assert ready.frame.pixels[:, 8:].max() < 2000

    def test_what_is_no_number_stays_none(self) -> None:
        """So that the engine can refuse a frame that has too many."""
        pixels = [image(), image(), image()]
        pixels[1][30:40] = np.nan
        ready = stack(*pixels)
        assert np.isnan(ready.frame.pixels[1, 30:40]).all()
        assert np.isfinite(ready.frame.pixels[[0, 2]]).all()


class TestBooks:
    def test_what_the_triplet_is_from_now_on(self) -> None:
        by, members = stacker(triplets="series"), list[Exposure]()
        for number, arrival_s, defocus in ((1, 5.0, 0), (0, 6.0, 50), (2, 7.0, -50)):
            members.append(exposure(number, image(), arrival_s, series="a", defocus=defocus, dose=10.0 + number))
            gathered, _ = by.add(members[-1])
        assert gathered is not None
        assert [one.message.number for one in gathered.members] == [2, 1, 0]
        ready = by.stack(gathered)
        sent = np.stack([one.message.pixels for one in (members[2], members[0], members[1])])
        np.testing.assert_array_equal(ready.sent_pixels(), sent)
        assert (ready.message.number, ready.arrival_s, ready.decoded_s, ready.frames) == (2, 7, 9, 3)
        assert (ready.frame.dose_e_A2, ready.dose_total_e_A2) == (33, 20)
        assert (ready.frame.defocus_A, ready.message.defocus_A) == ((-50, 0, 50), (-50, 0, 50))
        assert ready.triplet is not None
        assert ready.triplet.members == (2, 1, 0)

    def test_a_dose_or_defocus_that_one_lacks_is_not_made_up(self) -> None:
        by = stacker()
        by.add(exposure(0, image(), dose=5.0, defocus=1.0))
        by.add(exposure(1, image()))
        ready, _ = by.add(exposure(2, image(), dose=5.0, defocus=2.0))
        assert ready is not None
        assert ready.frame.dose_e_A2 is ready.frame.defocus_A is None

    @pytest.mark.parametrize(("options", "interval_s"), [({"frame_interval": 0.5}, 1.5), ({}, 3.0)])
    def test_a_triplet_is_due_every_three_frames(self, options: dict[str, Any], interval_s: float) -> None:
        by = stacker(**options)
        intervals = []
        for number in range(9):
            ready, _ = by.add(exposure(number, image(), float(number)))
            intervals += [] if ready is None else [ready.interval_s]
        assert intervals[1:] == [interval_s, interval_s]

    def test_a_rolling_one_with_every_frame(self) -> None:
        by = stacker(triplets="rolling")
        for number in range(3):
            ready, _ = by.add(replace(exposure(number, image()), interval_s=0.5))
        assert ready is not None
        assert ready.interval_s == 0.5

    def test_references_of_another_shape_are_refused(self) -> None:
        with pytest.raises(FrameError) as caught:
            stack(*[image()] * 3, by=stacker(References(dark=np.zeros((4, 4), np.float32))))
        assert caught.value.reason == "shape_out_of_range"

    def test_a_mistake_of_ours_refuses_all_three(self, monkeypatch: pytest.MonkeyPatch) -> None:
        by = stacker()
        monkeypatch.setattr(by, "_interval_s", lambda *_: 1 / 0)
        results = [by.add(exposure(number, image())) for number in range(3)]
        assert [ready for ready, _ in results] == [None] * 3
        assert [type(error) for error in results[2][1]] == [ZeroDivisionError] * 3

    def test_members_given_up(self) -> None:
        by = stacker(triplet_timeout=1.0)
        by.add(exposure(0, image(), 5.0))
        assert by.waiting == 1
        assert [error.reason for error in by.expire(7.0)] == ["triplet_incomplete"]
        assert by.waiting == 0
