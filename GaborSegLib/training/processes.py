"""The processes of one training run: starting them by torch's elastic launcher, and what they tell each other.

They find each other by the environment variables of that launcher, so a run that `torchrun` started on many machines
and one that was started here are the same to them.
"""

import gc
import importlib
import logging
import multiprocessing
import os
import signal
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from datetime import timedelta
from tempfile import TemporaryDirectory

import torch
from torch import distributed

from ..errors import GaborSegError, ToldElsewhere, TrainingError

# How often a run is started again after one of its processes died.
RESTARTS = 3
# Seconds that a process waits before it ends with an error that may have begun in another one.
OTHERS_WAIT = 10
# Longer than any wait of one process for another, such as for scans to be prepared. A dead one is noticed at once.
PATIENCE = timedelta(hours=6)
# Exit statuses of a process that has said what was wrong, or was told to end; starting again would not help.
FINAL = (2, 130)


class Team:
    """The processes that train together, as one of them sees them; one alone where nothing was launched.

    Attributes:
        rank, size: this process's number, from 0, and how many there are, on all machines.
        local_rank, local_size: the same for those of this machine.
    """

    def __init__(self):
        joined = distributed.is_initialized()
        self.rank = distributed.get_rank() if joined else 0
        self.size = distributed.get_world_size() if joined else 1
        self.local_rank = int(os.environ["LOCAL_RANK"]) if joined else 0
        self.local_size = int(os.environ["LOCAL_WORLD_SIZE"]) if joined else 1

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
    """Whether torch's launcher, started by hand (`torchrun`) or by `launch`, started this process."""
    return distributed.is_torchelastic_launched()


def restarts():
    """How often torchrun has started this process's run again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


@contextmanager
def joined():
    """Context that gives the `Team` that this process belongs to."""
    if not is_launched():
        yield Team()
        return
    _end_with_parent()
    # Its functions take the group that is there when it is imported as a default, so if that is left to
    # DistributedDataParallel, the group and its threads outlive `destroy_process_group`, and what such a thread still
    # holds can end the process by SIGABRT while Python shuts down.
    importlib.import_module("torch.distributed.nn.functional")
    with_nccl = torch.cuda.is_available() and distributed.is_nccl_available()
    distributed.init_process_group("cpu:gloo,cuda:nccl" if with_nccl else "gloo", timeout=PATIENCE)
    yield Team()
    # Only after success: after an error the others may not answer any more.
    gc.collect()  # a model that is still held would keep the group
    distributed.destroy_process_group()


def _end_with_parent():
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
    """Run `work(restart)` in `count` processes of this machine, which are a `Team`.

    If one dies, all are started again, up to `RESTARTS` times. (Not by the elastic launcher's own restarts: it cannot
    tell a process that crashed from one that ended with an error that a person has to do something about.) SIGTERM and
    Ctrl-C are passed on by calling `stop`. When this process ends, in whatever way, so do the others.

    Args:
        work: function of a module, or a `functools.partial` of one; takes how often the run was started before, and
            returns an exit status.
        stop: called, perhaps more than once, to ask the run to end; the processes are given the time they need.
        warn: takes a message.

    Returns:
        The run's exit status.

    Raises:
        TrainingError: a process died once too often.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    stopping = threading.Event()

    def ask_to_stop(*_):
        stopping.set()
        stop()

    handlers = {}
    if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
        handlers = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for restart in range(RESTARTS + 1):
            try:
                return max(_run_elastic(work, count, restart).values())
            except ChildFailedError as error:
                # Any of them: the launcher ends the others, and what it did to them may look like the first failure.
                final = [failure.exitcode for failure in error.failures.values() if failure.exitcode in FINAL]
                if final:
                    return final[0]
                rank, failure = error.get_first_failure()
                reason = f"process {rank} of {count} died ({_cause(failure)})"
                if stopping.is_set():
                    break
                if restart < RESTARTS:
                    warn(f"{reason}; the run goes on from its last snapshot, restart {restart + 1} of {RESTARTS}")
        raise TrainingError(f"{reason}. The last snapshot is kept; go on with --resume")
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _run_elastic(work, count, restart):
    """Run `work(restart)` in `count` processes once: dictionary from rank to result."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what happens is said here, and in one line
    others, outcome = set(multiprocessing.active_children()), {}

    def run():
        with TemporaryDirectory(prefix="gaborseg-") as folder:
            config = LaunchConfig(
                1,
                1,
                count,
                logs_specs=DefaultLogsSpecs(folder),
                run_id=uuid.uuid4().hex,
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                local_addr="localhost",
                max_restarts=0,
            )
            try:
                outcome["results"] = elastic_launch(config, _enter)(work, restart)
            except BaseException as error:
                outcome["error"] = error

    # In a thread, where the elastic launcher leaves the signals alone: it would give the processes 30 seconds to end,
    # and a step on a CPU can take longer.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.5)  # and not for ever: on Windows, signals wait for that
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["results"]


def _enter(work, restart):
    """The first function of a started process."""
    try:
        status = work(restart)
    except Exception:
        # When one process dies, the others fail for want of it. The one that was first has to be seen first, and can
        # take seconds to end; then these are ended without waiting any longer.
        time.sleep(OTHERS_WAIT)
        raise
    if status and int(os.environ["RANK"]):
        time.sleep(OTHERS_WAIT)  # the first one tells the error, and is ended as soon as another one has
    if status:
        raise SystemExit(status)
    return status


def _cause(failure):
    """Why a process died, from torch's `ProcessFailure`."""
    if failure.exitcode == -signal.SIGTERM or failure.exitcode >= 0:
        lines = [line for line in str(failure.message).splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"exit status {failure.exitcode}"
    with suppress(ValueError):
        name = signal.Signals(-failure.exitcode).name
        more = ": killed from outside, perhaps by the system because memory ran out" if name == "SIGKILL" else ""
        return f"{name}{more}"
    return f"signal {-failure.exitcode}"
