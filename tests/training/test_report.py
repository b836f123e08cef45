"""The written report: one file that needs nothing else, and the same figures as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from engine import FileError
from tests.training.oracle import atoms_at
from tests.training.specimens import ROUND
from training.evaluate import Result, judge, summarise
from training.exit_waves import Specimen
from training.imaging import Shot, shoot
from training.report import _share, _spread, loss_curves, make_folder, worst, write_report

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def shot(specimens: list[Specimen]) -> Shot:
    ranges = replace(ROUND, sampling_A=(0.3, 0.3))
    return shoot(specimens[0], ranges, (20.0, 22.0), np.random.default_rng(0), 1e4)[0]


@pytest.fixture(scope="module")
def results(shot: Shot) -> list[Result]:
    """Two doses, one frame good, one poor, one undecidable and without an atom found."""
    moved = shot.positions_px + 0.1
    good, poor = (judge(shot, atoms_at(at), 0, 1e5, 3.0) for at in (moved, moved[::2]))
    lost = replace(judge(shot, atoms_at(np.empty((0, 2))), 1, 1e4, 9.0), decidable=False)
    return [good, replace(poor, number=1), replace(good, dose_e_A2=1e4, bound_pm=9.0), lost]


@pytest.fixture(scope="module")
def folder(results: list[Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "report"
    write_report(results, "graphene <1>, openvino f32", folder)
    return folder


class Tags(HTMLParser):
    """Counts tags and collects what they point to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.sources: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


class TestWriteReport:
    def test_the_page_needs_nothing_else(self, folder: Path) -> None:
        page = (folder / "report.html").read_text()
        assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
        tags = Tags(page)
        assert tags.sources
        assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
        assert not {"script", "link", "iframe"} & set(tags.count)

    def test_it_shows_a_row_a_dose_the_figures_and_the_worst(self, folder: Path) -> None:
        tags = Tags((folder / "report.html").read_text())
        assert tags.count["tr"] == (1 + 2) + (1 + 1)  # and the one setting that is undecidable
        assert tags.count["img"] == 3 + 2  # the two frames of the higher dose

    def test_several_classes_are_held_against_each_other(self, results: list[Result], tmp_path: Path) -> None:
        write_report(results, "two", tmp_path, ("C", "N"))
        tags = Tags((tmp_path / "report.html").read_text())
        assert tags.count["table"] == 2 + 2  # one more at each dose

    def test_undecidable_settings_are_listed_apart(self, results: list[Result], shot: Shot, tmp_path: Path) -> None:
        lost, good = results[3], results[0]
        optics = replace(shot.optics, defocus_A=-77.0, Cs_A=1.25e5, astigmatism_A=33.0, coma_A=44.0, threefold_A=55.0)
        elsewhere = replace(shot, images=((optics, shot.view),))
        bright = replace(good, number=1, decidable=False, shot=elsewhere, label="one grain")
        write_report([*results[:3], replace(lost, shot=elsewhere, label="one grain"), bright], "some", tmp_path)
        (table,) = re.findall(
            r"<h2>The 1 undecidable settings</h2>(<table>.*?</table>)", (tmp_path / "report.html").read_text()
        )
        head, row = (re.findall(r"<t[hd]>(.*?)</t[hd]>", line) for line in re.findall(r"<tr>(.*?)</tr>", table))
        assert dict(zip(head, row, strict=True)) == {
            **{"setting": "1 one grain", "defocus, A": "-77", "Cs, um": "12.5", "astigmatism, A": "33"},
            **{"coma, A": "44", "threefold, A": "55", "pixel size, A": "0.3"},
            **{"F1 at 100000 e/A²": "1", "F1 at 10000 e/A²": "0"},
        }

    def test_all_decidable_lists_none(self, results: list[Result], tmp_path: Path) -> None:
        write_report(results[:3], "all", tmp_path)
        assert (tmp_path / "report.html").read_text().endswith("<h2>The 0 undecidable settings</h2>")

    def test_figures_of_other_frames_stand_beside(self, results: list[Result], tmp_path: Path) -> None:
        beside = {"3e+04 e/A^2, in dirt": {"covered_left_out": 0.875, "clear_f1": float("nan")}}
        table = write_report(results, "dirt", tmp_path, beside=beside)
        assert list(table) == ["100000", "10000"]
        page = (tmp_path / "report.html").read_text()
        assert "at 3e+04 e/A², in dirt" in page
        assert "<td>0.875</td>" in page
        written = json.loads((tmp_path / "report.json").read_text())
        assert written["3e+04 e/A^2, in dirt"] == {"covered_left_out": 0.875, "clear_f1": None}

    def test_kinds_of_specimens_have_their_frames_and_standard_error(
        self, results: list[Result], tmp_path: Path
    ) -> None:
        good, poor = results[:2]
        labelled = [replace(good, label="<110>"), replace(poor, label="bare"), replace(good, label="bare")]
        write_report(labelled, "kinds", tmp_path)
        kinds = json.loads((tmp_path / "report.json").read_text())["kinds"]
        assert list(kinds) == ["<110>", "bare"]
        assert kinds["<110>"] == {"100000": {"frames": 1, "f1": 1, "f1_standard_error": None}}
        row, f1 = kinds["bare"]["100000"], poor.score.f1
        assert row["frames"] == 2
        assert row["f1"] == pytest.approx((1 + f1) / 2)
        assert row["f1_standard_error"] == pytest.approx((1 - f1) / 2)
        page = (tmp_path / "report.html").read_text()
        assert "<th>F1 ± standard error (frames) at</th><th>100000 e/A²</th>" in page
        assert f"<th>bare</th><td>{row['f1']:.4g} ± {row['f1_standard_error']:.2g} (2)</td>" in page
        assert "<th>&lt;110&gt;</th><td>1 ± nan (1)</td>" in page

    def test_names_are_text(self, folder: Path) -> None:
        assert "graphene &lt;1&gt;, openvino f32" in (folder / "report.html").read_text()

    def test_the_json_holds_the_figures(self, folder: Path, results: list[Result]) -> None:
        def refuse(constant: str) -> NoReturn:
            raise AssertionError(f"{constant} is no JSON")

        written = json.loads((folder / "report.json").read_text(), parse_constant=refuse)
        table = summarise(results)
        assert list(written) == list(table) == ["100000", "10000"]
        for dose, row in table.items():
            expected = {key: None if np.isnan(value) else pytest.approx(value) for key, value in row.items()}
            assert written[dose] == expected
        assert written["100000"]["undecidable_f1"] is None

    def test_no_frame_that_anybody_could_decide(self, results: list[Result], tmp_path: Path) -> None:
        table = write_report([replace(one, decidable=False) for one in results], "none", tmp_path)
        assert [row["frames"] for row in table.values()] == [0, 0]

    def test_it_returns_what_it_writes(self, folder: Path, results: list[Result], tmp_path: Path) -> None:
        table = write_report(results, "again", tmp_path)
        assert table["10000"]["undecidable"] == 1
        assert (tmp_path / "report.json").read_text() == (folder / "report.json").read_text()


def test_the_worst_first_and_no_faint_or_undecidable_ones(results: list[Result]) -> None:
    faint = replace(results[1], dose_e_A2=1e3)  # the lowest of three
    rows = worst([*results, faint] * 5)
    assert len(rows) == 10
    assert [r.number for r in rows] == [1] * 5 + [0] * 5
    assert all(r.decidable and r.dose_e_A2 >= 1e4 for r in rows)


@pytest.mark.parametrize("rows", [1, 60])
def test_loss_curves(tmp_path: Path, rows: int) -> None:
    log, picture = tmp_path / "losses.jsonl", tmp_path / "losses.png"
    log.touch()
    loss_curves(log, picture)  # none yet
    assert not picture.exists()
    log.write_text(
        "".join(json.dumps({"step": 20 * k, "heat": 5 / (k + 1), "position": 1.0}) + "\n" for k in range(rows))
    )
    loss_curves(log, picture)
    assert picture.read_bytes().startswith(PNG)


def test_the_share_of_atoms_that_are_there_is_shown_against_their_score() -> None:
    there, wrong = np.full(75, 0.72, np.float32), np.full(25, 0.78, np.float32)
    few = np.full(3, 0.15, np.float32)
    score, share = _share(np.concatenate([there, few, wrong]), np.repeat([1.0, 0.0], [78, 25]))
    assert score == pytest.approx([0.735])
    assert share == pytest.approx([0.75])


def test_errors_are_shown_against_what_was_predicted() -> None:
    rng = np.random.default_rng(0)
    sigma = rng.uniform(3, 20, 8000).astype(np.float32)
    predicted, found = _spread(sigma, rng.normal(0, 1, (8000, 2)) * 2 * sigma[:, None])
    assert len(predicted) == 8
    assert found == pytest.approx(2 * predicted, rel=0.08)


def test_a_report_into_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "report"):
        with pytest.raises(FileError, match="expected a place to write to, got"):
            make_folder(folder)
