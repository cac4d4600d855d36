"""Training (Wong & Moradi 2022, Section 2.4): a run that can be stopped at any moment and goes on as if it were not.

All random numbers follow from the seed, the epoch and the step, so a snapshot holds only the weights, the optimiser's
state and the place in the run. Several processes share the images of a step, and end with the weights that one process
with all of them ends with.
"""

import csv
import math
import signal
import sys
import threading
import time
import warnings
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from .. import __version__
from ..data.absent import merge_labels, merge_scores
from ..data.augmentation import AUGMENTATIONS
from ..data.dataset import TrainingImages, load_prepared, prepare, seed_of
from ..data.heads import prepare_heads
from ..data.packing import PackedData
from ..errors import DataError, OutputError, TrainingError
from ..evaluation.metrics import dice
from ..events import silent
from ..files import replacing
from ..model.fitting import fit_network
from ..model.losses import LOSSES
from ..model.network import build_network, cube_scores
from ..model.weights import load_weights, save_weights
from ..scans.grid import SIZE
from .processes import Team
from .run_folder import has_snapshot, load_snapshot, save_snapshot, stop_requested

BEST = "best.safetensors"
PRECISIONS = ("float32", "tf32", "bfloat16")
# A snapshot is saved at the end of every epoch, and within an epoch when the last one is older than this.
SNAPSHOT_SECONDS = 300
# The time left is estimated from so many epochs: the machine may have changed since the first ones.
RECENT_EPOCHS = 10


@dataclass(frozen=True)
class Options:
    """What a run is defined by; a resumed run must have the same.

    Args:
        variant: kernel variant of the network.
        loss: `pcc`, `dice` or `cross-entropy`.
        learning_rate: Nadam's.
        epochs: passes over the training scans.
        batch_size: images a step in each process. It takes time and no memory. A run may be resumed with another number
            of processes if the images a step stay as many.
        augmentation: a key of `augmentation.AUGMENTATIONS`.
        patch: edge of the random cubes trained on, a multiple of 16; whole images if None.
        decay: share of the steps, at the end, over which the learning rate falls to zero along a cosine.
        validate_every: epochs from one validation to the next.
        dropout: probability of the spatial dropout.
        seed: all random numbers follow from it.
        grid_size: voxels along the edge of the network's cube.
        conventional_kernel_size, gabor_kernel_size, base_channels: of the network.
        heads: number of head label maps that heads are built from around the training scans.
        find_brain: find the brain first and take away what is not near it, in training and, by the card, ever after.
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
    heads: int = 0
    find_brain: bool = False


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


class Trainer:
    """One training run in one folder.

    Args:
        data: a `DataSet`, or `PackedData`.
        output: folder for `metrics.csv`, `curves.png`, `best.safetensors` and the snapshot.
        options: `Options`.
        validation: ids held out, see `DataSet.split`.
        validation_share: share of the subjects held out where `validation` is None; none for 0.
        device: a torch device.
        init: path of a weight file to start from, of the same variant or one that shares most layers with it; Gabor
            kernels are fitted to conventional ones.
        resume: go on from the folder's snapshot, if there is one.
        cache: folder of prepared scans; `output/cache` by default.
        workers: processes that load and augment images, for each process that trains.
        precision: `float32`; on a GPU also `tf32` (float32 with products of 10 bits) or `bfloat16` (autocast; Gabor
            layers, the loss and the weights stay float32). Validation is not in bfloat16, as segmenting is not.
        augment_on: `cpu`, or `device` for the one trained on; the GPU where there is one by default.
        heads: the head label maps, a list of paths (see `heads.find_heads`).
        facts: entries for the card that only a person knows, such as data and licence.
        report: takes events; that of the first process is used.
        team: the `Team` of processes that train together; this one alone by default.

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
        validation_share=0.1,
        precision="float32",
        augment_on=None,
        team=None,
        heads=(),
    ):
        self.team = team or Team()
        self.output = Path(output)
        self.options = options
        self.device = torch.device(device)
        self.workers = workers
        self.precision = precision
        self.augment_on = augment_on or ("device" if self.device.type == "cuda" else "cpu")
        self.facts = facts or {}
        self.report = report if self.team.rank == 0 else silent
        self.data = data
        self.names = data.table.names
        if validation is None and not validation_share:
            validation = []
        self.training, self.validation = data.split(validation, validation_share, options.seed)
        self.cache = Path(cache or self.output / "cache")
        self.head_maps = heads
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
        self.inherited = {"earlier_stages": []}
        snapshot = self.team.first(lambda: self._read_snapshot(resume))
        if init and not snapshot:
            self._start_from(init)
        self.network.to(self.device)
        self.criterion = LOSSES[options.loss]()
        self.optimiser = torch.optim.NAdam(self.network.parameters(), lr=options.learning_rate)
        self.progress = Progress()
        self.saved = time.monotonic()
        if snapshot:
            self._go_on_from(*snapshot)
        self.model = self.network
        if self.team.size > 1:
            self.model = DistributedDataParallel(
                self.network, device_ids=[self.device] if self.device.type == "cuda" else None
            )

    @property
    def images_per_step(self):
        """Images a step, over all processes."""
        return self.options.batch_size * self.team.size

    def run(self):
        """Train to the end, or until SIGTERM, Ctrl-C or a file `stop` in the folder, which save a snapshot and stop.

        Returns:
            `Progress`; the run is complete if its epoch is the options' number of epochs.

        Raises:
            TrainingError: the loss is not a number any more, or memory is short.
            DataError: scans cannot be read (any more).
            OutputError: the folder cannot be written to (any more).
            After each of them the last snapshot and the best weights so far are kept.
        """
        handlers = {}
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            handlers = {number: signal.signal(number, self.stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            _set_precision(self.precision)
            if self._prepare():
                while self.progress.epoch < self.options.epochs and not self.stopping:
                    self._run_epoch()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self.progress

    def stop(self, *_):
        """End `run` after the step that is being done; a snapshot is saved."""
        self.stopping = True

    def _wants_stop(self):
        return self.stopping or (self.team.rank == 0 and stop_requested(self.output))

    def _prepare(self):
        """Bring the scans to the network's grid, the processes of a machine sharing them; False if it was stopped."""
        cases = self.training + self.validation
        share = cases[self.team.local_rank :: self.team.local_size]
        answers = self.team.all(lambda: self._unless_stopped(self._prepare_scans, share))
        if None in answers:
            self.stopping = True
            return False
        names = {key: name for answer in answers for key, name in answer.items()}
        self.training_stems = [self.cache / names[case.id] for case in self.training]
        self.validation_stems = [self.cache / names[case.id] for case in self.validation]
        # One process of each machine builds the heads, and then the others find them.
        leads = self.team.local_rank == 0
        answers = self.team.all(lambda: self._unless_stopped(self._prepare_heads) if leads else [])
        if None in answers:
            self.stopping = True
            return False
        self.heads = answers[self.team.rank] if leads else self._prepare_heads(silent)
        return True

    def _prepare_scans(self, share, report):
        """The names, in the cache, of some cases: a dictionary from their ids."""
        options = self.options
        if isinstance(self.data, PackedData):
            stems = self.data.unpack(share, self.cache, options.grid_size, options.find_brain, report)
        else:
            stems = prepare(share, self.data.table, self.cache, options.grid_size, report, options.find_brain)
        return {case.id: Path(stem).name for case, stem in zip(share, stems)}

    def _prepare_heads(self, report):
        if isinstance(self.data, PackedData):
            return self.data.unpack_heads(self.training, self.cache, report)
        return prepare_heads(self.training_stems, self.head_maps, self.cache, self.names, report=report)

    def _unless_stopped(self, work, *arguments):
        """`work(*arguments, report)`, or None if the run was asked to stop meanwhile."""

        def report(event):
            self.report(event)
            if self._wants_stop():
                raise _Stopped

        try:
            return work(*arguments, report)
        except _Stopped:
            return None
        except OSError as error:
            raise DataError(_cannot_read(error)) from error

    def _run_epoch(self):
        progress, options = self.progress, self.options
        started = time.monotonic() - progress.seconds
        self.network.train()
        for images, labels in self._batches():
            loss = self._step(images, labels)
            progress.losses.append(loss)
            progress.step += 1
            progress.seconds = time.monotonic() - started
            self.report(
                {
                    "event": "progress",
                    "stage": f"Epoch {progress.epoch + 1} of {options.epochs}",
                    "done": progress.step,
                    "total": self._steps_per_epoch(),
                }
            )
            due = self.team.rank == 0 and time.monotonic() - self.saved > SNAPSHOT_SECONDS
            stops, saves = self.team.sum(self._wants_stop(), due)
            self.stopping = stops > 0
            if self.stopping or saves:
                self.team.first(self._save_snapshot)
            if self.stopping:
                return
        speed = len(self.training) / progress.seconds
        scores = self._validate() if self._is_validated() else None
        progress.seconds = time.monotonic() - started
        self._end_epoch(scores, speed)

    def _batches(self):
        """Yield what is left of the epoch, step by step: this process's images (B, 1, D, H, W) and labels (B, D, H, W).

        Where the last step has no image for it, it takes one more, which `_step` gives no weight.
        """
        options, progress = self.options, self.progress
        images = TrainingImages(
            self.training_stems,
            AUGMENTATIONS[options.augmentation],
            options.patch,
            options.seed,
            progress.epoch,
            self.heads,
        )
        on_device = self.augment_on == "device"
        steps = [list(self._places(step)) or [0] for step in range(progress.step, self._steps_per_epoch())]
        loader = DataLoader(
            _Unchanged(images) if on_device else images,
            batch_sampler=steps,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_leave_interrupts_to_parent,
        )
        with self._explaining("loading images"):
            for places, batch in zip(steps, _readable(loader)):
                batch = [tensor.to(self.device, non_blocking=True) for tensor in batch]
                if on_device:
                    changed = [images.change(place, *item) for place, item in zip(places, zip(*batch))]
                    batch = [torch.stack(tensors) for tensors in zip(*changed)]
                yield batch

    def _places(self, step):
        """The places in the epoch that this process takes in a step."""
        size = self.options.batch_size
        first = step * self.images_per_step + self.team.rank * size
        return range(first, min(first + size, len(self.training)))

    def _steps_per_epoch(self):
        return math.ceil(len(self.training) / self.images_per_step)

    def _step(self, images, labels):
        """One step of the optimiser; returns the mean loss of the step's images in all processes.

        Images are passed through the network one by one: a step of many then takes the memory of one, and its gradient
        is the same sum however many processes share it.
        """
        options, progress, team = self.options, self.progress, self.team
        done = progress.epoch * self._steps_per_epoch() + progress.step
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(options, done, options.epochs * self._steps_per_epoch())
        self.optimiser.zero_grad(set_to_none=True)
        count = min(self.images_per_step, len(self.training) - progress.step * self.images_per_step)
        # Gradients are summed over images and averaged over processes.
        weight = team.size / count if self._places(progress.step) else 0.0
        losses = []
        with self._explaining(f"training on {tuple(images.shape[2:])} voxels"):
            for i in range(len(images)):
                place = [team.rank * options.batch_size + i] if team.rank or i else []
                torch.manual_seed(seed_of(options.seed, "dropout", done, *place))
                with nullcontext() if team.size == 1 or i == len(images) - 1 else self.model.no_sync():
                    loss = self._loss(images[i : i + 1], labels[i : i + 1])
                    (weight * loss).backward()
                losses.append(weight * loss.detach())
            mean = team.sum(torch.stack(losses).sum().item() / team.size)[0]
            if not math.isfinite(mean):
                team.fail(TrainingError(self._not_finite(mean)))
            self.optimiser.step()
        return mean

    def _loss(self, images, labels):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            scores = self.model(images)
        return self.criterion(*merge_scores(scores, labels, self.data.table.counts_as))

    def _not_finite(self, loss):
        kept = f"the best weights so far are kept in {BEST}" if (self.output / BEST).exists() else "nothing is lost"
        advice = f"Try a smaller learning rate than {self.options.learning_rate:g}"
        if self.precision == "bfloat16":
            advice += ", or --precision float32"
        return f"{self.output}: the loss became {loss} in epoch {self.progress.epoch + 1}; {kept}. {advice}"

    @contextmanager
    def _explaining(self, what):
        """Context in which running out of memory becomes an error that says at what, and what helps."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            options, helps = self.options, []
            edge = options.patch or options.grid_size
            if edge > 48:
                helps.append(f"--patch {edge // 32 * 16} (random cubes of that edge)")
            if self.device.type == "cuda" and self.precision != "bfloat16":
                helps.append("--precision bfloat16")
            raise TrainingError(
                f"{self.output}: the memory of {self.device} ran out while {what}, {options.variant} kernels, "
                f"{self.precision} ({(str(error) or 'MemoryError').splitlines()[0]}). What helps: "
                f"{', '.join(helps) or 'a device with more memory'}; or close other programs"
            ) from error

    def _is_validated(self):
        number = self.progress.epoch + 1
        return bool(self.validation) and (number % self.options.validate_every == 0 or number == self.options.epochs)

    @torch.no_grad()
    def _validate(self):
        """Dice per structure on the whole validation images, the mean over the scans that have it.

        The processes share the scans.
        """
        self.network.eval()
        rows, count = {}, len(self.validation)
        for place in range(self.team.rank, count, self.team.size):
            self.report({"event": "progress", "stage": "Validation", "done": place, "total": count})
            image, labels = next(_readable(map(load_prepared, [self.validation_stems[place]])))
            with self._explaining(f"validating on {tuple(image.shape)} voxels"):
                scores = cube_scores(self.network, image.to(self.device), field_of(self.options))
            prediction = merge_labels(scores.argmax(dim=0).cpu().numpy(), self.data.table.counts_as)
            rows[place] = dice(prediction, labels.numpy(), range(1, len(self.names) + 1))
        for others in self.team.gather(rows):
            rows.update(others)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice")  # a structure that no scan has
            return np.nanmean([rows[place] for place in range(count)], axis=0)

    def _end_epoch(self, scores, speed):
        progress, options = self.progress, self.options
        recent = [row["seconds"] for row in progress.rows[1 - RECENT_EPOCHS :]] + [progress.seconds]
        number = progress.epoch + 1
        memory = [mib for mib in self.team.gather(peak_memory(self.device)) if mib is not None]
        mean = None if scores is None else float(np.nanmean(scores))
        better = mean is not None and (progress.best_dice is None or mean > progress.best_dice)
        if better:
            progress.best_dice, progress.best_epoch = mean, number
        row = {
            "epoch": number,
            "epochs": options.epochs,
            "loss": sum(progress.losses) / len(progress.losses),
            "learning_rate": self.optimiser.param_groups[0]["lr"],
            "seconds": round(progress.seconds, 2),
            "images_per_second": round(speed, 3),
            "memory_mib": max(memory, default=None),
            "seconds_left": round(sum(recent) / len(recent) * (options.epochs - number), 1),
            "dice_mean": mean,
            "best_dice": progress.best_dice,
            "best_epoch": progress.best_epoch,
        }
        for i, name in enumerate(self.names):
            row[name] = None if scores is None or math.isnan(scores[i]) else float(scores[i])
        progress.rows.append(row)
        progress.epoch, progress.step, progress.losses, progress.seconds = number, 0, [], 0.0
        self.team.first(lambda: self._write(row, better or not self.validation))
        self.report({"event": "epoch", **row})

    def _write(self, row, best):
        with self._remedy():
            if best:
                save_weights(self.output / BEST, self.network, self.card(row))
        self._save_snapshot()
        with self._remedy():
            self._write_metrics()

    @contextmanager
    def _remedy(self):
        """Context in which an `OutputError` gets to say that the run can go on."""
        try:
            yield
        except OutputError as error:
            reached = "the last snapshot is kept" if has_snapshot(self.output) else "nothing was saved yet"
            raise OutputError(
                f"{error}. The run has ended; {reached}. Free some room or allow writing, then go on with --resume"
            ) from error

    def card(self, row):
        """The card of the network as it is after the epoch of `row`."""
        options = self.options
        validation = {"scans": [case.id for case in self.validation]}
        from_init = dict(self.inherited)
        earlier = from_init.pop("earlier_stages")
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
            "find_brain": options.find_brain,
            "training": {
                "data": self.data.folder.resolve().name,
                "scans": [case.id for case in self.training],
                "epoch": row["epoch"],
                **asdict(options),
                "images_per_step": self.images_per_step,
                "precision": self.precision,
                **({"earlier_stages": earlier} if earlier else {}),
            },
            "scores": {"validation": validation},
            "versions": {"gaborseg": __version__, "torch": torch.__version__},
            **from_init,
            **self.facts,
        }

    def _write_metrics(self):
        rows = self.progress.rows
        with (
            replacing(self.output / "metrics.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        with suppress(ModuleNotFoundError):  # the picture needs matplotlib, training does not
            write_curves(self.output / "curves.png", rows)

    def _start_from(self, path):
        """Take from a weight file what fits: all of the same variant, the layers that two variants have in common.

        Gabor layers whose layer in the file is conventional get the kernels nearest to its.
        """
        weights = load_weights(path)
        loaded, own = weights.network.state_dict(), self.network.state_dict()
        kept_output = list(self.names) == weights.card["structures"]
        fitting = {
            name: value
            for name, value in loaded.items()
            if name in own and own[name].shape == value.shape and (kept_output or not name.startswith("outputs."))
        }
        fitted = fit_network(self.network, loaded, self.report)
        fitting.update(fitted)
        lost = [name for name in own if name not in fitting and not name.startswith("outputs.")]
        variant = weights.card["variant"]
        if variant == self.options.variant and lost:
            raise TrainingError(f"{path}: {lost[0]} has another shape here; channels and kernel sizes must agree")
        if sum(own[name].numel() for name in lost) > sum(own[name].numel() for name in fitting):
            raise TrainingError(
                f"{path}: has {variant} kernels, the run {self.options.variant}, and most layers differ; start from "
                f"weights with {self.options.variant} kernels"
            )
        self.network.load_state_dict({**own, **fitting})
        self.inherited = inherited(weights.card)
        if fitted:
            message = f"has {variant} kernels where the run has Gabor kernels; those start as near to them as they can"
            self.report({"event": "warning", "message": f"{path}: {message}"})
        if lost:
            message = f"has {variant} kernels, the run {self.options.variant}; only the layers that both have are used"
            self.report({"event": "warning", "message": f"{path}: {message}"})
        if not kept_output:
            self.report({"event": "warning", "message": f"{path}: other structures; its last layer is not used"})

    def _save_snapshot(self):
        names = [name for name, _ in self.network.named_parameters()]
        network = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        optimiser = {
            f"{names[index]}.{key}": value.contiguous()
            for index, state in self.optimiser.state_dict()["state"].items()
            for key, value in state.items()
        }
        facts = {"options": asdict(self.options), "images_per_step": self.images_per_step, **self._cases()}
        facts["inherited"] = self.inherited
        with self._remedy():
            save_snapshot(self.output, network, optimiser, {**facts, "progress": asdict(self.progress)})
        self.saved = time.monotonic()

    def _cases(self):
        return {"training": [case.id for case in self.training], "validation": [case.id for case in self.validation]}

    def _read_snapshot(self, resume):
        """The folder's snapshot, checked to be of this run, or None; see `load_snapshot`."""
        if not has_snapshot(self.output):
            return None
        if not resume:
            raise TrainingError(
                f"{self.output}: holds a run already; choose another folder, or go on with it by --resume"
            )
        network, optimiser, facts = load_snapshot(self.output, self.report)
        before = {**facts["options"], "batch_size": facts["images_per_step"]}
        now = {**asdict(self.options), "batch_size": self.images_per_step}
        different = [key for key in now if before.get(key) != now[key]]
        if different:
            key = different[0]
            name = "images a step (batch size times processes)" if key == "batch_size" else key
            raise TrainingError(
                f"{self.output}: the run was started with {name} {before.get(key)}, now it is {now[key]}; "
                "a resumed run needs the options it was started with"
            )
        if {key: facts[key] for key in self._cases()} != self._cases():
            raise TrainingError(f"{self.output}: the run was started with other training or validation scans")
        return network, optimiser, facts["progress"], facts.get("inherited", self.inherited)

    def _go_on_from(self, network, optimiser, progress, inherited):
        self.network.load_state_dict(network)
        self.inherited = inherited
        state = self.optimiser.state_dict()
        for index, (name, _) in enumerate(self.network.named_parameters()):
            values = _with_prefix(optimiser, f"{name}.")
            if values:
                state["state"][index] = values
        self.optimiser.load_state_dict(state)
        self.progress = Progress(**progress)


class _Stopped(Exception):
    """Preparing was asked to end."""


class _Unchanged(torch.utils.data.Dataset):
    """The scans of `TrainingImages` as they were prepared, for augmentation on the device."""

    def __init__(self, images):
        self.images = images

    def __getitem__(self, place):
        return self.images.read(place)


def _with_prefix(tensors, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def inherited(card):
    """What the card of weights that started from others says of these: how they were trained, whose scans they saw."""
    stage = dict(card.get("training", {}))
    earlier = stage.pop("earlier_stages", [])
    rights = {key: card[key] for key in ("licence", "credits") if key in card}
    return {"earlier_stages": [*earlier, stage], **rights}


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


def _set_precision(precision):
    """Allow TF32 or not, for this process; torch by itself allows it in convolutions."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "float32"


def _is_out_of_memory(error):
    """Of a GPU, or of the CPU, where torch, its allocator and oneDNN have words of their own for it."""
    words = ("not enough memory", "can't allocate memory", "could not create a memory", "out of memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)


def _readable(items):
    """Yield items that are read from prepared scans; an error of the system becomes a `DataError`."""
    items = iter(items)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except (OSError, EOFError, ValueError) as error:
            raise DataError(_cannot_read(error)) from error
        yield item


def _cannot_read(error):
    name = getattr(error, "filename", None)
    return (
        f"{name or 'a prepared scan'}: cannot be read ({getattr(error, 'strerror', None) or error}). When the data are "
        "back, go on with --resume; a prepared scan that is damaged is made anew once its cache folder is deleted"
    )


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
