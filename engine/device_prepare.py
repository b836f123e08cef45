"""Raw frame in, network input out, both on the device: the steps of engine/prepare.py as launches of prepare.cu.

A `Preparation` is for frames of one shape, dtype and sampling: tables and buffers are made once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.bands import Bands, blur_bands, line_bands, resize_bands
from engine.device import Array, Device, Stream
from engine.hot_pixels import DEVIATIONS, GROUPS, MEANS, STEADY, sampling
from engine.prepare import FLAT, coarse_shape
from engine.spec import ModelSpec

_SUMMING = 65536  # threads that sum an image up
_AS_THEY_ARE = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")


def device_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What pixels of a dtype are uploaded as: themselves in native order, else float32, as engine.prepare.fill does."""
    if dtype == np.bool_:
        return np.dtype(np.uint8)
    native = dtype.newbyteorder("=")
    return native if native.name in _AS_THEY_ARE else np.dtype(np.float32)


class _Axes:
    """A pair of bands on the device, down and across, in the order the kernels take them."""

    def __init__(self, device: Device, down: Bands, across: Bands) -> None:
        self.count = len(down) * len(across)
        self.arguments: list[Any] = []
        for bands in (down, across):
            tables = device.constant(bands.start), device.constant(bands.weight)
            self.arguments += [*tables, np.int32(bands.taps), np.int32(len(bands))]


def _windows(
    device: Device, bands: Callable[[int, float], Bands], shape: tuple[int, int], sigma_px: list[float]
) -> tuple[_Axes, _Axes]:
    """What is done down an image, and then across it."""
    down, across = (bands(size, sigma) for size, sigma in zip(shape, sigma_px, strict=True))
    as_it_is = [resize_bands(size, size, cv2.INTER_AREA) for size in shape]
    return _Axes(device, down, as_it_is[1]), _Axes(device, as_it_is[0], across)


class Preparation:
    """Buffers and tables for frames of one kind.

    Parameters
    ----------
    shape, to : (int, int)
        Of the frame; of its part of the network's input.
    dtype : numpy.dtype
        As uploaded, see `device_dtype`.
    holes : bool
        Whether pixels may be masked or no count.
    """

    def __init__(
        self,
        device: Device,
        spec: ModelSpec,
        shape: tuple[int, int],
        to: tuple[int, int],
        dtype: np.dtype[Any],
        holes: bool,
    ) -> None:
        self._device, self._shape, self._to, self._dtype, self._holes = device, shape, to, dtype, holes
        coarse = coarse_shape(to, spec.sampling_A)
        interpolation = cv2.INTER_AREA if to[0] <= shape[0] else cv2.INTER_CUBIC
        area, linear = cv2.INTER_AREA, cv2.INTER_LINEAR
        self._resample = _Axes(device, *(resize_bands(a, b, interpolation) for a, b in zip(shape, to, strict=True)))
        self._average = _Axes(device, *(resize_bands(a, b, area) for a, b in zip(to, coarse, strict=True)))
        cell_px = [size / cells for size, cells in zip(to, coarse, strict=True)]
        self._level, self._blur = (
            _windows(device, bands, coarse, [sigma_A / (spec.sampling_A * px) for px in cell_px])
            for bands, sigma_A in ((line_bands, spec.level_A), (blur_bands, spec.normalise_A))
        )
        self._spread = _Axes(device, *(resize_bands(a, b, linear) for a, b in zip(coarse, to, strict=True)))
        self._coarse_width = np.int32(coarse[1])

        self._counts = device.zeros(shape, np.float32)
        self._filled = device.zeros(shape, np.float32) if holes else self._counts
        self._image = device.zeros(to, np.float32) if to != shape else self._filled
        self._flat = device.zeros(to, np.float32)
        self._coarse = [device.zeros(coarse, np.float32) for _ in range(2)]
        self._sums = device.zeros((2,), np.float64)
        self._extremes = [device.zeros((1,), np.float32) for _ in range(2)]
        self._limits, self._limit = device.zeros((GROUPS,), np.float32), device.zeros((1,), np.float32)

    def run(self, stream: Stream, raw: Array, mask: Array | None, contrast: Array, out: Array) -> None:
        """Prepare one image.

        Parameters
        ----------
        raw : (H, W) array of the dtype, on the device
        mask : (H, W) uint8 or None, on the device
            Not 0 where there is no measurement.
        contrast : (1,) int32, on the device
            Becomes 1 where the image is not constant.
        out : (H', W') float32, on the device
            One channel of the network's input; what is beyond the image is left as it was.
        """
        launch, brightest, largest = self._device.launch, *self._extremes
        launch(stream, "clear", 1, self._sums, brightest, largest)
        self._to_counts(stream, raw, mask)
        width = np.int32(self._shape[1])
        if self._image is not self._filled:
            self._apply(stream, self._resample, self._filled, width, self._image)
        count, pitch = self._spread.count, self._coarse_width
        level = self._averaged(stream, self._image, self._level, square=False)
        launch(stream, "flatten", count, self._image, level, pitch, *self._spread.arguments, brightest, self._flat)
        rms = self._averaged(stream, self._flat, self._blur, square=True)
        cells = np.int32(rms.size)
        launch(stream, "root", rms.size, rms, cells, largest)
        launch(stream, "invert", rms.size, rms, cells, brightest, largest, np.float32(FLAT), contrast)
        padded = np.int32(out.shape[1])
        launch(stream, "normalise", count, self._flat, rms, pitch, *self._spread.arguments, padded, out)

    def _to_counts(self, stream: Stream, raw: Array, mask: Array | None) -> None:
        count = math.prod(self._shape)
        self._find_limit(stream, raw, mask)
        kernel = f"convert_{self._dtype.name}"
        self._device.launch(stream, kernel, count, raw, mask, np.int32(count), self._limit, self._counts)
        if not self._holes:
            return
        threads = min(_SUMMING, count)
        self._device.launch(stream, "total", threads, self._counts, np.int32(count), np.int32(threads), self._sums)
        height, width = (np.int32(size) for size in self._shape)
        self._device.launch(stream, "fill", count, self._counts, self._sums, height, width, self._filled)

    def _find_limit(self, stream: Stream, raw: Array, mask: Array | None) -> None:
        """engine.hot_pixels.hot_limit: kept on the device, as one graph of launches holds all of a frame."""
        step, size = (np.int32(value) for value in sampling(math.prod(self._shape)))
        groups, rules = np.int32(GROUPS), (DEVIATIONS, MEANS, STEADY)
        kernel = f"limits_{self._dtype.name}"
        self._device.launch(stream, kernel, GROUPS, raw, mask, step, size, groups, *rules, self._limits)
        self._device.launch(stream, "median", GROUPS, self._limits, groups, self._limit)

    def _averaged(self, stream: Stream, image: Array, windows: tuple[_Axes, _Axes], square: bool) -> Array:
        """On the coarse grid, in the first of its buffers."""
        first, second = self._coarse
        down, across = windows
        self._apply(stream, self._average, image, np.int32(self._to[1]), first, square)
        self._apply(stream, down, first, self._coarse_width, second)
        self._apply(stream, across, second, self._coarse_width, first)
        return first

    def _apply(
        self, stream: Stream, axes: _Axes, image: Array, pitch: np.int32, out: Array, square: bool = False
    ) -> None:
        self._device.launch(stream, "resample", axes.count, image, pitch, *axes.arguments, np.int32(square), out)


def stage(pixels: NDArray[Any], target: NDArray[Any]) -> None:
    """Pixels into pinned memory, in native order and as `device_dtype` says."""
    with np.errstate(over="ignore"):
        np.copyto(target, pixels, casting="unsafe")  # COPY: into memory that the GPU can read
