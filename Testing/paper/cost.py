"""What a study costs, from training steps that are timed here: hours of this device for all runs of some splits.

    python Testing/paper/cost.py                                # small scale, one split
    python Testing/paper/cost.py --scale paper --splits 0 1 2 3 4 --device cuda

Each variant takes a step on one image of the scale's size, after one that sets things up. On a CPU it is the
processor's seconds that count; other work raises them, too, but less than those of the clock. Validation, tests and
reading scans come on top.
"""

import argparse
import time

import study
import torch
from scans import SCANS, markdown

from GaborSegLib.data.sources import find_data
from GaborSegLib.model.losses import LOSSES
from GaborSegLib.training.start import new_network

CLASSES = 20


def step_seconds(options, device="cpu", steps=1):
    """Seconds of a training step on one image."""
    network = new_network(options, CLASSES).to(device).train()
    optimiser = torch.optim.NAdam(network.parameters(), lr=options.learning_rate)
    image = torch.rand(1, 1, *3 * [options.grid_size], device=device)
    labels = torch.randint(CLASSES, (1, *3 * [options.grid_size]), device=device)
    seconds = []
    for _ in range(1 + steps):
        began = now(device)
        optimiser.zero_grad(set_to_none=True)
        LOSSES[options.loss]()(network(image), labels).backward()
        optimiser.step()
        seconds.append(now(device) - began)
    return sum(seconds[1:]) / steps


def now(device):
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def images(runs, cases):
    """Images that runs are trained on, counted once for each epoch: by variant."""
    counts = dict.fromkeys(study.VARIANTS, 0)
    for run in runs:
        counts[run.options.variant] += run.options.epochs * len(study.split_cases(cases, run.split)[0])
    return counts


def table(counts, seconds):
    """As Markdown: images, seconds for each, hours."""
    hours = {variant: counts[variant] * seconds[variant] / 3600 for variant in seconds}
    rows = [[v, f"{counts[v]:,}", f"{seconds[v]:.3g}", f"{hours[v]:,.1f}"] for v in seconds]
    rows.append(["all", f"{sum(counts.values()):,}", "", f"{sum(hours.values()):,.1f}"])
    return markdown(["Kernels", "images", "seconds an image", "hours"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=SCANS, help="labelled scans")
    parser.add_argument("--scale", choices=study.SCALES, default="small")
    parser.add_argument("--splits", type=int, nargs="+", default=[0], choices=range(study.SPLITS))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = study.runs(options.scale, options.splits)
    settings = {run.options.variant: run.options for run in runs if run.options.loss == "pcc"}
    seconds = {variant: step_seconds(settings[variant], options.device, options.steps) for variant in study.VARIANTS}
    print(table(images(runs, find_data(options.data).cases), seconds))


if __name__ == "__main__":
    main()
