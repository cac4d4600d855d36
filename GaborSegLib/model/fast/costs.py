"""What a convolution costs, in nanoseconds, by its sizes alone: counts of multiplications, with measured weights.

Nothing is measured while a network runs: a training run that is resumed must take the same way as before to end at the
same weights.
"""

import math
from typing import NamedTuple

from .fourier import axis_of, frequencies

# Voxels of an axis that a tile may have, beside all of them.
STEPS = (8, 10, 12, 16, 20, 32)
# The same for spectra that are kept.
KEPT_STEPS = (8, 10, 16, 20)


class Costs(NamedTuple):
    """Nanoseconds of one multiplication of each kind, fitted to measured layers on one core with AVX-512.

    direct: of a direct convolution. taps: of the transforms of the kernels. product: of the spectra's products.
    transform: of the image's transforms. number: of one number that is moved: of the image's spectrum where it has to
        be brought into the order of the products, or of kernels' spectra that are kept and do not fit into the cache.
    """

    direct: float
    taps: float
    product: float
    transform: float
    number: float


TRAINING = Costs(direct=0.08, taps=0.14, product=0.25, transform=0.20, number=1.9)  # forward and backward
INFERENCE = Costs(direct=0.02, taps=0.04, product=0.11, transform=0.07, number=0.05)
KEPT_SPECTRA = Costs(direct=0.02, taps=0.0, product=0.039, transform=0.058, number=2.2)


def cuts(size, k, steps=STEPS):
    """The ways to cut a volume of this size into tiles for k^3 kernels: a list of three `Axis`."""
    return [tuple(axis_of(n, k, -(-n // step)) for n in size) for step in (*steps, max(size))]


def direct(shape, outputs, k, costs):
    """Nanoseconds of torch's own convolution of (B, I, D, H, W)."""
    batch, inputs, *size = shape
    return batch * inputs * outputs * _taps_that_meet_a_voxel(size, k) * costs.direct


def by_frequencies(shape, outputs, k, axes, costs):
    """Nanoseconds of `fourier.convolve`."""
    batch, inputs = shape[:2]
    tiles = batch * math.prod(axis.tiles for axis in axes)
    points = frequencies(axes)
    return (
        inputs * outputs * (_transform_products(axes, [k] * 3) * costs.taps + 4 * points * tiles * costs.product)
        + (inputs + outputs) * 4 * points * tiles * costs.number
        + tiles * _image_products(axes, inputs, outputs) * costs.transform
    )


def with_kept_spectra(shape, outputs, axes, costs=KEPT_SPECTRA):
    """Nanoseconds of `fourier.convolve_spectra`."""
    batch, inputs = shape[:2]
    tiles = batch * math.prod(axis.tiles for axis in axes)
    return (
        inputs * outputs * frequencies(axes) * (4 * tiles * costs.product + 2 * costs.number)
        + tiles * _image_products(axes, inputs, outputs) * costs.transform
    )


def _taps_that_meet_a_voxel(size, k):
    """Taps, over all voxels of a volume, that stand on a voxel: a direct convolution skips those beside the volume."""
    reach = k // 2
    return math.prod(k * n - reach * (reach + 1) if n > reach else n * n for n in size)


def _image_products(axes, inputs, outputs):
    """Multiplications of the transforms of one tile, to and fro."""
    return inputs * _transform_products(axes, [axis.window for axis in axes]) + outputs * _transform_products(
        axes, [axis.step for axis in axes]
    )


def _transform_products(axes, lengths):
    z, y, x = lengths
    half, n_y, n_x = axes[0].n // 2 + 1, axes[1].n, axes[2].n
    return 2 * half * z * y * x + 4 * half * n_y * y * x + 4 * half * n_y * n_x * x
