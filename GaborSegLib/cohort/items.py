"""The scans of a cohort, and what their results are called.

A cohort is a folder of scans, a CSV of their paths, or a BIDS data set. Results of a BIDS data set are named as its
derivatives are (BIDS 1.10, "Derivatives", "Segmentations"), others after their scan.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..data.tables import read_rows
from ..errors import DataError
from ..files import split_extension
from ..scans.image import LABELS_SUFFIX, READABLE

# What a result's file name says of where it is from, for BIDS.
SEGMENTATION = "seg-gaborseg"


@dataclass(frozen=True)
class Item:
    """One scan of a cohort.

    Args:
        id: what its row in tables is called; no two items have the same.
        path: of the scan.
        folder: of its results, relative to the output.
        subject, session: of BIDS, with their prefixes; empty elsewhere.
        uri: of the scan in a BIDS data set, relative to that; empty elsewhere.
    """

    id: str
    path: Path
    folder: str = ""
    subject: str = ""
    session: str = ""
    uri: str = ""

    def file(self, kind, variant):
        """The path, relative to the output, of a result: `labels`, `sidecar`, `volumes`, `overview` or `thumbnail`."""
        if kind == "thumbnail":
            return Path("thumbnails") / f"{self.id}.png"
        if self.uri:
            name = {
                "labels": f"{self.id}_{SEGMENTATION}_desc-{variant}_dseg.nii.gz",
                "sidecar": f"{self.id}_{SEGMENTATION}_desc-{variant}_dseg.json",
                "volumes": f"{self.id}_{SEGMENTATION}_desc-{variant}_morph.tsv",
                "overview": f"{self.id}_desc-overview_T1w.png",
            }[kind]
        else:
            suffixes = {"labels": f"{LABELS_SUFFIX}.nii.gz", "sidecar": ".json", "volumes": "_volumes.tsv"}
            name = self.id + {**suffixes, "overview": "_overview.png"}[kind]
        folder = (self.subject and f"{self.subject}/figures") or "figures" if kind == "overview" else self.folder
        return Path(folder) / name


def find_items(path):
    """The items of a folder, in which scans may lie at any depth, or of a CSV with the column `image`.

    A CSV may have a column `id`; its paths are relative to it. Else a scan is called by its file's name, and where two
    have the same, by its whole path.

    Raises:
        DataError: there is no scan, or two have the same id.
    """
    path = Path(path)
    if path.is_file():
        rows = read_rows(path, "image")
        files = [path.parent / row["image"] for row in rows]
        ids = [row.get("id") or "" for row in rows]
    elif path.is_dir():
        files = sorted(file for file in path.rglob("*") if _is_scan(file, path))
        ids = [""] * len(files)
    else:
        raise DataError(f"{path}: is no folder and no file; name a folder of scans, a CSV of their paths, or BIDS")
    if not files:
        raise DataError(f"{path}: holds no scans; wanted files that end in {', '.join(READABLE)}")
    home = path if path.is_dir() else path.parent
    return _named(files, ids, home)


def _is_scan(file, home):
    stem, extension = split_extension(file)
    hidden = any(part.startswith(".") for part in file.relative_to(home).parts)
    is_result = extension == ".seg.nrrd" or stem.endswith(LABELS_SUFFIX)
    return extension in READABLE and not hidden and not is_result and file.is_file()


def _named(files, ids, home):
    """Items with names that tell them apart, and that every file system takes."""
    stems = [id or Path(split_extension(file)[0]).name for file, id in zip(files, ids)]
    count = Counter(map(_plain, stems))
    items = []
    for file, stem, id in zip(files, stems, ids):
        name = _plain(stem)
        if count[name] > 1 and not id:
            name = _plain(split_extension(_relative(file, home))[0])
        items.append(Item(name, file.absolute()))
    twice = [name for name, number in Counter(item.id for item in items).items() if number > 1]
    if twice:
        raise DataError(
            f"{home}: several scans are called {twice[0]}; name them by a CSV with the columns id and image"
        )
    return items


def _relative(file, home):
    return str(file.relative_to(home)) if file.is_relative_to(home) else str(file)


def _plain(name):
    """A name with nothing in it that a file system, a terminal or a spreadsheet takes for something else."""
    return re.sub(r"[^\w.+@ -]|^[=+@.-]", "_", name)[:150]
