"""A volume node out to a file, and a label map back onto the volume's own voxels. Geometry is an affine both ways."""

import shutil

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _

from . import PanelError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHEAR = 1e-3  # cosine between two axes, as in the library
ROOM = 64 << 20  # bytes that a run needs beside the scan: the labels, events, log


def check_volume(volume):
    """Refuse what cannot be segmented before anything is started.

    Raises:
        PanelError: no volume, no voxels, or a transform that is not linear or shears.
    """
    if volume is None:
        raise PanelError(_("No volume is chosen; load a T1 scan and choose it as the input volume."))
    name = volume.GetName()
    if volume.GetImageData() is None:
        raise PanelError(_("{name}: holds no voxels; load the scan again or choose another volume.").format(name=name))
    transform = volume.GetParentTransformNode()
    if transform is not None and not transform.IsTransformToWorldLinear():
        raise PanelError(
            _("{name}: is under a transform that is not linear; harden it, or take the volume out of it.").format(
                name=name
            )
        )
    axes = world_affine(volume)[:3, :3]
    axes = axes / np.linalg.norm(axes, axis=0)
    if not np.abs(axes.T @ axes - np.eye(3)).max() <= SHEAR:  # also where an axis has no length
        raise PanelError(
            _(
                "{name}: its axes are not at right angles; resample it to a straight grid (module Resample Image)."
            ).format(name=name)
        )


def world_affine(volume):
    """(4, 4), voxel index (i, j, k) to right-anterior-superior mm of the world, with all parent transforms."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    affine = slicer.util.arrayFromVTKMatrix(matrix)
    if volume.GetParentTransformNode() is None:
        return affine
    volume.GetParentTransformNode().GetMatrixTransformToWorld(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix) @ affine


def write_volume(volume, path):
    """Write a volume where it lies in the world, as NIfTI.

    Returns:
        (4, 4), the affine that it was written with: voxel index to RAS mm.

    Raises:
        PanelError: the disk is full or cannot be written to.
    """
    array, affine = slicer.util.arrayFromVolume(volume), world_affine(volume)
    write_array(array, affine, path)
    return affine


def write_array(array, affine, path):
    """Write voxels (K, J, I) with an affine, voxel index (i, j, k) to RAS mm, as NIfTI; see `write_volume`."""
    if shutil.disk_usage(path.parent).free < array.nbytes + ROOM:
        raise PanelError(
            _(
                "{folder}: the disk is full, {size} MiB are needed; make room on it, or choose another folder (the "
                "application settings have the one for temporary files)."
            ).format(folder=path.parent.parent, size=(array.nbytes + ROOM) >> 20)
        )
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    try:
        sitk.WriteImage(image, str(path))
    except RuntimeError as error:
        raise PanelError(_("{path}: cannot be written; make room on the disk.").format(path=path)) from error


def read_labels(path, volume, affine):
    """A label map that was made of `write_volume`'s file: integers (K, J, I) on the volume's voxels.

    Args:
        affine: what `write_volume` returned. The volume may have been moved since; its voxels are the same.

    Raises:
        PanelError: the volume has other voxels now.
    """
    image = sitk.ReadImage(str(path))
    if image.GetSize() != volume.GetImageData().GetDimensions():
        raise PanelError(
            _("{name}: was changed while it was segmented; click Segment again.").format(name=volume.GetName())
        )
    found = np.eye(4)
    found[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    found[:3, 3] = image.GetOrigin()
    # The label map's voxels in the scan's indices: the same ones, but for rounding in the file.
    corners = np.array([[0, 0, 0, 1], [*(n - 1 for n in image.GetSize()), 1]], dtype=float).T
    moved = np.linalg.inv(affine) @ LPS_TO_RAS @ found @ corners
    if np.abs(moved - corners).max() > 0.1:
        raise ValueError(f"{path}: the label map does not lie on the scan")
    return sitk.GetArrayFromImage(image)
