"""Can anybody decide this frame? Its phase invariant tells the sign of the contrast, wherever the lattice lies.

Near a contrast reversal astigmatism can show a perfect graphene lattice of the opposite contrast, its atoms elsewhere.
Such a frame holds no information on where its atoms are; it is neither trained on nor scored. What is trained on may
be less clear than what is scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from engine import ConfigError
from training.pixels import nearest, value_at
from training.scattering import strengths
from training.structures.structure import Sites

# Noise-free images, (N, 2) positions in each, what is there, A/px: can anybody tell the sign?
Rule = Callable[[Sequence[NDArray[np.float32]], Sequence[NDArray[np.float64]], Sites, float], bool]

FIRST_ORDER_A = 2.13
MOS2_FIRST_ORDER_A = 2.74
GOLD_111_FIRST_ORDER_A = 1.442  # of the hexagonal lattice that gold's columns of [111] are, 1.665 A apart
WINDOW_A = 15.0  # full width at half maximum of the windows
STRIDE_A = 12.0  # they lie at most this far from one another
LEAST_COSINE = 0.8
LEAST_IN_A_WINDOW = 0.5  # in a grain turned against the others astigmatism may turn the sign
TAUGHT_COSINE, TAUGHT_IN_A_WINDOW = 0.6, 0.2  # less clear than what is scored: real frames are
_COUNTS = 0.1  # of the largest weight: less is a window of next to no contrast
_REACH_A = 1.3  # sigma of what is around a column
_NEAR_A = 2.0  # of a column: what else may be stronger
_STANDS_OUT = 0.45  # contrast of columns over the strongest near them, 1: nothing is stronger
_MOSTLY, _CLEARLY = 0.4, 0.8  # 0: as much of one sign as of the other, 1: all of one
_PAIRS = 0.85  # of all pairs of neighbours, those that stand out from what is half way
_DARKER = 0.25  # of the columns' contrast: how much darker a square lattice may be half way, in the mean of all pairs
_BETWEEN_111_AND_110_A = 2.0  # columns are 1.665 A apart, all six neighbours as far, or 2.50 and 2.88 A
_NEIGHBOURS = 1.25  # times the nearest distance: gold's [110] has its six within 1.16, its [100] four within 1.41


def graphene_sign(
    images: Sequence[NDArray[np.float32]],
    positions_A: Sequence[NDArray[np.float64]],
    sites: Sites,
    sampling_A: float,
) -> bool:
    """The rule of a single image of graphene."""
    return decidable(images[0], positions_A[0], sampling_A)


def graphene_hint(
    images: Sequence[NDArray[np.float32]],
    positions_A: Sequence[NDArray[np.float64]],
    sites: Sites,
    sampling_A: float,
) -> bool:
    """What graphene's network learns from: the true sign too, less clearly than `graphene_sign` asks for."""
    return decidable(images[0], positions_A[0], sampling_A, TAUGHT_COSINE, TAUGHT_IN_A_WINDOW)


def mos2_sign(
    images: Sequence[NDArray[np.float32]],
    positions_A: Sequence[NDArray[np.float64]],
    sites: Sites,
    sampling_A: float,
) -> bool:
    """The rule of a focal series of MoS2: what its stronger images say together has the true sign.

    A contrast that passes zero within the series is weak in one image and speaks in the others; what speaks against
    the truth, strongly, in one of them is a series that could be another lattice.
    """
    weights = strengths(sites)
    said = []
    for image, positions in zip(images, positions_A, strict=True):
        truth = _impulses(positions, image.shape, sampling_A, weights / weights.max(initial=1.0))
        said.append(_invariant(image - image.mean(), truth, sampling_A, MOS2_FIRST_ORDER_A))
    cosine, sign, weight = np.concatenate(said, axis=1)
    return bool(weight.sum() > 0 and (cosine * sign).sum() >= LEAST_COSINE * weight.sum())


def gold_sign(
    images: Sequence[NDArray[np.float32]],
    positions_A: Sequence[NDArray[np.float64]],
    sites: Sites,
    sampling_A: float,
) -> bool:
    """The rule of gold: clearly of one sign, and of a lattice that is not its own negative or under focus, dark.

    Columns of [111] are a hexagonal lattice, all six neighbours as far: bright ones leave a honeycomb dark, dark ones
    do not, and reflections of the other sign along one direction make the picture of the negative, shifted. That is
    graphene's case, and has graphene's rule. The negative of all others is the same lattice shifted, of [110] too,
    where the two dark places beside each bright column are 1.0 A apart and show as one: which it is, only the focus
    tells. Dark columns must be darker than what is half way to a neighbour, bright ones brighter: else the picture is
    that of columns half a step further. So of all pairs together, weighted with their contrast, and of nearly every
    one: along one direction, or in one part of a particle, it may be the other way. Of [100], whose negative has its
    columns in the middle of four, it may be as dark half way, but not much darker: then along one axis the lattice is
    its negative. Fewer than seven columns make no lattice that could be told.
    """
    detail = _detail(images[0], sampling_A)
    positions = positions_A[0]
    pairs, neighbours = _lattice(positions)
    contrast = _at(detail, positions, sampling_A)
    sign = _sign(contrast)
    if not (neighbours and abs(sign) > _CLEARLY):
        return False
    apart_A = np.hypot(*(positions[pairs[:, 0]] - positions[pairs[:, 1]]).T)
    if neighbours == 6 and np.median(apart_A) < _BETWEEN_111_AND_110_A:
        told = decidable(images[0], positions, sampling_A, first_order_A=GOLD_111_FIRST_ORDER_A)
    else:
        told = sign < 0
    if not told:
        return False
    side = math.copysign(1, sign)
    between = side * _at(detail, positions[pairs].mean(axis=1), sampling_A)
    over = side * contrast[pairs].mean(axis=1) - between
    seen = np.isfinite(over)
    if neighbours == 4:
        return bool(-np.minimum(over[seen], 0).mean() < _DARKER * np.nanmean(np.abs(contrast)))
    return bool(_sign(over) > _CLEARLY and (over[seen] > 0).mean() > _PAIRS)


def crystal_sign(
    images: Sequence[NDArray[np.float32]],
    positions_A: Sequence[NDArray[np.float64]],
    sites: Sites,
    sampling_A: float,
) -> bool:
    """The rule of columns of any elements: most are bright, or most dark, and those stand out that scatter strongly.

    Thick and thin columns may differ, so of one sign are most of them, weighted with their contrast to what is around.
    Where only what lies between these shows, the picture is that of the same crystal shifted, its contrast reversed.
    """
    return _shown(images[0], positions_A[0], sites, sampling_A) != 0


def element_sign(
    images: Sequence[NDArray[np.float32]],
    positions_A: Sequence[NDArray[np.float64]],
    sites: Sites,
    sampling_A: float,
) -> bool:
    """The rule of columns of one element, all there is in the crystal: that of any, and dark.

    Bright they are the picture of the same crystal shifted, its columns dark. But for a honeycomb, whose columns have
    three neighbours: its negative is another lattice.
    """
    shown = _shown(images[0], positions_A[0], sites, sampling_A)
    return shown < 0 or (shown > 0 and bool(_neighbours(positions_A[0])[1].max() == 3))


def _shown(image: NDArray[np.float32], positions_A: NDArray[np.float64], sites: Sites, sampling_A: float) -> int:
    """The sign of most columns of a crystal, -1 or 1, where those that scatter strongly stand out; else 0."""
    detail = _detail(image, sampling_A)
    size = 2 * int(_NEAR_A / sampling_A) + 1
    strongest = cv2.dilate(np.abs(detail), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    at, inside = nearest(positions_A / sampling_A - 0.5, detail.shape)
    weight, (y, x) = strengths(sites)[inside], at.T
    stands_out = abs((weight * detail[y, x]).sum()) > _STANDS_OUT * (weight * strongest[y, x]).sum()
    sign = _sign(detail[y, x])
    return int(math.copysign(1, sign)) if stands_out and abs(sign) > _MOSTLY else 0


def none_told(settings: int) -> ConfigError:
    """Of so many settings none is decidable."""
    return ConfigError(
        f"Expected frames whose contrast tells where the atoms are, got none in {settings} settings: simulate a "
        "thinner specimen, another zone axis or fewer elements, under another name"
    )


def _sign(contrast: NDArray[np.float32]) -> float:
    """-1: all are dark, 1: all bright, 0: as much of one as of the other. NaN, out of view, does not count."""
    size = float(np.nansum(np.abs(contrast)))
    return float(np.nansum(contrast)) / size if size else 0.0


def _lattice(positions_A: NDArray[np.float64]) -> tuple[NDArray[np.intp], int]:
    """Pairs (M, 2) of neighbours among (N, 2) positions, and how many an inner one has: 2, 4, 6; 0: too few to tell."""
    if len(positions_A) < 7:
        return np.empty((0, 2), np.intp), 0
    pairs, each = _neighbours(positions_A)
    inner = np.quantile(each, 0.75)
    return pairs, 6 if inner >= 5 else 4 if inner >= 3 else 2


def _neighbours(positions_A: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs (M, 2) that lie about as close as the closest, among (N, 2) positions, two at least; how many each has."""
    tree = cKDTree(positions_A)
    reach_A = _NEIGHBOURS * np.median(tree.query(positions_A, k=2)[0][:, 1])
    each = tree.query_ball_point(positions_A, reach_A, return_length=True) - 1
    return tree.query_pairs(reach_A, output_type="ndarray"), each


def _detail(image: NDArray[np.float32], sampling_A: float) -> NDArray[np.float32]:
    """The image against what is around each place."""
    image = image - image.mean()  # what rounding leaves of an even image is no contrast
    around = cv2.GaussianBlur(image, (0, 0), _REACH_A / sampling_A, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(image - around, np.float32)


def _at(image: NDArray[np.float32], positions_A: NDArray[np.float64], sampling_A: float) -> NDArray[np.float32]:
    """The image at (N, 2) positions, which count from the corner of its first pixel; NaN out of view."""
    return value_at(image, positions_A / sampling_A - 0.5)


def decidable(
    image: NDArray[np.float32],
    positions_A: NDArray[np.float64],
    sampling_A: float,
    least_cosine: float = LEAST_COSINE,
    least_in_a_window: float = LEAST_IN_A_WINDOW,
    first_order_A: float = FIRST_ORDER_A,
) -> bool:
    """True where the image's own contrast has the sign the atoms really have, in the mean clearly, nowhere not.

    Parameters
    ----------
    image : (H, W) float32
        Noise-free.
    positions_A : (N, 2) float64
        (y, x) of the true atoms in the image, from the corner of its first pixel.
    """
    truth = _impulses(positions_A, image.shape, sampling_A)
    cosine, sign, weight = _invariant(image - image.mean(), truth, sampling_A, first_order_A)
    if weight.sum() == 0:
        return False
    mean = float((weight * cosine).sum() / weight.sum())
    counts = weight > _COUNTS * weight.max()
    told = np.sign(mean)
    least = float((cosine * told)[counts].min())
    return abs(mean) >= least_cosine and bool((sign * told)[counts].min() > 0) and least >= least_in_a_window


def _impulses(
    positions_A: NDArray[np.float64],
    shape: tuple[int, ...],
    sampling_A: float,
    weights: NDArray[np.float64] | float = 1.0,
) -> NDArray[np.float32]:
    """Atoms as impulses at their nearest pixel."""
    at, inside = nearest(positions_A / sampling_A - 0.5, shape)
    out = np.zeros(shape, np.float32)
    out[at[:, 0], at[:, 1]] = np.broadcast_to(weights, len(inside))[inside]
    return out


def _invariant(
    image: NDArray[np.float32],
    truth: NDArray[np.float32],
    sampling_A: float,
    first_order_A: float = FIRST_ORDER_A,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """For each window: cosine of the phase sum (+1 bright atoms), true sign of the contrast times weight, weight.

    The true sign is that of the majority of the three reflections, however strong the third: one against two moves the
    lattice.
    """
    size = int(2 * WINDOW_A / sampling_A)
    axis = (np.arange(size) - (size - 1) / 2) * sampling_A
    gauss = np.exp(-4 * np.log(2) * (axis / WINDOW_A) ** 2).astype(np.float32)
    window = gauss[:, None] * gauss[None, :]
    rows, cols = (_starts(length, size, STRIDE_A / sampling_A) for length in image.shape)
    triples = _triples(size, sampling_A, first_order_A)
    found = []
    for y in rows:
        for x in cols:
            part = (slice(y, y + size), slice(x, x + size))
            if truth[part].sum() < 20:
                continue
            seen = scipy.fft.fft2((image[part] * window).astype(np.complex64), s=(size, size))
            true = scipy.fft.fft2(((truth[part] - truth[part].mean()) * window).astype(np.complex64), s=(size, size))
            best = triples[np.argmax(np.abs(true[triples[..., 0], triples[..., 1]]).min(axis=1))]
            transfer = seen[best[:, 0], best[:, 1]] * np.conj(true[best[:, 0], best[:, 1]])
            found.append((np.cos(np.angle(transfer).sum()), np.sign(transfer.real).sum(), np.abs(transfer).min()))
    values = np.array(found, np.float64).reshape(-1, 3)
    return values[:, 0], np.sign(values[:, 1]) * values[:, 2], values[:, 2]


def _starts(length: int, size: int, stride: float) -> NDArray[np.intp]:
    """Where windows begin, from one edge to the other."""
    free = max(0, length - size)
    return np.rint(np.linspace(0, free, int(np.ceil(free / stride)) + 1)).astype(np.intp)


@lru_cache
def _triples(size: int, sampling_A: float, first_order_A: float) -> NDArray[np.intp]:
    """Index triples of reflections g1 + g2 + g3 = 0 on the first-order ring, for every orientation: (A, 3, 2); kept."""
    radius = size * sampling_A / first_order_A
    angles = np.arange(0, np.pi / 3, 0.35 / radius)
    turn = angles[:, None] + 2 * np.pi / 3 * np.arange(3)
    first = np.rint(radius * np.stack([np.sin(turn[:, :2]), np.cos(turn[:, :2])], axis=-1)).astype(np.intp)
    third = -first.sum(axis=1, keepdims=True)
    return np.concatenate([first, third], axis=1)
