"""The recorder as the bench feeds it: everything that was offered is in the file."""

import itertools

import pytest
import zmq

from bench.recorder import Recording, _fastest, at_rate
from bench.report import rows


@pytest.fixture
def one(tmp_path):
    with zmq.Context() as context, Recording(context, tmp_path / "a.h5", pixels=True) as made:
        yield made


def test_all_is_written_at_a_rate_and_as_fast_as_it_is_taken(one):
    told = at_rate(one, 0.2)
    assert (told["offered"], told["lost"], told["gaps"]) == (40, 0, 0)
    assert told["settled_s"] < 30
    assert _fastest(one, 0.1) > 1
    assert one.status["gaps"] == {}
    assert one.status["written"] == one.offered


def test_rows_say_what_is_asked():
    rate = {"fps": 900.0, "range": [800.0, 1000.0]}
    asked = {"atoms": 1500, "asked_fps": 200.0, "offered": 2400, "offered_fps": 200.0, "waited": 60}
    for lost, gaps, settled_s in itertools.product((0, 1), (0, 1), (0.3, 1.3)):
        result = asked | {"results": rate, "with_frames": rate, "lost": lost, "gaps": gaps, "settled_s": settled_s}
        table = list(rows({"recorder": result}))
        assert [row[3] for row in table] == [True, None, lost + gaps == 0 and settled_s < 1]
