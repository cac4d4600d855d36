"""A scan in memory: an array with the axes i, j, k as stored, and an affine to right-anterior-superior millimetres.

SimpleITK, NRRD, MetaImage and DICOM have left-posterior-superior (LPS) millimetres; `LPS_TO_RAS` turns them.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..environment import BYTES_PER_SCAN_VOXEL, main_memory
from ..errors import ImageError

NIBABEL = (".nii", ".nii.gz", ".mgh", ".mgz")
# Files that hold a whole scan each. DICOM is read too, from the folder that a series lies in.
READABLE = (*NIBABEL, ".nrrd", ".seg.nrrd", ".nhdr", ".mha", ".mhd")
WRITABLE = (*NIBABEL, ".nrrd", ".seg.nrrd")
LABELS_SUFFIX = "_labels"  # of the label map of a scan
USUAL_MIB = 16 << 10  # of memory, where the system does not tell what it has
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


def check_memory(path, shape):
    """Check, from what a header says, that this computer can hold and segment a scan; before anything is read.

    Raises:
        ImageError: it cannot.
    """
    needed, total = BYTES_PER_SCAN_VOXEL * math.prod(map(int, shape)) >> 20, main_memory()[0] or USUAL_MIB
    if needed > total:
        raise ImageError(
            f"{path}: its header tells of {times(shape)} voxels, which need about {needed} MiB, and this computer has "
            f"{total} MiB; resample the scan to larger voxels, or export it again if it has not as many"
        )


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


def times(numbers):
    return " x ".join(f"{number:.4g}" for number in numbers)
