"""Where the time of a segmentation goes: what `gaborseg segment --profile` shows."""

import sys
import time
from contextlib import contextmanager


class Timer:
    """Seconds in each stage of some work, and how far the memory of the process had risen at the end of each.

    A stage is a context::

        timer = Timer()
        with timer("Reading"):
            ...
        timer.seconds   # {"Reading": 0.1}, in the order of the stages
    """

    def __init__(self):
        self.seconds = {}
        self.peak_mib = {}

    @contextmanager
    def __call__(self, stage):
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - began, peak_mib())

    def add(self, stage, seconds, peak):
        """Count seconds to a stage; `peak` in MiB, or None where the system does not tell."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.peak_mib[stage] = peak

    @property
    def total(self):
        """Seconds of all stages."""
        return sum(self.seconds.values())


def peak_mib():
    """The most memory that this process has held at a time so far (peak resident set), MiB; None on Windows."""
    try:
        # Not getrusage, where this is there: that counts what the program that started this one held, too.
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 2**10
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def profile_table(start, scans, seconds):
    """A text table of stages: seconds, share of all, peak memory.

    Args:
        start: `Timer` of what is done once.
        scans: list of `Timer`, one for each scan; what they have in common is added up.
        seconds: from start to end; what no stage has of them is the rest.
    """
    timer = Timer()
    for part in (start, *scans):
        for stage, spent in part.seconds.items():
            timer.add(stage, spent, part.peak_mib[stage])
    rows = [(stage, spent, timer.peak_mib[stage]) for stage, spent in timer.seconds.items()]
    rows.append(("Rest", seconds - timer.total, None))
    width = max(len(stage) for stage, *_ in rows)
    head = f"{'Stage':<{width}}  {'Seconds':>8}  {'Share':>6}  {'Peak so far, MiB':>16}"

    def line(stage, spent, peak):
        return f"{stage:<{width}}  {spent:>8.2f}  {spent / seconds:>6.1%}  {_whole(peak):>16}".rstrip()

    rule = "-" * len(head)
    return "\n".join([head, rule, *(line(*row) for row in rows), rule, line("Total", seconds, peak_mib())])


def _whole(number):
    return "" if number is None else f"{number:.0f}"
