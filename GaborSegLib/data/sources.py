"""Labelled scans on disk: finding them in the layouts that people have, and splitting them by subject.

Runs without torch, so that a data set is looked through at once.
"""

import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..events import silent
from ..files import split_extension
from ..scans.image import READABLE
from .tables import LabelTable, open_table, read_nnunet_facts, read_rows

IMAGE_FOLDERS = ("images", "T1w")
LABEL_FOLDERS = ("labels",)
# BIDS: what tells the scans of a session apart, and the names of the space that a scan was made in.
BIDS_SCAN = ("acq", "ce", "rec", "run")
BIDS_NATIVE = ("orig", "T1w", "individual", "scanner")
# Where fMRIPrep offers several label maps of a scan, this one tells structures (and no tissues) apart.
BIDS_PREFERRED = "aseg"
# Stands for a byte of a name that is not UTF-8; no card of weights can hold it.
NO_CHARACTER = re.compile("[\ud800-\udfff]")
LAYOUTS = {
    "pairs": "folders of images and labels",
    "bids": "BIDS",
    "nnunet": "nnU-Net raw folders",
    "csv": "a CSV of paths",
}


@dataclass(frozen=True)
class Case:
    """One labelled scan: its id, its subject, and its two files."""

    id: str
    subject: str
    image: Path
    labels: Path


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set: the file, and what about it. An `error` stops training, a `note` does not."""

    file: Path
    message: str
    kind: str = "error"

    def __str__(self):
        return f"{self.file}: {self.message}"


@dataclass(frozen=True)
class DataSet:
    """A set of labelled scans.

    Args:
        folder: where it lies.
        cases: the scans that have both files.
        table: `LabelTable`.
        layout: a key of `LAYOUTS`.
        problems: what was wrong with what does not stand in `cases`, each a `Problem`; see `checks.check_data`.
    """

    folder: Path
    cases: tuple[Case, ...]
    table: LabelTable
    layout: str = "pairs"
    problems: tuple[Problem, ...] = ()

    @property
    def files(self):
        """All files that it is read from, a list of paths."""
        return [*([self.table.path] if self.table.path else []), *(f for c in self.cases for f in (c.image, c.labels))]

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
            share: that share; the paper takes 10%. At least one subject is held out, unless it is 0.
            seed: what is drawn depends on.

        Raises:
            DataError: an id is not there, or nothing is left to train on.
        """
        subjects = sorted({case.subject for case in self.cases})
        if validation is None:
            order = np.random.default_rng(seed).permutation(len(subjects))
            count = max(1, round(share * len(subjects))) if share else 0
            held_out = {subjects[i] for i in order[:count]}
        else:
            held_out = {case.subject for case in self.select(validation)}
        training = [case for case in self.cases if case.subject not in held_out]
        if not training:
            raise DataError(f"{self.folder}: all {len(subjects)} subjects are held out; none is left to train on")
        return training, [case for case in self.cases if case.subject in held_out]

    def prepare(self, cases, cache, size, find_brain=False, soft_labels=False, report=silent):
        """Bring cases to the network's grid, in a folder: a stem for each, see `dataset.prepare`."""
        from .dataset import prepare  # with torch

        return prepare(cases, self.table, cache, size, report, find_brain, soft_labels)

    def prepare_heads(self, cases, stems, head_maps, cache, report=silent):
        """Build heads around prepared cases: a list of paths for each, see `heads.prepare_heads`."""
        from .heads import prepare_heads  # with torch

        return prepare_heads(stems, head_maps, cache, self.table.names, report=report)


def find_data(folder, table=None):
    """Find the labelled scans of a data set. What is found wrong on the way goes into its `problems`.

    Args:
        folder: one of these:

            - a folder with two subfolders, `images` (or `T1w`) and `labels`, with files of the same names;
            - a BIDS folder: `sub-*/[ses-*/]anat/*_T1w.nii.gz`, with `*_dseg.nii.gz` there or in `derivatives/NAME`,
              which may also be named itself; label maps of a scan in another space are left out;
            - a raw folder of nnU-Net: `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`, `dataset.json`, one channel;
            - the path of a CSV file with the columns `image`, `labels` and optionally `subject`; paths are relative
              to it.

            Where subjects have more than one scan, folder pairs and nnU-Net folders need `subjects.csv` with the
            columns `scan` and `subject`.
        table: path of a label table (see `tables.open_table`), or the name of a bundled one; by default
            `structures.csv` beside the data, else nnU-Net's `dataset.json`.

    Returns:
        `DataSet`.

    Raises:
        DataError: the folder has none of these layouts, or there is no label table, or it cannot be used.
    """
    path = Path(folder)
    layout = _layout(path)
    cases, problems = {"pairs": _pairs, "bids": _bids, "nnunet": _nnunet, "csv": _csv}[layout](path)
    home = path.parent if layout == "csv" else path
    if table is None:
        table = home / "structures.csv"
        if layout == "nnunet" and not table.is_file():
            table = home / "dataset.json"
    if not cases:
        problems.append(Problem(path, "there is no scan with a label map in it"))
    cases.sort(key=lambda case: case.id)
    for case in cases:
        if NO_CHARACTER.search(f"{case.id}{case.subject}"):
            problems.append(Problem(case.image, "has a name that is not UTF-8; rename it, and its label map"))
    return DataSet(home, tuple(cases), open_table(table), layout, tuple(problems))


def _layout(path):
    if path.is_file() and path.suffix.lower() == ".csv":
        return "csv"
    if not path.is_dir():
        raise DataError(f"{path}: is no folder and no CSV file; name a data set's folder, or a CSV of its paths")
    if (path / "imagesTr").is_dir() and (path / "labelsTr").is_dir():
        return "nnunet"
    if _subfolder(path, IMAGE_FOLDERS) and _subfolder(path, LABEL_FOLDERS):
        return "pairs"
    if any(path.glob("sub-*/")) or any(path.glob("derivatives/*/sub-*/")):
        return "bids"
    raise DataError(
        f"{path}: holds no data set that is known here; wanted the folders images or T1w, and labels; or BIDS (sub-*/"
        "anat/*_T1w.nii.gz and *_dseg.nii.gz); or nnU-Net's imagesTr, labelsTr and dataset.json; or name a CSV of paths"
    )


# Folder pairs and nnU-Net


def _pairs(folder):
    problems = []
    images = _by_stem(_subfolder(folder, IMAGE_FOLDERS), problems)
    labels = _by_stem(_subfolder(folder, LABEL_FOLDERS), problems)
    return _matched(folder, images, labels, problems), problems


def _nnunet(folder):
    path = folder / "dataset.json"
    facts = read_nnunet_facts(path) if path.is_file() else {}
    channels = facts.get("channel_names") or facts.get("modality") or {}
    if not isinstance(channels, dict):
        raise DataError(f"{path}: got the channels {channels!r:.60}; wanted a dictionary as nnU-Net has it")
    if len(channels) > 1:
        raise DataError(
            f"{path}: got {len(channels)} channels ({', '.join(map(str, channels.values()))}); wanted T1 scans alone, "
            "one channel; give the T1 files and their labels as a CSV of paths"
        )
    endings = (str(facts["file_ending"]).lower(),) if "file_ending" in facts else READABLE
    if not set(endings) <= set(READABLE):
        raise DataError(f"{path}: got the file_ending {endings[0]}; wanted one of {', '.join(READABLE)}")
    problems = []
    labels = _by_stem(folder / "labelsTr", problems, endings)
    images = {}
    for stem, file in _by_stem(folder / "imagesTr", problems, endings).items():
        case, channel = re.fullmatch(r"(.*?)(?:_(\d{4}))?", stem).groups()
        if stem in labels:  # as in the Medical Segmentation Decathlon, without a channel
            images[stem] = file
        elif channel in (None, "0000"):
            images[case] = file
        else:
            problems.append(Problem(file, f"is channel {int(channel)}; wanted the T1 scan alone, as channel 0000"))
    return _matched(folder, images, labels, problems), problems


def _subfolder(folder, names):
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _by_stem(folder, problems, endings=READABLE):
    """A folder's images: dictionary from name without extension to path."""
    found = {}
    for file in sorted(folder.iterdir()):
        stem, extension = split_extension(file)
        if file.name.startswith(".") or extension not in endings:
            continue
        other = found.setdefault(Path(stem).name, file)
        if other != file:
            problems.append(Problem(file, f"has the same name as {other.name}; keep one of them"))
    return found


def _matched(folder, images, labels, problems):
    """The cases of images and label maps with the same names."""
    for stem in sorted(images.keys() - labels.keys()):
        problems.append(Problem(images[stem], "has no label map of the same name"))
    for stem in sorted(labels.keys() - images.keys()):
        problems.append(Problem(labels[stem], "has no image of the same name"))
    stems = sorted(images.keys() & labels.keys())
    subjects = _subjects(folder / "subjects.csv", stems, problems)
    return [Case(stem, subjects.get(stem, stem), images[stem], labels[stem]) for stem in stems]


def _subjects(path, stems, problems):
    """The dictionary from scan to subject in `subjects.csv`; empty if there is none."""
    if not path.is_file():
        return {}
    try:
        subjects = {row["scan"]: row["subject"] for row in read_rows(path, "scan", "subject") if row["subject"]}
    except DataError as error:
        problems.append(Problem(path, str(error).removeprefix(f"{path}: ")))
        return {}
    missing = [stem for stem in stems if stem not in subjects]
    if missing:
        text = f"does not name the scans {', '.join(missing)}; each of them counts as a subject of its own"
        problems.append(Problem(path, text, "note"))
    return subjects


# BIDS


@dataclass(frozen=True)
class _BidsFile:
    """A file of a BIDS data set, with the tree that it lies in and the parts of its name."""

    path: Path
    tree: Path
    entities: dict

    @property
    def session(self):
        return self.entities.get("sub"), self.entities.get("ses")

    @property
    def space(self):
        space = self.entities.get("space")
        return None if space in BIDS_NATIVE else space

    @property
    def scan(self):
        return tuple(self.entities.get(key) for key in BIDS_SCAN)

    @property
    def id(self):
        keys = [key for key in ("sub", "ses", *BIDS_SCAN) if key in self.entities]
        return "_".join(f"{key}-{self.entities[key]}" for key in keys)


def _bids(folder):
    trees = [folder, *sorted(path for path in folder.glob("derivatives/*") if path.is_dir())]
    labels = _bids_files(trees, "dseg")
    native = {label.session for label in labels if label.space is None}
    labels = [label for label in labels if label.space is None or label.session not in native]
    raw = folder
    real = Path(os.path.realpath(folder))
    if real.parent.name == "derivatives":
        raw = real.parents[1]
        trees.append(raw)
    images = _bids_files(trees, "T1w")
    problems, of_image = [], {}
    for label in labels:
        fitting = _bids_images(label, images, raw)
        if len(fitting) == 1:
            of_image.setdefault(fitting[0].path, (fitting[0], []))[1].append(label)
        else:
            names = f" ({', '.join(str(image.path) for image in fitting)})" if fitting else ""
            text = f"{len(fitting)} T1w images fit this label map{names}; wanted one, or a CSV of paths that says which"
            problems.append(Problem(label.path, text))
    cases = []
    for image, several in of_image.values():
        preferred = [label for label in several if label.entities.get("desc") == BIDS_PREFERRED]
        chosen = preferred if len(preferred) == 1 else several
        if len(chosen) == 1:
            cases.append(Case(image.id, f"sub-{image.entities['sub']}", image.path, chosen[0].path))
        else:
            names = ", ".join(str(label.path) for label in chosen)
            text = f"{len(chosen)} label maps fit it ({names}); name one folder of derivatives, or a CSV of paths"
            problems.append(Problem(image.path, text))
    labelled = {label.session for label in labels}
    without = sorted({image.id for image in images if image.session not in labelled})
    if without:
        text = f"{len(without)} scans have no label map and are left out: {', '.join(without)}"
        problems.append(Problem(folder, text, "note"))
    return cases, problems


def _bids_files(trees, suffix):
    files = []
    for tree, depth in itertools.product(trees, ("sub-*", "sub-*/ses-*")):
        for path in sorted(tree.glob(f"{depth}/anat/*_{suffix}.nii*")):
            stem, extension = split_extension(path)
            if extension in (".nii", ".nii.gz") and not path.name.startswith("."):
                parts = [part.partition("-") for part in Path(stem).name.split("_")[:-1]]
                entities = {key: value for key, _, value in parts}
                if "sub" in entities:
                    files.append(_BidsFile(path, tree, entities))
    return files


def _bids_images(label, images, raw):
    """The images that a label map may belong to: of its own tree, else of the raw one, else of any other.

    What the label map's name does not say (such as the run) may be anything, but a name that says the same goes first.
    """
    fitting = [image for image in images if image.session == label.session and image.space == label.space]
    fitting = [i for i in fitting if all(of in (None, part) for of, part in zip(label.scan, i.scan))]
    own = [image for image in fitting if image.tree == label.tree]
    fitting = own or [image for image in fitting if image.tree == raw] or fitting
    return [image for image in fitting if image.scan == label.scan] or fitting


# CSV


def _csv(path):
    problems, found = [], []
    for number, row in enumerate(read_rows(path, "image", "labels"), start=1):
        files = [path.parent / row[column] for column in ("image", "labels")]
        missing = [column for column, file in zip(("image", "labels"), files) if not file.is_file()]
        for column in missing:
            text = f"row {number}: {column} '{row[column]}' is no file; paths are relative to the CSV's folder"
            problems.append(Problem(path, text))
        if not missing:
            found.append((row.get("subject", ""), row["image"], *files))
    # The shortest name that tells the scans apart: of the file, of the subject, or all of the path.
    stems = [Path(split_extension(image)[0]).name for _, image, *_ in found]
    subjects = [subject for subject, *_ in found]
    paths = [image for _, image, *_ in found]
    ids = next((names for names in (stems, subjects) if all(names) and len(set(names)) == len(names)), paths)
    return [Case(id, subject or id, *files) for id, (subject, _, *files) in zip(ids, found)], problems
