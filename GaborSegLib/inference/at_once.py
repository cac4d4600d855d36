"""Two computations at the same time, each on its half of torch's threads."""

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from ..model.fast import is_plain


def at_once(first, second):
    """The results of two functions that take nothing and share nothing that they change, a tuple.

    After every operation of torch its threads wait for each other, thousands of times a scan; where other programs keep
    the cores busy, each time for one that has no core. Two computations with half of the threads each wait for each
    other once. They run one after the other where torch has one thread, or everything is to be plain.

    Args:
        first: runs in this thread.
        second: runs in a thread of its own, without this one's modes of torch. If the first fails, it is ended.
    """
    threads = torch.get_num_threads()
    if threads < 2 or is_plain():
        return first(), second()
    running = []

    def run_second():
        running.append(threading.get_ident())
        torch.get_num_threads()  # else this thread's first operation takes the number that any thread set last
        torch.set_num_threads(threads // 2)
        return second()

    try:
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(run_second)
            torch.set_num_threads(threads - threads // 2)
            try:
                return first(), other.result()
            except BaseException:
                if running and not other.done():
                    _interrupt(running[0])
                raise
    finally:
        torch.set_num_threads(threads)


def _interrupt(thread):
    """Raise KeyboardInterrupt in a thread, before its next step in Python: nobody would wait for it to the end."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt))
