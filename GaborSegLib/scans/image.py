"""A scan in memory: an array with the axes i, j, k as stored, and an affine to right-anterior-superior millimetres.

SimpleITK has left-posterior-superior (LPS) millimetres; they are turned into RAS, and back, here alone.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ..errors import ImageError

NIBABEL = (".nii", ".nii.gz", ".mgh", ".mgz")
# Files that hold a whole scan each. DICOM is read too, from the folder that a series lies in.
READABLE = (*NIBABEL, ".nrrd", ".seg.nrrd", ".nhdr", ".mha", ".mhd")
WRITABLE = (*NIBABEL, ".nrrd", ".seg.nrrd")
LABELS_SUFFIX = "_labels"  # of the label map of a scan
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Image:
    """A scan or a label map.

    Args:
        array: (I, J, K), any real type, axes as stored.
        affine: (4, 4) float64, voxel index to right-anterior-superior millimetres.
        path: where it was read from, or None.
        warnings: what was doubtful while it was read, one line each; `checking.check_image` hands them on.
    """

    array: np.ndarray
    affine: np.ndarray
    path: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def spacing(self):
        """Voxel size along i, j, k, mm."""
        return tuple(float(size) for size in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def name(self):
        """What messages call it."""
        return self.path or "the image"


def from_itk(path, image, warnings=()):
    import SimpleITK as sitk

    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise not_one_volume(path, f"{image.GetNumberOfComponentsPerPixel()} values in each voxel")
    array = sitk.GetArrayFromImage(image).T
    check_kind(path, array)
    if path.suffix.lower() in (".nrrd", ".nhdr") and not image.HasMetaDataKey("NRRD_space"):
        warnings = (*warnings, orientation_unknown(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Image(array, LPS_TO_RAS @ affine, str(path), warnings)


def itk_image(array, affine):
    """The SimpleITK image of an array (I, J, K) and its RAS affine (4, 4)."""
    import SimpleITK as sitk

    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def check_kind(name, array):
    if array.ndim != 3:
        raise not_one_volume(name, f"{array.ndim} dimensions ({times(array.shape)})")
    if array.dtype.kind not in "biuf":
        raise not_one_volume(name, "colours or complex numbers")


def orientation_unknown(path):
    return f"{path}: its header does not say how the head lies; check the result, or convert the scan from DICOM again"


def not_one_volume(name, got):
    return ImageError(f"{name}: got {got}; wanted one volume with one number in each voxel, save that on its own")


def reason(error):
    """The line of a library's message that says most: nibabel's first; ITK's last, after places in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    # ITK adds "Reason: No such file or directory" to anything that MetaImage could not read.
    lines = [line for line in lines if line and not line.startswith("Reason:")] or [type(error).__name__]
    return lines[-1].split("): ")[-1] if isinstance(error, RuntimeError) else lines[0]


@contextmanager
def without_itk_warnings():
    import SimpleITK as sitk

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def times(numbers):
    return " x ".join(f"{number:.4g}" for number in numbers)
