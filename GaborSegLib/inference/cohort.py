"""Many scans in one process: while the network looks at one, the next is read and the last one is written."""

from concurrent.futures import ThreadPoolExecutor

import torch

from ..errors import GaborSegError


def overlapped(items, prepare, look, finish):
    """Yield finish(look(prepare(item))) for each item of a sequence, in order, or the `GaborSegError` that ended it.

    `look` runs in the caller's thread; the next item is prepared and the last one finished in a thread each, so that
    at most three are in memory. What fails with another error ends everything. A caller that stops asking (Ctrl-C)
    waits for the steps that run, and no further ones begin.
    """
    if len(items) < 2:  # nothing to overlap with: all threads for each step
        for item in items:
            yield _attempt(finish, _attempt(look, _attempt(prepare, item)))
        return
    threads = torch.get_num_threads()
    # One thread for each of the two, as the network has all of them: sharing cores costs more than it gains.
    alone = {"max_workers": 1, "initializer": torch.set_num_threads, "initargs": (1,)}
    try:
        with ThreadPoolExecutor(**alone) as before, ThreadPoolExecutor(**alone) as after:
            ahead, behind = before.submit(_attempt, prepare, items[0]), None
            for following in [*items[1:], None]:
                prepared = ahead.result()
                if following is not None:
                    ahead = before.submit(_attempt, prepare, following)
                seen = _attempt(look, prepared)
                if behind is not None:
                    yield behind.result()
                behind = after.submit(_attempt, finish, seen)
                del prepared, seen  # the finishing thread alone holds it now
            yield behind.result()
    finally:
        torch.set_num_threads(threads)  # what threads that start from now on have


def _attempt(step, value):
    """A step's result, or the error of it or of the step before."""
    if isinstance(value, GaborSegError):
        return value
    try:
        return step(value)
    except GaborSegError as error:
        return error
