"""What scanners do to a scan, as changes to a good one: the benchmarks measure what each costs.

Where a strength is called weakest, middle or strongest, it is that of the range from which TorchIO's random transform
of that name draws by default (Pérez-García et al. 2021, https://doi.org/10.1016/j.cmpb.2021.106236). The changes are
written anew here, in a few lines each.

Every change takes (image, truth, random): an `Image` turned to right, anterior, superior with intensities of any scale,
its label map, and a numpy generator; it returns the changed (image, truth).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import SimpleITK as sitk

from GaborSegLib.scans.image import Image, itk_image

RIGHT, ANTERIOR, SUPERIOR = range(3)


@dataclass(frozen=True)
class Degradation:
    """One change at one strength."""

    name: str
    strength: str
    change: Callable


def gamma(image, truth, random, log_gamma):
    """Intensities to the power of exp(log_gamma); their unit does not matter, as the scale does not."""
    return _with(image, np.sign(image.array) * np.abs(image.array) ** np.exp(log_gamma)), truth


def bias_field(image, truth, random, coefficients, order=3):
    """Times the exponential of a polynomial; each coefficient is drawn from ± `coefficients`, the places from ± 1."""
    lines = [np.linspace(-1, 1, n, dtype=np.float32) for n in image.array.shape]
    x, y, z = np.meshgrid(*lines, indexing="ij", sparse=True)
    powers = [(i, j, k) for i in range(order + 1) for j in range(order + 1 - i) for k in range(order + 1 - i - j)]
    drawn = random.uniform(-coefficients, coefficients, len(powers))
    exponent = sum(np.float32(c) * x**i * y**j * z**k for c, (i, j, k) in zip(drawn, powers))
    return _with(image, image.array * np.exp(exponent)), truth


def noise(image, truth, random, std):
    """Gaussian noise in every voxel; `std` in standard deviations of the whole image, as after z-normalisation."""
    return _with(image, image.array + std * image.array.std() * random.standard_normal(image.array.shape)), truth


def blur(image, truth, random, std):
    """Gaussian blur; `std` in mm, along all axes."""
    array = image.array
    for axis, spacing in enumerate(image.spacing):
        place = np.arange(array.shape[axis])
        weights = np.exp(-(((place[:, None] - place) * spacing / std) ** 2) / 2)
        array = _along(weights / weights.sum(axis=1, keepdims=True), array, axis)
    return _with(image, array), truth


def resolution(image, truth, random, spacing):
    """Voxels of another size (mm along each axis): averages where they are larger, interpolated where smaller.

    The labels are resampled in the same way, each as an image, and the strongest wins.
    """
    ratio = np.array(spacing) / image.spacing
    matrices = [_resampling(n, r) for n, r in zip(image.array.shape, ratio)]
    scale = np.diag([*ratio, 1.0])
    scale[:3, 3] = (ratio - 1) / 2
    best = np.zeros([len(matrix) for matrix in matrices], dtype=np.float32)
    labels = np.zeros(best.shape, dtype=np.uint8)
    for label in np.unique(truth):
        weight = _resampled(matrices, (truth == label).astype(np.float32))
        labels[weight > best] = label
        best = np.maximum(best, weight)
    return Image(_resampled(matrices, image.array), image.affine @ scale), labels


def thick_slices(image, truth, random, axis, thickness):
    """Slices of a thickness in mm along one axis, each the mean of what it covers; the header says so."""
    spacing = list(image.spacing)
    spacing[axis] = thickness
    return resolution(image, truth, random, spacing)


def anisotropy(image, truth, random, downsampling):
    """Every so many-th voxel (nearest) along a drawn axis, interpolated back; the header knows nothing of it."""
    axis = random.integers(3)
    places = np.arange(image.array.shape[axis])
    kept = (np.arange(0, len(places) - 1e-9, downsampling) + (downsampling - 1) / 2).clip(0, len(places) - 1)
    array = np.take(image.array, np.rint(kept).astype(int), axis)
    index = ((places - kept[0]) / downsampling).clip(0, len(kept) - 1)
    weights = np.maximum(0, 1 - np.abs(index[:, None] - np.arange(len(kept))))
    return _with(image, _along(weights, array, axis)), truth


def ghosting(image, truth, random, ghosts, intensity):
    """Every `ghosts`-th plane of k-space along a drawn axis weakened to 1 - intensity, but for the central one."""
    axis = random.integers(3)
    spectrum = np.fft.fftshift(np.fft.fft(image.array, axis=axis), axes=axis)
    weights = np.ones(image.array.shape[axis])
    weights[::ghosts] -= intensity
    weights[len(weights) // 2] = 1
    spectrum *= np.expand_dims(weights, [other for other in range(3) if other != axis])
    return _with(image, np.fft.ifft(np.fft.ifftshift(spectrum, axes=axis), axis=axis).real), truth


def spike(image, truth, random, intensity):
    """One value added at a drawn place of k-space: stripes whose height is `intensity` times the image's mean."""
    frequency = random.uniform(-0.5, 0.5, 3)
    phase = sum(
        np.expand_dims(frequency[axis] * np.arange(n), [other for other in range(3) if other != axis])
        for axis, n in enumerate(image.array.shape)
    )
    return _with(image, image.array + intensity * image.array.mean() * np.cos(2 * np.pi * phase)), truth


def motion(image, truth, random, degrees, translation, movements=2):
    """The head moves while k-space is filled along a drawn axis; its centre is of the head where it was.

    Each movement's angles (degrees) and shifts (mm) are drawn from ± their limits.
    """
    axis = random.integers(3)
    still = itk_image(image.array, image.affine)
    centre = still.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.array.shape])
    spectra = [np.fft.fftshift(np.fft.fftn(image.array))]
    for _ in range(movements):
        angles = np.deg2rad(random.uniform(-degrees, degrees, 3))
        transform = sitk.Euler3DTransform(centre, *angles, random.uniform(-translation, translation, 3))
        moved = sitk.Resample(still, still, transform, sitk.sitkLinear, 0.0)
        spectra.append(np.fft.fftshift(np.fft.fftn(sitk.GetArrayFromImage(moved).T)))
    step = 1 / (movements + 1)
    times = step * (np.arange(1, movements + 1) + random.uniform(-0.3, 0.3, movements))
    ends = [0, *(times * image.array.shape[axis]).astype(int), image.array.shape[axis]]
    middle = int(np.searchsorted(ends, image.array.shape[axis] // 2, side="right")) - 1
    spectra[0], spectra[middle] = spectra[middle], spectra[0]
    parts = [np.take(s, range(a, b), axis) for s, a, b in zip(spectra, ends, ends[1:])]
    return _with(image, np.fft.ifftn(np.fft.ifftshift(np.concatenate(parts, axis))).real), truth


def cut(image, truth, random, axis, share):
    """The field of view ends early: a share of an axis is missing, at its upper end if the share is negative."""
    n = image.array.shape[axis]
    width = round(abs(share) * n)
    kept = slice(width, n) if share > 0 else slice(0, n - width)
    index = tuple(kept if other == axis else slice(None) for other in range(3))
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, axis] * kept.start
    return Image(image.array[index], affine), truth[index]


def intensity(image, truth, random, scale=1.0, offset=0.0):
    """All intensities times a scale; and an offset, as a share of the mean of what is not 0, added to all."""
    return _with(image, scale * (image.array + offset * image.array[image.array > 0].mean())), truth


def degraded(degradation, image, truth, scan):
    """Apply one; what is random depends on the scan's name and the degradation alone."""
    seed = np.frombuffer(f"{scan} {degradation.name} {degradation.strength}".encode(), dtype=np.uint8)
    return degradation.change(image, truth, np.random.default_rng(seed))


def _with(image, array):
    return replace(image, array=np.asarray(array, dtype=np.float32))


def _along(matrix, array, axis):
    """Multiply (m, n) onto one axis (of n) of an array."""
    return np.moveaxis(np.tensordot(matrix.astype(np.float32), array, axes=(1, axis)), 0, axis)


def _resampled(matrices, array):
    for axis, matrix in enumerate(matrices):
        array = _along(matrix, array, axis)
    return array


def _resampling(n, ratio):
    """(m, n) weights to voxels `ratio` times as large that start at the same edge, zero outside."""
    centres = (np.arange(int(np.ceil(n / ratio - 1e-6))) + 0.5) * ratio - 0.5
    distance = np.abs(centres[:, None] - np.arange(n))
    if ratio > 1:
        return (np.minimum(ratio / 2, distance + 0.5) - np.maximum(-ratio / 2, distance - 0.5)).clip(0) / ratio
    return (1 - distance).clip(0)


DEGRADATIONS = [
    Degradation("Gamma", "log gamma -0.3, strongest", partial(gamma, log_gamma=-0.3)),
    Degradation("Gamma", "log gamma +0.3, strongest", partial(gamma, log_gamma=0.3)),
    Degradation("Bias field", "coefficients ± 0.5, order 3, strongest", partial(bias_field, coefficients=0.5)),
    Degradation("Noise", "0.125 of the image's deviation, middle", partial(noise, std=0.125)),
    Degradation("Noise", "0.25 of it, strongest", partial(noise, std=0.25)),
    Degradation("Blur", "1 mm, middle", partial(blur, std=1.0)),
    Degradation("Blur", "2 mm, strongest", partial(blur, std=2.0)),
    Degradation("Anisotropy", "downsampling 1.5, weakest", partial(anisotropy, downsampling=1.5)),
    Degradation("Anisotropy", "3.25, middle", partial(anisotropy, downsampling=3.25)),
    Degradation("Anisotropy", "5, strongest", partial(anisotropy, downsampling=5.0)),
    Degradation("Ghosting", "7 ghosts of 0.75, middle", partial(ghosting, ghosts=7, intensity=0.75)),
    Degradation("Ghosting", "4 ghosts of 1, strongest", partial(ghosting, ghosts=4, intensity=1.0)),
    Degradation("Spike", "1 times the mean, weakest", partial(spike, intensity=1.0)),
    Degradation("Spike", "2 times, middle", partial(spike, intensity=2.0)),
    Degradation("Spike", "3 times, strongest", partial(spike, intensity=3.0)),
    Degradation("Motion", "2 of ± 5 degrees, ± 5 mm, middle", partial(motion, degrees=5.0, translation=5.0)),
    Degradation("Motion", "2 of ± 10 degrees, ± 10 mm, strongest", partial(motion, degrees=10.0, translation=10.0)),
    *(
        Degradation("Slices", f"{thickness} mm {plane}", partial(thick_slices, axis=axis, thickness=thickness))
        for thickness, plane, axis in (
            (2, "axial", SUPERIOR),
            (3, "axial", SUPERIOR),
            (3, "coronal", ANTERIOR),
            (3, "sagittal", RIGHT),
        )
    ),
    *(Degradation("Resolution", f"{size} mm", partial(resolution, spacing=(size,) * 3)) for size in (0.7, 1.5)),
    *(
        Degradation("Field of view", f"{text} missing", partial(cut, axis=axis, share=share))
        for text, axis, share in (
            ("lowest 15 %", SUPERIOR, 0.15),
            ("highest 15 %", SUPERIOR, -0.15),
            ("left 15 %", RIGHT, 0.15),
        )
    ),
    Degradation("Intensity scale", "times 0.001", partial(intensity, scale=0.001)),
    Degradation("Intensity scale", "times 1000", partial(intensity, scale=1000.0)),
    Degradation("Intensity offset", "0.1 of the brain's mean", partial(intensity, offset=0.1)),
]
