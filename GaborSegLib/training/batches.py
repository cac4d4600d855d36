"""The images that a run's steps are made of: prepared once, augmented each time, shared by the processes of a team."""

import hashlib
import math
import signal
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from ..data.augmentation import AUGMENTATIONS
from ..data.dataset import TrainingImages, kinds, load_prepared
from ..events import silent
from .remedies import cannot_read, readable


class Batches:
    """A run's scans on the network's grid, and step by step the images that this process trains on.

    Args:
        data: a `DataSet`, or `PackedData`.
        training, validation: its cases, see `DataSet.split`.
        options: `Options`.
        team: the `Team` that shares the images.
        device: torch device that is trained on.
        cache: folder of prepared scans.
        head_maps: head label maps, paths.
        workers: processes that load and augment images.
        augment_on: `cpu` or `device`.
    """

    def __init__(self, data, training, validation, options, team, device, cache, head_maps, workers, augment_on):
        self.data, self.training, self.validation = data, training, validation
        self.options, self.team, self.device = options, team, device
        self.cache, self.head_maps = Path(cache), head_maps
        self.workers, self.augment_on = workers, augment_on
        self.digests = {}  # of what was prepared: `scans`, from id to digest, and `heads`

    @property
    def images_per_step(self):
        """Images a step, over all processes."""
        return self.options.batch_size * self.team.size

    @property
    def steps_per_epoch(self):
        """Steps of the optimiser in an epoch; the last may have fewer images."""
        return math.ceil(len(self.training) / self.images_per_step)

    def images_in(self, step):
        """Images of a step of the epoch, over all processes."""
        return min(self.images_per_step, len(self.training) - step * self.images_per_step)

    def places(self, step):
        """The places in the epoch that this process takes in a step; none where the last step has no image for it."""
        size = self.options.batch_size
        first = step * self.images_per_step + self.team.rank * size
        return range(first, min(first + size, len(self.training)))

    # Preparation

    def prepare(self, report, wants_stop):
        """Bring the scans to the network's grid, the processes of a machine sharing them, and build heads around them.

        Args:
            report: takes events.
            wants_stop: called in between; whether the run is to end.

        Returns:
            False if it was stopped.
        """
        cases = self.training + self.validation
        share = cases[self.team.local_rank :: self.team.local_size]
        work = _Stoppable(report, wants_stop)
        answers = self.team.gather_results(lambda: work(self._prepare_scans, share))
        if None in answers:
            return False
        prepared = {key: value for answer in answers for key, value in answer.items()}
        self.training_stems = [self.cache / prepared[case.id][0] for case in self.training]
        self.validation_stems = [self.cache / prepared[case.id][0] for case in self.validation]
        # One process of each machine builds the heads, and then the others find them.
        leads = self.team.local_rank == 0
        answers = self.team.gather_results(lambda: work(self._prepare_heads) if leads else [])
        if None in answers:
            return False
        self.heads = answers[self.team.rank] if leads else self._prepare_heads(silent)
        names = [Path(path).name for heads in self.heads for path in heads]
        scans = {case.id: prepared[case.id][1] for case in cases}
        self.digests = {"scans": scans, "heads": _digest(repr(names).encode())}
        return True

    def _prepare_scans(self, share, report):
        """The names, in the cache, of some cases, and digests of what is in them: a dictionary from their ids."""
        options = self.options
        stems = self.data.prepare(share, self.cache, options.grid_size, options.find_brain, options.soft_labels, report)
        return {
            case.id: (Path(stem).name, _digest_of_scan(stem, options.soft_labels)) for case, stem in zip(share, stems)
        }

    def _prepare_heads(self, report):
        return self.data.prepare_heads(self.training, self.training_stems, self.head_maps, self.cache, report)

    # Images

    def from_step(self, epoch, step):
        """Yield what is left of an epoch, step by step: this process's images (B, 1, D, H, W), labels (B, D, H, W).

        Where the last step has no image for it, it takes one more, to which the trainer gives no weight.
        """
        options = self.options
        images = TrainingImages(
            self.training_stems,
            AUGMENTATIONS[options.augmentation],
            options.patch,
            options.seed,
            epoch,
            self.heads,
            len(self.data.table.names) + 1 if options.soft_labels else None,
        )
        on_device = self.augment_on == "device"
        steps = [list(self.places(number)) or [0] for number in range(step, self.steps_per_epoch)]
        loader = DataLoader(
            _AsPrepared(images) if on_device else images,
            batch_sampler=steps,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_leave_interrupts_to_parent,
        )
        for places, batch in zip(steps, readable(loader)):
            batch = [tensor.to(self.device, non_blocking=True) for tensor in batch]
            if on_device:
                changed = [images.change(place, *item) for place, item in zip(places, zip(*batch))]
                batch = [torch.stack(tensors) for tensors in zip(*changed)]
            yield batch

    def validation_scan(self, place):
        """(image, labels) of a validation scan, each (size, size, size)."""
        return next(readable(map(load_prepared, [self.validation_stems[place]])))


class _Stopped(Exception):
    """Preparing was asked to end."""


class _Stoppable:
    """Calls `work(*arguments, report)`; gives None if the run was asked to stop meanwhile."""

    def __init__(self, report, wants_stop):
        self._report, self._wants_stop = report, wants_stop

    def __call__(self, work, *arguments):
        try:
            return work(*arguments, self._tell)
        except _Stopped:
            return None
        except OSError as error:
            raise cannot_read(error) from error

    def _tell(self, event):
        self._report(event)
        if self._wants_stop():
            raise _Stopped


class _AsPrepared(Dataset):
    """The scans of `TrainingImages` as they were prepared, for augmentation on the device."""

    def __init__(self, images):
        self.images = images

    def __getitem__(self, place):
        return self.images.read(place)


def _digest_of_scan(stem, soft_labels):
    """Of the voxels of a prepared scan and of its labels, whatever the files are called."""
    return _digest(*(Path(f"{stem}.{kind}.npy").read_bytes() for kind in kinds(soft_labels)))


def _digest(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _leave_interrupts_to_parent(worker):
    """Ctrl-C reaches every process of a terminal; the workers go on until the step is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
