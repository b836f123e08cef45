"""kernels/prepare.cu, on the CPU and where there is one on a GPU, against engine.prepare."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Frame
from engine.device_prepare import Preparation, device_dtype, stage
from engine.hot_pixels import hot_limit
from engine.prepare import prepare
from tests.cuda_on_cpu import fetched


def prepared_there(device, frame, spec):
    """The network input, whether there is contrast, and the limit of hot pixels."""
    expected = prepare(frame, spec)
    dtype = device_dtype(frame.pixels.dtype)
    holes = frame.mask is not None or dtype.kind == "f"
    raw = np.zeros(frame.shape, dtype)
    stage(frame.pixels, raw)
    out, contrast = device.zeros(expected.pixels.shape[2:], np.float32), device.zeros((1,), np.int32)
    steps = Preparation(device, spec, frame.shape, expected.shape, dtype, holes)
    there, stream = device.constant(raw), device.stream()
    mask = None if frame.mask is None else device.constant(frame.mask.view(np.uint8))
    none = device.constant(np.zeros(1, np.int32))
    for _ in range(2):  # a buffer that is not begun anew would show
        device.copy(stream, contrast, none)
        steps.run(stream, there, mask, contrast, out)
    return (
        fetched(device, stream, out),
        bool(fetched(device, stream, contrast)[0]),
        fetched(device, stream, steps._limit)[0],
    )


def expect_same(device, frame, spec, atol=2e-4):
    out, contrast, limit = prepared_there(device, frame, spec)
    expected = prepare(frame, spec).pixels[0, 0]
    np.testing.assert_allclose(out, expected, atol=atol)
    assert contrast == expected.any()
    with np.errstate(over="ignore"):
        image = frame.pixels.astype(np.float32)
    counts = np.abs(image) < 1e15
    mask = ~counts if frame.mask is None else frame.mask | ~counts
    assert limit == hot_limit(image, mask)  # the very same: what is cut off must not depend on the device


def noise(shape, seed=0, dtype=np.uint16):
    return np.random.default_rng(seed).poisson(100, shape).astype(dtype)


@given(
    height=st.integers(1, 150), width=st.integers(1, 150), sampling_A=st.floats(0.04, 0.9), seed=st.integers(0, 1000)
)
def test_any_shape_and_sampling(device, tiny_spec, height, width, sampling_A, seed):
    expect_same(device, Frame(noise((height, width), seed), sampling_A), tiny_spec)


@pytest.mark.parametrize("sampling_A", [0.05, 0.1, 0.2, 0.2001, 0.37])
def test_an_image_of_ordinary_size(device, tiny_spec, sampling_A):
    expect_same(device, Frame(noise((317, 402)), sampling_A), tiny_spec)


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "<u2", ">u2", "<i2", "<u4", ">i4", "<u8", "<f2", "<f4", ">f8"])
def test_every_dtype(device, tiny_spec, dtype):
    pixels = noise((64, 70)) % 100
    expect_same(device, Frame(pixels.astype(dtype), 0.15), tiny_spec)


@given(seed=st.integers(0, 1000), share=st.sampled_from([0.001, 0.02, 0.3, 1.0]), width=st.integers(1, 40))
def test_masked_pixels(device, tiny_spec, seed, share, width):
    rng = np.random.default_rng(seed)
    pixels = noise((70, 90), seed)
    mask = rng.random(pixels.shape) < share
    mask[20 : 20 + width, 30 : 30 + width] = True
    pixels[mask] = 65535
    expect_same(device, Frame(pixels, 0.2, mask=mask), tiny_spec)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_no_count(device, tiny_spec, dtype):
    pixels = noise((60, 60)).astype(dtype)
    pixels[3, 4], pixels[10, 10], pixels[59, 59], pixels[0, 0] = np.nan, np.inf, -np.inf, 1e20
    expect_same(device, Frame(pixels, 0.2), tiny_spec)
    pixels[30, 30] = 7
    expect_same(device, Frame(pixels, 0.2, mask=pixels == 7), tiny_spec)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4", "<f4", ">f8"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("share", [1e-4, 1e-3])
def test_hot_pixels(device, tiny_spec, dtype, masked, share):
    pixels = noise((317, 402)).astype(dtype)
    rng = np.random.default_rng(1)
    pixels[rng.random(pixels.shape) < share] = 65000
    mask = rng.random(pixels.shape) < 0.02 if masked else None
    expect_same(device, Frame(pixels, 0.1, mask=mask), tiny_spec)
    expect_same(device, Frame(pixels, 0.2, mask=mask), tiny_spec)


@pytest.mark.parametrize("electrons", [0.004, 0.01, 0.1])
def test_sparse_frames(device, tiny_spec, electrons):
    pixels = np.random.default_rng(0).poisson(electrons, (317, 402)).astype(np.uint16)
    expect_same(device, Frame(pixels, 0.1), tiny_spec)


@pytest.mark.parametrize("shape", [(50, 64), (221, 52)])
@pytest.mark.parametrize("value", [0, 7, 65535, 1234.567, -3e7])
def test_a_constant_image_has_no_contrast(device, tiny_spec, value, shape):
    dtype = np.uint16 if value == int(value) and value >= 0 else np.float32
    out, contrast, _ = prepared_there(device, Frame(np.full(shape, value, dtype), 0.13), tiny_spec)
    assert not out.any()
    assert not contrast


def test_uneven_brightness_and_contrast(device, tiny_spec):
    pixels = noise((128, 160), dtype=np.float32)
    pixels[:, 80:] = 2000 + 5 * pixels[:, 80:]
    expect_same(device, Frame(pixels, 0.2), replace(tiny_spec, normalise_A=6.0), atol=2e-3)


def test_what_is_nearly_flat_is_not_blown_up(device, tiny_spec):
    pixels = noise((128, 160), dtype=np.float32)
    pixels[:, :80] = 100 + 1e-4 * (pixels[:, :80] - 100)  # 100,000 times less contrast than on the right
    # There the last bits of the counts are visible.
    expect_same(device, Frame(pixels, 0.2), replace(tiny_spec, normalise_A=1.0), atol=0.01)


def test_padding_stays_zero(device, tiny_spec):
    out, _, _ = prepared_there(device, Frame(noise((50, 65)), 0.2), tiny_spec)
    assert out.shape == (64, 80)
    assert not out[50:].any()
    assert not out[:, 65:].any()
