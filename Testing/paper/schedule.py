"""The runs of a study, one after the other here, or over many processes and machines by the engine that cohorts use.

A task is one run, which goes on from its last snapshot wherever it is tried again: a worker that is killed costs the
epoch that it was at. What is done stands in the table and in the runs' folders, nothing in the scheduler's memory.
"""

import csv
import logging
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from GaborSegLib.cohort.engine import local_cluster, scheduler_at, slurm_cluster
from GaborSegLib.errors import GaborSegError
from GaborSegLib.protocol import METRICS, is_alive, is_overdue, read_lock

# How often a run is tried that comes no epoch further: its worker dies, or another process is at work on it.
TRIES = 12
# Seconds between two such tries, and between two looks at the runs' folders.
PAUSE, LOOK = 60, 20


def add_options(parser):
    parser.add_argument("--status", action="store_true", help="say how the study stands, and end")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: this one)")
    parser.add_argument("--threads", type=int, default=1, help="of each process (default: 1)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of the runs (default: cpu)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that is running: tcp://host:8786")
    where.add_argument("--slurm", metavar="OPTIONS", help="options of sbatch for each worker: partition=gpu,gres=gpu:1")
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="workers in Slurm (default: 4)")


def outcomes(runs, options, watch):
    """Yield (run, row) as the runs end; the row is None for one that came to no result.

    Args:
        runs: list of `study.Run`.
        options: of `add_options`, with `output` and `data`.
        watch: is called now and then.

    Raises:
        GaborSegError: there is no such cluster, or it is gone.
    """
    if options.workers == 1 and not options.scheduler and not options.slurm:
        yield from _in_turn(runs, options, watch)
        return
    with _cluster(options) as client:
        yield from _over_workers(client, runs, options, watch)


def _in_turn(runs, options, watch):
    import study
    import torch

    torch.set_num_threads(options.threads)
    for run in runs:
        watch()
        row = study.train(run, options.output, options.data, options.device, lambda event: _after_epoch(event, watch))
        yield run, row
        if row is None:  # somebody stopped it, and with it the study
            return


def _after_epoch(event, watch):
    if event["event"] == "epoch":
        watch()


def _cluster(options):
    if options.scheduler:
        return scheduler_at(options.scheduler)
    if options.slurm:
        return slurm_cluster(options.slurm, options.jobs, options.threads)
    if options.device == "cuda":
        raise GaborSegError(
            f"--workers {options.workers} --device cuda: workers of this command share no GPU; leave out --workers, or "
            'start a scheduler and for each GPU a worker with --resources "GPU=1", and name it by --scheduler'
        )
    return local_cluster(options.workers, options.threads)


def _over_workers(client, runs, options, watch):
    from distributed import CancelledError, TimeoutError, wait

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it says of lost connections is said here
    # A job of Slurm has a GPU of its own.
    resources = {"GPU": 1} if options.device == "cuda" and options.scheduler else None
    places = [str(Path(path).resolve()) for path in (options.output, options.data)]
    call, waiting = _on_worker(), {}

    def submit(run, tries=1):
        fields = vars(run), *places, options.device, options.threads
        work = client.submit(call, *fields, pure=False, resources=resources)
        waiting[work] = run, tries, _epochs_done(run, options)

    for run in runs:
        submit(run)
    while waiting:
        watch()
        try:
            ended = wait(list(waiting), timeout=LOOK, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            continue
        except CancelledError as error:
            raise GaborSegError(
                "the scheduler is gone; start one again, and then this command: runs go on from their last epoch"
            ) from error
        for work in ended:
            run, tries, epochs = waiting.pop(work)
            row, reason = _answer(work)
            if reason:
                print(f"{run.name}: {reason}", file=sys.stderr, flush=True)
            if row or tries == TRIES:
                yield run, row
            else:
                submit(run, 1 if _epochs_done(run, options) > epochs else tries + 1)


def _answer(work):
    """(row, None) of a task that has ended, or (None, why there is none)."""
    from distributed.scheduler import KilledWorker

    try:
        return work.result()
    except KilledWorker:
        return None, "its worker died"
    except Exception as error:
        return None, f"unexpected {type(error).__name__}: {error}"


def _on_worker():
    """`attempt`, for a worker that need not have this folder on its path: functions in functions travel as code."""
    folder = str(Path(__file__).resolve().parent)

    def call(*arguments):
        import sys

        if folder not in sys.path:
            sys.path.insert(0, folder)
        import schedule

        return schedule.attempt(*arguments)

    return call


def attempt(fields, *arguments):
    """What a worker does: (row, None), or (None, why there is none).

    Args:
        fields: of a `study.Run`.
        arguments: folder of the study, scans, device and number of threads.
    """
    import study
    import torch

    *places, threads = arguments
    torch.set_num_threads(threads)
    try:
        row = study.train(study.Run(**fields), *places)
        return row, None if row else "it was stopped"
    except GaborSegError as error:
        time.sleep(PAUSE)
        return None, str(error)


class Watch:
    """How a study stands, in a line of the terminal; read from the runs' folders, so on whatever machines they are.

    Args:
        runs: all of the study.
        folder: that theirs lie in.
        table: function that gives the rows so far.
    """

    def __init__(self, runs, folder, table):
        self.runs, self.folder, self.table = runs, Path(folder), table

    def __call__(self):
        if sys.stderr.isatty():
            print(f"\r\033[K{self.line()}", end="", file=sys.stderr, flush=True)

    def line(self):
        rows = [run.row_in(self.table()) for run in self.runs]
        left = [run for run, row in zip(self.runs, rows) if row is None]
        failed = sum(bool(row and row.get("failure")) for row in rows)
        running = sum(_is_at_work(self.folder / run.name) for run in left)
        hours = self.hours_left(left, max(1, running))
        about = "not known yet how many" if hours is None else f"about {hours:.1f}"
        return (
            f"{len(self.runs) - len(left) - failed} done, {running} running, {failed} failed, "
            f"{len(left) - running} to do; {about} hours left"
        )

    def hours_left(self, left, at_once):
        """Hours that runs take, so many at a time, by the epochs so far; None where there were none.

        An epoch takes what the run's own took, else those of its variant, else those of all.
        """
        epochs = {run.name: _epoch_seconds(self.folder / run.name) for run in self.runs}
        seconds = 0
        for run in left:
            same = [epochs[other.name] for other in self.runs if other.options.variant == run.options.variant]
            known = epochs[run.name] or sum(same, []) or sum(epochs.values(), [])
            if not known:
                return None
            seconds += sum(known) / len(known) * (run.options.epochs - len(epochs[run.name]))
        return seconds / at_once / 3600


def _is_at_work(folder):
    lock = read_lock(folder)
    if lock and lock["host"] == socket.gethostname():
        return is_alive(lock["pid"])
    return lock is not None and not is_overdue(folder, lock)


def _epochs_done(run, options):
    return len(_epoch_seconds(options.output / run.name))


def _epoch_seconds(folder):
    """Seconds of each epoch that a run has done."""
    with suppress(OSError, KeyError, ValueError):
        with open(folder / METRICS, newline="", encoding="utf-8") as file:
            return [float(row["seconds"]) for row in csv.DictReader(file)]
    return []
