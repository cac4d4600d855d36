"""Many scans in one process: order, errors, what runs at the same time, and how much is in memory."""

import threading
import time
import weakref

import pytest
import torch

from GaborSegLib.errors import GaborSegError, ImageError
from GaborSegLib.inference.cohort import overlapped


class Thing:
    """What is handed from step to step."""

    def __init__(self, i):
        self.i = i


def test_order_and_errors_of_every_step():
    def failing(step):
        def act(thing):
            if thing.i == step:
                raise ImageError(f"scan {step}")
            return thing

        return act

    outcomes = list(overlapped(range(7), lambda i: failing(1)(Thing(i)), failing(3), failing(6)))
    told = [str(outcome) if isinstance(outcome, GaborSegError) else outcome.i for outcome in outcomes]
    assert told == [0, "scan 1", 2, "scan 3", 4, 5, "scan 6"]
    assert list(overlapped([], Thing, Thing, Thing)) == []


def test_at_most_one_ahead_and_one_behind():
    alive, most, lock = weakref.WeakSet(), [0], threading.Lock()

    def prepare(i):
        thing = Thing(i)
        with lock:
            alive.add(thing)
            most[0] = max(most[0], len(alive))
        return thing

    def finish(thing):
        time.sleep(0.02)  # the slowest step, so that things would pile up before it
        return thing.i

    assert list(overlapped(range(12), prepare, lambda thing: thing, finish)) == list(range(12))
    # One prepared, one seen, one being finished; a fourth for a moment, as the step that ends still names it.
    assert most[0] <= 4


def test_the_steps_overlap():
    """Each step waits for the other two to be at work on their scans, which in a row would never happen."""
    meeting = threading.Barrier(3, timeout=20)

    def step(first, last):
        def act(i):
            if first <= i <= last:
                meeting.wait()
            return i

        return act

    # Scan i is finished while i + 1 is looked at and i + 2 prepared.
    assert list(overlapped(range(6), step(2, 5), step(1, 4), step(0, 3))) == list(range(6))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
def test_what_is_no_error_of_a_scan_ends_all_of_them(kind):
    prepared, finished = [], []

    def look(i):
        if i == 2:
            raise kind
        return i

    before = threading.active_count()
    with pytest.raises(kind):
        list(overlapped(range(50), lambda i: prepared.append(i) or i, look, finished.append))
    assert prepared == [0, 1, 2, 3] and finished == [0, 1]
    assert threading.active_count() == before


def test_the_callers_threads_stay_its_own():
    before = torch.get_num_threads()
    seen = []
    list(overlapped(range(3), lambda i: seen.append(torch.get_num_threads()), lambda _: None, lambda _: None))
    assert seen == [1, 1, 1] and torch.get_num_threads() == before
