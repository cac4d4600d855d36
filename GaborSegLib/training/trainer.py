"""Training (Wong & Moradi 2022, Section 2.4): a run that can be stopped at any moment and goes on as if it were not.

All random numbers follow from the seed, the epoch and the step, so a snapshot holds only the weights, the optimiser's
state and the place in the run. Several processes share the images of a step, and end with the weights that one process
with all of them ends with.
"""

import math
import os
import signal
import threading
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from ..data.absent import merge_labels, merge_scores
from ..data.dataset import seed_of
from ..evaluation.metrics import dice
from ..events import silent
from ..model.losses import LOSSES
from ..model.network import cube_scores
from ..model.weights import save_weights
from ..protocol import BEST, EPOCH_STAGE
from .batches import Batches
from .card import make_card
from .journal import Progress, peak_memory, write_metrics
from .lock import stop_requested
from .options import Options, learning_rate
from .processes import Team
from .remedies import explaining_memory, explaining_output, not_finite
from .snapshot import optimiser_tensors, restore, save_snapshot
from .start import check_identity, check_start, identity, new_network, read_snapshot, start_from

# A snapshot is saved at the end of every epoch, and within an epoch when the last one is older than this.
SNAPSHOT_SECONDS = 300


class Trainer:
    """One training run in one folder. A subclass may train otherwise, see the methods `configure_...`.

    Args:
        data: a `DataSet`, or `PackedData`.
        output: folder for `metrics.csv`, `curves.png`, `best.safetensors` and the snapshot.
        options: `Options`; the paper's by default.
        validation: ids held out, see `DataSet.split`.
        device: a torch device.
        init: path of a weight file to start from, of the same variant or one that shares most layers with it; Gabor
            kernels are fitted to conventional ones.
        resume: go on from the folder's snapshot, if there is one.
        cache: folder of prepared scans; `output/cache` by default.
        workers: processes that load and augment images, for each process that trains.
        facts: entries for the card that only a person knows, such as data and licence.
        report: takes events; that of the first process is used.
        validation_share: share of the subjects held out where `validation` is None; none for 0.
        precision: `float32`; on a GPU also `tf32` (float32 with products of 10 bits) or `bfloat16` (autocast; Gabor
            layers, the loss and the weights stay float32). Validation is not in bfloat16, as segmenting is not.
        augment_on: `cpu`, or `device` for the one trained on; the GPU where there is one by default.
        team: the `Team` of processes that train together; this one alone by default.
        heads: the head label maps, a list of paths (see `heads.find_heads`).
        recipe: name of the recipe that the options are from, for the card.

    Raises:
        TrainingError: the folder holds a run and `resume` is not set, or a run with other options.
    """

    def __init__(
        self,
        data,
        output,
        options=None,
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
        recipe=None,
    ):
        self.data, self.output, self.options = data, Path(output), options or Options()
        self.team = team or Team()
        self.device, self.precision = torch.device(device), precision
        self.facts, self.recipe = facts or {}, recipe
        self.report = report if self.team.rank == 0 else silent
        if validation is None and not validation_share:
            validation = []
        parts = data.split(validation, validation_share, self.options.seed)
        augment_on = augment_on or ("device" if self.device.type == "cuda" else "cpu")
        cache = cache or self.output / "cache"
        self.batches = Batches(data, *parts, self.options, self.team, self.device, cache, heads, workers, augment_on)
        self.progress, self.inherited = Progress(), {"earlier_stages": []}
        self.asked_to_stop, self.saved = False, time.monotonic()
        self.team.broadcast_from_first(self._check_start)
        self.network = self.configure_network()
        snapshot = self.team.broadcast_from_first(lambda: read_snapshot(output, resume, self.identity(), self.report))
        if init and not snapshot:
            self.inherited = start_from(init, self.network, data.table.names, self.options.variant, self.report)
        self.network.to(self.device)
        self.criterion = self.configure_loss()
        self.optimiser = self.configure_optimizer()
        self.schedule = self.configure_schedule()
        self.resumed = snapshot[2] if snapshot else None
        if snapshot:
            restore(self.network, self.optimiser, *snapshot[:2])
            self.inherited = self.resumed.get("inherited", self.inherited)
            self.progress = Progress(**self.resumed["progress"])
        self.model = self._parallel()

    # What a subclass may change

    def configure_network(self):
        """The network, on the CPU. Its file is opened as the options' network, so it has the weights of one."""
        return new_network(self.options, classes=len(self.data.table.names) + 1)

    def configure_loss(self):
        """The loss: takes scores (B, C, D, H, W) after the softmax and labels (B, D, H, W)."""
        return LOSSES[self.options.loss]()

    def configure_optimizer(self):
        """The optimiser of `self.network`'s parameters; its whole state has to be in its `state_dict`, as tensors."""
        return torch.optim.NAdam(self.network.parameters(), lr=self.options.learning_rate)

    def configure_schedule(self):
        """A function from (step, all steps of the run) to the learning rate; it may depend on nothing else."""
        return lambda step, steps: learning_rate(self.options, step, steps)

    # The run

    def run(self):
        """Train to the end, or until SIGTERM, Ctrl-C or a file `stop` in the folder, which save a snapshot and stop.

        Returns:
            `Progress`; the run is complete if its epoch is the options' number of epochs.

        Raises:
            TrainingError: the loss is not a number any more, memory is short, or the scans are not those that the run
                was started with.
            DataError: scans cannot be read (any more).
            OutputError: the folder cannot be written to (any more).
            After each of them the last snapshot and the best weights so far are kept.
        """
        handlers = {}
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            handlers = {number: signal.signal(number, self.stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            _set_precision(self.precision)
            goes_on = self._prepare()
            while goes_on and self.progress.epoch < self.options.epochs:
                goes_on = self._run_epoch()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self.progress

    def stop(self, *_):
        """End `run` after the step that is being done; a snapshot is saved."""
        self.asked_to_stop = True

    def identity(self):
        """What identifies this run, see `start.identity`."""
        return identity(self.options, self.batches, self.data.table, self.precision)

    def _prepare(self):
        """Prepare the scans; whether the run goes on, or was stopped meanwhile."""
        if not self.batches.prepare(self.report, self._wants_stop):
            return False
        if self.resumed:
            self.team.broadcast_from_first(
                lambda: check_identity(self.output, self.resumed, self.identity(), self.report)
            )
        return not self._is_stopped()

    def _run_epoch(self):
        """Do what is left of an epoch; whether the run goes on, or was stopped meanwhile."""
        progress, batches = self.progress, self.batches
        started = time.monotonic() - progress.seconds
        self.network.train()
        for images, labels in self._rest_of_epoch():
            progress.add_step(self._step(images, labels), time.monotonic() - started)
            self.report(
                {
                    "event": "progress",
                    "stage": EPOCH_STAGE.format(epoch=progress.epoch + 1, epochs=self.options.epochs),
                    "done": progress.step,
                    "total": batches.steps_per_epoch,
                }
            )
            due = self.team.rank == 0 and time.monotonic() - self.saved > SNAPSHOT_SECONDS
            stops, saves = self.team.sum(self._wants_stop(), due)
            if stops or saves:
                self.team.broadcast_from_first(self.save)
            if stops:
                return False
        images_per_second = len(batches.training) / progress.seconds
        scores = self._validate() if self._is_validated() else None
        progress.seconds = time.monotonic() - started
        self._end_epoch(scores, images_per_second)
        return not self._is_stopped()

    def _rest_of_epoch(self):
        with self._explaining("loading images"):
            yield from self.batches.from_step(self.progress.epoch, self.progress.step)

    def _step(self, images, labels):
        """One step of the optimiser; returns the mean loss of the step's images in all processes.

        Images are passed through the network one by one: a step of many then takes the memory of one, and its gradient
        is the same sum however many processes share it.
        """
        options, progress, team, batches = self.options, self.progress, self.team, self.batches
        done = progress.epoch * batches.steps_per_epoch + progress.step
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule(done, options.epochs * batches.steps_per_epoch)
        self.optimiser.zero_grad(set_to_none=True)
        # Gradients are summed over images and averaged over processes.
        weight = team.size / batches.images_in(progress.step) if batches.places(progress.step) else 0.0
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
                team.fail(not_finite(mean, progress.epoch + 1, self.output, options, self.precision))
            self.optimiser.step()
        return mean

    def _loss(self, images, labels):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            scores = self.model(images)
        return self.criterion(*merge_scores(scores, labels, self.data.table.counts_as))

    def _is_validated(self):
        number = self.progress.epoch + 1
        is_due = number % self.options.validate_every == 0 or number == self.options.epochs
        return bool(self.batches.validation) and is_due

    @torch.no_grad()
    def _validate(self):
        """Dice per structure on whole validation images, shared by the processes; the mean over those that have it."""
        self.network.eval()
        rows, count = {}, len(self.batches.validation)
        for place in range(self.team.rank, count, self.team.size):
            self.report({"event": "progress", "stage": "Validation", "done": place, "total": count})
            image, labels = self.batches.validation_scan(place)
            with self._explaining(f"validating on {tuple(image.shape)} voxels"):
                scores = cube_scores(self.network, image.to(self.device), self.options.field)
            prediction = merge_labels(scores.argmax(dim=0).cpu().numpy(), self.data.table.counts_as)
            rows[place] = dice(prediction, labels.numpy(), range(1, len(self.data.table.names) + 1))
        for others in self.team.gather(rows):
            rows.update(others)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice")  # a structure that no scan has
            return np.nanmean([rows[place] for place in range(count)], axis=0)

    def _end_epoch(self, scores, images_per_second):
        memory = [mib for mib in self.team.gather(peak_memory(self.device)) if mib is not None]
        row, better = self.progress.end_epoch(
            self.options.epochs,
            self.data.table.names,
            scores,
            self.optimiser.param_groups[0]["lr"],
            images_per_second,
            max(memory, default=None),
        )
        self.team.broadcast_from_first(lambda: self._write(row, better or not self.batches.validation))
        self.report({"event": "epoch", **row})

    def _write(self, row, is_best):
        if is_best:
            with explaining_output(self.output):
                save_weights(self.output / BEST, self.network, self.card(row))
        self.save()
        with explaining_output(self.output):
            write_metrics(self.output, self.progress.rows)

    def save(self):
        """Save a snapshot of the run as it stands.

        Raises:
            OutputError: the folder cannot be written to; the snapshot before is kept.
        """
        network = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        optimiser = optimiser_tensors(self.network, self.optimiser)
        facts = {**self.identity(), "inherited": self.inherited, "progress": asdict(self.progress)}
        with explaining_output(self.output):
            save_snapshot(self.output, network, optimiser, facts)
        self.saved = time.monotonic()

    def card(self, row):
        """The card of the network as it is after the epoch of `row`."""
        return make_card(
            self.options,
            self.identity(),
            row,
            self.data.table.names,
            os.path.basename(os.path.realpath(self.data.folder)),
            torch.__version__,
            self.inherited,
            self.facts,
            self.recipe,
        )

    # Helpers

    def _check_start(self):
        names = self.data.table.names
        card = self.card({"epoch": self.options.epochs, "dice_mean": 0.5, **dict.fromkeys(names, 0.5)})
        check_start(self.output, card, self.facts, self.options, self.device)

    def _parallel(self):
        """The network as the processes train it together; by itself where there is one."""
        if self.team.size == 1:
            return self.network
        return DistributedDataParallel(self.network, device_ids=[self.device] if self.device.type == "cuda" else None)

    def _wants_stop(self):
        return self.asked_to_stop or (self.team.rank == 0 and stop_requested(self.output))

    def _is_stopped(self):
        """Whether any process was asked to end the run; all agree, for a signal may reach only some of them."""
        return self.team.sum(self._wants_stop())[0] > 0

    def _explaining(self, what):
        return explaining_memory(what, self.output, self.options, self.device, self.precision)


def _set_precision(precision):
    """Allow TF32 or not, for this process; torch by itself allows it in convolutions."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
