"""The cameras of the 3D views: fitted to the first result, unless somebody has used them."""

import math

import numpy as np
import slicer
import vtk

from .surface_process import SURFACE

DEFAULT_OFFSET = (0, 500, 0)  # from focal point to position, mm, of a camera that nobody has moved
# What else can be seen in a 3D view. The planes of the slice views are models that editors do not list.
KINDS = ("vtkMRMLModelNode", "vtkMRMLSegmentationNode", "vtkMRMLMarkupsNode", "vtkMRMLVolumeNode")


def fit_cameras(segmentation):
    """Bring a segmentation's surfaces into the middle of every 3D view whose camera is as Slicer made it.

    A camera that was only brought to another place, as Slicer does when it loads a volume, counts as such.
    """
    box = _box(segmentation)
    if not box.IsValid():
        return
    centre, radius = np.zeros(3), box.GetDiagonalLength() / 2
    box.GetCenter(centre)
    for camera in slicer.util.getNodesByClass("vtkMRMLCameraNode"):
        offset = np.subtract(camera.GetPosition(), camera.GetFocalPoint())
        if np.allclose(offset, DEFAULT_OFFSET, atol=1e-3) and np.allclose(camera.GetViewUp(), (0, 0, 1)):
            distance = radius / math.sin(math.radians(camera.GetViewAngle() / 2))
            camera.SetFocalPoint(*centre)
            camera.SetPosition(*(centre + distance * offset / np.linalg.norm(offset)))


def _box(segmentation):
    """The vtkBoundingBox of the surfaces, in mm of the world; a scan has empty space around them."""
    own, box, matrix = vtk.vtkBoundingBox(), vtk.vtkBoundingBox(), vtk.vtkMatrix4x4()
    for segment_id in segmentation.GetSegmentation().GetSegmentIDs():
        surface = segmentation.GetSegmentation().GetSegment(segment_id).GetRepresentation(SURFACE)
        if surface and surface.GetNumberOfPoints():
            own.AddBounds(surface.GetBounds())
    if own.IsValid():
        slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(segmentation.GetParentTransformNode(), None, matrix)
        for corner in range(8):
            place = np.zeros(3)
            own.GetCorner(corner, place)
            box.AddPoint(matrix.MultiplyPoint((*place, 1))[:3])
    return box


def shows_other_things(segmentation):
    """Whether something else than this segmentation is shown in 3D."""
    nodes = [node for kind in KINDS for node in slicer.util.getNodesByClass(kind)]
    return any(_is_shown(node) for node in nodes if node is not segmentation and not node.GetHideFromEditors())


def _is_shown(node):
    displays = [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())]
    if node.IsA("vtkMRMLVolumeNode"):  # by volume rendering only
        displays = [display for display in displays if display and display.IsA("vtkMRMLVolumeRenderingDisplayNode")]
    if node.IsA("vtkMRMLSegmentationNode") and not node.GetSegmentation().GetNumberOfSegments():
        return False
    return any(display and display.GetVisibility() and display.GetVisibility3D() for display in displays)
