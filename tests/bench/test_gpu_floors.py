"""The table of a GPU that is not here: as the page has it, and no more than the hardware's figures give."""

from pathlib import Path

from bench.gpu_floors import H200, table

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def test_the_page_has_it_and_says_that_it_is_reckoned():
    before, found, _ = PAGE.read_text().partition(table("graphene", H200))
    assert found
    assert "**reckoned from NVIDIA's data sheet, not measured**" in before.rpartition("<!-- bench-gpu: end -->")[2]


def test_the_bus_is_the_limit_of_a_large_frame():
    """By hand: 4096 x 4096 pixels of two bytes at 55 GB/s."""
    rows = table("graphene", H200).splitlines()
    assert "| up | 33.6 MB |  | 610 us |" in rows
    assert rows[8] == f"| from frame to frame: at most {55e9 / (2 * 4096**2):,.0f} frames/s |  |  | 610 us |"
