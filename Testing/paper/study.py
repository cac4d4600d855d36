"""Fig. 3 and Table 1 of Wong & Moradi 2022: three kernel variants, three losses, five learning rates, five splits.

    python Testing/paper/study.py --splits 0                    # small scale: 45 runs, about six hours on one core
    python Testing/paper/study.py --scale paper --splits 0 1 2 3 4 --device cuda     # 225 runs of 300 epochs at 128^3

Each run is a folder of the ordinary trainer. A run that is done is not done again, one that was interrupted goes on, so
the study may be stopped at any moment. A run that ends with a loss that is no number is a result: its scores are empty.
What a run came to is a row of a table (--table), which is written anew after each, as is the figure beside the runs.
Other studies of this folder are lists of runs for the same machinery: open_questions.py is one. How runs are spread
over processes and machines stands in schedule.py.
"""

import argparse
import csv
import os
import sys
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import schedule
from gabor_layers import trainer_with
from scans import SCANS

from GaborSegLib.data.dataset import load_prepared
from GaborSegLib.data.sources import find_data
from GaborSegLib.errors import GaborSegError, TrainingError
from GaborSegLib.evaluation.metrics import dice
from GaborSegLib.events import silent
from GaborSegLib.files import replacing
from GaborSegLib.model.network import cube_scores
from GaborSegLib.model.weights import load_weights
from GaborSegLib.protocol import BEST
from GaborSegLib.training.lock import locked
from GaborSegLib.training.options import Options

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
    """One network of a study.

    Args:
        name: its folder, in the study's.
        key: dictionary of texts that its row of the table begins with, and is known by.
        options: `Options`.
        split: number of the split of the scans.
        layer: what its Gabor layers are, a key of `gabor_layers.LAYERS`.
    """

    name: str
    key: dict
    options: Options
    split: int
    layer: str = ""

    def row_in(self, table):
        """Its row in a list of rows, or None."""
        return next((row for row in table if all(row.get(name) == text for name, text in self.key.items())), None)


def runs(scale, splits, base=None):
    """All runs of some splits; those of one rate together, the middle one first, so that tables fill evenly.

    Args:
        scale: a key of `SCALES`, or another name with options of its own.
        splits: numbers.
        base: `Options` that variant, loss and rate go into; those of the scale by default.
    """
    base = base or SCALES[scale]
    rates = sorted(RATES, key=lambda rate: abs(np.log(rate / 1e-3)))
    return [
        Run(
            f"{scale}/split{split}/{variant}-{loss}-{rate:.1e}",
            {"scale": scale, "split": str(split), "variant": variant, "loss": loss, "rate": f"{rate:.1e}"},
            replace(base, variant=variant, loss=loss, learning_rate=rate),
            split,
        )
        for split, rate, loss, variant in product(splits, rates, LOSSES, VARIANTS)
    ]


def split_cases(cases, number):
    """(training, validation, test) cases of one of the splits, by subject, shuffled with the split's number."""
    subjects = sorted({case.subject for case in cases})
    order = np.random.default_rng(number).permutation(len(subjects))
    ends = np.cumsum([round(share * len(subjects)) for share in SHARES])
    parts = [{subjects[place] for place in part} for part in np.split(order, ends)]
    return [[case for case in cases if case.subject in part] for part in parts]


def train(run, folder, scans, device="cpu", report=silent):
    """Train a run to its end, or find it there.

    Args:
        run: a `Run`.
        folder: of the study, which the run's folder lies in.
        scans: of a data set.
        device: torch device.
        report: takes events.

    Returns:
        Its row, a dictionary of texts; None if it was stopped.

    Raises:
        TrainingError: another process is at work in the run's folder.
    """
    data = find_data(scans)
    training, validation, test = split_cases(data.cases, run.split)
    output = Path(folder) / run.name
    with locked(output):
        trainer = trainer_with(run.layer)(
            replace(data, cases=tuple(training + validation)),
            output,
            run.options,
            [case.id for case in validation],
            resume=True,
            cache=Path(folder) / "cache",
            report=report,
            device=device,
        )
        try:
            progress = trainer.run()
        except TrainingError as error:
            if "the loss became" not in str(error):
                raise
            return {**run.key, "failure": str(error).replace("\n", " ").removeprefix(f"{output}: ")}
        if progress.epoch < run.options.epochs:
            return None
        scores = test_scores(output / BEST, data, test, Path(folder) / "cache", run.options)
    seconds = sum(row["seconds"] for row in progress.rows)
    row = {
        "epochs": run.options.epochs,
        "best_epoch": load_weights(output / BEST).card["training"]["epoch"],
        "validation_dice": f"{progress.best_dice:.4f}",
        "test_dice": f"{np.nanmean(scores):.4f}",
        "seconds": round(seconds),
        **{name: f"{score:.4f}" for name, score in zip(data.table.names, np.nanmean(scores, axis=0))},
    }
    return {**run.key, **{name: str(value) for name, value in row.items()}}


def test_scores(weights, data, cases, cache, options):
    """Dice of the test scans on the network's cube, as the paper scores: (scans, structures)."""
    import torch

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


def carry_out(todo, options, grow=lambda table: None):
    """Do the runs that have no row in the table yet.

    Args:
        todo: list of `Run`.
        options: of `add_options`.
        grow: is given the table after each run, to draw what is there.

    Returns:
        The names of runs that came to no result; they go on when the study is started again.
    """
    table = read_table(options.table)
    failed = []
    watch = schedule.Watch(todo, options.output, lambda: table)
    if options.status:
        print(watch.line())
        return []
    left = [run for run in todo if not run.row_in(table)]
    with locked(options.output):
        for run, row in schedule.outcomes(left, options, watch):
            if row is None:
                failed.append(run.name)
                continue
            table.append(row)
            write_table(options.table, table)
            grow(table)
            print(f"{run.name}: {row.get('test_dice') or row.get('failure')}", flush=True)
    return failed


def add_options(parser, table):
    """The options that the studies share; `table` is where theirs is by default."""
    parser.add_argument("--data", type=Path, default=SCANS, help="labelled scans")
    parser.add_argument("--output", type=Path, default=Path("runs/paper"), metavar="DIR", help="folder of the runs")
    parser.add_argument("--table", type=Path, default=Path(__file__).parent / table, metavar="CSV")
    schedule.add_options(parser)


def main():
    import figure3

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--splits", type=int, nargs="+", default=[0], choices=range(SPLITS))
    add_options(parser, "study.csv")
    options = parser.parse_args()
    picture = options.output / f"{options.scale}.png"
    end(
        lambda: carry_out(
            runs(options.scale, options.splits),
            options,
            lambda table: figure3.draw(figure3.Results(table, options.scale), picture),
        )
    )


def end(work):
    """Do it, and end the process as commands do: what is wrong in one line, and status 2."""
    try:
        failed = work()
    except GaborSegError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    if failed:
        print(f"not finished, start again to go on: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import study  # workers know its classes by this name

    study.main()
