"""A cohort's scans over many processes and machines, by Dask's `distributed`.

Nothing depends on the scheduler's memory: what is done stands in files (`record.py`), and a run that is started again
does the rest.
"""

import logging
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..environment import environment
from ..errors import GaborSegError
from ..protocol import PROGRESS, WARNING
from ..training.lock import locked
from .record import is_done, write_failure
from .work import segment_alone, segment_item

# Of a worker with the bundled weights on one thread, measured (docs/speed.md).
WORKER_MIB = 2800
# A scan whose worker died is tried again so often in a process of its own; more than once only if the worker died
# again, and not that process: then it was not the scan.
TRIES = 12
STAGE = "Segmenting"
# `environment.keep_freed_memory` for a process whose work is not in its main thread, where that comes too late (glibc).
KEEPS_FREED_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


@dataclass
class Outcome:
    """What a run came to: ids of scans that were done before, are done now, and why others failed."""

    before: list = field(default_factory=list)
    done: list = field(default_factory=list)
    failed: dict = field(default_factory=dict)


def workers_that_fit(threads):
    """How many workers this machine has cores and memory for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    free = environment()["devices"][0]["free_mib"]
    return max(1, min(cores // threads, free // WORKER_MIB if free else cores))


@contextmanager
def local_cluster(workers, threads):
    """Context that gives a client of so many processes of this machine, each with so many threads for torch."""
    import dask
    from distributed import Client, LocalCluster

    settings = {
        # A scan that ended its worker is tried again by `segment_all`, by itself.
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": str(threads), **KEEPS_FREED_MEMORY},
    }
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of workers that died while they started
    with dask.config.set(settings), _environment_as_it_was():
        cluster = LocalCluster(
            n_workers=0,
            threads_per_worker=1,  # tasks at a time
            memory_limit=0,  # nothing is kept in a worker's memory; what a scan takes cannot be spilled
            dashboard_address=None,
            worker_dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
        with cluster, Client(cluster) as client:
            cluster.adapt(minimum=workers, maximum=workers)  # not scale: workers that could not be started come again
            yield client


@contextmanager
def _environment_as_it_was():
    """Context after which this process's environment is as before: Dask gives its workers theirs by changing it."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def scheduler_at(address):
    """Context that gives a client of a cluster that is running; GaborSegError if none answers."""
    from distributed import Client

    try:
        client = Client(address, timeout="20s")
    except (OSError, ValueError) as error:
        raise GaborSegError(f"{address}: no Dask scheduler answers there; start one with: dask scheduler") from error
    with client:
        yield client


@contextmanager
def slurm_cluster(settings, jobs, threads):
    """Context that gives a client of a cluster whose workers are jobs of Slurm, submitted from here."""
    from distributed import Client

    with slurm_jobs(settings, threads) as cluster, Client(cluster) as client:
        cluster.scale(jobs=jobs)
        yield client


def slurm_jobs(settings, threads):
    """A `SLURMCluster`, none of whose jobs is submitted yet.

    Args:
        settings: text of `sbatch` options, `partition=short,time=2:00:00,mem=8GB`; each job is one worker.
        threads: cores of a job.

    Raises:
        GaborSegError: the text is not understood, or dask-jobqueue is not installed.
    """
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise GaborSegError("dask-jobqueue is not installed; pip install 'gaborseg[cohort]' brings it") from error
    given = dict(part.strip().partition("=")[::2] for part in settings.split(",") if part.strip())
    # They go into a script that a shell runs.
    if not all(re.fullmatch(r"[a-z-]+=[\w.:/+-]+", f"{name}={value}") for name, value in given.items()):
        raise GaborSegError(
            f"--slurm {settings}: wanted options of sbatch, such as partition=short,time=2:00:00,mem=4GB"
        )
    known = {"partition": "queue", "time": "walltime", "account": "account", "mem": "memory"}
    more = {known[name]: given.pop(name) for name in known.keys() & given.keys()}
    return SLURMCluster(
        cores=threads,
        processes=1,
        job_extra_directives=[f"--{name}={value}" for name, value in given.items()],
        worker_extra_args=["--nthreads", "1"],
        job_script_prologue=[f"export OMP_NUM_THREADS={threads} OMP_WAIT_POLICY=PASSIVE"],
        scheduler_options={"dashboard_address": ":0"},
        **{"memory": f"{WORKER_MIB}MiB", **more},
    )


@contextmanager
def output_of(folder):
    """Context in which a folder of results belongs to this run; what a run that was killed left half written goes.

    Raises:
        GaborSegError: another run is at work there.
    """
    with locked(folder):
        for partial in Path(folder).rglob(".partial-*"):
            partial.unlink(missing_ok=True)
        yield Path(folder)


def segment_all(items, output, settings, client, report):
    """Segment what is not done; returns the `Outcome`.

    One task is one scan, which takes seconds, so that a scheduler's millisecond does not matter and a worker that dies
    takes one scan with it. A scan that fails is recorded, and the others go on.
    """
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    outcome, todo = Outcome(), []
    for item in items:
        (outcome.before if is_done(output, item, settings) else todo).append(item)
    outcome.before = [item.id for item in outcome.before]
    resources = {"GPU": 1} if settings.device.startswith("cuda") else None

    def submit(item, tried):
        work = segment_alone if tried else segment_item
        future = client.submit(work, item, str(output), settings, pure=False, resources=resources)
        waiting[future] = item, tried
        return future

    waiting = {}
    completed = as_completed([submit(item, 0) for item in todo], raise_errors=False)
    _tell(report, outcome, len(items))
    for future in completed:
        item, tried = waiting.pop(future)
        try:
            reason = future.result()
        except KilledWorker:
            if is_done(output, item, settings):  # and only the answer was lost with its worker
                reason = None
            elif tried < TRIES:
                report({"event": WARNING, "message": f"{item.path}: its worker died; it is tried again by itself"})
                completed.add(submit(item, tried + 1))
                continue
            else:
                reason = f"{item.path}: its worker died {tried + 1} times; look at the memory of the machines"
        except Exception as error:
            reason = f"{item.path}: unexpected {type(error).__name__}: {error}"
        if reason is None:
            outcome.done.append(item.id)
        else:
            outcome.failed[item.id] = reason
            write_failure(output, item, reason)
            report({"event": WARNING, "message": reason, "scan": str(item.path)})
        _tell(report, outcome, len(items))
    return outcome


def _tell(report, outcome, total):
    done = len(outcome.before) + len(outcome.done) + len(outcome.failed)
    report({"event": PROGRESS, "stage": STAGE, "done": done, "total": total, "failed": len(outcome.failed)})
