"""What frames are drawn from: optics, dose, detector, dirt."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine import ConfigError
from training.decidable import Rule, crystal_sign, graphene_sign
from training.pairs import Pair, check_pairs

_LOG_UNIFORM = ("dose_e_A2", "sampling_A", "read_noise_e", "gain", "bend_A", "contamination_A")
DOSES_E_A2 = (1e5, 3e4, 1e4, 3e3, 1e3)  # of an image, that evaluation reports unless a recipe has its own


@dataclass(frozen=True, slots=True)
class ImageRanges:
    """What optics, dose and detector are drawn from: uniform, and log-uniform where a range spans decades."""

    voltage_kV: float = 80.0
    defocus_A: Pair = (-120.0, 120.0)
    Cs_A: Pair = (-2e5, 2e5)
    astigmatism_A: Pair = (0.0, 30.0)
    coma_A: Pair = (0.0, 400.0)
    threefold_A: Pair = (0.0, 1000.0)
    tilt_mrad: float = 1.0
    focal_spread_A: Pair = (20.0, 40.0)
    convergence_mrad: Pair = (0.0, 0.3)
    blur_A: Pair = (0.0, 0.4)
    dose_e_A2: Pair = (5e2, 2e5)
    sampling_A: Pair = (0.05, 0.75)
    sampling_error: float = 0.015
    mtf: Pair = (0.0, 1.5)  # fall over the sampling frequency: exp(-mtf / 2) is left at Nyquist
    noise_blur_px: Pair = (0.0, 0.6)  # spread of a detected electron over pixels, after the noise
    read_noise_e: Pair = (0.02, 1.0)
    bad_pixels: float = 3e-5
    bad_pixel_counts: Pair = (0.5, 3.0)  # of those that are not dead, over twice the mean
    gain: Pair = (0.5, 50.0)  # counts of an electron
    offset: Pair = (0.0, 200.0)
    eight_bit_chance: float = 0.3
    illumination: float = 0.2
    uneven_focus_chance: float = 0.25
    bend_A: Pair = (2.0, 20.0)  # over which such a sheet goes from one height to the other
    contamination_chance: float = 0.4
    contamination_share: Pair = (0.1, 0.6)  # of the field
    contamination_A: Pair = (8.0, 120.0)  # thickness
    contamination_grain_A: Pair = (6.0, 16.0)  # sigma of what patches are smooth over
    contamination_edge: Pair = (0.02, 0.6)  # how gently a patch thins out
    contamination_phase: Pair = (0.7, 2.0)  # over that of carbon: dirt is not carbon alone
    displacement_A: float = 0.08  # of thin specimens: largest sigma beside what they are stored with
    focus_step_A: Pair | None = None  # between the three images of a triplet, either way; None: single images
    drift_px: float = 4.0  # largest along an axis between the middle image of a triplet and another; taken out
    drift_left_A: float = 0.1  # sigma along an axis of what its measurement leaves
    thin: bool = True  # phases of atoms add up, so that atoms can be moved within a stored wave
    rule: Rule = graphene_sign  # can anybody tell the contrast's sign?

    def __post_init__(self) -> None:
        check_pairs(self)
        for name in _LOG_UNIFORM:
            if not getattr(self, name)[0] > 0:
                raise ConfigError(f"Expected {name} over 0, got {getattr(self, name)}: raise the smaller")


# Of an aberration-corrected microscope and specimens some atoms thick; voltage, focus and dose are the recipe's.
COLUMNS = ImageRanges(
    Cs_A=(-3e5, 1e5),
    astigmatism_A=(0.0, 50.0),
    threefold_A=(0.0, 400.0),
    focal_spread_A=(20.0, 50.0),
    uneven_focus_chance=0.0,
    displacement_A=0.0,
    thin=False,
    rule=crystal_sign,
)


def nearly_round(images: ImageRanges) -> ImageRanges:
    """These ranges with small aberrations, high doses and nothing in the way: what a network learns quickly from."""
    return replace(
        images,
        Cs_A=(-4e4, 4e4),
        astigmatism_A=(0.0, 5.0),
        coma_A=(0.0, 60.0),
        threefold_A=(0.0, 60.0),
        tilt_mrad=0.2,
        dose_e_A2=(1e4, 2e5),
        contamination_chance=0.0,
        uneven_focus_chance=0.0,
    )


def log_uniform(rng: np.random.Generator, limits: Pair) -> float:
    """A draw that is uniform in its logarithm."""
    return float(np.exp(rng.uniform(*np.log(limits))))
