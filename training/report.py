"""What the evaluation found, as one HTML file with its pictures inside, and the same figures as JSON."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray

from engine.errors import write_whole, writing
from training.evaluate import GOOD_F1, Result, by_label, confusion, scores_of, summarise
from training.losses import read_losses
from training.score import TOLERANCE_A, match

_WORST = 10
_FEW = 20  # atoms that say nothing of a share

_HEADINGS = {
    "frames": "decidable frames",
    "f1": "F1",
    "f1_standard_error": "standard error of F1",
    "precision": "precision",
    "recall": "recall",
    "worst_f1": "worst F1",
    "worst_f1_bound_20_pm": "worst F1, bound to 20 pm",
    "rmse_pm": "error, pm",
    "upright_rmse_pm": "error of columns that lean at most 0.5 A, pm",
    "good_upright_scatter_pm": "of these without the frame's shift, frames over 0.98, pm",
    "scatter_pm": "without the frame's shift, pm",
    "bound_pm": "bound, pm",
    "error_over_bound_median": "error / bound, median frame",
    "scatter_over_bound_median": "without the shift / bound",
    "error_over_sigma": "error / sigma",
    "scatter_over_sigma": "without the shift / sigma",
    "score_off_by": "score off by",
    "classical_f1": "classical F1",
    "classical_rmse_pm": "classical error, pm",
    "errors_over_classical": "missed and wrong over the classical way's",
    "away_share": "found away from anything",
    "left_out": "left out as if contaminated",
    "undecidable": "undecidable",
    "undecidable_f1": "F1 of these",
    "ramp_frames": "frames",
    "ramp_f1": "F1 where the bound is at most 30 pm",
    "ramp_decidable_f1": "F1 where a frame of that focus is decidable",
    "ramp_uniform_f1": "F1 of frames of such a focus alone",
    "ramp_decidable": "share of the atoms there",
    "covered_frames": "frames",
    "covered_left_out": "of what is found under 3 A of carbon or more, left out",
    "covered_reported": "reported there, over the atoms that are there",
    "clear_left_out": "of what is found far from any, left out",
    "clear_f1": "F1 far from any",
    "clear_f1_standard_error": "its standard error",
}
_OPTICS = ("defocus, A", "Cs, um", "astigmatism, A", "coma, A", "threefold, A", "pixel size, A")

_PLACE = ("a place to write to", "free some room, or choose another folder")

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def write_report(
    results: list[Result],
    name: str,
    folder: Path,
    classes: Sequence[str] = (),
    beside: Mapping[str, dict[str, float]] | None = None,
) -> dict[str, Any]:
    """Write folder/report.html and folder/report.json; returns the figures by dose. Several classes have one each.

    Those of each kind of specimen, where there are several, are in the file under "kinds". `beside`: figures of other
    frames, by what these are.
    """
    table, kinds, beside = summarise(results, classes), by_label(results), beside or {}
    figures: dict[str, Any] = _known({**table, **beside})
    if kinds:
        figures["kinds"] = {kind: _known(rows) for kind, rows in kinds.items()}
    body = [
        f"<h1>{html.escape(name)}</h1>",
        "<p>Simulated specimens that share no seed or orientation with training, nor, but for a structure of one's "
        "own, their atoms; optics and pixel sizes over the whole range of the recipe. F1: one-to-one pairs within 0.5 "
        "A. Errors are per axis. Frames whose "
        "contrast nobody could decide are counted apart. Classical: local maxima of the filtered frame, of bright or "
        "of dark atoms, whichever come closer to the truth, each refined by a Gaussian fit.</p>",
        _table(table),
        _labels(kinds),
        *(_rows([f"at {what.replace('^2', '²')}", *map(_heading, row)], {"": row}) for what, row in beside.items()),
        _confusion(results, classes),
        _image(_curves(results, table)),
        "<h2>Are score and sigma meant?</h2>",
        _image(_calibration(results)),
        "<h2>Over optics and pixel size</h2>",
        _image(_ranges(results)),
        f"<h2>The {_WORST} worst decidable frames of the upper half of the doses</h2>",
        *(_image(_frame(result)) for result in worst(results)),
        _undecidable(results),
    ]
    style = (
        "body{font-family:sans-serif;max-width:75em;margin:2em auto}"
        "table{font-size:.8em}td,th{padding:.3em .7em;text-align:right}img{max-width:100%}"
    )
    page = f"<!doctype html><meta charset=utf-8><title>{html.escape(name)}</title><style>{style}</style>{''.join(body)}"
    make_folder(folder)
    write_whole(folder / "report.json", (json.dumps(figures, indent=2) + "\n").encode(), *_PLACE)
    write_whole(folder / "report.html", page.encode(), *_PLACE)
    return table


def make_folder(folder: Path) -> None:
    """The folder of a report, made where it is not there; FileError where nothing can be written to it."""
    with writing(folder, *_PLACE):
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()


def _known(table: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Null where nothing was there to measure: JSON has no NaN."""
    return {dose: {k: v if np.isfinite(v) else None for k, v in row.items()} for dose, row in table.items()}


def worst(results: list[Result]) -> list[Result]:
    """The decidable frames of lowest F1, of the upper half of the doses."""
    doses = sorted({r.dose_e_A2 for r in results}, reverse=True)
    rows = [r for r in results if r.decidable and r.dose_e_A2 in doses[: (len(doses) + 1) // 2]]
    return sorted(rows, key=lambda r: r.score.f1)[:_WORST]


def loss_curves(log: Path, picture: Path) -> None:
    """Draw a run's losses.jsonl."""
    rows = read_losses(log)
    if not rows:  # a fit of a few steps logs none
        return
    names = [key for key in rows[0] if key != "step"]
    figure, axes = plt.subplots(1, len(names), figsize=(5 * len(names), 3.5), squeeze=False)
    steps = np.array([row["step"] for row in rows])
    for axis, key in zip(axes[0], names, strict=True):
        values = np.array([row[key] for row in rows])
        axis.plot(steps, values, lw=0.4, alpha=0.5)
        window = min(len(values), 25)
        axis.plot(steps[window - 1 :], np.convolve(values, np.ones(window) / window, "valid"))
        axis.set(title=key, xlabel="step")
    figure.tight_layout()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90)
    plt.close(figure)
    write_whole(picture, drawn.getvalue(), *_PLACE)


def _table(table: dict[str, dict[str, float]]) -> str:
    keys = list(next(iter(table.values()), _HEADINGS))
    return _rows(["dose, e/A²", *map(_heading, keys)], table)


def _heading(key: str) -> str:
    return _HEADINGS.get(key, key.replace("f1_", "F1 of "))


def _labels(table: dict[str, dict[str, dict[str, float]]]) -> str:
    """Mean F1 a kind of specimen and dose, with its standard error and over how many frames."""
    doses = list(dict.fromkeys(dose for row in table.values() for dose in row))
    said = {kind: {dose: _mean_f1(row[dose]) if dose in row else "" for dose in doses} for kind, row in table.items()}
    return _rows(["F1 ± standard error (frames) at", *(f"{dose} e/A²" for dose in doses)], said) if table else ""


def _mean_f1(row: Mapping[str, float]) -> str:
    return f"{row['f1']:.4g} ± {row['f1_standard_error']:.2g} ({row['frames']})"


def _confusion(results: list[Result], classes: Sequence[str]) -> str:
    """What was found where each class is, at every dose."""
    if len(classes) < 2:
        return ""
    parts = []
    for dose in sorted({r.dose_e_A2 for r in results}, reverse=True):
        counted = confusion([r for r in results if r.dose_e_A2 == dose], classes)
        parts.append(_rows([f"true, at {dose:g} e/A²", *(f"found {name}" for name in classes), "missed"], counted))
    return "<h2>Classes</h2>" + "".join(parts)


def _undecidable(results: list[Result]) -> str:
    """Each setting that nobody could decide: its optics, and F1 at each dose all the same."""
    doses = sorted({r.dose_e_A2 for r in results}, reverse=True)
    of_setting: dict[int, dict[float, Result]] = {}
    for result in results:
        if not result.decidable:
            of_setting.setdefault(result.number, {})[result.dose_e_A2] = result
    rows = {}
    for number, at in of_setting.items():
        some, nothing = next(iter(at.values())), float("nan")
        o = some.shot.optics
        lengths = (o.defocus_A, o.Cs_A / 1e4, o.astigmatism_A, o.coma_A, o.threefold_A, some.shot.view.sampling_A)
        f1 = {f"{dose:g}": at[dose].score.f1 if dose in at else nothing for dose in doses}
        rows[f"{number} {some.label}".strip()] = dict(zip(_OPTICS, lengths, strict=True)) | f1
    head = ["setting", *_OPTICS, *(f"F1 at {dose:g} e/A²" for dose in doses)]
    return f"<h2>The {len(rows)} undecidable settings</h2>{_rows(head, rows) if rows else ''}"


def _rows(head: list[str], table: Mapping[str, Mapping[str, float | str]]) -> str:
    rows = [
        f"<tr><th>{html.escape(name)}</th>" + "".join(f"<td>{_cell(value)}</td>" for value in row.values()) + "</tr>"
        for name, row in table.items()
    ]
    return f"<table><tr>{''.join(f'<th>{html.escape(text)}</th>' for text in head)}</tr>{''.join(rows)}</table>"


def _cell(value: float | str) -> str:
    return html.escape(value) if isinstance(value, str) else f"{value:.4g}"


def _curves(results: list[Result], table: dict[str, dict[str, float]]) -> Figure:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(16, 4.5))
    doses = [float(dose) for dose in table]
    for key in ("f1", "precision", "recall", "worst_f1", "classical_f1"):
        left.semilogx(doses, [row[key] for row in table.values()], "o-", label=_HEADINGS[key])
    left.set(xlabel="dose, e/A²", ylim=(0, 1.02))
    left.legend()
    for key in ("rmse_pm", "bound_pm", "classical_rmse_pm"):
        middle.loglog(doses, [row[key] for row in table.values()], "o-", label=_HEADINGS[key])
    middle.set(xlabel="dose, e/A²", ylabel="pm")
    middle.legend()
    sure = [r for r in results if r.decidable]
    right.scatter(
        [r.bound_pm for r in sure], [r.score.rmse_pm for r in sure], s=8, c=[np.log10(r.dose_e_A2) for r in sure]
    )
    right.plot([1, 100], [1, 100], "k--", lw=0.8)
    right.set(xlabel="bound, pm", ylabel="error, pm", xscale="log", yscale="log")
    figure.tight_layout()
    return figure


def _calibration(results: list[Result]) -> Figure:
    """How many of the atoms of a score are there, and how far those of a sigma are off."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5))
    sure = [r for r in results if r.decidable]
    for dose in sorted({r.dose_e_A2 for r in sure}, reverse=True):
        rows = [r for r in sure if r.dose_e_A2 == dose]
        left.plot(*_share(*scores_of(rows)), "o-", label=f"{dose:g} e/A²")
        good = [r for r in rows if r.score.f1 > GOOD_F1]
        if good:
            sigma = np.concatenate([r.sigma_pm for r in good])
            error = np.concatenate([r.score.error_pm for r in good])
            right.loglog(*_spread(sigma, error), "o-", label=f"{dose:g} e/A²")
    left.plot([0, 1], [0, 1], "k--", lw=0.8)
    left.set(xlabel="score: the chance it states", ylabel="share of atoms that are there", xlim=(0, 1), ylim=(0, 1.02))
    right.plot([2, 50], [2, 50], "k--", lw=0.8)
    right.set(xlabel="sigma, pm", ylabel="error per axis, pm")
    if sure:
        left.legend(loc="upper left")
    right.set(title=f"frames with an F1 over {GOOD_F1}")
    figure.tight_layout()
    return figure


def _share(score: NDArray[np.float64], is_there: NDArray[np.float64]) -> Curve:
    """Mean score and share of atoms that are there, in tenths of the score; tenths of few atoms are left out."""
    return _binned(score, is_there, np.minimum((score * 10).astype(int), 9))


def _spread(sigma_pm: NDArray[np.float32], error_pm: NDArray[np.float64]) -> Curve:
    """Mean sigma and RMS error, in eighths of the atoms by their sigma."""
    rank = np.argsort(np.argsort(sigma_pm))
    x, y = _binned(sigma_pm, np.square(error_pm).mean(axis=1), rank * 8 // max(1, len(rank)))
    return x, np.sqrt(y)


def _binned(x: NDArray[np.float32], y: NDArray[np.float64], which: NDArray[np.intp]) -> Curve:
    counts = np.bincount(which)
    kept = counts >= _FEW
    means = [np.bincount(which, values)[kept] / counts[kept] for values in (x, y)]
    return means[0], means[1]


def _ranges(results: list[Result]) -> Figure:
    """F1 of each setting over the plane of defocus and Cs, and over pixel size, at the dose in the middle."""
    doses = sorted({r.dose_e_A2 for r in results})
    rows = [r for r in results if r.dose_e_A2 == doses[len(doses) // 2]]
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5))
    for decidable, marker, name in ((False, "x", "undecidable"), (True, "o", "decidable")):
        some = [r for r in rows if r.decidable == decidable]
        optics, f1 = [r.shot.optics for r in some], [r.score.f1 for r in some]
        at = [o.defocus_A for o in optics], [o.Cs_A / 1e4 for o in optics]
        shown = left.scatter(*at, c=f1, vmin=0, vmax=1, s=25, marker=marker)
        right.scatter([r.shot.view.sampling_A for r in some], f1, s=15, marker=marker, label=name)
    figure.colorbar(shown, ax=left, label="F1")
    left.set(xlabel="defocus, A", ylabel="Cs, um", title=f"{rows[0].dose_e_A2:g} e/A², crosses: undecidable")
    right.set(xlabel="pixel size, A", ylabel="F1", ylim=(0, 1.02))
    right.legend()
    figure.tight_layout()
    return figure


def _frame(result: Result) -> Figure:
    """The frame, beside it the same with true atoms found, missed and invented."""
    figure, axes = plt.subplots(1, 2, figsize=(14, 7))
    pixels = result.shot.frame.pixels
    if pixels.ndim == 3:  # positions are those of the middle image
        pixels = pixels[len(pixels) // 2]
    truth, found = result.shot.positions_px, result.atoms.positions
    pairs = match(truth, found.astype(np.float64), TOLERANCE_A / result.shot.view.sampling_A)
    missed = np.delete(truth, pairs[:, 0], axis=0)
    invented = np.delete(found, pairs[:, 1], axis=0)
    for axis in axes:
        axis.imshow(pixels, cmap="gray", vmin=np.percentile(pixels, 1), vmax=np.percentile(pixels, 99))
        axis.set(xlim=(0, pixels.shape[1]), ylim=(pixels.shape[0], 0))
    axes[1].plot(truth[pairs[:, 0], 1], truth[pairs[:, 0], 0], "g.", ms=3, label="found")
    axes[1].plot(missed[:, 1], missed[:, 0], "rx", ms=5, label="missed")
    axes[1].plot(invented[:, 1], invented[:, 0], "c+", ms=6, label="invented")
    axes[1].legend(loc="upper right")
    optics = result.shot.optics
    figure.suptitle(
        f"frame {result.number}, {result.dose_e_A2:g} e/A², {result.shot.view.sampling_A:.3f} A/px: "
        f"F1 {result.score.f1:.3f}, bound {result.bound_pm:.1f} pm, defocus {optics.defocus_A:.0f} A, "
        f"Cs {optics.Cs_A / 1e4:.1f} um, astigmatism {optics.astigmatism_A:.0f} A"
    )
    figure.tight_layout()
    return figure


def _image(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=70)
    plt.close(figure)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
