"""Two computations at the same time, and the threads that they have."""

import threading
import time

import pytest
import torch

from GaborSegLib.inference import segmenter as segmenter_module
from GaborSegLib.inference.at_once import at_once
from GaborSegLib.inference.segmenter import Segmenter
from GaborSegLib.model import fast
from GaborSegLib.model.fast import fourier


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads, shares", [(2, (1, 1)), (3, (2, 1)), (4, (2, 2))])
def test_each_has_half_of_the_threads_at_the_same_time(set_threads, threads, shares):
    met = threading.Barrier(2, timeout=30)  # broken if they come one after the other
    set_threads(threads)
    assert at_once(*[lambda: (met.wait(), torch.get_num_threads())[1]] * 2) == shares
    assert torch.get_num_threads() == threads
    of_a_new_thread = []
    thread = threading.Thread(target=lambda: of_a_new_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert of_a_new_thread == [threads]


def test_one_after_the_other_where_there_is_one_thread_or_everything_is_plain(set_threads):
    here = threading.get_ident()
    order = []
    works = [lambda i=i: (order.append(i), threading.get_ident())[1] for i in range(2)]
    set_threads(1)
    assert at_once(*works) == (here, here)
    set_threads(2)
    with fast.plain():
        assert at_once(*works) == (here, here)
    assert order == [0, 1, 0, 1]
    assert at_once(*works)[1] != here


def test_an_error_of_either_is_raised(set_threads):
    set_threads(2)

    def fail():
        raise ValueError("no")

    for works in ((fail, int), (int, fail)):
        with pytest.raises(ValueError, match="no"):
            at_once(*works)
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_when_the_first_fails_the_second_is_ended(set_threads, error):
    set_threads(2)
    began, ended = threading.Event(), []

    def first():
        began.wait(30)
        raise error

    def second():
        began.set()
        try:
            for _ in range(3000):
                time.sleep(0.01)
        except KeyboardInterrupt:
            ended.append(True)
            raise

    with pytest.raises(error):
        at_once(first, second)
    assert ended


def test_a_scan_and_its_mirror_image_are_the_same_at_once_and_one_after_the_other(
    tiny_weights, monkeypatch, set_threads
):
    """With one thread each; sums depend on how many share them."""
    torch.manual_seed(0)
    segmenter, cube = Segmenter(tiny_weights, "cpu"), torch.rand(32, 32, 32)
    expected = segmenter.predict(cube)
    seen = []
    monkeypatch.setattr(segmenter_module, "at_once", lambda *works: seen.append(len(works)) or at_once(*works))
    set_threads(2)
    assert torch.equal(segmenter.predict(cube), expected) and seen == [2]
    segmenter.mirror = False
    segmenter.predict(cube)
    assert seen == [2]


def test_spectra_are_made_once_for_all_threads(monkeypatch):
    made, results, kernel = [], [], torch.randn(4, 4, 7, 7, 7)
    axes, make = [fourier.axis_of(20, 7, 2)] * 3, fourier.kernel_spectra

    def counted(*arguments):
        made.append(arguments)
        time.sleep(0.1)
        return make(*arguments)

    monkeypatch.setattr(fourier, "kernel_spectra", counted)
    kept = fourier.KeptSpectra()
    threads = [threading.Thread(target=lambda: results.append(kept.of(kernel, axes))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(results) == 4 and all(result is kept.spectra for result in results)
