"""What can be segmented, what with doubt, and what not."""

import itertools

import numpy as np

from ..errors import ImageError
from .image import check_kind, times

SMALLEST = 16  # voxels along an axis
VOXEL, FIELD = (0.01, 20.0), (10.0, 1000.0)  # mm of a voxel and of the longest axis; others are no head's
LARGEST_ENTRY = 1e12  # of an affine; squares of larger ones may overflow
COARSEST = 3.0  # mm; thicker slices than this hide the smaller structures
# Cosine of the angle between two axes. 1e-3 moves a voxel by a quarter of its size over a 256 voxel scan.
SHEAR = 1e-3
# CT: air is -1000 HU and fills much of a head scan, while MRI has hardly a value like it on any usual scale.
CT_AIR, CT_SHARE = -500, 0.05
SAME_PLACE = 1e-2  # of affines, mm; as files round them
BACKGROUND = 0.05  # of the range of intensities; the noise around the head in a T1 scan stays below


def check_image(image):
    """Check that an image can be segmented.

    Args:
        image: `Image`.

    Returns:
        List of warnings, a line each, for what can be segmented with doubt: thick slices, CT, a background that is
        not 0, and the image's own `warnings`.

    Raises:
        ImageError: the image cannot be segmented.
    """
    check_kind(image.name, image.array)
    _check_grid(image)
    _check_values(image)
    return [*image.warnings, *(f"{image.name}: {warning}" for warning in _doubts(image))]


def disagreement(image, labels):
    """How the grids of a case's two `Image` differ, or None if they are the same."""
    if image.array.shape != labels.array.shape:
        return (
            f"has {times(labels.array.shape)} voxels, its image {times(image.array.shape)}; "
            "a label map must lie on its image's grid"
        )
    away = np.abs(image.affine - labels.affine).max()
    if not np.allclose(image.affine, labels.affine, atol=SAME_PLACE):
        return f"has another affine than its image (up to {away:.3g}); a label map must lie on its image's grid"
    return None


def _check_grid(image):
    if min(image.array.shape) < SMALLEST:
        raise ImageError(
            f"{image.name}: got {times(image.array.shape)} voxels; wanted {SMALLEST} or more along each axis, "
            "give a scan of the whole head"
        )
    matrix = np.asarray(image.affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not (np.abs(matrix) < LARGEST_ENTRY).all():
        raise ImageError(
            f"{image.name}: got an affine that is not 4 x 4 usual numbers; convert the scan from DICOM again"
        )
    if min(image.spacing) <= 0:
        raise ImageError(
            f"{image.name}: got a voxel size of {times(image.spacing)} mm; wanted more than 0, "
            "convert the scan from DICOM again"
        )
    longest = max(np.multiply(image.spacing, image.array.shape))
    if min(image.spacing) < VOXEL[0] or max(image.spacing) > VOXEL[1] or not FIELD[0] <= longest <= FIELD[1]:
        raise ImageError(
            f"{image.name}: got voxels of {times(image.spacing)} mm, {longest:.4g} mm along the longest axis; wanted "
            f"{VOXEL[0]:g} to {VOXEL[1]:g} mm, and {FIELD[0]:g} to {FIELD[1]:g} mm; check the units, and convert the "
            "scan from DICOM again"
        )
    axes = matrix[:3, :3] / image.spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR:
        raise ImageError(f"{image.name}: got axes that are not at right angles; resample the scan to a straight grid")


def _check_values(image):
    low, high = float(image.array.min()), float(image.array.max())
    # A NaN anywhere makes both NaN. Computation is in float32, so what overflows there is as bad as infinite.
    if not max(abs(low), abs(high)) <= float(np.finfo(np.float32).max):
        raise ImageError(f"{image.name}: got voxels that are NaN or infinite; replace them, for instance by 0")
    if low == high:
        raise ImageError(f"{image.name}: got {low:g} in every voxel; wanted a T1-weighted scan, check the file")


def _doubts(image):
    """Yield what is unusual about an image that passed the checks."""
    if max(image.spacing) > COARSEST:
        yield f"its voxels are {times(image.spacing)} mm; over {COARSEST:g} mm small structures are not reliable"
    sample = image.array[::2, ::2, ::2].astype(np.float32)
    air = np.mean(sample < CT_AIR)
    low, high = np.percentile(sample, (1, 99))
    background = _background(image.array)
    if air > CT_SHARE:
        yield f"{100 * air:.0f} % of its voxels are below {CT_AIR}, as in CT; the networks are made for T1-weighted MRI"
    elif abs(background) > BACKGROUND * (high - low):
        yield f"its background is {background:.3g}, not about 0; the result may be wrong, shift or mask the intensities"


def _background(array):
    """Median over the volume's eight corners of each one's median: shoulders, or a tight crop, fill a few of them."""
    ends = [(slice(0, n // 8), slice(n - n // 8, n)) for n in array.shape]
    return float(np.median([np.median(array[corner]) for corner in itertools.product(*ends)]))
