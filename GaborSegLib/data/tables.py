"""Label tables: which ids of a source of labels make up each structure, and what the source does not tell apart."""

import csv
import hashlib
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..protocol import BACKGROUND, check_names, csv_text, parse_json, read_text
from ..structures import resource_path

MOST_IDS = 100_000  # of one row; FreeSurfer's largest number is 14,175
LARGEST_ID = 2**31
REST = "*"  # among the ids of the background: every id that the table does not name


@dataclass(frozen=True)
class LabelTable:
    """Which of a data set's label ids make up each structure.

    Args:
        names: the structures, in order; the first has label 1.
        ids: for each structure the set of source ids; empty for a structure that the source lacks. Ids in no set are
            background.
        background: ids that are background on purpose.
        complete: an id that is neither a structure's nor in `background` is a mistake.
        within: pairs (label of a structure that the source lacks, label that the source gives its voxels).
        path: the file it was read from.
    """

    names: tuple[str, ...]
    ids: tuple[frozenset[int], ...]
    background: frozenset[int] = frozenset({0})
    complete: bool = False
    within: tuple[tuple[int, int], ...] = ()
    path: Path | None = None

    @property
    def absent(self):
        """Names of the structures that the source lacks."""
        return tuple(self.names[label - 1] for label, _ in self.within)

    @property
    def counts_as(self):
        """For each label, 0 to len(names), the label that the source gives its voxels; see `absent.merge_scores`."""
        merged = dict(self.within)
        return tuple(merged.get(label, label) for label in range(len(self.names) + 1))

    @property
    def listed(self):
        """All ids that the table names."""
        return self.background.union(*self.ids)

    @property
    def digest(self):
        """Of what the table makes of labels: two tables with the same one are the same to a training run."""
        content = self.names, [sorted(ids) for ids in self.ids], self.within
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def apply(self, array):
        """Map an array of source ids to labels 0 to len(names), uint8."""
        values, inverse = np.unique(array, return_inverse=True)
        label_of = {source: label for label, ids in enumerate(self.ids, start=1) for source in ids}
        mapped = np.array([label_of.get(int(value), 0) for value in values], dtype=np.uint8)
        return mapped[inverse].reshape(array.shape)


def bundled_tables():
    """The label tables that come with the program: dictionary from name to path."""
    return {path.stem: path for path in sorted(resource_path("Tables").glob("*.csv"))}


def open_table(table):
    """The `LabelTable` of a bundled table's name, or of the path of a CSV file or a `dataset.json` of nnU-Net.

    Raises:
        DataError: there is no such table, or it cannot be used.
    """
    path = Path(bundled_tables().get(str(table), table))
    if not path.is_file():
        raise DataError(
            f"{path}: not found; a data set needs a label table: name a CSV with the columns label, structure, ids by "
            f"--table, or a bundled one ({', '.join(bundled_tables())})"
        )
    return read_nnunet_labels(path) if path.suffix == ".json" else read_label_table(path)


def read_rows(path, *needed):
    """The rows of a CSV file, dictionaries with text for every column; DataError if a needed column is missing."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), restval="")
        columns = [name for name in reader.fieldnames or [] if name]
        rows = [{name: csv_text(row[name].strip()) for name in columns} for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}); wanted text in UTF-8") from error
    if not set(needed) <= set(columns):
        raise DataError(f"{path}: got the columns {', '.join(columns) or 'none'}; wanted {' and '.join(needed)} in it")
    return rows


def read_label_table(path):
    """Read a label table: a CSV with the columns `label`, `structure` and one whose name ends in `ids`.

    The ids are separated by spaces; 100-207 is an inclusive range. Two things may be added:

    - A row of label 0 lists the ids that are background on purpose. Then any other id in the data is a mistake, unless
      one of the listed is `*`, which stands for all others. Without this row all others are background.
    - A structure that the source lacks has no ids, and in the column `within` the name of the structure as part of
      which the source labels it (or Background).

    Raises:
        DataError: something in it is wrong.
    """
    rows = read_rows(path, "label", "structure")
    id_column = next((name for name in rows[0] if name.endswith("ids")), None) if rows else None
    if id_column is None:
        raise DataError(f"{path}: got no rows or no column that ends in ids; label, structure and ids are needed")
    try:
        rows.sort(key=lambda row: int(row["label"]))
        labels = [int(row["label"]) for row in rows]
        words = [row[id_column].split() for row in rows]
        rest = labels[0] == 0 and REST in words[0]
        ids = [_parse_ids([word for word in words[0] if not (rest and word == REST)]), *map(_parse_ids, words[1:])]
    except ValueError as error:
        raise DataError(f"{path}: {error}; labels and ids must be whole numbers or ranges such as 100-207") from error
    has_background = labels[0] == 0
    if has_background:
        rows, labels = rows[1:], labels[1:]
    background = ids.pop(0) if has_background else set()
    if labels != list(range(1, len(labels) + 1)) or not labels:
        raise DataError(f"{path}: got the labels {labels!s:.200}; they must count from 1 without a gap")
    names = tuple(row["structure"] for row in rows)
    _check_names(path, names)
    _check_once(path, [background, *ids])
    return LabelTable(
        names,
        tuple(frozenset(group) for group in ids),
        frozenset(background | {0}).difference(*ids),
        has_background and not rest,
        _within(path, names, ids, [row.get("within", "") for row in rows]),
        Path(path),
    )


def read_nnunet_labels(path):
    """The labels of nnU-Net's `dataset.json` as a `LabelTable`, in the order of their ids.

    Version 2 has {"name": id}, or {"name": [ids]} for regions; version 1 has {"id": "name"}.

    Raises:
        DataError: the labels are missing, overlap, or have an `ignore` label, for which there is no way here.
    """
    labels = read_nnunet_facts(path).get("labels")
    if not isinstance(labels, dict) or not labels:
        raise DataError(f"{path}: got no dictionary `labels`; wanted one as nnU-Net has it, or a label table")
    if all(key.isdigit() for key in labels):
        labels = {str(name): int(key) for key, name in labels.items()}
    try:
        groups = {name: {int(i) for i in (ids if isinstance(ids, list) else [ids])} for name, ids in labels.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: {error}; labels must be whole numbers, or lists of them") from error
    if "ignore" in groups:
        raise DataError(f"{path}: has an ignore label, which cannot be trained with; relabel these voxels")
    background = {0}.union(*(ids for name, ids in groups.items() if name.lower() == "background"))
    groups = {name: ids for name, ids in groups.items() if name.lower() != "background"}
    names = tuple(sorted(groups, key=lambda name: sorted(groups[name])))
    _check_names(path, names)
    _check_once(path, [background, *groups.values()])
    return LabelTable(names, tuple(frozenset(groups[name]) for name in names), frozenset(background), True, (), path)


def read_nnunet_facts(path):
    """What stands in nnU-Net's `dataset.json`, a dictionary; DataError if it cannot be read."""
    try:
        facts = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); wanted nnU-Net's dataset.json") from error
    if not isinstance(facts, dict):
        raise DataError(f"{path}: got no dictionary; wanted nnU-Net's dataset.json")
    return facts


def _parse_ids(words):
    ids = set()
    for word in words:
        first, _, last = word.partition("-")
        low, high = int(first), int(last or first)
        if high > LARGEST_ID or high - low + len(ids) >= MOST_IDS:
            raise ValueError(f"got {word:.30}; a structure has at most {MOST_IDS} ids, none above {LARGEST_ID}")
        ids.update(range(low, high + 1))
    return ids


def _check_names(path, names):
    try:
        check_names(names)
    except ValueError as error:
        raise DataError(f"{path}: got {error}") from error


def _check_once(path, groups):
    """Each id may stand once; a background that contains 0 by itself does not count."""
    seen = Counter(i for group in groups for i in group)
    twice = sorted(i for i, count in seen.items() if count > 1)
    if twice:
        raise DataError(f"{path}: the ids {twice!s:.200} stand with more than one structure; each may stand once")


def _within(path, names, ids, wholes):
    """The pairs `LabelTable.within` of the names in the column `within`."""
    labels = {BACKGROUND: 0, **{name: label for label, (name, group) in enumerate(zip(names, ids), 1) if group}}
    pairs = []
    for label, (name, group, whole) in enumerate(zip(names, ids, wholes), start=1):
        if bool(group) == bool(whole) or (whole and whole not in labels):
            raise DataError(
                f"{path}: {name} has {len(group)} ids and is within '{whole}'; a structure needs ids, or, if this "
                "source lacks it, in the column within the structure (or Background) that it is part of there"
            )
        if whole:
            pairs.append((label, labels[whole]))
    return tuple(pairs)
