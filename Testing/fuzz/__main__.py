"""The fuzzer: `python -m Testing.fuzz --seed 1 -n 5000`, see README.md beside this file."""

import argparse
import importlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

# What cases import, so that none of them has to; an optimiser brings torch._dynamo along.
IMPORTED = (
    *("numpy.fft", "numpy.random", "torch", "torch._dynamo", "torch.utils.data", "nibabel", "SimpleITK"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "GaborSegLib.data.heads", "GaborSegLib.data.packing"),
    *("GaborSegLib.evaluation.evaluation", "GaborSegLib.inference.segmenter", "GaborSegLib.model.export"),
    *("GaborSegLib.training.processes", "GaborSegLib.training.trainer"),
)
SHOWN = 3  # complaints of a case
# One thread: forking copies no others, and cases are alike however many cores there are.
os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg"})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (default: 0)")
    parser.add_argument("-n", type=int, default=100, metavar="N", help="cases (default: 100)")
    parser.add_argument("--case", type=int, metavar="NUMBER", help="this case alone")
    parser.add_argument("--kind", metavar="KIND,KIND", help="cases of these kinds alone")
    parser.add_argument("--keep", metavar="DIR", help="folder that the cases that fail are moved to")
    parser.add_argument("--seconds", type=float, default=60, help="that a case may take (default: 60)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))  # no TemporaryDirectory, which each child would remove at its end
    try:
        return Fuzzer(options, folder).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Fuzzer:
    """Draws cases, runs them and tells of those that fail."""

    def __init__(self, options, folder):
        import_all()
        from . import data, runs, scans, weights

        self.options, self.folder = options, folder
        # In turns, so that few cases have all kinds among them.
        self.kinds = [kind for module in (scans, weights, data, runs) for kind in module.KINDS]
        self.failures, self.slowest, self.largest = Counter(), (0, None), (0, None)
        (folder / "seeds").mkdir()
        _in_a_child(folder / "seeds")

    def run(self):
        """The exit status: 0 if all cases held."""
        options, began = self.options, time.monotonic()
        numbers = range(options.n) if options.case is None else [options.case]
        if options.kind:
            numbers = [i for i in numbers if self._kind(i).__name__ in options.kind.split(",")]
        for number in numbers:
            self.run_one(number)
        count, failed = len(numbers), sum(self.failures.values())
        print(
            f"seed {options.seed}: {count} cases, {failed} failed, {time.monotonic() - began:.0f} s; slowest "
            f"{self.slowest[0]:.1f} s (case {self.slowest[1]}), largest {self.largest[0]} MiB (case {self.largest[1]})"
        )
        for kind, number in self.failures.most_common():
            print(f"  {kind}: {number} failed")
        return 1 if failed else 0

    def _kind(self, number):
        return self.kinds[number % len(self.kinds)]

    def run_one(self, number):
        from .damage import Draw
        from .runner import keep, run_case

        options, kind, folder = self.options, self._kind(number), self.folder / "case"
        (folder / "given").mkdir(parents=True)
        # The first of each kind is sound and has to work: else damage would hide that the kind itself is wrong.
        sound = number < len(self.kinds)
        draw = Draw(random.Random(f"{options.seed}/{number}"), folder, self.folder / "seeds", sound)
        case = kind(draw)
        outcome, complaints = run_case(case, folder, program, options.seconds)
        if sound and outcome.status:
            complaints.append("has nothing wrong, but failed: " + (outcome.errors or outcome.output)[-300:])
        self.slowest = max(self.slowest, (outcome.seconds, number), key=lambda pair: pair[0])
        self.largest = max(self.largest, (outcome.mib, number), key=lambda pair: pair[0])
        if complaints:
            self.failures[kind.__name__] += 1
            repeat = f"python -m Testing.fuzz --seed {options.seed} --case {number} --keep DIR"
            more = [f"and {len(complaints) - SHOWN} more"] if len(complaints) > SHOWN else []
            text = "; ".join(complaint[:400] for complaint in [*complaints[:SHOWN], *more])
            print(f"case {number} ({kind.__name__}): {text}\n    {repeat}".encode("ascii", "backslashreplace").decode())
            sys.stdout.flush()
            if options.keep:
                target = Path(options.keep) / f"{options.seed}-{number}"
                keep(folder, target, case, outcome, complaints, repeat)
        shutil.rmtree(folder, ignore_errors=True)


def program(arguments):
    from GaborSegLib.cli.main import main

    return main(arguments)


def import_all():
    """Import all of it, and compute nothing."""
    for name in IMPORTED:
        importlib.import_module(name)
    import torch

    from GaborSegLib.training import journal

    torch.set_num_threads(1)
    journal.write_curves = lambda path, rows: None  # takes longer than the rest of a small run


def _in_a_child(folder):
    """Make the seeds where computing starts no threads in this process."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            from .seeds import make_seeds

            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(folder / "log", os.O_WRONLY | os.O_CREAT), 2)
            make_seeds(folder)
            status = 0
        finally:
            if status:
                import traceback

                traceback.print_exc()
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        sys.exit((folder / "log").read_text() + "the sound inputs could not be made")


if __name__ == "__main__":
    sys.exit(main())
