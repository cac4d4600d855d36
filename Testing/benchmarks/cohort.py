"""Cohorts: how many scans a minute, and whether anything is lost when processes are killed.

    python Testing/benchmarks/cohort.py speed                  # twelve real scans, in turns with other ways
    python Testing/benchmarks/cohort.py storm                  # a thousand made scans, a SIGKILL every few seconds

speed: scans a minute of `gaborseg cohort` with workers of one thread, of `gaborseg segment FOLDER`, of one process a
scan, and the limit: the cores of this machine over the processor seconds of one scan on one thread.

storm: small scans, tiny weights. A random worker is killed every few seconds, the whole run twice; ten scans are
poisoned, three of which end their process. It is started again until it is done. Then results and their contents are
compared with those of a run that nobody disturbed.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
from scans import SCANS, markdown

REPOSITORY = Path(__file__).resolve().parents[2]
GABORSEG = [sys.executable, "-m", "GaborSegLib"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "storm"))
    parser.add_argument("--scans", type=int, help="how many (default: 12, or 1000 in a storm)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core, or 4 in a storm)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = speed if options.what == "speed" else storm
        run(Path(folder), options)


# Speed


def speed(folder, options):
    """Print a table of the ways."""
    count, cores = options.scans or 12, len(os.sched_getaffinity(0))
    workers = str(options.workers or cores)
    scans = folder / "scans"
    scans.mkdir()
    for file in sorted((SCANS / "T1w").glob("*.nii.gz"))[:count]:
        (scans / file.name).symlink_to(file)
    one = next(iter(sorted(scans.iterdir())))
    ways = {
        f"gaborseg cohort --workers {workers}": [
            ["cohort", scans, folder / "a", "--workers", workers, "--no-overview"]
        ],
        "gaborseg segment FOLDER": [["segment", scans, "-o", folder / "b", "--volumes"]],
        "a process each": [["segment", scan, "-o", folder / "c", "--volumes"] for scan in sorted(scans.iterdir())],
    }
    rows = []
    for name, commands in ways.items():
        began, before = time.monotonic(), os.times()
        for command in commands:
            called(command)
        seconds, now = time.monotonic() - began, os.times()
        spent = now.children_user + now.children_system - before.children_user - before.children_system
        rows.append([name, count * 60 / seconds, spent / count])
    before = os.times()
    called(["segment", *[one] * 1, "-o", folder / "d.nii.gz"], OMP_NUM_THREADS="1")
    now = os.times()
    alone = now.children_user + now.children_system - before.children_user - before.children_system
    rows.append([f"the limit: {cores} cores over one scan on one thread", cores * 60 / alone, alone])
    limit = rows[-1][1]
    cells = [[name, f"{rate:.1f}", f"{rate / limit:.2f}", f"{each:.1f}"] for name, rate, each in rows]
    print(markdown(["way", "scans a minute", "of the limit", "processor seconds a scan"], cells))


def called(command, **environment):
    found = subprocess.run(
        [*GABORSEG, *map(str, command)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if found.returncode:
        sys.exit(found.stderr)


# Storm

CRASHING = """
import builtins, os, signal
whole = builtins.open
def crashing(file, *arguments, **more):
    if "crash" in os.path.basename(str(file)) and str(file).endswith(".nii.gz"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return whole(file, *arguments, **more)
builtins.open = crashing
"""


def storm(folder, options):
    """Print what was killed, and what came of it; exit status 1 if anything is lost or other than it should be."""
    count, dice = options.scans or 1000, random.Random(options.seed)
    scans, weights = folder / "scans", tiny_weights(folder / "tiny.safetensors")
    make_scans(scans, count)
    command = ["cohort", scans, "--weights", weights, "--workers", str(options.workers or 4), "--no-overview"]
    command.insert(2, folder / "out")
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(CRASHING)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(REPOSITORY)])}
    began, killed, restarts = time.monotonic(), 0, 0
    log = open(folder / "log", "w")
    while True:
        process = subprocess.Popen(
            [*GABORSEG, *map(str, command)], env=environment, stdout=subprocess.DEVNULL, stderr=log
        )
        ends = time.monotonic() + dice.uniform(40, 60) if restarts < 2 else float("inf")
        while process.poll() is None and time.monotonic() < ends:
            time.sleep(dice.uniform(2, 5))
            killed += kill_a_worker(process.pid, dice)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        restarts += 1
    seconds = time.monotonic() - began
    found = problems(folder, scans, weights, count)
    rows = [["scans", count], ["workers killed", killed], ["whole run killed", restarts], ["seconds", f"{seconds:.0f}"]]
    print(markdown(["", ""], [*rows, *found]))
    print((folder / "log").read_text()[-3000:], file=sys.stderr)
    sys.exit(any("wrong" in row[0] and row[1] for row in found))


def kill_a_worker(parent, dice):
    """Kill a random child of a process that is a worker of Dask; whether there was one."""
    children = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(pid) == parent]
    workers = [pid for pid in children if b"spawn_main" in _command(pid)]
    if not workers:
        return False
    os.kill(dice.choice(workers), signal.SIGKILL)
    return True


def _parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def problems(folder, scans, weights, count):
    """Rows (what, how many) of what came of a storm."""
    out, alone = folder / "out", folder / "alone"
    bad = {file.name.removesuffix(".nii.gz") for file in scans.iterdir() if file.name.startswith(("bad", "crash"))}
    results = {file.name.removesuffix("_labels.nii.gz"): file for file in out.glob("*_labels.nii.gz")}
    good = sorted(file for file in scans.iterdir() if file.name.removesuffix(".nii.gz") not in bad)
    calm = folder / "calm"
    calm.mkdir()
    for file in good:
        (calm / file.name).symlink_to(file)
    called(["segment", calm, "-o", alone, "--weights", weights])
    wrong = sum(content(alone / f"{name}_labels.nii.gz") != content(file) for name, file in results.items())
    failures = {file.stem for file in (out / "logs").glob("*.json")}
    crashed = sum("SIGSEGV" in (out / "logs" / f"{name}.json").read_text() for name in failures if "crash" in name)
    kinds = ["{}.json", "{}_labels.nii.gz", "{}_volumes.tsv", "thumbnails/{}.png"]
    expected = {kind.format(name) for name in results for kind in kinds}
    expected |= {f"logs/{name}.json" for name in failures} | {"report.html", "group_volumes.tsv", "group_volumes.json"}
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    return [
        ["results", len(results)],
        ["named failures", len(failures)],
        ["of these with the signal of their crash", crashed],
        ["wrong: results of good scans that are not there", count - len(bad) - len(results)],
        ["wrong: results other than those of an undisturbed run", wrong],
        ["wrong: failures of good scans, or missing ones", len(failures ^ bad)],
        ["wrong: other files", " ".join(sorted(there ^ expected)[:9]) or 0],
    ]


def content(path):
    return hashlib.sha256(np.asanyarray(nibabel.load(path).dataobj).tobytes()).hexdigest()


def make_scans(folder, count):
    """Made scans, of which three end the process that opens them, and seven are damaged."""
    sys.path.insert(0, str(REPOSITORY / "Testing" / "library"))
    from made import made_scan

    folder.mkdir()
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    for number in range(count):
        kind = "crash" if number % (count // 3) == 7 else "bad" if number % (count // 7) == 11 else "s"
        path = folder / f"{kind}{number:05d}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(made_scan(number, (20, 22, 18))[0], affine), path)
        if kind == "bad":
            path.write_bytes(path.read_bytes()[:500])


def tiny_weights(path):
    """Weights of a 16^3 cube with 4 channels, not trained."""
    import torch

    from GaborSegLib.model.network import build_network
    from GaborSegLib.model.weights import save_weights
    from GaborSegLib.structures import paper_structures

    torch.manual_seed(1)
    card = {
        "variant": "mixed", "conventional_kernel_size": 3, "gabor_kernel_size": 3, "in_channels": 1, "classes": 20,
        "base_channels": 4, "structures": [structure.name for structure in paper_structures()], "grid_size": 16,
        "field": "cube",
    }  # fmt: skip
    save_weights(path, build_network("mixed", gabor_kernel_size=3, base_channels=4), card)
    return path


if __name__ == "__main__":
    main()
