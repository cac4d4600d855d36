"""A label map and its volumes into the scene: one segmentation node and one table node."""

import csv
import re

import slicer
import vtk

from . import protocol, resource
from .surface_process import LABELMAP, SURFACE, labelmap

ID_PREFIX = "GaborSeg_"  # tells this program's segments from those that a user adds to the same node
WANTS_SURFACES = "GaborSegWantsSurfaces"  # attribute of a segmentation node whose surfaces are not made yet
TABLE_ROLE = "GaborSeg.volumes"  # reference of a segmentation node to the table with its volumes
PROVENANCE_PREFIX = "GaborSeg."
# Fig. 4 of the paper: what lies outside is see-through, so that the deep structures are seen.
SEE_THROUGH = {"Cerebral grey": 0.1, "Cerebral white": 0.07, "Cerebellar grey": 0.15, "Cerebellar white": 0.15}
COLUMNS = ("Structure", "Volume (mL)", "Percent", "Quality")


def show_results(volume, labels, volumes, provenance, segmentation=None, quality=None):
    """Put a result into the scene, without surfaces yet.

    Args:
        volume: the volume node that was segmented.
        labels: uint8 array (K, J, I) on the volume's own voxels.
        volumes: dictionary from structure name to mL; the n-th name has the label n.
        provenance: dictionary, kept as attributes of both nodes.
        segmentation: the node to use again, or None for a new one. What this program made there before is replaced;
            other segments, and what the user chose to see, stay.
        quality: dictionary from structure name to how far it can be trusted, 0 to 1; None where that is not known.

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
        _replace_segments(segmentation, _labelmap(volume, labels), list(volumes))
        table = segmentation.GetNodeReference(TABLE_ROLE)
        if table is None:
            table = _new_node("vtkMRMLTableNode", f"{volume.GetName()} volumes", made)
            segmentation.SetNodeReferenceID(TABLE_ROLE, table.GetID())
        _fill_table(table, volumes, quality)
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


def volume_rows(table):
    """(structure, mL, percent, quality) of each row of a table node, as texts to show; quality may be ""."""
    table = table.GetTable()
    columns = range(1, table.GetNumberOfColumns())  # tables of older scenes have no quality
    rows = [
        (table.GetValue(row, 0).ToString(), *(f"{table.GetValue(row, column).ToDouble():.2f}" for column in columns))
        for row in range(table.GetNumberOfRows())
    ]
    return [row + ("",) * (len(COLUMNS) - len(row)) for row in rows]


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


def _replace_segments(node, image, names):
    segmentation, display = node.GetSegmentation(), node.GetDisplayNode()
    own = [i for i in segmentation.GetSegmentIDs() if i.startswith(ID_PREFIX)]
    # Slicer's Show 3D button removes the surfaces when it is switched off: that is the user's choice too.
    if not own:
        node.SetAttribute(WANTS_SURFACES, "first")
    elif segmentation.ContainsRepresentation(SURFACE):
        node.SetAttribute(WANTS_SURFACES, "again")
    ids = {name: ID_PREFIX + re.sub(r"\W+", "_", name) for name in names}
    modified = node.StartModify()
    try:
        if segmentation.GetNumberOfSegments() == 0:
            segmentation.SetSourceRepresentationName(LABELMAP)
        for old in own:
            if old not in ids.values():
                segmentation.RemoveSegment(old)
        colours, tags = structure_colours(), terminology_tags()
        for label, name in enumerate(names, start=1):
            _put_segment(segmentation, ids[name], name, label, image, colours.get(name), tags.get(name))
            if ids[name] not in own:
                display.SetSegmentOpacity3D(ids[name], SEE_THROUGH.get(name, 1.0))
        segmentation.InvalidateNonSourceRepresentations()
    finally:
        node.EndModify(modified)


def _put_segment(segmentation, segment_id, name, label, image, colour, tag):
    """Add a segment, or give the one that is there its new voxels. All segments share one label map."""
    segment = segmentation.GetSegment(segment_id)
    is_new = segment is None
    if is_new:
        segment = slicer.vtkSegment()
        segment.SetName(name)
        if colour:
            segment.SetColor(*colour)
        if tag:
            segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), tag)
    segment.SetLabelValue(label)
    segment.AddRepresentation(LABELMAP, image)
    if is_new:
        segmentation.AddSegment(segment, segment_id)


def _fill_table(node, volumes, quality):
    table = vtk.vtkTable()
    total = sum(volumes.values()) or 1.0
    columns = [list(volumes), list(volumes.values()), [100 * volume / total for volume in volumes.values()]]
    if quality:
        columns.append([quality[name] for name in volumes])
    for title, values in zip(COLUMNS, columns):
        column = vtk.vtkDoubleArray() if title != COLUMNS[0] else vtk.vtkStringArray()
        column.SetName(title)
        for value in values:
            column.InsertNextValue(value)
        table.AddColumn(column)
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)  # a result is not to be edited by a slip of the hand
