"""Rates in turn, their medians and quotients."""

from bench.rounds import interleave, ratio, repeated, summary


def test_measurements_take_turns():
    order = []

    def measurement(name, rates):
        def measure():
            order.append(name)
            return next(rates)

        return measure

    rates = interleave({"a": measurement("a", iter((1.0, 2.0))), "b": measurement("b", iter((3.0, 4.0)))}, rounds=2)
    assert order == ["a", "b", "a", "b"]
    assert rates == {"a": [1.0, 2.0], "b": [3.0, 4.0]}


def test_work_is_counted_against_the_clock_and_the_first_is_not():
    worked, clock = [], iter((0.0, 0.0, 0.5, 1.0, 1.5, 2.0)).__next__
    measure = repeated(lambda: worked.append(1), seconds=2.0, clock=clock)
    assert len(worked) == 1
    assert measure() == 4 / 2.0
    assert len(worked) == 5


def test_work_slower_than_its_time_is_done_once():
    clock = iter((0.0, 0.0, 3.0)).__next__
    assert repeated(lambda: None, seconds=2.0, clock=clock)() == 1 / 3.0


def test_quotients_are_taken_round_by_round():
    assert ratio([1.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == {"median": 2.0, "range": [1.0, 3.0]}
    assert summary([3.0, 1.0, 2.0]) == {"fps": 2.0, "range": [1.0, 3.0]}
