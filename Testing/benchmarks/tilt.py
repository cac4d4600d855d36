"""How much a segmentation changes when a head lies tilted in its scan.

A scan that is stored with an oblique affine is seen along its own axes, and gives the same segmentation exactly
(Testing/library/test_segmenter.py). Here the average brain is resampled onto a tilted grid, so that the network meets a
tilted head, interpolated once more; the labels are brought back by nearest neighbour and compared with the untilted
ones. The Dice of the labels themselves after both resamplings shows what no network could keep.
"""

import argparse

import numpy as np
import SimpleITK as sitk

from GaborSegLib.cli.demo import icbm152
from GaborSegLib.evaluation.metrics import dice
from GaborSegLib.inference.segmenter import Segmenter
from GaborSegLib.scans.image import Image, itk_image


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="mixed")
    parser.add_argument("--degrees", type=float, nargs="+", default=[5, 10, 20])
    options = parser.parse_args()
    segmenter, image = Segmenter(options.weights), icbm152()
    straight = segmenter.segment(image).labels
    print(f"{'tilt':>6}{'mean Dice':>12}{'lowest':>10}{'resampling alone':>19}")
    for degrees in options.degrees:
        there = tilt(image, degrees)
        tilted = resampled(image.array.astype(np.float32), image.affine, there, sitk.sitkLinear)
        found = segmenter.segment(Image(tilted, image.affine)).labels
        scores = compare(resampled(found, image.affine, there.GetInverse(), sitk.sitkNearestNeighbor), straight)
        moved = resampled(straight, image.affine, there, sitk.sitkNearestNeighbor)
        floor = compare(resampled(moved, image.affine, there.GetInverse(), sitk.sitkNearestNeighbor), straight)
        print(f"{degrees:>5g}°{np.mean(scores):>12.3f}{np.min(scores):>10.3f}{np.mean(floor):>19.3f}")


def tilt(image, degrees):
    """Rotation about the left-right axis (a nod) and half as much about the front-back axis, around the centre."""
    centre = itk_image(image.array, image.affine).TransformContinuousIndexToPhysicalPoint(
        [(size - 1) / 2 for size in image.array.shape]
    )
    angle = np.deg2rad(degrees)
    return sitk.Euler3DTransform(centre, angle, angle / 2, 0.0)


def resampled(array, affine, transform, interpolator):
    image = itk_image(array, affine)
    return sitk.GetArrayFromImage(sitk.Resample(image, image, transform, interpolator, 0.0)).T


def compare(labels, straight):
    return dice(np.ascontiguousarray(labels), straight, range(1, int(straight.max()) + 1))


if __name__ == "__main__":
    main()
