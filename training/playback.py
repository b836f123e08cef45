"""The exit waves that the simulated camera plays: a recipe's specimen as it decays, as int16 in one .npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine import ConfigError
from training.decay import DECAYS, SAMPLING_A
from training.exit_waves import exit_wave
from training.recipes.recipe import Recipe


def write_playback(path: Path, recipe: Recipe) -> None:
    """Write arrays real, imag (S, H, W) int16, scale, sampling_A, voltage_kV; ConfigError for what does not decay."""
    family, voltage_kV = recipe.spec.family, recipe.images.voltage_kV
    if family not in DECAYS:
        raise ConfigError(
            f"Expected a recipe whose specimen the simulated camera plays ({', '.join(DECAYS)}) with --playback, "
            f"got {family!r}: only sheets that lose atoms are played yet, so leave --playback out"
        )
    decay = DECAYS[family](np.random.default_rng(recipe.seed))
    waves = [
        exit_wave(atoms_A, decay.cell_A, voltage_kV, numbers, sampling_A=SAMPLING_A)
        for atoms_A, numbers in decay.stages
    ]
    stack = np.stack(waves)
    scale = float(max(np.abs(stack.real).max(), np.abs(stack.imag).max()) / 32767)
    real, imag = (np.rint(part / scale).astype(np.int16) for part in (stack.real, stack.imag))
    np.savez_compressed(path, real=real, imag=imag, scale=scale, sampling_A=SAMPLING_A, voltage_kV=voltage_kV)
