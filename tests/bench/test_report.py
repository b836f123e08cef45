"""Results to a table, and the table into the page."""

import pytest

from bench.report import BEGIN, END, rows, table, write_page


def rate(fps):
    return {"fps": fps, "range": [fps - 1, fps + 1]}


def times(value):
    return {"median": value, "range": [value - 0.1, value + 0.1]}


def results(**changes):
    case = {
        "frame": "512 x 512 at 0.1 A/px",
        "network_input": [256, 256],
        "target_fps": 100,
        "path": rate(104.0),
        "network": rate(130.0),
        "path_over_network": times(0.8),
        "latency_ms_at_target": {"p50": 9.0, "p99": 14.0},
        "atoms": 990,
    }
    return {
        "date": "2026-11-22T12:00:00+00:00",
        "commit": "0123456789ab",
        "machine": {"CPU": "a CPU", "features": "AVX2 yes", "cores": 2, "memory_GB": 8, "system": "Linux"}
        | {"cores_taken_by_others": 0.01},
        "versions": {"Python": "3.11.7", "torch": None},
        "model": {"name": "graphene", "version": "1", "precision": "int8", "sha256": {}},
        "speed": [case | changes],
        "torch": {
            "path": rate(100.0),
            "our prepare": rate(10.0) | {"path_over_script": times(10.0)},
            "scikit-image": rate(20.0) | {"path_over_script": times(5.0)},
        },
        "memory": {"frames": 10_000, "early_MB": 300.0, "late_MB": 306.0, "largest_MB": 307.0, "growth": 0.02},
    }


def reached(found, text):
    (one,) = [row for row in found if text in row[0]]
    return one[3]


def test_each_figure_stands_beside_what_is_asked_for():
    found = list(rows(results()))
    assert reached(found, "512 x 512 at") is True
    assert reached(found, "latency at 100") is None
    assert reached(found, "network alone") is True
    assert reached(found, "our `prepare`") is True
    assert reached(found, "scikit-image throughout") is False
    assert reached(found, "resident size") is True
    assert reached(found, "growth from frame 1,000 to 10,000") is False


def test_too_slow_says_no():
    found = list(rows(results(path=rate(99.0), path_over_network=times(0.76))))
    assert reached(found, "512 x 512 at") is False
    assert reached(found, "network alone") is False
    assert "| **no** |" in table(results(path=rate(99.0)))


def test_the_table_names_machine_versions_and_commit():
    text = table(results())
    for part in ("a CPU", "2 cores", "Python 3.11.7", "took 0.01 of a core", "graphene 1 in int8", "0123456789ab"):
        assert part in text
    assert "torch None" not in text


def test_only_what_stands_between_the_markers_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_page(page, results())
    write_page(page, results())
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert text.count("512 x 512 at 0.1 A/px") == 1


def test_a_page_without_markers_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("mine\n")
    with pytest.raises(ValueError, match="expected the lines"):
        write_page(page, results())
    assert page.read_text() == "mine\n"
