"""Labelled scans on disk: finding them, splitting them by subject, and bringing them to the network's grid once."""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .augmentation import augment
from .errors import DataError, GaborSegError
from .events import silent
from .grid import SIZE, Grid, normalise
from .images import READABLE, check_image, read_image, replacing, split_extension

IMAGE_FOLDERS = ("images", "T1w")
LABEL_FOLDERS = ("labels",)
# Goes into the key of prepared scans: raise it when their content changes.
PREPARATION = 1


@dataclass(frozen=True)
class Case:
    """One labelled scan: its id (the file name without extension), its subject, and its two files."""

    id: str
    subject: str
    image: Path
    labels: Path


@dataclass(frozen=True)
class LabelTable:
    """Which of a data set's label ids make up each structure.

    Args:
        names: the structures, in order; the first has label 1.
        ids: for each structure the set of source ids. Ids in no set are background.
    """

    names: tuple[str, ...]
    ids: tuple[frozenset[int], ...]

    def apply(self, array):
        """Map an array of source ids to labels 0 to len(names), uint8."""
        values, inverse = np.unique(array, return_inverse=True)
        label_of = {source: label for label, ids in enumerate(self.ids, start=1) for source in ids}
        mapped = np.array([label_of.get(int(value), 0) for value in values], dtype=np.uint8)
        return mapped[inverse].reshape(array.shape)


def read_label_table(path):
    """Read a label table: a CSV with the columns `label`, `structure` and one whose name ends in `ids`.

    The ids are separated by spaces; 100-207 is an inclusive range.

    Raises:
        DataError: columns are missing, labels do not count from 1, or an id stands twice or is not a number.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    id_column = next((name for name in columns if name and name.endswith("ids")), None)
    if id_column is None or not {"label", "structure"} <= set(columns):
        raise DataError(
            f"{path}: got the columns {', '.join(map(str, columns)) or 'none'}; "
            "a label table needs label, structure and one that ends in ids"
        )
    try:
        rows.sort(key=lambda row: int(row["label"]))
        labels = [int(row["label"]) for row in rows]
        ids = [_parse_ids(row[id_column]) for row in rows]
    except ValueError as error:
        raise DataError(f"{path}: {error}; labels and ids must be whole numbers or ranges such as 100-207") from error
    if labels != list(range(1, len(rows) + 1)):
        raise DataError(f"{path}: got the labels {labels}; they must count from 1 without a gap")
    seen = [i for group in ids for i in group]
    twice = sorted({i for i in seen if seen.count(i) > 1}) if len(seen) != len(set(seen)) else []
    if twice:
        raise DataError(f"{path}: the ids {twice} stand with more than one structure; each may stand once")
    return LabelTable(tuple(row["structure"] for row in rows), tuple(frozenset(group) for group in ids))


def _parse_ids(text):
    ids = set()
    for word in text.split():
        first, _, last = word.partition("-")
        ids.update(range(int(first), int(last or first) + 1))
    return ids


@dataclass(frozen=True)
class DataSet:
    """A folder of labelled scans."""

    folder: Path
    cases: tuple[Case, ...]
    table: LabelTable

    def select(self, names=None):
        """The cases whose scan or subject is named, all by default; DataError for a name that is not there."""
        if names is None:
            return list(self.cases)
        unknown = set(names) - {case.id for case in self.cases} - {case.subject for case in self.cases}
        if unknown:
            raise DataError(f"{self.folder}: no scan or subject is named {', '.join(sorted(unknown))}")
        return [case for case in self.cases if case.id in names or case.subject in names]

    def split(self, validation=None, share=0.1, seed=0):
        """Training and validation cases, split by subject.

        Args:
            validation: ids of scans or subjects to hold out; other scans of the same subjects follow them.
                By default a share of the subjects is drawn.
            share: that share; the paper takes 10%.
            seed: what is drawn depends on.

        Raises:
            DataError: an id is not there, or nothing is left to train on.
        """
        subjects = sorted({case.subject for case in self.cases})
        if validation is None:
            order = np.random.default_rng(seed).permutation(len(subjects))
            held_out = {subjects[i] for i in order[: max(1, round(share * len(subjects)))]}
        else:
            held_out = {case.subject for case in self.select(validation)}
        training = [case for case in self.cases if case.subject not in held_out]
        if not training:
            raise DataError(f"{self.folder}: all {len(subjects)} subjects are held out; none is left to train on")
        return training, [case for case in self.cases if case.subject in held_out]


def find_data(folder, table=None):
    """Find the labelled scans in a folder.

    The folder has two subfolders, `images` (or `T1w`) and `labels`, with files of the same names; a label table
    `structures.csv` (see `read_label_table`); and, where subjects have more than one scan, `subjects.csv` with the
    columns `scan` and `subject`.

    Args:
        folder: path of the data set.
        table: path of another label table.

    Returns:
        `DataSet`.

    Raises:
        DataError: something is missing; the message lists all of it.
    """
    folder = Path(folder)
    images = _subfolder(folder, IMAGE_FOLDERS)
    labels = _subfolder(folder, LABEL_FOLDERS)
    table = Path(table) if table else folder / "structures.csv"
    if not table.is_file():
        raise DataError(f"{table}: not found; a data set needs a label table (columns label, structure, ids)")
    images, labels = _by_stem(images), _by_stem(labels)
    missing = sorted(images.keys() ^ labels.keys())
    if missing or not images:
        what = f"{', '.join(missing)} have an image or labels, but not both" if missing else "there are no images"
        raise DataError(f"{folder}: {what}; each image needs a label map of the same name")
    subjects = _read_subjects(folder / "subjects.csv")
    cases = [Case(stem, subjects.get(stem, stem), images[stem], labels[stem]) for stem in sorted(images)]
    return DataSet(folder, tuple(cases), read_label_table(table))


def _subfolder(folder, names):
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise DataError(f"{folder}: no folder {' or '.join(names)} in it; a data set has images and labels in two folders")


def _by_stem(folder):
    files = [file for file in folder.iterdir() if not file.name.startswith(".")]
    split = [(split_extension(file), file) for file in files]
    return {Path(stem).name: file for (stem, extension), file in split if extension in READABLE}


def _read_subjects(path):
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if rows and not {"scan", "subject"} <= set(rows[0]):
        raise DataError(f"{path}: got the columns {', '.join(map(str, rows[0]))}; scan and subject are needed")
    return {row["scan"]: row["subject"] for row in rows}


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
    if image.array.shape != labels.array.shape or not np.allclose(image.affine, labels.affine, atol=1e-2):
        raise DataError(
            f"{case.labels}: got shape {labels.array.shape} with another affine than {case.image.name} with shape "
            f"{image.array.shape}; a label map must lie on its image's grid"
        )
    mapped = table.apply(labels.array)
    if not mapped.any():
        raise DataError(f"{case.labels}: none of its ids is in the label table; check that the table fits the data")
    return image, mapped


def prepare(cases, table, cache, size=SIZE, report=silent):
    """Bring cases to the network's grid, or find them there already.

    Prepared scans are kept in the folder `cache` under a key made of the files' contents and the table, so that no
    change goes unnoticed.

    Returns:
        For each case the stem of two files: `<stem>.image.npy` (float16) and `<stem>.labels.npy` (uint8), both
        (size, size, size), axes z, y, x.
    """
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    stems = []
    for done, case in enumerate(cases):
        report({"event": "progress", "stage": "Preparing scans", "done": done, "total": len(cases)})
        stem = cache / _key(case, table, size)
        if not (Path(f"{stem}.labels.npy").is_file() and Path(f"{stem}.image.npy").is_file()):
            image, labels = read_case(case, table)
            grid = Grid(image.array.shape, image.affine, size)
            cube = normalise(grid.image_to_cube(image.array)).numpy().astype(np.float16)
            _save(f"{stem}.image.npy", cube)
            _save(f"{stem}.labels.npy", grid.labels_to_cube(labels, len(table.names) + 1).numpy())
        stems.append(stem)
    report({"event": "progress", "stage": "Preparing scans", "done": len(cases), "total": len(cases)})
    return stems


def _key(case, table, size):
    digest = hashlib.sha256(repr((PREPARATION, size, table.names, [sorted(ids) for ids in table.ids])).encode())
    for file in (case.image, case.labels):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


def _save(path, array):
    with replacing(path) as temporary:
        np.save(temporary, array)


def load_prepared(stem):
    """(image float32, labels uint8) tensors (size, size, size) of a prepared case."""
    image = torch.from_numpy(np.load(f"{stem}.image.npy")).float()
    return image, torch.from_numpy(np.load(f"{stem}.labels.npy"))


class TrainingImages(torch.utils.data.Dataset):
    """One epoch's augmented images: item i is (image (1, D, H, W), labels (D, H, W)).

    Everything random follows from the seed, the epoch and the item's place in the epoch alone, so that a resumed run
    draws what an uninterrupted one would have drawn, with any number of workers.
    """

    def __init__(self, stems, settings, patch, seed, epoch):
        self.stems = stems
        self.settings = settings
        self.patch = patch
        self.seed = seed
        self.epoch = epoch
        self.order = torch.randperm(len(stems), generator=generator(seed, epoch)).tolist()

    def __len__(self):
        return len(self.stems)

    def __getitem__(self, place):
        image, labels = load_prepared(self.stems[self.order[place]])
        image, labels = augment(image, labels, self.settings, generator(self.seed, self.epoch, place), self.patch)
        return image[None], labels


def generator(*numbers):
    """A CPU generator seeded by whole numbers, different for each sequence of them."""
    return torch.Generator().manual_seed(seed_of(*numbers))


def seed_of(*numbers):
    """A 63-bit seed that is different for each sequence of whole numbers."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "big") >> 1
