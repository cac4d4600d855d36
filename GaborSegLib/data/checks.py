"""Looking through a whole data set before it is trained on: one report with all that is wrong with it."""

import hashlib
import os
import textwrap
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ..errors import DataError, ImageError
from ..events import silent
from ..scans.checking import check_image, disagreement
from ..scans.reading import read_image
from .sources import LAYOUTS, Problem

# Unpacking takes most of the time and leaves other threads running; each holds two scans in memory.
THREADS = min(4, os.cpu_count() or 1)
LISTED_IDS, LISTED_PROBLEMS = 40, 10  # in one message


@dataclass
class _Look:
    """What one case's files hold."""

    problems: list = field(default_factory=list)
    voxels: dict = field(default_factory=dict)  # source id to its number of voxels
    digest: str | None = None  # of the image's voxels


def check_data(data, training, validation, report=silent):
    """Look through a data set: every file is read, nothing is changed.

    Args:
        data: a `DataSet`.
        training, validation: its cases, as `DataSet.split` gives them.
        report: takes events.

    Returns:
        List of `Problem`, errors first: unmatched, unreadable and empty files; label maps on another grid than their
        images, with fractions, without any structure, or with ids that a complete table does not list; the same id,
        subject or voxels on both sides of the split. Notes: ids that are taken as background, structures that occur
        nowhere or that the source lacks, scans that are there twice, and what is unusual about images.
    """
    cases = [*training, *validation]
    looks = _look_through(cases, data.table, report)
    problems = [*data.problems, *(problem for look in looks for problem in look.problems)]
    problems += _ids_twice(cases)
    problems += _on_both_sides(training, validation)
    problems += _scans_twice(cases, looks, {case.image for case in validation})
    problems += _unlisted(data.table, looks)
    problems += _missing_structures(data.table, looks)
    return sorted(problems, key=lambda problem: problem.kind != "error")


def split_and_check(data, validation=None, share=0.1, seed=0, report=silent):
    """Split a data set (see `DataSet.split`) and check it: (training cases, validation cases, list of `Problem`).

    A split that is not possible is one of the problems; all cases are for training then.
    """
    if not data.cases:
        return [], [], list(data.problems)
    impossible = []
    try:
        training, held_out = data.split(validation, share, seed)
    except DataError as error:
        training, held_out = list(data.cases), []
        impossible = [Problem(data.folder, _without_path(error, data.folder))]
    return training, held_out, impossible + check_data(data, training, held_out, report)


def refuse_errors(problems, report=silent):
    """Report notes as warnings, and raise one DataError with all errors if there are any."""
    errors = [problem for problem in problems if problem.kind == "error"]
    for problem in problems:
        if problem.kind != "error":
            report({"event": "warning", "message": str(problem)})
    if errors:
        told = [*map(str, errors[:LISTED_PROBLEMS]), *(["..."] if len(errors) > LISTED_PROBLEMS else [])]
        raise DataError(f"{_count(len(errors), 'problem')} in the data set, see gaborseg data: {'; '.join(told)}")


def summary(data, training, validation, problems):
    """What is in a data set and what `check_data` found, as text for a person."""
    table = data.table
    lines = [
        f"{data.folder}: {LAYOUTS[data.layout]}, {_scans(data.cases)}",
        f"  label table  {table.path}",
        f"  structures   {len(table.names)}: {', '.join(table.names)}",
    ]
    if table.absent:
        lines.append(f"  not in this source: {', '.join(table.absent)}")
    lines.append(f"  training     {_scans(training)}")
    lines.append(f"  validation   {_scans(validation)}: {', '.join(case.id for case in validation)}".rstrip(": "))
    for kind, title in (("error", "Training cannot start before these are solved:"), ("note", "To be aware of:")):
        texts = [f"  {problem}" for problem in problems if problem.kind == kind]
        lines += ["", title, *texts] if texts else []
    wrapped = [textwrap.wrap(line, 120, subsequent_indent=" " * 4, break_on_hyphens=False) or [""] for line in lines]
    return "\n".join([line for group in wrapped for line in group] + ["", _verdict(problems)])


def _verdict(problems):
    count = sum(problem.kind == "error" for problem in problems)
    return f"{_count(count, 'problem')} to solve" if count else "Ready for training"


def _scans(cases):
    return f"{_count(len(cases), 'scan')} of {_count(len({case.subject for case in cases}), 'subject')}"


def _count(number, noun):
    return f"{number} {noun}{'s' * (number != 1)}"


def _look_through(cases, table, report):
    looks = []
    pool = ThreadPoolExecutor(THREADS)
    try:
        report({"event": "progress", "stage": "Checking scans", "done": 0, "total": len(cases)})
        for look in pool.map(lambda case: _look(case, table), cases):
            looks.append(look)
            report({"event": "progress", "stage": "Checking scans", "done": len(looks), "total": len(cases)})
    finally:
        pool.shutdown(cancel_futures=True)
    return looks


def _look(case, table):
    look = _Look()
    image = _read(case.image, look.problems)
    labels = _read(case.labels, look.problems)
    if image is not None:
        try:
            doubts = check_image(image)
            look.problems += [Problem(case.image, _without_path(text, case.image), "note") for text in doubts]
            values = np.ravel(image.array, order="K").astype(np.float32)
            look.digest = hashlib.sha256(repr(image.array.shape).encode() + values.tobytes()).hexdigest()
        except ImageError as error:
            look.problems.append(Problem(case.image, _without_path(error, case.image)))
    if labels is not None:
        _look_at_labels(case, labels, table, look)
    if image is not None and labels is not None and disagreement(image, labels):
        look.problems.append(Problem(case.labels, disagreement(image, labels)))
    return look


def _look_at_labels(case, labels, table, look):
    values, counts = np.unique(labels.array, return_counts=True)
    if not np.array_equal(values, np.round(values)):  # NaN neither
        odd = values[values != np.round(values)][0]
        look.problems.append(Problem(case.labels, f"got a label of {odd:g}; wanted whole numbers, is it a label map?"))
        return
    look.voxels = dict(zip(map(int, values), counts.tolist()))
    if not any(look.voxels.keys() & ids for ids in table.ids):
        text = "none of its ids is a structure in the label table; check that the table fits the data"
        if not look.voxels.keys() - {0}:
            text = "is empty, 0 everywhere; label it, or leave it out"
        look.problems.append(Problem(case.labels, text))


def _read(path, problems):
    try:
        return read_image(path)
    except ImageError as error:
        problems.append(Problem(path, _without_path(error, path)))
        return None


def _without_path(text, path):
    return str(text).removeprefix(f"{path}: ")


def _ids_twice(cases):
    found = defaultdict(list)
    for case in cases:
        found[case.id].append(case)
    for same in found.values():
        for case in same[1:]:
            yield Problem(case.image, f"has the name {case.id} as {same[0].image} has; each scan needs its own")


def _on_both_sides(training, validation):
    for subject in sorted({case.subject for case in training} & {case.subject for case in validation}):
        scans = [case for case in (*training, *validation) if case.subject == subject]
        names = ", ".join(case.id for case in scans)
        text = f"the subject {subject} is in training and validation ({names}); hold out all or none"
        yield Problem(scans[-1].image, text)


def _scans_twice(cases, looks, held_out):
    found = defaultdict(list)
    for case, look in zip(cases, looks):
        if look.digest:
            found[look.digest].append(case)
    for same in found.values():
        for case in same[1:]:
            if (case.image in held_out) != (same[0].image in held_out):
                text = f"is the same scan as {same[0].image}, but one is for training, one for validation; remove one"
                yield Problem(case.image, text)
            else:
                yield Problem(case.image, f"is the same scan as {same[0].image}; it counts twice", "note")


def _unlisted(table, looks):
    voxels, maps = defaultdict(int), defaultdict(int)
    for look in looks:
        for source in look.voxels.keys() - table.listed:
            voxels[source] += look.voxels[source]
            maps[source] += 1
    if voxels:
        parts = [f"{i} ({_count(voxels[i], 'voxel')} in {maps[i]} of {len(looks)} maps)" for i in sorted(voxels)]
        more = [f"and {len(parts) - LISTED_IDS} more"] if len(parts) > LISTED_IDS else []
        names = ", ".join(parts[:LISTED_IDS] + more)
        if table.complete:
            text = f"does not list ids that occur: {names}; add them to a structure, or to the background (label 0)"
            yield Problem(table.path, text)
        else:
            yield Problem(table.path, f"does not list ids that occur, they count as background: {names}", "note")


def _missing_structures(table, looks):
    found = {source for look in looks for source in look.voxels}
    for name, ids in zip(table.names, table.ids):
        if ids and found and not ids & found:
            yield Problem(table.path, f"{name} occurs in no label map; the network cannot learn it from these", "note")
    if table.absent:
        wholes = dict.fromkeys(("Background", *table.names)[whole] for _, whole in table.within)
        text = (
            f"the source lacks {', '.join(table.absent)} and labels them as {', '.join(wholes)}: they are neither "
            "trained nor validated on these data; to keep what a network knows of them, start from its weights"
        )
        yield Problem(table.path, text, "note")


def _times(shape):
    return " x ".join(map(str, shape))
