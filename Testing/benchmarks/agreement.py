"""How far two label maps of one person agree: one scan is brought onto the other, and its labels with it.

What experts reach with themselves on a second scan is about what a network can reach with them.
"""

import numpy as np
import SimpleITK

from GaborSegLib.evaluation.metrics import dice
from GaborSegLib.scans.image import itk_image


def agreement(fixed, moving, maps):
    """Dice of each structure between label maps of two scans of one person.

    Args:
        fixed, moving: `scans.Scan` of one person.
        maps: list of (label map of `fixed`, label map of `moving`), as the scans' arrays.

    Returns:
        For each pair of maps an array, one number for each label from 1 to the highest of the experts' maps.
    """
    labels = range(1, int(fixed.truth.max()) + 1)
    motion = rigid_motion(*(itk_image(scan.image.array, scan.image.affine) for scan in (fixed, moving)))
    return [dice(_moved(there, moving, fixed, motion, labels), here, labels) for here, there in maps]


def rigid_motion(fixed, moving):
    """The rigid transform from points of one SimpleITK image to those of another with the largest correlation."""
    method = SimpleITK.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # threads add in no fixed order, and the path to the optimum differs
    method.SetMetricAsCorrelation()
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.1)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 300)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([3, 1, 0])
    by_moments = SimpleITK.CenteredTransformInitializerFilter.MOMENTS
    start = SimpleITK.CenteredTransformInitializer(fixed, moving, SimpleITK.Euler3DTransform(), by_moments)
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(fixed, moving)
    return start


def _moved(labels, moving, fixed, motion, values):
    """A label map on another scan's grid: each label interpolated linearly, the largest share wins."""
    reference = itk_image(fixed.image.array, fixed.image.affine)
    moved = np.zeros(fixed.image.array.shape, dtype=np.uint8)
    largest = np.full(moved.shape, -1.0, dtype=np.float32)
    for value in (0, *values):
        share = SimpleITK.Resample(
            itk_image((labels == value).astype(np.float32), moving.image.affine),
            reference,
            motion,
            SimpleITK.sitkLinear,
            float(value == 0),
        )
        share = SimpleITK.GetArrayFromImage(share).T
        moved[share > largest] = value
        largest = np.maximum(largest, share)
    return moved
