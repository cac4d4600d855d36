"""A volume and its corrected segmentation into a data set that `gaborseg train` takes: learning from corrections.

The folder has `images/` and `labels/` with a file for each correction, `structures.csv` (label table), `subjects.csv`
(so that two corrections of one scan are of one subject), and `corrections.json` (the weights to go on from).
"""

import csv
import hashlib
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from . import PanelError, parameters, protocol, write_text
from .results import provenance, structure_colours
from .scan import check_volume, world_affine, write_array

TABLE, SUBJECTS, ABOUT = "structures.csv", "subjects.csv", "corrections.json"


def usual_folder():
    """Where corrections go if no other folder is chosen."""
    return Path.home() / "GaborSeg" / "corrections"


def count_cases(folder):
    """How many corrections a folder holds."""
    return len(_read_subjects(Path(folder)))


def count_subjects(folder):
    """How many people a folder's corrections are of."""
    return len({row["subject"] for row in _read_subjects(Path(folder))})


def weights_of(folder):
    """(variant, path) of the weights that made the last correction's segmentation, or None if they are not known.

    The path is `parameters.BUNDLED` for bundled ones.
    """
    try:
        about = json.loads((Path(folder) / ABOUT).read_text(encoding="utf-8"))
        variant, path = about["variant"], about["weights"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if path and Path(path) == parameters.bundled_weights(variant):
        return variant, parameters.BUNDLED
    return (variant, path) if path and Path(path).is_file() else None


def take_correction(volume, segmentation, folder):
    """Add a volume and its segmentation to a folder of corrections, as a new case; older ones stay.

    Segments are told by their names: each structure needs a segment, an empty one if it is not there, or one for each
    of its halves; two of the same name are one structure, and so are its halves. Where segments overlap, the later one
    in the list wins, as in Slicer's own export.

    Args:
        volume: scalar volume node.
        segmentation: segmentation node.
        folder: of the corrections; made if it is missing.

    Returns:
        (name of the case, number of voxels that belonged to more than one segment).

    Raises:
        PanelError: the names do not fit the folder's structures, there is nothing to learn from, or the disk is full.
    """
    check_volume(volume)
    folder = Path(folder)
    if (folder / SUBJECTS).exists() and not (folder / ABOUT).exists():
        raise PanelError(
            _(
                "{folder}: is a data set that was not made of corrections, and its {file} would be written over; "
                "choose another folder."
            ).format(folder=folder, file=SUBJECTS)
        )
    if segmentation is None or segmentation.GetSegmentation().GetNumberOfSegments() == 0:
        raise PanelError(_("No segmentation is chosen as output; segment the volume first, then correct it."))
    facts = provenance(segmentation)
    structures = _structures(folder, facts)
    labels, overlap = _labels(volume, segmentation, structures, folder)
    array = slicer.util.arrayFromVolume(volume)
    digest = hashlib.sha256(f"{array.shape} {array.dtype}".encode() + array.tobytes()).hexdigest()[:16]
    try:
        return _write(folder, volume, array, labels, structures, digest, facts), overlap
    except OSError as error:
        raise PanelError(
            _("{path}: cannot be written ({reason}); make room, or choose another folder.").format(
                path=error.filename or folder, reason=error.strerror
            )
        ) from error


def _structures(folder, facts):
    """Names in the order of their labels: of the folder's table, else of the weights that made the segmentation."""
    table = folder / TABLE
    if table.is_file():
        with open(table, newline="", encoding="utf-8") as file:
            return [protocol.csv_text(row["structure"]) for row in csv.DictReader(file) if row["label"] != "0"]
    try:
        return parameters.read_card(facts.get("weights_file", ""))["structures"]
    except PanelError:
        return list(structure_colours())


def _labels(volume, node, structures, folder):
    """(uint8 array (K, J, I) on the volume's voxels, number of voxels in more than one segment)"""
    segmentation = node.GetSegmentation()
    ids = list(segmentation.GetSegmentIDs())
    names = [segmentation.GetSegment(segment_id).GetName() for segment_id in ids]
    label_of = _labels_by_name(structures)
    unknown = [name for name in names if _plain(name) not in label_of]
    missing = _missing(structures, set(map(_plain, names)))
    if unknown or missing:
        raise PanelError(_misfit(node.GetName(), unknown, missing, folder))
    numbers = _merged(volume, node, ids)
    labels = np.array([0, *(label_of[_plain(name)] for name in names)], dtype=np.uint8)[numbers]
    if not labels.any():
        raise PanelError(
            _("{name}: all segments are empty on {volume}; there is nothing to learn from.").format(
                name=node.GetName(), volume=volume.GetName()
            )
        )
    overlap = 0
    if segmentation.GetNumberOfLayers() > 1:
        inside = sum((_merged(volume, node, [segment_id]) > 0).astype(np.uint16) for segment_id in ids)
        overlap = int(np.count_nonzero(inside > 1))
    return labels, overlap


def _labels_by_name(structures):
    """Dictionary from plain names of segments to labels; halves have their structure's."""
    halves = {_plain(half): n for n, name in enumerate(structures, start=1) for half in _halves(name)}
    return halves | {_plain(name): n for n, name in enumerate(structures, start=1)}


def _missing(structures, found):
    """Names of segments that are not there: of structures, or of the other half where one is."""
    missing = []
    for name in structures:
        lacking = [half for half in _halves(name) if _plain(half) not in found]
        if lacking and _plain(name) not in found:
            missing += lacking if len(lacking) == 1 else [name]
    return missing


def _halves(structure):
    return [protocol.half_name(structure, side) for side in protocol.SIDES]


def _misfit(name, unknown, missing, folder):
    lines = [_("{name}: its segments do not fit the structures that are trained.").format(name=name)]
    if unknown:
        lines.append(_("Not among them: {names}. Rename or remove these segments.").format(names=", ".join(unknown)))
    if missing:
        lines.append(
            _(
                "Without a segment: {names}. Add a segment of that name, an empty one if the structure is not in this "
                "scan."
            ).format(names=", ".join(missing))
        )
    lines.append(
        _("The structures stand in {file}; for others, choose another folder.").format(file=folder / TABLE)
        if (folder / TABLE).is_file()
        else _("The structures are those of the weights that made the segmentation.")
    )
    return "\n".join(lines)


def _plain(name):
    return name.strip().casefold()


def _merged(volume, segmentation, ids):
    """Number of the segment, from 1, that each voxel of the volume belongs to: array (K, J, I), by Slicer's export.

    Not by slicer.util, whose functions leave a display node in the scene each time.
    """
    segments = vtk.vtkStringArray()
    for segment_id in ids:
        segments.InsertNextValue(segment_id)
    labelmap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "__temporary__")
    try:
        logic = slicer.modules.segmentations.logic()
        if not logic.ExportSegmentsToLabelmapNode(segmentation, segments, labelmap, volume):
            raise PanelError(
                _("{name}: its segments could not be brought to the voxels of {volume}.").format(
                    name=segmentation.GetName(), volume=volume.GetName()
                )
            )
        return slicer.util.arrayFromVolume(labelmap).astype(np.int32)
    finally:
        displays = [labelmap.GetNthDisplayNode(i) for i in range(labelmap.GetNumberOfDisplayNodes())]
        for node in (*(display.GetColorNode() for display in displays), *displays, labelmap):
            if node is not None:
                slicer.mrmlScene.RemoveNode(node)


def _write(folder, volume, array, labels, structures, digest, facts):
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = _read_subjects(folder)
    case = _free_name(folder, re.sub(r"[^\w-]+", "_", volume.GetName()).strip("_") or "scan")
    subject = next((row["subject"] for row in rows if row.get("voxels") == digest), case)
    affine = world_affine(volume)
    hidden = [folder / name / f".{case}.nii.gz" for name in ("images", "labels")]
    try:
        for content, path in zip((array, labels), hidden):
            write_array(content, affine, path)
        if not (folder / TABLE).is_file():
            lines = [[label, name, label] for label, name in enumerate(["Background", *structures])]
            _write_csv(folder / TABLE, ["label", "structure", "ids"], lines)
        about = {
            "variant": facts.get("variant"),
            "weights": facts.get("weights_file"),
            "weights_sha256": facts.get("weights_sha256"),
        }
        write_text(folder / ABOUT, json.dumps(about, indent=1) + "\n")
        # The subject first: a scan that counts as one of its own might be trained on and validated with.
        rows.append({"scan": case, "subject": subject, "voxels": digest})
        columns = ["scan", "subject", "voxels"]
        _write_csv(folder / SUBJECTS, columns, [[row[name] for name in columns] for row in rows])
        for path in hidden:
            os.replace(path, path.with_name(path.name.removeprefix(".")))
    finally:
        for path in hidden:
            path.unlink(missing_ok=True)
    return case


def _free_name(folder, name):
    """The name, with a number if a case has it already."""

    def taken(candidate):
        return any((folder / part / f"{candidate}.nii.gz").exists() for part in ("images", "labels"))

    number, candidate = 1, name
    while taken(candidate):
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _read_subjects(folder):
    """Rows of subjects.csv whose scans are there."""
    path = folder / SUBJECTS
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        lines = csv.DictReader(file, restval="", restkey="")
        rows = [{"voxels": "", **{name: protocol.csv_text(line[name]) for name in line if name}} for line in lines]
    return [row for row in rows if (folder / "images" / f"{row['scan']}.nii.gz").is_file()]


def _write_csv(path, header, rows):
    text = io.StringIO(newline="")
    rows = [[protocol.csv_cell(cell) for cell in row] for row in (header, *rows)]
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())
