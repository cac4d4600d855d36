"""Training (Wong & Moradi 2022, Section 2.4): a run that can be stopped at any moment and goes on as if it were not.

All random numbers follow from the seed, the epoch and the step, so a snapshot holds only the weights, the optimiser's
state and the place in the run.
"""

import csv
import json
import math
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.utils.data import DataLoader

from . import __version__
from .augmentation import AUGMENTATIONS
from .dataset import TrainingImages, load_prepared, prepare, seed_of
from .errors import TrainingError
from .events import silent
from .grid import SIZE
from .images import replacing
from .losses import LOSSES
from .metrics import dice
from .network import build_network, cube_scores
from .weights import load_weights, save_weights

SNAPSHOT = "last.safetensors"
BEST = "best.safetensors"


@dataclass(frozen=True)
class Options:
    """What a run is defined by; a resumed run must have the same.

    Args:
        variant: kernel variant of the network.
        loss: `pcc`, `dice` or `cross-entropy`.
        learning_rate: Nadam's.
        epochs: passes over the training scans.
        batch_size: images a step.
        augmentation: `paper`, `strong` or `none`.
        patch: edge of the random cubes trained on, a multiple of 16; whole images if None.
        decay: share of the steps, at the end, over which the learning rate falls to zero along a cosine.
        validate_every: epochs from one validation to the next.
        dropout: probability of the spatial dropout.
        seed: all random numbers follow from it.
        grid_size: voxels along the edge of the network's cube.
        conventional_kernel_size, gabor_kernel_size, base_channels: of the network.
    """

    variant: str = "mixed"
    loss: str = "pcc"
    learning_rate: float = 1e-3
    epochs: int = 300
    batch_size: int = 1
    augmentation: str = "paper"
    patch: int | None = None
    decay: float = 0.0
    validate_every: int = 1
    dropout: float = 0.1
    seed: int = 0
    grid_size: int = SIZE
    conventional_kernel_size: int = 3
    gabor_kernel_size: int = 7
    base_channels: int = 12


@dataclass
class Progress:
    """Where a run stands: what a snapshot holds beside the weights."""

    epoch: int = 0
    step: int = 0
    losses: list = field(default_factory=list)
    seconds: float = 0.0
    best_dice: float = -1.0
    best_epoch: int = 0
    rows: list = field(default_factory=list)


class Trainer:
    """One training run in one folder.

    Args:
        data: a `DataSet`.
        output: folder for `metrics.csv`, `curves.png`, `best.safetensors` and the snapshot.
        options: `Options`.
        validation: ids held out, see `DataSet.split`.
        device: a torch device.
        init: path of a weight file of the same variant to start from.
        resume: go on from the folder's snapshot, if there is one.
        cache: folder of prepared scans; `output/cache` by default.
        workers: processes that load and augment images.
        facts: entries for the card that only a person knows, such as data and licence.
        report: takes events.

    Raises:
        TrainingError: the folder holds a run and `resume` is not set, or a run with other options.
    """

    def __init__(
        self,
        data,
        output,
        options=Options(),
        validation=None,
        device="cpu",
        init=None,
        resume=False,
        cache=None,
        workers=0,
        facts=None,
        report=silent,
    ):
        self.output = Path(output)
        self.output.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.device = torch.device(device)
        self.workers = workers
        self.facts = facts or {}
        self.report = report
        self.names = data.table.names
        self.training, self.validation = data.split(validation, seed=options.seed)
        self.data_name = data.folder.resolve().name
        self.stopping = False

        torch.manual_seed(options.seed)
        self.network = build_network(
            options.variant,
            options.conventional_kernel_size,
            options.gabor_kernel_size,
            classes=len(self.names) + 1,
            base_channels=options.base_channels,
            dropout=options.dropout,
        )
        if init:
            self._start_from(init)
        self.network.to(self.device)
        self.loss = LOSSES[options.loss]()
        self.optimiser = torch.optim.NAdam(self.network.parameters(), lr=options.learning_rate)
        self.progress = Progress()
        if (self.output / SNAPSHOT).exists():
            if not resume:
                raise TrainingError(
                    f"{self.output}: holds a run already; choose another folder, or go on with it by --resume"
                )
            self._load_snapshot()
        cache = cache or self.output / "cache"
        prepared = prepare(
            self.training + self.validation, data.table, cache, options.grid_size, report
        )
        self.training_stems = prepared[: len(self.training)]
        self.validation_stems = prepared[len(self.training) :]

    def run(self):
        """Train to the end, or until SIGTERM or Ctrl-C, which save a snapshot and stop after the step.

        Returns:
            `Progress`; the run is complete if its epoch is the options' number of epochs.

        Raises:
            TrainingError: the loss is not a number any more; the best weights so far are kept.
        """
        handlers = {}
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            handlers = {number: signal.signal(number, self.stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while self.progress.epoch < self.options.epochs and not self.stopping:
                self._run_epoch()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self.progress

    def stop(self, *_):
        """End `run` after the step that is being done; a snapshot is saved."""
        self.stopping = True

    def _run_epoch(self):
        progress, options = self.progress, self.options
        started = time.monotonic() - progress.seconds
        self.network.train()
        for images, labels in self._batches():
            loss = self._step(images.to(self.device), labels.to(self.device))
            progress.losses.append(loss)
            progress.step += 1
            progress.seconds = time.monotonic() - started
            steps = self._steps_per_epoch()
            self.report({
                "event": "progress",
                "stage": f"Epoch {progress.epoch + 1} of {options.epochs}",
                "done": progress.step,
                "total": steps,
            })
            if self.stopping:
                self._save_snapshot()
                return
        scores = self._validate() if self._is_validated() else None
        progress.seconds = time.monotonic() - started
        self._end_epoch(scores)

    def _batches(self):
        options, progress = self.options, self.progress
        images = TrainingImages(
            self.training_stems, AUGMENTATIONS[options.augmentation], options.patch, options.seed, progress.epoch
        )
        rest = range(progress.step * options.batch_size, len(images))
        return DataLoader(
            images, batch_size=options.batch_size, sampler=rest, num_workers=self.workers,
            pin_memory=self.device.type == "cuda", worker_init_fn=_leave_interrupts_to_parent,
        )

    def _steps_per_epoch(self):
        return math.ceil(len(self.training_stems) / self.options.batch_size)

    def _step(self, images, labels):
        options, progress = self.options, self.progress
        done = progress.epoch * self._steps_per_epoch() + progress.step
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(options, done, options.epochs * self._steps_per_epoch())
        torch.manual_seed(seed_of(options.seed, "dropout", done))
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss(self.network(images), labels)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"{self.output}: the loss became {loss.item()} in epoch {progress.epoch + 1}; the best weights so far "
                f"are kept in {BEST}. Try a smaller learning rate than {options.learning_rate:g}"
            )
        loss.backward()
        self.optimiser.step()
        return loss.item()

    def _is_validated(self):
        number = self.progress.epoch + 1
        return bool(self.validation) and (
            number % self.options.validate_every == 0 or number == self.options.epochs
        )

    @torch.no_grad()
    def _validate(self):
        """Dice per structure on the whole validation images, the mean over the scans that have it."""
        self.network.eval()
        rows = []
        for done, stem in enumerate(self.validation_stems):
            self.report(
                {"event": "progress", "stage": "Validation", "done": done, "total": len(self.validation_stems)}
            )
            image, labels = load_prepared(stem)
            scores = cube_scores(self.network, image.to(self.device), field_of(self.options))
            prediction = scores.argmax(dim=0).cpu().numpy()
            rows.append(dice(prediction, labels.numpy(), range(1, len(self.names) + 1)))
        return np.nanmean(rows, axis=0)

    def _end_epoch(self, scores):
        progress = self.progress
        row = {
            "epoch": progress.epoch + 1,
            "loss": sum(progress.losses) / len(progress.losses),
            "learning_rate": self.optimiser.param_groups[0]["lr"],
            "seconds": round(progress.seconds, 2),
            "memory_mib": peak_memory(self.device),
            "dice_mean": None if scores is None else float(np.nanmean(scores)),
        }
        for i, name in enumerate(self.names):
            row[name] = None if scores is None or math.isnan(scores[i]) else float(scores[i])
        progress.rows.append(row)
        progress.epoch, progress.step, progress.losses, progress.seconds = progress.epoch + 1, 0, [], 0.0
        better = scores is not None and row["dice_mean"] > progress.best_dice
        if better:
            progress.best_dice, progress.best_epoch = row["dice_mean"], row["epoch"]
        if better or not self.validation:
            save_weights(self.output / BEST, self.network, self.card(row))
        self._save_snapshot()
        self._write_metrics()
        self.report({"event": "epoch", "epochs": self.options.epochs, **row})

    def card(self, row):
        """The card of the network as it is after the epoch of `row`."""
        options = self.options
        validation = {"scans": [case.id for case in self.validation]}
        if row["dice_mean"] is not None:
            validation["dice_mean"] = round(row["dice_mean"], 4)
            validation["dice"] = {name: row[name] and round(row[name], 4) for name in self.names}
        return {
            "variant": options.variant,
            "conventional_kernel_size": options.conventional_kernel_size,
            "gabor_kernel_size": options.gabor_kernel_size,
            "in_channels": 1,
            "classes": len(self.names) + 1,
            "base_channels": options.base_channels,
            "structures": list(self.names),
            "grid_size": options.grid_size,
            "field": field_of(options),
            "training": {
                "data": self.data_name,
                "scans": [case.id for case in self.training],
                "epoch": row["epoch"],
                **asdict(options),
            },
            "scores": {"validation": validation},
            "versions": {"gaborseg": __version__, "torch": torch.__version__},
            **self.facts,
        }

    def _write_metrics(self):
        rows = self.progress.rows
        with replacing(self.output / "metrics.csv") as temporary:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, fieldnames=list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        write_curves(self.output / "curves.png", rows)

    def _start_from(self, path):
        weights = load_weights(path)
        variant = weights.card["variant"]
        if variant != self.options.variant:
            raise TrainingError(f"{path}: has {variant} kernels, the run {self.options.variant}; they must be the same")
        own = self.network.state_dict()
        fitting = {k: v for k, v in weights.network.state_dict().items() if own[k].shape == v.shape}
        kept_output = list(self.names) == weights.card["structures"]
        if not kept_output:
            fitting = {k: v for k, v in fitting.items() if not k.startswith("outputs.")}
        lost = [k for k in own if k not in fitting and not k.startswith("outputs.")]
        if lost:
            raise TrainingError(f"{path}: {lost[0]} has another shape here; channels and kernel sizes must agree")
        own.update(fitting)
        self.network.load_state_dict(own)
        if not kept_output:
            self.report({"event": "warning", "message": f"{path}: other structures; its last layer is not used"})

    def _save_snapshot(self):
        names = [name for name, _ in self.network.named_parameters()]
        tensors = {f"network.{name}": tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimiser.{names[index]}.{key}"] = value.contiguous()
        metadata = {"options": json.dumps(asdict(self.options)), "progress": json.dumps(asdict(self.progress))}
        metadata["validation"] = json.dumps([case.id for case in self.validation])
        metadata["training"] = json.dumps([case.id for case in self.training])
        with replacing(self.output / SNAPSHOT) as temporary:
            temporary.write_bytes(save(tensors, metadata))  # not save_file, whose errors are not the system's

    def _load_snapshot(self):
        path = self.output / SNAPSHOT
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                # Copied, because what is read may be mapped to the file, which the next snapshot replaces.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
            options = json.loads(metadata["options"])
            progress = Progress(**json.loads(metadata["progress"]))
            cases = [json.loads(metadata[key]) for key in ("training", "validation")]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise TrainingError(f"{path}: is not a snapshot that this program can go on from: {error}") from error
        different = [key for key, value in asdict(self.options).items() if options.get(key) != value]
        if different:
            key = different[0]
            raise TrainingError(
                f"{path}: the run was started with {key} {options.get(key)}, now it is {getattr(self.options, key)}; "
                "a resumed run needs the options it was started with"
            )
        if cases != [[case.id for case in self.training], [case.id for case in self.validation]]:
            raise TrainingError(f"{path}: the run was started with other training or validation scans")
        self.network.load_state_dict(_with_prefix(tensors, "network."))
        state = self.optimiser.state_dict()
        for index, (name, _) in enumerate(self.network.named_parameters()):
            values = _with_prefix(tensors, f"optimiser.{name}.")
            if values:
                state["state"][index] = values
        self.optimiser.load_state_dict(state)
        self.progress = progress


def _with_prefix(tensors, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def field_of(options):
    """What a network trained like this is to see of a scan; see `network.cube_scores`."""
    return "content" if options.patch else "cube"


def learning_rate(options, step, steps):
    """The learning rate of a step: constant, and over the last `decay` of all steps falling to 0 along a cosine."""
    falling = options.decay * steps
    done = step - (steps - falling)
    if done <= 0:
        return options.learning_rate
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * done / falling))


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


def _leave_interrupts_to_parent(worker):
    """Ctrl-C reaches every process of a terminal; the workers go on until the step is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
