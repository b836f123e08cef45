import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import EDGE, Frame, FrameError, ModelError, detector, load_detector
from engine.detector import Detector
from engine.network import Maps


@pytest.fixture(scope="module")
def tiny(tiny_model):
    with load_detector(tiny_model) as loaded:
        yield loaded


def scattered(count, size, apart, seed=0):
    """Positions at least `apart` from each other and from the edge."""
    rng, found = np.random.default_rng(seed), np.empty((0, 2))
    while len(found) < count:
        place = rng.uniform(apart, size - 1 - apart, 2)
        if not len(found) or np.hypot(*(found - place).T).min() >= apart:
            found = np.vstack([found, place])
    return found


def sorted_rows(positions):
    return positions[np.argsort(positions[:, 0])]


class TestDetect:
    @given(seed=st.integers(0, 1000), sampling_A=st.floats(0.05, 0.4))
    def test_atoms_are_found_where_they_are(self, tiny, draw_frame, seed, sampling_A):
        size = round(20 / sampling_A)
        truth = scattered(8, size, 3 / sampling_A, seed)
        atoms = tiny.detect(draw_frame((size, size), truth, sampling_A))
        assert len(atoms) == 8
        away = np.linalg.norm(atoms.positions[:, None] - truth, axis=2).min(axis=0)
        np.testing.assert_allclose(away * sampling_A * 100, 0, atol=3)  # pm
        assert (atoms.score > 0.8).all()
        np.testing.assert_allclose(atoms.sigma_pm, 2, rtol=1e-5)
        assert not (atoms.flags & EDGE).any()

    # In a small frame the level follows the few bright blobs there are, by up to a picometre; by more where one is
    # within a cell of its grid, 1.5 A, of a corner: none comes there.
    @pytest.mark.parametrize(("size", "apart", "within_px"), [(96, 18, 0.05), (160, 30, 0.02)])
    @given(down=st.integers(-5, 5), right=st.integers(-5, 5))
    def test_shift_the_image_and_the_atoms_shift(self, tiny, draw_frame, size, apart, within_px, down, right):
        truth, shift = scattered(5, size, apart), np.array([2 * down, 2 * right])
        before = tiny.detect(draw_frame((size, size), truth))
        after = tiny.detect(draw_frame((size, size), truth + shift))
        np.testing.assert_allclose(after.positions, before.positions + shift, atol=within_px)

    @pytest.mark.parametrize("quarters", [1, 2, 3])
    def test_rotate_by_90_degrees_and_the_atoms_rotate(self, tiny, draw_frame, quarters):
        frame = draw_frame((96, 96), scattered(5, 96, 18))
        turned = Frame(np.rot90(frame.pixels, quarters), frame.sampling_A)
        expected = tiny.detect(frame).positions
        for _ in range(quarters):
            expected = np.stack([95 - expected[:, 1], expected[:, 0]], axis=1)
        np.testing.assert_allclose(tiny.detect(turned).positions, sorted_rows(expected), atol=0.02)

    def test_gain_offset_and_dtype_do_not_matter(self, tiny, draw_frame):
        frame = draw_frame((96, 80), [(40.3, 30.8), (60.1, 50.2)])
        counts = np.round(frame.pixels * 100 + 7).astype(">u2")
        atoms = tiny.detect(Frame(counts, frame.sampling_A))
        np.testing.assert_allclose(atoms.positions, tiny.detect(frame).positions, atol=0.01)

    def test_a_plateau_is_one_atom(self, tiny, draw_frame):
        # Halfway between cells: the two, or four, around it score the same.
        for place in [(41.5, 40.5), (40.5, 41.5), (41.5, 41.5)]:
            atoms = tiny.detect(draw_frame((96, 96), [place]))
            np.testing.assert_allclose(atoms.positions, [place], atol=0.02)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
    @pytest.mark.parametrize("value", [0, 1, 255])
    def test_a_constant_frame_holds_no_atoms(self, tiny, dtype, value):
        assert len(tiny.detect(Frame(np.full((50, 64), value, dtype), 0.2))) == 0

    def test_a_constant_frame_holds_none_whatever_the_network_says(self, tiny_spec):
        class Everywhere:
            backend = "imagined"

            def infer(self, pixels):
                return Maps(np.ones((6, pixels.shape[2] // 2, pixels.shape[3] // 2), np.float32))

            def close(self):
                pass

        eager = Detector(tiny_spec, Everywhere())
        assert len(eager.detect(Frame(np.full((64, 64), 3.0), 0.2))) == 0
        assert len(eager.detect(Frame(np.eye(64), 0.2))) > 0

    def test_masked_pixels_make_no_atoms(self, tiny, draw_frame):
        frame = draw_frame((96, 96), [(40.3, 30.8), (60.1, 50.2)])
        mask = np.zeros(frame.shape, bool)
        mask[20, 70] = mask[75:78, 20:23] = True
        for value in (65535, np.nan, np.inf):
            pixels = np.where(mask, np.float32(value), frame.pixels)
            atoms = tiny.detect(Frame(pixels, frame.sampling_A, mask=mask))
            np.testing.assert_allclose(atoms.positions, tiny.detect(frame).positions, atol=0.02)

    def test_a_few_values_that_are_no_number_do_not_matter(self, tiny, draw_frame):
        frame = draw_frame((96, 96), [(40.3, 30.8)])
        pixels = frame.pixels.copy()
        pixels[::20, ::20] = np.nan
        pixels[5::20, ::20] = np.inf
        atoms = tiny.detect(Frame(pixels, frame.sampling_A))
        np.testing.assert_allclose(atoms.positions, [(40.3, 30.8)], atol=0.05)

    def test_the_steps_are_what_detect_does(self, tiny, draw_frame):
        frame = draw_frame((70, 90), [(40.3, 30.8), (20.1, 60.2)], 0.3)
        prepared = tiny.prepare(frame)
        maps = tiny.infer(prepared)
        assert maps.score.shape == tuple(-(-size // 2) for size in prepared.shape)
        np.testing.assert_array_equal(tiny.locate(frame, prepared, maps).positions, tiny.detect(frame).positions)

    def test_classes_and_series(self, build_tiny_model, draw_frame):
        with load_detector(build_tiny_model(channels=3, classes=("A", "B"))) as triplets:
            frame = draw_frame((96, 96), [(40.3, 30.8)])
            series = Frame(np.stack([frame.pixels] * 3), frame.sampling_A, defocus_A=(-50.0, 0.0, 50.0))
            atoms = triplets.detect(series)
            np.testing.assert_allclose(atoms.positions, [(40.3, 30.8)], atol=0.02)
            assert atoms.class_id.tolist() == [1]  # the tiny network's second class is the score
            with pytest.raises(FrameError, match=r"Engine expects 3 x H x W, got 96 x 96: feed triplets"):
                triplets.detect(frame)


class TestSettle:
    def test_one_that_fails_is_told_once_and_costs_no_frame(self, tiny_model, draw_frame, caplog, monkeypatch):
        frame = draw_frame((96, 96), [(40.3, 30.8)])
        with load_detector(tiny_model, precision="f32") as loaded:
            expected = loaded.detect(frame).positions

            def refuse(shape):
                raise RuntimeError("no room")

            monkeypatch.setattr(loaded._network, "_compile", refuse)
            for _ in range(6):
                loaded.settle(frame)
                np.testing.assert_array_equal(loaded.detect(frame).positions, expected)
        assert len(caplog.messages) == 1


class TestCheck:
    def test_a_frame_within_the_ranges_gives_no_warning(self, tiny):
        frame = Frame(np.zeros((100, 100)), 0.1, dose_e_A2=1e4, defocus_A=(100.0,), voltage_kV=80)
        assert tiny.check(frame) == ()

    @pytest.mark.parametrize(
        ("shape", "sampling_A", "said"),
        [
            ((512, 512), 0.045, ["a sampling of 0.05 to 0.75 A/px, got 0.045"]),
            ((64, 64), 0.85, ["a sampling of 0.05 to 0.75 A/px, got 0.85"]),
            ((48, 80), 0.1, ["a height of 5 to 250 A, got 4.8"]),
            ((80, 420), 0.7, ["a width of 5 to 250 A, got 294"]),
            ((6, 6), 0.8, ["sampling", "height", "width"]),
        ],
    )
    def test_a_little_outside_gives_warnings(self, tiny, shape, sampling_A, said):
        warnings = tiny.check(Frame(np.zeros(shape), sampling_A))
        assert len(warnings) == len(said)
        for warning, part in zip(warnings, said, strict=True):
            assert part in warning
            assert "Model tiny expects" in warning

    @pytest.mark.parametrize(
        ("shape", "sampling_A", "reason"),
        [
            ((512, 512), 0.039, "sampling_out_of_range"),
            ((64, 64), 0.91, "sampling_out_of_range"),
            ((64, 64), 1e9, "sampling_out_of_range"),
            ((64, 64), 1e-30, "sampling_out_of_range"),
            ((64, 64), 0.0, "no_sampling"),
            ((64, 64), -0.1, "no_sampling"),
            ((64, 64), float("nan"), "no_sampling"),
            ((64, 64), float("inf"), "no_sampling"),
            ((39, 100), 0.1, "shape_out_of_range"),
            ((100, 3010), 0.1, "shape_out_of_range"),
            ((3, 64, 64), 0.2, "shape_out_of_range"),
            ((64,), 0.2, "shape_out_of_range"),
            ((1, 1, 64, 64), 0.2, "shape_out_of_range"),
            ((0, 64), 0.2, "empty_frame"),
        ],
    )
    def test_far_outside_is_refused_with_its_reason(self, tiny, shape, sampling_A, reason):
        frame = Frame(np.zeros(shape), sampling_A)
        for refuses in (tiny.check, tiny.detect):
            with pytest.raises(FrameError, match=r"xpects .*, got .*: ") as caught:
                refuses(frame)
            assert caught.value.reason == reason

    @pytest.mark.parametrize(
        ("known", "said"),
        [
            ({"dose_e_A2": 200.0}, ["a dose of 1000 to 100000 e/A^2, got 200"]),
            ({"voltage_kV": 300.0}, ["a voltage of 60 to 100 kV, got 300"]),
            ({"defocus_A": (-900.0,)}, ["a defocus of -200 to 200 A, got -900"]),
            ({"dose_e_A2": float("nan")}, ["a dose of 1000 to 100000 e/A^2, got nan"]),
            ({"dose_e_A2": 1e9, "voltage_kV": 30.0}, ["dose", "voltage"]),
        ],
    )
    def test_optics_only_warn(self, tiny, known, said):
        warnings = tiny.check(Frame(np.zeros((64, 64)), 0.2, **known))
        assert len(warnings) == len(said)
        assert all(part in warning for warning, part in zip(warnings, said, strict=True))

    @pytest.mark.parametrize(("share", "refused"), [(0.09, False), (0.11, True), (1.0, True)])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_too_many_values_that_are_no_number(self, tiny, share, refused, value):
        pixels = np.ones((100, 100), np.float32)
        pixels.ravel()[: int(share * pixels.size)] = value
        frame = Frame(pixels, 0.2)
        if not refused:
            assert tiny.check(frame) == ()
            return
        with pytest.raises(FrameError, match="NaN, infinite or beyond") as caught:
            tiny.check(frame)
        assert caught.value.reason == "not_finite"

    @pytest.mark.parametrize(
        ("dtype", "value"), [(np.float64, 1e300), (np.float64, -1e16), (np.int64, 2**62), (np.uint64, 2**63)]
    )
    def test_values_that_no_camera_counts_are_none(self, tiny, dtype, value):
        with pytest.raises(FrameError, match="got 100%") as caught:
            tiny.check(Frame(np.full((64, 64), value, dtype), 0.2))
        assert caught.value.reason == "not_finite"

    def test_half_precision_is_looked_at_without_a_word(self, tiny):
        pixels = np.ones((64, 64), np.float16)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert tiny.check(Frame(pixels, 0.2)) == ()
        pixels[:32] = np.inf
        with pytest.raises(FrameError, match="got 50%"):
            tiny.check(Frame(pixels, 0.2))

    @pytest.mark.parametrize(("rows", "said"), [(6, []), (32, ["50% of the pixels are masked or saturated"])])
    def test_many_masked_pixels_are_told(self, tiny, rows, said):
        mask = np.zeros((64, 64), bool)
        mask[:rows] = True
        warnings = tiny.check(Frame(np.ones((64, 64), np.uint16), 0.2, mask=mask))
        assert len(warnings) == len(said)
        assert all(part in warning for warning, part in zip(warnings, said, strict=True))

    def test_a_frame_without_any_other_is_refused(self, tiny):
        with pytest.raises(FrameError, match="all of them masked or saturated: expose less") as caught:
            tiny.check(Frame(np.full((64, 64), 65535, np.uint16), 0.2, mask=np.ones((64, 64), bool)))
        assert caught.value.reason == "empty_frame"

    def test_a_mask_of_another_shape_is_refused(self, tiny):
        with pytest.raises(FrameError, match="a mask of 64 x 64, got 32 x 32"):
            tiny.check(Frame(np.zeros((64, 64)), 0.2, mask=np.zeros((32, 32), bool)))

    def test_a_model_without_ranges_takes_any(self, build_tiny_model):
        with load_detector(build_tiny_model(trained={})) as anything:
            assert anything.check(Frame(np.zeros((10, 10)), 3.0, dose_e_A2=1.0)) == ()


class TestLoadDetector:
    @pytest.mark.parametrize(
        ("cpu", "int8", "asked", "chosen"),
        [
            (("f32",), False, "auto", "f32"),
            (("f32", "bf16"), False, "auto", "bf16"),
            (("f32", "bf16", "int8"), True, "auto", "int8"),
            (("f32", "bf16"), True, "f32", "f32"),
            (("f32", "bf16"), True, "bf16", "bf16"),
            (("f32",), True, "int8", "int8"),
        ],
    )
    def test_precision(self, build_tiny_model, monkeypatch, cpu, int8, asked, chosen):
        monkeypatch.setattr(detector, "cpu_precisions", lambda: cpu)
        with load_detector(build_tiny_model(int8=int8), precision=asked) as loaded:
            assert loaded.backend == f"openvino {chosen}"

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"precision": "int8"}, "has no INT8 weights"),
            ({"precision": "bf16"}, "This CPU does not compute in bf16"),
            ({"precision": "f16"}, "Expected a precision of auto, f32, bf16, int8, got 'f16'"),
            ({"backend": "onnx"}, "Expected a backend of auto, openvino, tensorrt, torch, got 'onnx'"),
        ],
    )
    def test_what_cannot_be_is_said(self, tiny_model, monkeypatch, options, said):
        monkeypatch.setattr(detector, "cpu_precisions", lambda: ("f32",))
        with pytest.raises(ModelError, match=said):
            load_detector(tiny_model, **options)

    def test_int8_files_find_the_same_atoms(self, build_tiny_model, tiny, draw_frame):
        frame = draw_frame((96, 96), scattered(5, 96, 18))
        with load_detector(build_tiny_model(int8=True), threads=1) as quantised:
            assert quantised.backend == "openvino int8"
            atoms = quantised.detect(frame)
        np.testing.assert_allclose(atoms.positions, tiny.detect(frame).positions, atol=0.05)

    def test_damaged_weights_are_refused(self, build_tiny_model):
        path = build_tiny_model()
        with path.with_suffix(".onnx").open("ab") as file:
            file.write(b"\0")
        with pytest.raises(ModelError, match="the file is damaged or of another version"):
            load_detector(path)

    def test_weights_that_do_not_fit_the_spec_are_refused(self, build_tiny_model):
        path = build_tiny_model()
        path.write_text(path.read_text().replace('"channels": 1', '"channels": 3'))
        with pytest.raises(ModelError, match=r"expected one input \(N, 3, H, W\)"):
            load_detector(path)
