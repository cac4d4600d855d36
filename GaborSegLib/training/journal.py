"""The journal of a run: where it stands, a row of metrics.csv for each epoch, and the curves."""

import math
import sys
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch

from ..files import replacing, write_csv
from ..protocol import CURVES, METRICS

# The time left is estimated from so many epochs: the machine may have changed since the first ones.
RECENT_EPOCHS = 10


@dataclass
class Progress:
    """Where a run stands: what a snapshot holds beside the weights.

    Args:
        epoch: epochs done.
        step: steps done in the epoch that is under way.
        losses: of these steps.
        seconds: that they took.
        best_dice, best_epoch: of the best validation so far, or None.
        rows: of metrics.csv.
    """

    epoch: int = 0
    step: int = 0
    losses: list = field(default_factory=list)
    seconds: float = 0.0
    best_dice: float | None = None
    best_epoch: int | None = None
    rows: list = field(default_factory=list)

    def add_step(self, loss, seconds):
        """Count a step; `seconds` since the epoch began."""
        self.losses.append(loss)
        self.step += 1
        self.seconds = seconds

    def end_epoch(self, epochs, names, scores, learning_rate, images_per_second, memory):
        """Count an epoch, and note its row.

        Args:
            epochs: of the whole run.
            names: of the structures.
            scores: their Dice, an array (NaN for one that no scan has), or None without a validation.
            learning_rate: of the last step.
            images_per_second: validation not counted.
            memory: MiB, or None.

        Returns:
            (row, whether its validation is the best so far)
        """
        recent = [row["seconds"] for row in self.rows[1 - RECENT_EPOCHS :]] + [self.seconds]
        number = self.epoch + 1
        # None also where the scans that were looked at hold none of the structures.
        mean = None if scores is None or np.isnan(scores).all() else float(np.nanmean(scores))
        better = mean is not None and (self.best_dice is None or mean > self.best_dice)
        if better:
            self.best_dice, self.best_epoch = mean, number
        row = {
            "epoch": number,
            "epochs": epochs,
            "loss": sum(self.losses) / len(self.losses),
            "learning_rate": learning_rate,
            "seconds": round(self.seconds, 2),
            "images_per_second": round(images_per_second, 3),
            "memory_mib": memory,
            "seconds_left": round(sum(recent) / len(recent) * (epochs - number), 1),
            "dice_mean": mean,
            "best_dice": self.best_dice,
            "best_epoch": self.best_epoch,
        }
        for i, name in enumerate(names):
            row[name] = None if scores is None or math.isnan(scores[i]) else float(scores[i])
        self.rows.append(row)
        self.epoch, self.step, self.losses, self.seconds = number, 0, [], 0.0
        return row, better


def write_metrics(folder, rows):
    """Write metrics.csv, and the curves where matplotlib is installed.

    Raises:
        OutputError: the folder cannot be written to.
    """
    names = list(rows[0])
    write_csv(folder / METRICS, [names, *([row.get(name) for name in names] for row in rows)])
    with suppress(ModuleNotFoundError):  # the picture needs matplotlib, training does not
        write_curves(folder / CURVES, rows)


def write_curves(path, rows):
    """Draw the loss and the validation Dice over the epochs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.add_subplot()
    right = left.twinx()
    left.plot([row["epoch"] for row in rows], [row["loss"] for row in rows], color="tab:blue")
    validated = [row for row in rows if row["dice_mean"] is not None]
    right.plot([row["epoch"] for row in validated], [row["dice_mean"] for row in validated], ".-", color="tab:orange")
    left.set(xlabel="epoch", ylim=(0, None))
    left.set_ylabel("training loss", color="tab:blue")
    right.set_ylim(0, 1)
    right.set_ylabel("validation Dice, mean of structures", color="tab:orange")
    left.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def peak_memory(device):
    """The largest memory taken so far, MiB: of a GPU where it is used, else of this process; None where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)
