"""What scanners do to a scan, as changes to a good one: the benchmarks measure what each costs.

The changes are TorchIO's transforms (Pérez-García et al. 2021, https://doi.org/10.1016/j.cmpb.2021.106236); where a
strength is called weakest, middle or strongest, it is that of the range from which the random transform of that name
draws by default. Own code is only what TorchIO does not have: `intensity`, which multiplies by a number and adds one;
the vote among labels in `resolution`, as the nearest voxel's label lies up to half a voxel off; and the draws, from one
generator for each scan and change, by which the results stay the same.

Every change takes (image, truth, random): an `Image` turned to right, anterior, superior with intensities of any scale,
its label map, and a numpy generator; it returns the changed (image, truth).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from GaborSegLib.scans.image import Image

RIGHT, ANTERIOR, SUPERIOR = range(3)


@dataclass(frozen=True)
class Degradation:
    """One change at one strength."""

    name: str
    strength: str
    change: Callable


def gamma(image, truth, random, log_gamma):
    """Intensities to the power of exp(log_gamma); their unit does not matter, as the scale does not."""
    return _with(image, "Gamma", gamma=float(np.exp(log_gamma))), truth


def bias_field(image, truth, random, coefficients, order=3):
    """Times the exponential of a polynomial; each coefficient is drawn from ± `coefficients`, the places from ± 1."""
    monomials = (order + 1) * (order + 2) * (order + 3) // 6
    drawn = random.uniform(-coefficients, coefficients, monomials).tolist()
    return _with(image, "BiasField", coefficients=drawn, order=order), truth


def noise(image, truth, random, std):
    """Gaussian noise in every voxel; `std` in standard deviations of the whole image, as after z-normalisation."""
    return _with(image, "Noise", mean=0.0, std=std * float(image.array.std()), seed=int(random.integers(2**31))), truth


def blur(image, truth, random, std):
    """Gaussian blur; `std` in mm, along all axes."""
    return _with(image, "Blur", std=(std,) * 3), truth


def resolution(image, truth, random, spacing):
    """Voxels of another size (mm along each axis): blurred to it where they are larger, interpolated where smaller.

    The labels are resampled in the same way, each as an image, and the strongest wins.
    """
    # In voxels, as in mm TorchIO rounds n * size / size down, which may lose a voxel and move all by half of one.
    ratio = tuple(float(r) for r in np.array(spacing) / image.spacing)
    resample = partial(_transformed, name="Resample", target=ratio, antialias=True)
    array, scale = resample(image.array)
    best = np.zeros(array.shape, dtype=np.float32)
    labels = np.zeros(array.shape, dtype=np.uint8)
    for label in np.unique(truth):
        weight, _ = resample((truth == label).astype(np.float32))
        labels[weight > best] = label
        best = np.maximum(best, weight)
    return Image(array, image.affine @ scale), labels


def thick_slices(image, truth, random, axis, thickness):
    """Slices of a thickness in mm along one axis, each a Gaussian half as high at its borders; the header says so."""
    spacing = list(image.spacing)
    spacing[axis] = thickness
    return resolution(image, truth, random, spacing)


def anisotropy(image, truth, random, downsampling):
    """Every so many-th voxel (nearest) along a drawn axis, interpolated back; the header knows nothing of it."""
    # TorchIO has only the random transform, here with one value to draw; in voxels for the reason in `resolution`.
    settings = {"axes": int(random.integers(3)), "downsampling": (downsampling, downsampling)}
    return replace(image, array=_transformed(image.array, name="RandomAnisotropy", **settings)[0]), truth


def ghosting(image, truth, random, ghosts, intensity):
    """Every `ghosts`-th plane of k-space along a drawn axis weakened to 1 - intensity, but for the central one."""
    axis = int(random.integers(3))
    return _with(image, "Ghosting", num_ghosts=ghosts, axis=axis, intensity=intensity, restore=None), truth


def spike(image, truth, random, intensity):
    """One value added at a drawn place of k-space: stripes whose height is `intensity` times the image's mean."""
    return _with(image, "Spike", spikes_positions=random.random((1, 3)), intensity=intensity), truth


def motion(image, truth, random, degrees, translation, movements=2):
    """The head moves while k-space is filled along a drawn axis; its centre is of the head where it was.

    Each movement's angles (degrees) and shifts (mm) are drawn from ± their limits.
    """
    axis = random.integers(3)
    limits = np.array([[degrees] * 3, [translation] * 3])
    angles, shifts = np.moveaxis(random.uniform(-limits, limits, (movements, 2, 3)), 1, 0)
    times = (np.arange(1, movements + 1) + random.uniform(-0.3, 0.3, movements)) / (movements + 1)
    # TorchIO fills k-space along the last axis, and turns about the origin of the coordinates, wherever that lies.
    array = image.array.swapaxes(axis, 2)
    affine = image.affine.copy()
    affine[:, [axis, 2]] = affine[:, [2, axis]]
    affine[:3, 3] = -affine[:3, :3] @ (np.array(array.shape) - 1) / 2
    settings = {"degrees": angles, "translation": shifts, "times": times, "image_interpolation": "linear"}
    moved, _ = _transformed(array, affine, name="Motion", **settings)
    return replace(image, array=moved.swapaxes(axis, 2)), truth


def cut(image, truth, random, axis, share):
    """The field of view ends early: a share of an axis is missing, at its upper end if the share is negative."""
    missing = np.zeros((3, 2), dtype=int)
    missing[axis, int(share < 0)] = round(abs(share) * image.array.shape[axis])
    crop = partial(_transformed, name="Crop", cropping=tuple(missing.ravel().tolist()))
    array, shift = crop(image.array)
    return Image(array, image.affine @ shift), crop(truth)[0]


def intensity(image, truth, random, scale=1.0, offset=0.0):
    """All intensities times a scale; and an offset, as a share of the mean of what is not 0, added to all."""
    array = scale * (image.array + offset * image.array[image.array > 0].mean())
    return replace(image, array=array.astype(np.float32)), truth


def degraded(degradation, image, truth, scan):
    """Apply one; what is random depends on the scan's name and the degradation alone."""
    seed = np.frombuffer(f"{scan} {degradation.name} {degradation.strength}".encode(), dtype=np.uint8)
    return degradation.change(image, truth, np.random.default_rng(seed))


def _with(image, name, **settings):
    """The image with its intensities changed by TorchIO's transform of a name."""
    return replace(image, array=_transformed(image.array, image.affine, name=name, **settings)[0])


def _transformed(array, affine=None, *, name, **settings):
    """(array, affine) after TorchIO's transform of a name; without an affine, the one returned is in voxels."""
    import torchio  # here, as the other tables do without it

    transform = getattr(torchio, name)(**settings)
    changed = transform(torchio.ScalarImage(tensor=array[None], affine=affine))
    return changed.numpy()[0], changed.affine


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
