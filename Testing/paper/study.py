"""Fig. 3 and Table 1 of Wong & Moradi 2022: three kernel variants, three losses, five learning rates, five splits.

    python Testing/paper/study.py --splits 0                    # small scale: 45 runs, about six hours on one core
    python Testing/paper/study.py --scale paper                 # 225 runs of 300 epochs at 128^3

Each run is a folder of the ordinary trainer. A run that is done is not done again, one that was interrupted goes on, so
the study may be stopped at any moment. A run that ends with a loss that is no number is a result: its scores are empty.
What a run came to is a row of a table (--table), which is written anew after each.
"""

import argparse
import csv
import os
import sys
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from scans import SCANS

from GaborSegLib.data.dataset import load_prepared
from GaborSegLib.data.sources import find_data
from GaborSegLib.errors import TrainingError
from GaborSegLib.evaluation.metrics import dice
from GaborSegLib.files import replacing
from GaborSegLib.model.network import cube_scores
from GaborSegLib.model.weights import load_weights
from GaborSegLib.protocol import BEST
from GaborSegLib.training.options import Options
from GaborSegLib.training.trainer import Trainer

VARIANTS = ("conventional", "mixed", "gabor")
LOSSES = ("pcc", "dice", "cross-entropy")
RATES = (1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2)
SPLITS = 5
# Section 3.1: 60 % of the subjects for training, 10 % to choose the best epoch, 30 % for testing.
SHARES = (0.6, 0.1)
# Section 2.4; and what a CPU can do. Without dropout and with a falling rate few epochs come further.
SCALES = {
    "paper": Options(grid_size=128, epochs=300, batch_size=2),
    "small": Options(
        grid_size=64, epochs=14, augmentation="strong", dropout=0.0, decay=0.4, validate_every=2, batch_size=1
    ),
}


@dataclass(frozen=True)
class Run:
    """One network of the study."""

    scale: str
    split: int
    variant: str
    loss: str
    rate: float

    @property
    def name(self):
        return f"{self.scale}/split{self.split}/{self.variant}-{self.loss}-{self.rate:.1e}"

    @property
    def options(self):
        return replace(SCALES[self.scale], variant=self.variant, loss=self.loss, learning_rate=self.rate)


def runs(scale, splits):
    """All runs of some splits; those of one rate together, the middle one first, so that tables fill evenly."""
    rates = sorted(RATES, key=lambda rate: abs(np.log(rate / 1e-3)))
    return [
        Run(scale, split, variant, loss, rate)
        for split, rate, loss, variant in product(splits, rates, LOSSES, VARIANTS)
    ]


def split_cases(cases, number):
    """(training, validation, test) cases of one of the splits, by subject, shuffled with the split's number."""
    subjects = sorted({case.subject for case in cases})
    order = np.random.default_rng(number).permutation(len(subjects))
    ends = np.cumsum([round(share * len(subjects)) for share in SHARES])
    parts = [{subjects[place] for place in part} for part in np.split(order, ends)]
    return [[case for case in cases if case.subject in part] for part in parts]


def train(run, data, folder, report):
    """Train a run to its end, or find it there; its row."""
    training, validation, test = split_cases(data.cases, run.split)
    known = replace(data, cases=tuple(training + validation))
    output = folder / run.name
    row = {"scale": run.scale, "split": run.split, "variant": run.variant, "loss": run.loss, "rate": f"{run.rate:.1e}"}
    trainer = Trainer(
        known,
        output,
        run.options,
        [case.id for case in validation],
        resume=True,
        cache=folder / "cache",
        report=report,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    try:
        progress = trainer.run()
    except TrainingError as error:
        if "loss" not in str(error):
            raise
        return {**row, "failure": str(error).replace("\n", " ")}
    if progress.epoch < run.options.epochs:
        return None
    scores = test_scores(output / BEST, data, test, folder / "cache", run.options)
    seconds = sum(row["seconds"] for row in progress.rows)
    return {
        **row,
        "epochs": run.options.epochs,
        "best_epoch": load_weights(output / BEST).card["training"]["epoch"],
        "validation_dice": f"{progress.best_dice:.4f}",
        "test_dice": f"{np.nanmean(scores):.4f}",
        "seconds": round(seconds),
        **{name: f"{score:.4f}" for name, score in zip(data.table.names, np.nanmean(scores, axis=0))},
    }


def test_scores(weights, data, cases, cache, options):
    """Dice of the test scans on the network's cube, as the paper scores: (scans, structures)."""
    network = load_weights(weights).network.eval()
    rows = []
    for stem in data.prepare(cases, cache, options.grid_size):
        image, labels = load_prepared(stem)
        with torch.inference_mode():
            prediction = cube_scores(network, image, options.field).argmax(dim=0).numpy()
        rows.append(dice(prediction, labels.numpy(), range(1, len(data.table.names) + 1)))
    return np.array(rows)


def write_table(path, rows):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path):
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--splits", type=int, nargs="+", default=[0], choices=range(SPLITS))
    parser.add_argument("--output", type=Path, default=Path("runs/paper"), metavar="DIR")
    parser.add_argument("--table", type=Path, default=Path(__file__).parent / "study.csv", metavar="CSV")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = find_data(SCANS)
    table = read_table(options.table)
    for number, run in enumerate(todo := runs(options.scale, options.splits), start=1):
        key = (run.scale, str(run.split), run.variant, run.loss, f"{run.rate:.1e}")
        if any(tuple(row[name] for name in ("scale", "split", "variant", "loss", "rate")) == key for row in table):
            continue
        began = time.monotonic()
        row = train(run, data, options.output, lambda event: None)
        if row is None:
            sys.exit("stopped")
        table.append({name: str(value) for name, value in row.items()})
        write_table(options.table, table)
        told = row.get("test_dice", row.get("failure"))
        print(f"{number}/{len(todo)} {run.name}: {told} ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
