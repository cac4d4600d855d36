"""Random changes to training images (Wong & Moradi 2022, Section 2.4), and more than those for small training budgets.

One affine map covers rotation, shift, scaling, flip and the choice of a random cube, so each voxel is interpolated once
and only where it is needed.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """How strongly to change; each range is drawn from uniformly.

    Args:
        probability: of the spatial change, per image.
        rotation: half range about the axial axis, degrees.
        tilt: half range about the two other axes, degrees.
        shift: half range, as a share of the cube's edge. Left out when random cubes are taken: their place is a shift.
        scale: lowest and highest scale.
        flip: probability of exchanging left and right (the structures are not lateralised).
        contrast: half range of the logarithm of gamma.
        bias: half range of the logarithm of a field that changes linearly from one side of the image to the other.
        noise: largest standard deviation of Gaussian noise; the mean intensity of tissue is 1.
    """

    probability: float = 0.8
    rotation: float = 30.0
    tilt: float = 0.0
    shift: float = 0.2
    scale: tuple[float, float] = (0.8, 1.2)
    flip: float = 0.0
    contrast: float = 0.0
    bias: float = 0.0
    noise: float = 0.0


AUGMENTATIONS = {
    "paper": Augmentation(),
    "strong": Augmentation(tilt=10.0, flip=0.5, contrast=0.3, bias=0.3, noise=0.06),
    "none": Augmentation(probability=0.0),
}


def augment(image, labels, settings, generator, patch=None):
    """Change an image and its labels in the same way.

    Args:
        image: float tensor (D, H, W), axes z (superior), y (anterior), x (right).
        labels: integer tensor (D, H, W).
        settings: an `Augmentation`.
        generator: CPU `torch.Generator` that everything random is drawn from.
        patch: edge of a random cube to cut out, voxels; the whole image by default.

    Returns:
        (image, labels) of the size (D, H, W), or of patch^3; outside of the image both are 0.
    """
    size = torch.tensor(image.shape, dtype=torch.float64)
    output = [min(patch or s, s) for s in image.shape]
    matrix, offset = _spatial_change(settings, size, generator, shift=patch is None)
    if patch is not None:
        room = (size - torch.tensor(output)) / 2
        offset = offset + matrix @ (_uniform(generator, 3) * room)
    image, labels = _sample(image, labels, matrix, offset, output)
    return _change_intensity(image, settings, generator), labels


def _uniform(generator, *shape):
    """Uniform in [-1, 1]."""
    return 2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1


def _spatial_change(settings, size, generator, shift):
    """Matrix and offset (voxels, axes z, y, x, from the centre) that take an output voxel to its place in the input.

    The same random numbers are drawn whatever the settings are.
    """
    chance, flip = torch.rand(2, generator=generator, dtype=torch.float64)
    angles = _uniform(generator, 3) * torch.tensor([settings.rotation, settings.tilt, settings.tilt])
    offset = _uniform(generator, 3) * settings.shift * size * shift
    low, high = settings.scale
    scale = low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64)
    matrix = torch.eye(3, dtype=torch.float64)
    if chance < settings.probability:
        for (first, second), angle in zip(((1, 2), (0, 2), (0, 1)), angles * math.pi / 180):
            matrix = matrix @ _rotation(first, second, angle)
        matrix = matrix / scale
    else:
        offset = torch.zeros(3, dtype=torch.float64)
    if flip < settings.flip:
        matrix = matrix @ torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    return matrix, offset


def _rotation(first, second, angle):
    """Rotation by an angle (radians) in the plane of two of the axes."""
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[first, first] = matrix[second, second] = torch.cos(angle)
    matrix[first, second] = -torch.sin(angle)
    matrix[second, first] = torch.sin(angle)
    return matrix


def _sample(image, labels, matrix, offset, output):
    """Image (linear) and labels (nearest) at matrix @ (index - output centre) + offset + input centre."""
    size = torch.tensor(image.shape, dtype=torch.float64)
    # grid_sample counts from -1 to 1 over the voxels' edges, and its last axis runs x, y, z.
    theta = matrix * torch.tensor(output) / size[:, None]
    theta = torch.cat([theta, (2 * offset / size)[:, None]], dim=1)
    theta = theta.flip(0)
    theta = torch.cat([theta[:, :3].flip(1), theta[:, 3:]], dim=1)
    where = functional.affine_grid(theta[None].float(), [1, 1, *output], align_corners=False).to(image.device)
    image = functional.grid_sample(image[None, None].float(), where, mode="bilinear", align_corners=False)
    labels = functional.grid_sample(labels[None, None].float(), where, mode="nearest", align_corners=False)
    return image[0, 0], labels[0, 0].to(torch.uint8)


def _change_intensity(image, settings, generator):
    """Gamma, a linear bias field and noise; what is 0 (background) stays 0 but for the noise."""
    contrast, amount = _uniform(generator, 2)
    field = _uniform(generator, 3)
    if settings.contrast:
        image = image.clamp(min=0) ** math.exp(contrast * settings.contrast)
    if settings.bias:
        z, y, x = [torch.linspace(-1, 1, s) * float(f) for s, f in zip(image.shape, field)]
        image = image * torch.exp(settings.bias * (z[:, None, None] + y[:, None] + x)).to(image.device)
    if settings.noise:
        noise = torch.randn(image.shape, generator=generator).to(image.device)
        image = image + abs(float(amount)) * settings.noise * noise
    return image
