"""Labelled scans as the network takes them: brought to its grid once, kept, and drawn in random order."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from ..environment import memory_lack, memory_needed
from ..errors import DataError, GaborSegError
from ..events import silent
from ..files import load_array, regular_file, replacing
from ..inference import finder
from ..scans.checking import check_image, disagreement
from ..scans.grid import SIZE, Grid, normalise
from ..scans.reading import read_image
from .augmentation import augment

# Goes into the key of prepared scans: raise it when their content changes.
PREPARATION = 3


def read_case(case, table):
    """Read a case: (`Image`, labels) with labels uint8 (I, J, K) mapped by the table.

    Raises:
        DataError: the two do not lie on the same grid, or none of the table's ids occurs.
    """
    try:
        image, labels = read_image(case.image), read_image(case.labels)
        check_image(image)
    except GaborSegError as error:
        raise DataError(str(error)) from error
    different = disagreement(image, labels)
    if different:
        raise DataError(f"{case.labels}: {different}")
    mapped = table.apply(labels.array)
    if not mapped.any():
        raise DataError(f"{case.labels}: none of its ids is in the label table; check that the table fits the data")
    return image, mapped


def prepare(cases, table, cache, size=SIZE, report=silent, find_brain=False, soft_labels=False):
    """Bring cases to the network's grid, or find them there already.

    Prepared scans are kept in the folder `cache` under a key made of the files' contents and the table, so that no
    change goes unnoticed.

    Args:
        cases: list of `Case`.
        table: the data set's `LabelTable`.
        cache: folder.
        size: edge of the network's cube, voxels.
        report: takes events.
        find_brain: the cube lies over the brain, and what is not near it is taken away (see `finder`), as for weights
            with `find_brain` in their card.
        soft_labels: also keep how large a share of a voxel each structure has.

    Returns:
        For each case the stem of two files: `<stem>.image.npy` (float16) and `<stem>.labels.npy` (uint8), both
        (size, size, size), axes z, y, x; with `soft_labels` also of `<stem>.shares.npy`, see `Grid.shares_to_cube`.
    """
    lack = memory_lack(memory_needed(size**3, 0))
    if lack:
        raise DataError(f"{cache}: {lack} to prepare cubes of {size}^3 voxels; take a smaller --grid-size")
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    stems = []
    for done, case in enumerate(cases):
        report({"event": "progress", "stage": "Preparing scans", "done": done, "total": len(cases)})
        stem = cache / _key(case, table, size, find_brain)
        if not all(Path(f"{stem}.{kind}.npy").is_file() for kind in kinds(soft_labels)):
            image, labels = read_case(case, table)
            brain = finder.find_brain(image.array, image.affine) if find_brain else None
            grid = brain.grid_for(size) if brain else Grid(image.array.shape, image.affine, size)
            cube = grid.image_to_cube(image.array)
            cube = normalise(brain.extract(cube, grid) if brain else cube)
            _save(f"{stem}.image.npy", cube.numpy().astype(np.float16))
            _save(f"{stem}.labels.npy", grid.labels_to_cube(labels, len(table.names) + 1).numpy())
            if soft_labels:
                _save(f"{stem}.shares.npy", grid.shares_to_cube(labels, len(table.names) + 1).numpy())
        stems.append(stem)
    report({"event": "progress", "stage": "Preparing scans", "done": len(cases), "total": len(cases)})
    return stems


def kinds(soft_labels):
    """What a prepared scan consists of: files `<stem>.<kind>.npy`."""
    return ("image", "labels", "shares") if soft_labels else ("image", "labels")


def _key(case, table, size, find_brain):
    version = (PREPARATION, finder.checksum()) if find_brain else PREPARATION
    digest = hashlib.sha256(repr((version, size, table.names, [sorted(ids) for ids in table.ids])).encode())
    for file in (case.image, case.labels):
        digest.update(regular_file(file, DataError).read_bytes())
    return digest.hexdigest()[:32]


def _save(path, array):
    with replacing(path) as temporary:
        np.save(temporary, array)


def load_prepared(stem, soft_labels=False):
    """(image float32, labels uint8) tensors (size, size, size) of a prepared case, or (image, shares)."""
    image = torch.from_numpy(load_array(f"{stem}.image.npy")).float()
    return image, torch.from_numpy(load_array(f"{stem}.{'shares' if soft_labels else 'labels'}.npy"))


class TrainingImages(torch.utils.data.Dataset):
    """One epoch's augmented images: item i is (image (1, D, H, W), labels (D, H, W)).

    With `classes`, the number of labels and background, labels are soft: shares (classes, D, H, W).

    Everything random follows from the seed, the epoch and the item's place in the epoch alone, so that a resumed run
    draws what an uninterrupted one would have drawn, with any number of workers.
    """

    def __init__(self, stems, settings, patch, seed, epoch, heads=None, classes=None):
        self.stems = stems
        self.settings = settings
        self.patch = patch
        self.seed = seed
        self.epoch = epoch
        self.heads = heads
        self.classes = classes
        self.order = torch.randperm(len(stems), generator=generator(seed, epoch)).tolist()

    def __len__(self):
        return len(self.stems)

    def __getitem__(self, place):
        return self.change(place, *self.read(place))

    def read(self, place):
        """The image and the labels of a place as they were prepared, each (size, size, size)."""
        return load_prepared(self.stems[self.order[place]], soft_labels=self.classes is not None)

    def change(self, place, image, labels):
        """Augment what `read` gave, on whatever device it lies: the item."""
        random = generator(self.seed, self.epoch, place)
        head = None
        if self.heads:
            heads = self.heads[self.order[place]]
            head = load_array(heads[int(torch.randint(len(heads), (), generator=random))])
            head = torch.from_numpy(head).to(image.device)
        image, labels = augment(image, labels, self.settings, random, self.patch, head, self.classes)
        # As a scan is before it is segmented: neither noise nor stripes are below 0 there, and both change the mean.
        return normalise(image)[None], labels


def generator(*numbers):
    """A CPU generator seeded by whole numbers, different for each sequence of them."""
    return torch.Generator().manual_seed(seed_of(*numbers))


def seed_of(*numbers):
    """A 63-bit seed that is different for each sequence of whole numbers."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "big") >> 1
