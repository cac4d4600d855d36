"""The paper's loss study (Fig. 3), smaller: one run for each variant, loss and learning rate, on whole cubes of 64^3.

Prints the best validation Dice of each run as Markdown. Runs that are done are not done again, one that was interrupted
goes on, so the study can be stopped at any moment.

    python Testing/benchmarks/losses.py --variants mixed --rates 1e-3 --epochs 20
"""

import argparse
import sys
from pathlib import Path

from scans import SCANS, VALIDATION, markdown

from GaborSegLib import cli
from GaborSegLib.protocol import LOSSES
from GaborSegLib.training.snapshot import load_snapshot

RATES = ("1e-4", "3.2e-4", "1e-3", "3.2e-3", "1e-2")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["mixed", "conventional", "gabor"], metavar="V")
    parser.add_argument("--losses", nargs="+", default=["pcc", "dice", "cross-entropy"], choices=LOSSES, metavar="L")
    parser.add_argument("--rates", nargs="+", default=RATES, metavar="R", help="learning rates")
    parser.add_argument("--epochs", default="100")
    parser.add_argument("--output", type=Path, default=Path("runs/losses"), metavar="DIR")
    options, more = parser.parse_known_args()  # what is unknown goes to `gaborseg train`
    rows = []
    for variant in options.variants:
        for loss in options.losses:
            scores = [f"{run(variant, loss, rate, options, more):.4f}" for rate in options.rates]
            rows.append([variant, loss, *scores])
    print(markdown(["Kernels", "Loss", *options.rates], rows))


def run(variant, loss, rate, options, more):
    """Train one network, or find it trained; returns its best validation Dice."""
    folder = options.output / f"{variant}-{loss}-{rate}"
    command = ["train", str(SCANS), "-o", str(folder), "--variant", variant, "--loss", loss, "--lr", rate]
    command += ["--epochs", options.epochs, "--grid-size", "64", "--dropout", "0", "--augmentation", "strong"]
    command += ["--decay", "0.4", "--validate-every", "5", "--validation", ",".join(VALIDATION)]
    command += ["--cache", str(options.output / "cache"), "--resume", *more]
    status = cli.main(command)
    if status:
        sys.exit(status)
    return load_snapshot(folder)[2]["progress"]["best_dice"]


if __name__ == "__main__":
    main()
