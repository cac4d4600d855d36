"""A label map and its volumes into the scene: one segmentation node and one table node."""

import csv
import re
from dataclasses import dataclass

import slicer
import vtk

from . import protocol, resource
from .surface_process import LABELMAP, SURFACE, labelmap
from .volumes import fill

ID_PREFIX = "GaborSeg_"  # tells this program's segments from those that a user adds to the same node
WANTS_SURFACES = "GaborSegWantsSurfaces"  # attribute of a segmentation node whose surfaces are not made yet
TABLE_ROLE = "GaborSeg.volumes"  # reference of a segmentation node to the table with its volumes
PROVENANCE_PREFIX = "GaborSeg."
# Fig. 4 of the paper: what lies outside is see-through, so that the deep structures are seen.
SEE_THROUGH = {"Cerebral grey": 0.1, "Cerebral white": 0.07, "Cerebellar grey": 0.15, "Cerebellar white": 0.15}


@dataclass(frozen=True)
class _Part:
    """What a segment is made of: a structure, or half of one.

    Args:
        label: in the label map.
        colour: (red, green, blue), 0 to 1, or None.
        tag: its terminology tag, or None.
    """

    structure: str
    name: str
    label: int
    colour: tuple
    tag: str


def show_results(
    volume, labels, volumes, provenance, segmentation=None, quality=None, sides=None, icv=None, segments=None
):
    """Put a result into the scene, without surfaces yet.

    Args:
        volume: the volume node that was segmented.
        labels: array (K, J, I) of integers on the volume's own voxels.
        volumes: dictionary from structure name to mL; the n-th name has the label n, unless there are `segments`.
        provenance: dictionary, kept as attributes of both nodes.
        segmentation: the node to use again, or None for a new one. What this program made there before is replaced;
            other segments, and what the user chose to see, stay.
        quality: dictionary from structure name to how far it can be trusted, 0 to 1; None where that is not known.
        sides, icv: as in the `result` event, halves of structures and intracranial volume; None where not known.
        segments: as in the `result` event, what each label stands for, where structures are divided into halves.

    Returns:
        The segmentation node. Where `wants_surfaces`, they are to be made (see `Surfaces`).
    """
    made = []  # taken away again if anything fails on the way
    try:
        if segmentation is None:
            segmentation = _new_node("vtkMRMLSegmentationNode", f"{volume.GetName()} segmentation", made)
        if segmentation.GetDisplayNode() is None:
            segmentation.CreateDefaultDisplayNodes()
            made.append(segmentation.GetDisplayNode())
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        segmentation.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        _replace_segments(segmentation, _labelmap(volume, labels), _parts(list(volumes), segments))
        table = segmentation.GetNodeReference(TABLE_ROLE)
        if table is None:
            table = _new_node("vtkMRMLTableNode", f"{volume.GetName()} volumes", made)
            segmentation.SetNodeReferenceID(TABLE_ROLE, table.GetID())
        fill(table, volumes, quality, sides, icv)
    except Exception:
        for node in made:
            slicer.mrmlScene.RemoveNode(node)
        raise
    note(segmentation, provenance)
    return segmentation


def note(segmentation, provenance):
    """Note on a result's nodes how it was made, a dictionary; what was noted before and is not in it stays."""
    for node in filter(None, (segmentation, volumes_table(segmentation))):
        for key, value in provenance.items():
            node.SetAttribute(PROVENANCE_PREFIX + key, str(value))


def wants_surfaces(segmentation):
    """Whether a result is without surfaces, and the user did not switch them off in the one that it replaced."""
    there_are = segmentation.GetSegmentation().ContainsRepresentation(SURFACE)
    return segmentation.GetAttribute(WANTS_SURFACES) is not None and not there_are


def show_surfaces(segmentation):
    """Show in 3D the surfaces that were made for a result; another one in the same node keeps what the user chose."""
    is_first = segmentation.GetAttribute(WANTS_SURFACES) == "first"
    segmentation.RemoveAttribute(WANTS_SURFACES)
    if is_first:
        segmentation.GetDisplayNode().SetPreferredDisplayRepresentationName3D(SURFACE)
        segmentation.GetDisplayNode().SetVisibility3D(True)
    return is_first


def volumes_table(segmentation):
    """The table node with a segmentation's volumes, or None."""
    return segmentation.GetNodeReference(TABLE_ROLE) if segmentation else None


def provenance(node):
    """What `show_results` noted on a node about how it was made, a dictionary."""
    names = [name for name in node.GetAttributeNames() if name.startswith(PROVENANCE_PREFIX)]
    return {name[len(PROVENANCE_PREFIX) :]: node.GetAttribute(name) for name in names}


def load_terminology():
    """Make the terms known to Slicer's terminology selector."""
    terminologies = getattr(slicer.modules, "terminologies", None)
    if terminologies is not None:
        terminologies.logic().LoadTerminologyFromFile(str(resource("GaborSeg.term.json")))


def terminology_tags():
    """Dictionary from structure name to the text that Slicer keeps as a segment's terminology tag."""
    return protocol.terminology_tags(resource("GaborSeg.term.json"))


def structure_colours():
    """Dictionary from structure name to (red, green, blue), 0 to 1."""
    with open(resource("structures.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["structure"]: tuple(int(row[c]) / 255 for c in ("red", "green", "blue")) for row in rows}


def _new_node(kind, name, made):
    node = slicer.mrmlScene.AddNewNodeByClass(kind, slicer.mrmlScene.GenerateUniqueName(name))
    made.append(node)
    return node


def _labelmap(volume, labels):
    """The label map as the image that a segmentation holds, on the volume's voxels."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return labelmap(labels, slicer.util.arrayFromVTKMatrix(matrix))


def _parts(names, segments):
    """A list of `_Part`: of `segments`, else of structures of these names, in the order of their labels."""
    if segments:
        return [
            _Part(part["structure"], part["name"], part["label"], tuple(c / 255 for c in part["colour"]), part["term"])
            for part in segments
        ]
    colours, tags = structure_colours(), terminology_tags()
    return [_Part(name, name, n, colours.get(name), tags.get(name)) for n, name in enumerate(names, start=1)]


def _replace_segments(node, image, parts):
    segmentation, display = node.GetSegmentation(), node.GetDisplayNode()
    own = [i for i in segmentation.GetSegmentIDs() if i.startswith(ID_PREFIX)]
    # Slicer's Show 3D button removes the surfaces when it is switched off: that is the user's choice too.
    if not own:
        node.SetAttribute(WANTS_SURFACES, "first")
    elif segmentation.ContainsRepresentation(SURFACE):
        node.SetAttribute(WANTS_SURFACES, "again")
    ids = [ID_PREFIX + re.sub(r"\W+", "_", part.name) for part in parts]
    modified = node.StartModify()
    try:
        if segmentation.GetNumberOfSegments() == 0:
            segmentation.SetSourceRepresentationName(LABELMAP)
        # First: while some segment has a surface, each that is added is given one at once, and Slicer waits for it.
        segmentation.InvalidateNonSourceRepresentations()
        first = segmentation.GetSegmentIndex(own[0]) if own else segmentation.GetNumberOfSegments()
        for old in own:
            if old not in ids:
                segmentation.GetSegment(old).RemoveAllRepresentations()  # else its voxels are looked for, to be cleared
                segmentation.RemoveSegment(old)
        for segment_id, part in zip(ids, parts):
            _put_segment(segmentation, segment_id, part, image)
            if segment_id not in own:
                display.SetSegmentOpacity3D(segment_id, SEE_THROUGH.get(part.structure, 1.0))
        if set(own) != set(ids):  # else the order is the user's
            for n, segment_id in enumerate(ids):
                segmentation.SetSegmentIndex(segment_id, first + n)
    finally:
        node.EndModify(modified)


def _put_segment(segmentation, segment_id, part, image):
    """Add a segment, or give the one that is there its new voxels. All segments share one label map."""
    segment = segmentation.GetSegment(segment_id)
    is_new = segment is None
    if is_new:
        segment = slicer.vtkSegment()
        segment.SetName(part.name)
        if part.colour:
            segment.SetColor(*part.colour)
        if part.tag:
            segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), part.tag)
    segment.SetLabelValue(part.label)
    segment.AddRepresentation(LABELMAP, image)
    if is_new:
        segmentation.AddSegment(segment, segment_id)
