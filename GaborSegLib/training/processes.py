"""The processes of one training run: starting them, and what they tell each other.

Those of one machine are started here, those of many by torch's launcher, `torchrun`, which tells them by environment
variables where they meet. From then on there is no difference.
"""

import gc
import importlib
import math
import multiprocessing
import os
import signal
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait

import torch
from torch import distributed

from ..errors import GaborSegError, ToldElsewhere, TrainingError

# How often a run is started again after one of its processes died.
RESTARTS = 3
# Seconds that the others have to end when one has failed: they may be writing, or about to tell the error.
OTHERS_WAIT = 10
# Longer than any wait of one process for another, such as for scans to be prepared. A dead one is noticed at once.
PATIENCE = timedelta(hours=6)
# Exit statuses of a process that has said what was wrong, or was told to end; starting again would not help.
FINAL = (2, 130)


@dataclass(frozen=True)
class Place:
    """The place of a process among those that `launch` started.

    Attributes:
        rank, size: this process's number, from 0, and how many there are.
        port: where on this machine the launcher serves the store by which they find each other.
        restart: how often the run was started before.
    """

    rank: int
    size: int
    port: int
    restart: int


class Team:
    """The processes that train together, as one of them sees them; one alone where nothing was launched.

    Attributes:
        rank, size: this process's number, from 0, and how many there are, on all machines.
        local_rank, local_size: the same for those of this machine.
    """

    def __init__(self, local_rank=0, local_size=1):
        joined = distributed.is_initialized()
        self.rank = distributed.get_rank() if joined else 0
        self.size = distributed.get_world_size() if joined else 1
        self.local_rank, self.local_size = local_rank, local_size

    def sum(self, *numbers):
        """The sums of every process's numbers, a list."""
        values = torch.tensor(numbers, dtype=torch.float64)
        if self.size > 1:
            distributed.all_reduce(values)
        return values.tolist()

    def gather(self, item):
        """Every process's item, a list; items can be whatever pickle takes."""
        items = [item]
        if self.size > 1:
            items = [None] * self.size
            distributed.all_gather_object(items, item)
        return items

    def gather_results(self, work):
        """Every process's result of `work()`, a list. The first `GaborSegError` among them becomes the error of all."""
        result, error = _attempt(work)
        answers = self.gather((result, error))
        error = next((error for _, error in answers if error), None)
        if error:
            self.fail(error)
        return [result for result, _ in answers]

    def broadcast_from_first(self, work):
        """The first process's result of `work()`, or its error, in all of them."""
        answer = [_attempt(work) if self.rank == 0 else None]
        if self.size > 1:
            distributed.broadcast_object_list(answer, src=0)
        result, error = answer[0]
        if error:
            self.fail(error)
        return result

    def fail(self, error):
        """Raise an error that every process knows of; the first one tells it."""
        raise error if self.rank == 0 else ToldElsewhere(str(error))


def _attempt(work):
    """(result, None) or (None, error)"""
    try:
        return work(), None
    except GaborSegError as error:
        return None, error


def is_launched():
    """Whether torch's launcher, `torchrun`, started this process."""
    return distributed.is_torchelastic_launched()


def restarts():
    """How often torchrun has started this process's run again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


@contextmanager
def joined(place=None):
    """Context that gives the `Team` that this process belongs to, by its `Place` if `launch` started it."""
    if not place and not is_launched():
        yield Team()
        return
    if place:
        local = place.rank, place.size
        meeting = {"store": _store(place), "rank": place.rank, "world_size": place.size}
    else:
        local, meeting = (int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])), {}
        _end_with_launcher()
    # Its functions take the group that is there when it is imported as a default, so if that is left to
    # DistributedDataParallel, the group and its threads outlive `destroy_process_group`, and what such a thread still
    # holds can end the process by SIGABRT while Python shuts down.
    importlib.import_module("torch.distributed.nn.functional")
    with_nccl = torch.cuda.is_available() and distributed.is_nccl_available()
    distributed.init_process_group("cpu:gloo,cuda:nccl" if with_nccl else "gloo", timeout=PATIENCE, **meeting)
    yield Team(*local)
    # Only after success: after an error the others may not answer any more.
    gc.collect()  # a model that is still held would keep the group
    distributed.destroy_process_group()


def _store(place):
    """What the processes of a launcher find each other by, and leave what they died of in."""
    return distributed.TCPStore("127.0.0.1", place.port, timeout=PATIENCE, use_libuv=False)


def _end_with_launcher():
    """Let this process end as soon as its launcher has, however that ended: nobody else would stop or restart it."""
    launcher, parent = multiprocessing.parent_process(), os.getppid()

    def watch():
        if launcher:
            launcher.join()
        else:
            while os.getppid() == parent:
                time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def launch(work, count, stop, warn):
    """Run `work(place)` in `count` processes of this machine, which `joined(place)` makes a `Team`.

    If one dies, all are started again, up to `RESTARTS` times; not after an exit status in `FINAL`. SIGTERM and Ctrl-C
    are passed on by calling `stop`. When this process ends, in whatever way, so do the others.

    Args:
        work: function of a module, or a `functools.partial` of one; takes a `Place` and returns an exit status.
        count: how many.
        stop: called, perhaps more than once, to ask the run to end; the processes are given the time they need.
        warn: takes a message.

    Returns:
        The run's exit status.

    Raises:
        TrainingError: a process died once too often.
    """
    stopping = threading.Event()

    def ask_to_stop(*_):
        stopping.set()
        stop()

    handlers = {}
    if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
        handlers = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for restart in range(RESTARTS + 1):
            status, reason = _run(work, count, restart)
            if status is not None:
                return status
            if stopping.is_set():
                break
            if restart < RESTARTS:
                warn(f"{reason}; the run goes on from its last snapshot, restart {restart + 1} of {RESTARTS}")
        raise TrainingError(f"{reason}. The last snapshot is kept; go on with --resume")
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _run(work, count, restart):
    """Run `work` in `count` processes once.

    Returns:
        (exit status, None), or (None, what happened) if a process died and it can be tried again.
    """
    # A new one for every start. Not by libuv, torch's default, which it is built without for Windows.
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, use_libuv=False)
    start = multiprocessing.get_context("spawn").Process
    places = [Place(rank, count, store.port, restart) for rank in range(count)]
    processes = [start(target=_enter, args=(work, place)) for place in places]
    try:
        for process in processes:
            process.start()
        failed = _failures(processes)
    finally:
        for process in processes:
            if process.pid:  # it was started
                process.kill()
                process.join()
    if not failed:
        return 0, None
    for status in failed.values():
        if status in FINAL:
            return status, None
    (_, cause), rank = min((_death(store, rank, status), rank) for rank, status in failed.items())
    return None, f"process {rank} of {count} died ({cause})"


def _failures(processes):
    """Wait until all have ended, but not for ever once one has failed: dictionary from rank to bad exit status."""
    end = math.inf
    while True:
        running = [process.sentinel for process in processes if process.exitcode is None]
        failed = {rank: process.exitcode for rank, process in enumerate(processes) if process.exitcode}
        if not running or time.monotonic() > end:
            return failed
        if failed:
            end = min(end, time.monotonic() + OTHERS_WAIT)
        wait(running, 0.5)  # and not longer: on Windows, signals wait for that


def _enter(work, place):
    """The first function of a started process."""
    _end_with_launcher()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all, and the launcher asks the run to stop
    try:
        status = work(place)
    except Exception as error:
        store, words = _store(place), " ".join(f"{type(error).__name__}: {error}".split())
        # `compare_set` waits until it is done, and `set` does not.
        store.compare_set(f"death {place.rank}", "", f"{store.add('deaths', 1)} {words}")
        os._exit(1)  # and not by Python's shutdown, where the threads of a group that has lost a member can abort
    raise SystemExit(status)


def _death(store, rank, status):
    """(when, why) a process died, the second in one line.

    The others raise exceptions for want of it, so of these the first one matters, and any other cause comes before: 0.
    """
    if store.check([f"death {rank}"]):
        when, words = store.get(f"death {rank}").decode().split(" ", 1)
        return int(when), words
    with suppress(ValueError):
        name = signal.Signals(-status).name
        more = ": killed from outside, perhaps by the system because memory ran out" if name == "SIGKILL" else ""
        return 0, f"{name}{more}"
    return 0, f"exit status {status}"
