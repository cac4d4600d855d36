"""From `gaborseg segment scan.nii.gz` to the label map, everything included, and what more scans cost: `make bench`.

The scan is the ICBM152 average brain at 1 mm that nilearn ships (or --scan). First the click alone: the table of
`--profile` of the fastest round, and the wall time of each from outside. With --load the click beside busy processes,
in turns with the click alone, and how long it would take if every thread had the same share of the cores. Then a folder
of scans in two ways that take turns: a process for each, and `gaborseg segment FOLDER`, one process that does one after
the other. Times are ratios to the first way.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import nibabel

from GaborSegLib.cli.demo import icbm152


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", help="a T1 scan, brain-extracted (default: ICBM152)")
    parser.add_argument("--weights", default="mixed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", type=int, nargs="+", metavar="N", help="also beside so many busy processes")
    parser.add_argument("--nice", type=int, default=0, help="niceness of the busy processes (default: 0)")
    parser.add_argument("--cohort", type=int, default=4, help="scans in the folder (default: 4)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        scan = Path(options.scan) if options.scan else made(folder / "icbm152.nii.gz")
        click(scan, options.weights, options.rounds, folder / "out")
        if options.load:
            beside_load(scan, options.weights, options.rounds, options.load, options.nice, folder / "out")
        if options.cohort > 1:
            cohort(scan, options.weights, options.rounds, options.cohort, folder)


def made(path):
    image = icbm152()
    nibabel.save(nibabel.Nifti1Image(image.array, image.affine), path)
    return path


def click(scan, weights, rounds, out):
    runs = [timed(*segment(weights, scan, out), "--profile") for _ in range(rounds)]
    _seconds, text = min(runs)
    print(f"One click with {weights}: {', '.join(f'{run[0]:.1f}' for run in sorted(runs))} s\n")
    print(text[text.index("Stage ") :])


def beside_load(scan, weights, rounds, counts, nice, out):
    """Print a table of clicks beside so many busy processes each; the ratios are medians over the rounds."""
    counts = sorted({0, *counts})
    runs = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            with busy(count, nice):
                before = os.times()
                seconds, _ = timed(*segment(weights, scan, out))
                after = os.times()
            worked = after.children_user + after.children_system - before.children_user - before.children_system
            runs[count].append((seconds, worked))
    print(f"| busy processes, nice {nice} | seconds | processor seconds | ratio to alone | fair | of fair |")
    print("|---|---|---|---|---|---|")
    for count in counts:
        seconds, worked = (statistics.median(values) for values in zip(*runs[count]))
        ratio = statistics.median(own / alone for (own, _), (alone, _) in zip(runs[count], runs[0]))
        fair = fair_ratio(count, nice, os.cpu_count())
        print(f"| {count} | {seconds:.1f} | {worked:.1f} | {ratio:.2f} | {fair:.2f} | {ratio / fair:.2f} |")
    print()


def fair_ratio(count, nice, cores):
    """How many times as long as alone a program takes that has a thread for each core, where all threads are equal.

    Each step of niceness takes a fifth of a process's share, as Linux has it.
    """
    return 1 + count * 0.8**nice / cores


@contextmanager
def busy(count, nice):
    """Context in which so many processes of Python count as fast as they can."""
    code = f"import os; os.nice({nice})\nwhile True: sum(range(10000))" if nice else "while True: sum(range(10000))"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def cohort(scan, weights, rounds, count, folder):
    scans, out = folder / "scans", folder / "many"
    scans.mkdir()
    out.mkdir()
    for i in range(count):
        shutil.copy(scan, scans / f"{i}{''.join(scan.suffixes[-2:])}")
    one = [segment(weights, path, out) for path in sorted(scans.iterdir())]
    ways = {
        "a process for each": one,
        "one process": [segment(weights, scans, out)],
    }
    walls = {name: [] for name in ways}
    for _ in range(rounds):
        for name, commands in ways.items():
            walls[name].append(sum(timed(*command)[0] for command in commands))
    print(f"| {count} scans | seconds | ratio |\n|---|---|---|")
    base = walls["a process for each"]
    for name, seconds in walls.items():
        ratio = statistics.median(own / other for own, other in zip(seconds, base))
        print(f"| {name} | {statistics.median(seconds):.1f} | {ratio:.2f} |")


def segment(weights, scan, out):
    return [sys.executable, "-m", "GaborSegLib", "segment", scan, "-o", out, "--weights", weights]


def timed(*command):
    """(seconds, standard output) of a command."""
    began = time.perf_counter()
    process = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - began, process.stdout


if __name__ == "__main__":
    main()
