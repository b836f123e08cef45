"""The exit waves that the simulated camera plays: a recipe's specimen as it decays, as int16 in one .npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine import ConfigError, FileError
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
    if path.suffix != ".npz" or not path.absolute().parent.is_dir():
        raise FileError(f"{path}: expected a name in .npz in a folder that is there, got another: correct it")
    decay = DECAYS[family](np.random.default_rng(recipe.seed))
    waves = [
        exit_wave(atoms_A, decay.cell_A, voltage_kV, numbers, sampling_A=SAMPLING_A)
        for atoms_A, numbers in decay.stages
    ]
    stack = np.stack(waves)
    scale = float(max(np.abs(stack.real).max(), np.abs(stack.imag).max()) / 32767)
    real, imag = (np.rint(part / scale).astype(np.int16) for part in (stack.real, stack.imag))
    partial = path.with_suffix(".part.npz")
    try:
        np.savez_compressed(partial, real=real, imag=imag, scale=scale, sampling_A=SAMPLING_A, voltage_kV=voltage_kV)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise FileError(f"{path}: expected room for exit waves, got {error.strerror or error}: free some") from None
