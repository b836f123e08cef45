"""What is made of answers and books."""

import pytest

from bench.freshness import accounted, counted, stale
from bench.path import Answered, Run


def run_of(ages_ms, sent=None):
    answers = [Answered(k, 0.1 * k, age + 1, age, 10.0, 5) for k, age in enumerate(ages_ms)]
    return Run(len(answers) if sent is None else sent, answers)


def status(received, processed, missing, **dropped):
    return {"received": received, "processed": processed, "missing": missing, "dropped": dropped, "policy": "latest"}


def test_age_is_measured_in_processing_times():
    told = stale(run_of([12.0] * 200))
    assert told["age_ms"] == {"p50": 12.0, "p99": 12.0}
    assert told["latency_ms"] == {"p50": 13.0, "p99": 13.0}
    assert told["age_over_processing"] == pytest.approx(1.2)
    assert told["fps"] == pytest.approx(10.0)


def test_one_old_answer_in_twenty_makes_them_stale():
    assert stale(run_of(([12.0] * 19 + [40.0]) * 10))["age_over_processing"] == pytest.approx(4.0)


def test_what_was_before_does_not_count():
    before, after = status(3, 2, 0, superseded=1), status(30, 12, 4, superseded=17, not_json=1)
    assert counted(after, before) == {
        "received": 27,
        "processed": 10,
        "missing": 4,
        "dropped": {"superseded": 16, "not_json": 1},
    }


@pytest.mark.parametrize(
    ("books", "right"),
    [
        (status(5, 3, 1, superseded=2), True),
        (status(5, 3, 0, superseded=2), False),  # one was sent that neither came nor is missing
        (status(5, 3, 1, superseded=1), False),  # one came and was neither processed nor dropped
        (status(5, 4, 1, superseded=1), False),  # one was processed, and its answer never came
    ],
)
def test_every_frame_has_to_be_somewhere(books, right):
    assert accounted(run_of([1.0, 1.0, 1.0], sent=6), counted(books)) is right
