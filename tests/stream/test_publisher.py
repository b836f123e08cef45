"""Results out: the headers that clients rely on, and pictures that people look at."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import zmq

from engine.atoms import Atoms
from engine.errors import ConfigError
from engine.frame import Frame
from stream.exposure import Answer, Exposure, Located
from stream.messages import decode, encode
from stream.publisher import Publisher, atoms_header, draw_preview, model_header, preview_header
from tests.stream.fakes import ANY_PORT, SPEC


def answer(timestamp: bool = True, interval_s: float | None = 0.04, atoms: int = 2) -> Answer:
    """Arrived at 10.000, read at 10.001, network from 10.003 to 10.008, answered at 10.012."""
    message = decode(encode(np.zeros((4, 6), np.uint16), frame=5, series="a", timestamp=99.5, stage={"alpha": 1}))
    exposure = Exposure(
        message=message,
        frame=Frame(message.pixels, 0.2, dose_e_A2=100.0),
        epoch=1,
        arrival_s=10.0,
        decoded_s=10.001,
        transport_s=0.02 if timestamp else None,
        interval_s=interval_s,
        clock_difference_s=0.5 if timestamp else None,
        dose_total_e_A2=300.0,
    )
    found = Atoms(*[np.zeros(atoms, column.dtype) for column in Atoms.none().columns().values()])
    steps = {"begun_s": 10.003, "prepared_s": 10.004, "inferred_s": 10.008, "located_s": 10.0115}
    return Answer.of(Located(exposure, exposure.frame, found, 3, ("a warning",), **steps), answered_s=10.012)


class TestAnswer:
    def test_stages_add_up_to_the_age(self) -> None:
        made = answer()
        assert made.stages_s == pytest.approx(
            {"decode": 0.001, "wait": 0.0025, "prepare": 0.001, "network": 0.004, "locate": 0.0035}
        )
        assert sum(made.stages_s.values()) == pytest.approx(made.age_s)

    def test_latency_counts_from_the_timestamp_else_from_arrival(self) -> None:
        assert answer().latency_s == pytest.approx(0.032)
        assert answer(timestamp=False).latency_s == pytest.approx(0.012)

    @pytest.mark.parametrize(("interval_s", "in_time"), [(0.033, True), (0.031, False), (None, None)])
    def test_in_time_is_within_the_frame_interval(self, interval_s: float | None, in_time: bool | None) -> None:
        assert answer(interval_s=interval_s).in_time is in_time


def test_the_model_is_known_by_its_trained_weights_not_by_a_quantised_twin() -> None:
    files = {"fake.int8.onnx": "1", "fake.int8.xml": "2", "fake.onnx": "3"}
    assert model_header(replace(SPEC, sha256=files), "fake f32")["model"]["sha256"] == "3"


def test_header_of_atoms() -> None:
    header = json.loads(json.dumps(atoms_header(answer(), model_header(SPEC, "fake f32"))))
    columns = {column["name"]: (column["dtype"], column["unit"]) for column in header.pop("columns")}
    assert columns == {
        "y": ("<f4", "px"),
        "x": ("<f4", "px"),
        "class_id": ("|u1", None),
        "score": ("<f4", None),
        "sigma_pm": ("<f4", "pm"),
        "agreement": ("<f4", None),
        "flags": ("|u1", None),
    }
    assert header == {
        "frame": 5,
        "series": "a",
        "timestamp": 99.5,
        "shape": [4, 6],
        "sampling_A": 0.2,
        "count": 2,
        "covered": 3,
        "classes": ["C"],
        "model": {"name": "fake", "version": "1", "sha256": None},
        "backend": "fake f32",
        "dose_e_A2": 100.0,
        "dose_total_e_A2": 300.0,
        "stages_ms": {"decode": 1.0, "wait": 2.5, "prepare": 1.0, "network": 4.0, "locate": 3.5},
        "age_ms": 12.0,
        "latency_ms": 32.0,
        "clock_difference_ms": 500.0,
        "frame_interval_ms": 40.0,
        "in_time": True,
        "warnings": ["a warning"],
        "header": {"stage": {"alpha": 1}},
    }


def test_header_of_a_preview() -> None:
    assert preview_header(answer(), np.zeros((2, 3), np.uint8)) == {
        "frame": 5,
        "series": "a",
        "shape": (2, 3),
        "frame_shape": (4, 6),
        "sampling_A": 0.2,
        "type": "uint8",
    }


class TestPreview:
    def test_small_frames_keep_their_size_large_ones_their_sides(self) -> None:
        assert draw_preview(np.zeros((40, 30), np.uint16), None, 64).shape == (40, 30)
        assert draw_preview(np.zeros((200, 100), np.uint16), None, 64).shape == (64, 32)

    @pytest.mark.parametrize("name", ["uint8", "int16", "uint16", "uint32", "int64", "float32", "float64"])
    def test_stretched_from_black_to_white_whatever_the_counts(self, name: str) -> None:
        ramp = np.tile(np.linspace(10, 110, 256), (256, 1)).astype(name)
        picture = draw_preview(ramp, None, 256)
        assert (picture.dtype, picture.min(), picture.max()) == (np.uint8, 0, 255)
        assert (np.diff(picture[0].astype(int)) >= 0).all()

    def test_a_hot_pixel_does_not_darken_the_rest(self) -> None:
        noise = np.random.default_rng(0).normal(100, 10, (256, 256))
        noise[3, 3] = 1e9
        assert 100 < draw_preview(noise, None, 256).mean() < 155

    def test_masked_and_not_finite_pixels_look_like_their_neighbours(self) -> None:
        ramp = np.tile(np.linspace(0, 100, 64), (64, 1))
        mask = np.zeros((64, 64), bool)
        mask[30, 30] = True
        broken = ramp.copy()
        broken[30, 30], broken[10, 10] = 1e9, np.nan
        difference = draw_preview(broken, mask, 64).astype(int) - draw_preview(ramp, None, 64)
        assert np.abs(difference).max() <= 8

    def test_a_constant_frame_is_black(self) -> None:
        assert draw_preview(np.full((8, 8), 7, np.uint16), None, 64).max() == 0

    def test_the_middle_image_of_a_triplet(self) -> None:
        images = np.zeros((3, 8, 8), np.uint16)
        images[1, :, 4:] = 100
        assert (draw_preview(images, None, 64) == draw_preview(images[1], None, 64)).all()


class TestSocket:
    def test_a_subscriber_that_never_reads_holds_nobody_up(self) -> None:
        with (
            zmq.Context() as context,
            Publisher(context, ANY_PORT, hwm=2) as publisher,
            context.socket(zmq.SUB) as sleepy,
        ):
            sleepy.linger, sleepy.rcvhwm = 0, 1
            sleepy.subscribe(b"")
            sleepy.connect(publisher.endpoint)
            while not sleepy.poll(10):
                publisher.publish("status", "cam", {})
            picture = np.zeros((1000, 1000), np.uint8)
            for number in range(200):
                publisher.publish("preview", "cam", {"frame": number}, picture)

    def test_port_in_use(self) -> None:
        with (
            zmq.Context() as context,
            Publisher(context, ANY_PORT, hwm=2) as first,
            pytest.raises(ConfigError, match=r"output: expected an endpoint that is free, got .* choose another port"),
        ):
            Publisher(context, first.endpoint, hwm=2)
