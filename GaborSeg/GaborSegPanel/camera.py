"""The cameras of the 3D views: fitted to the first result, unless somebody has used them."""

import math

import numpy as np
import slicer

DEFAULT_OFFSET = (0, 500, 0)  # from focal point to position, mm, of a camera that nobody has moved
# What else can be seen in a 3D view. The planes of the slice views are models that editors do not list.
KINDS = ("vtkMRMLModelNode", "vtkMRMLSegmentationNode", "vtkMRMLMarkupsNode", "vtkMRMLVolumeNode")


def fit_cameras(segmentation):
    """Bring a segmentation into the middle of every 3D view whose camera is as Slicer made it.

    A camera that was only brought to another place, as Slicer does when it loads a volume, counts as such.
    """
    bounds = np.zeros(6)
    segmentation.GetRASBounds(bounds)
    if bounds[0] > bounds[1]:
        return
    centre, radius = (bounds[::2] + bounds[1::2]) / 2, np.linalg.norm(bounds[1::2] - bounds[::2]) / 2
    for camera in slicer.util.getNodesByClass("vtkMRMLCameraNode"):
        offset = np.subtract(camera.GetPosition(), camera.GetFocalPoint())
        if np.allclose(offset, DEFAULT_OFFSET, atol=1e-3) and np.allclose(camera.GetViewUp(), (0, 0, 1)):
            distance = radius / math.sin(math.radians(camera.GetViewAngle() / 2))
            camera.SetFocalPoint(*centre)
            camera.SetPosition(*(centre + distance * offset / np.linalg.norm(offset)))


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
