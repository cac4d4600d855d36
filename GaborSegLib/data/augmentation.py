"""Random changes to training images (Wong & Moradi 2022, Section 2.4), and more than those for small training budgets.

One affine map covers rotation, shift, scaling, flip and the choice of a random cube, so each voxel is interpolated once
and only where it is needed.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from .heads import add_head, blur


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
        curved_bias: half range of the coefficients of a field whose logarithm is a polynomial of order 3.
        blur: probability of a slight blur.
        slices: probability of thick slices: one axis averaged over up to 3 voxels.
        cut: probability that the field of view ends inside of the image on one side.
        bare: probability that no surroundings are built, where heads are given.
        collar: probability that only those near the brain are, as a generous brain extraction leaves them.
        collar_width: how near, from and to, voxels.
        wide_blur: probability of a Gaussian blur of up to 2 voxels (standard deviation).
        ghosts: probability of ghosts: every 4th to 10th plane of k-space along one axis weakened, down to nothing.
        spike: probability of stripes from one spike in k-space, up to 1.5 times the mean intensity of tissue.
        t1_tissues: probability that the tissues around the brain are about as bright as in a T1 scan, where heads are
            given.
        mild: probability that `MILD` is taken in the place of all this.
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
    curved_bias: float = 0.0
    blur: float = 0.0
    slices: float = 0.0
    cut: float = 0.0
    bare: float = 0.0
    collar: float = 0.0
    collar_width: tuple[float, float] = (0.0, 0.0)
    wide_blur: float = 0.0
    ghosts: float = 0.0
    spike: float = 0.0
    t1_tissues: float = 0.0
    mild: float = 0.0


_SCANNER = Augmentation(
    rotation=20.0,
    tilt=15.0,
    scale=(0.85, 1.15),
    flip=0.5,
    contrast=0.4,
    noise=0.1,
    curved_bias=0.3,
    blur=0.2,
    slices=0.2,
    cut=0.1,
    bare=0.6,
    collar=0.35,
    collar_width=(0.0, 5.0),
)
# A good scan, well extracted and well placed.
MILD = Augmentation(
    rotation=12.0,
    tilt=8.0,
    scale=(0.93, 1.07),
    flip=0.5,
    contrast=0.2,
    noise=0.03,
    curved_bias=0.15,
    bare=0.85,
    collar=0.15,
    collar_width=(0.0, 3.0),
)
AUGMENTATIONS = {
    "paper": Augmentation(),
    "strong": Augmentation(tilt=10.0, flip=0.5, contrast=0.3, bias=0.3, noise=0.06),
    # For scans of many scanners, extracted by other programs.
    "scanner": _SCANNER,
    # For scans that went wrong, too.
    "artefacts": replace(_SCANNER, wide_blur=0.12, ghosts=0.12, spike=0.12),
    # For scans that went wrong, too, and as many good ones.
    "balanced": replace(_SCANNER, wide_blur=0.15, ghosts=0.15, spike=0.2, mild=0.5),
    # For finding the brain in a whole field of view.
    "field": Augmentation(
        probability=1.0,
        rotation=20.0,
        tilt=20.0,
        shift=0.15,
        scale=(0.5, 1.1),
        flip=0.5,
        contrast=0.4,
        noise=0.1,
        curved_bias=0.4,
        blur=0.2,
        slices=0.2,
        cut=0.2,
        bare=0.2,
        collar=0.1,
        collar_width=(0.0, 10.0),
    ),
    # For its outline, from close by.
    "close": Augmentation(
        probability=1.0,
        rotation=20.0,
        tilt=20.0,
        shift=0.1,
        scale=(0.6, 0.95),
        flip=0.5,
        contrast=0.4,
        noise=0.1,
        curved_bias=0.4,
        blur=0.2,
        slices=0.2,
        cut=0.1,
        bare=0.1,
        collar=0.1,
        collar_width=(0.0, 10.0),
        wide_blur=0.1,
        ghosts=0.1,
        spike=0.08,
        t1_tissues=0.6,
    ),
    # For telling left from right: nothing is mirrored, and what is cut may be half of the brain.
    "sides": Augmentation(
        probability=1.0,
        rotation=20.0,
        tilt=20.0,
        shift=0.15,
        scale=(0.8, 1.2),
        contrast=0.4,
        noise=0.1,
        curved_bias=0.3,
        blur=0.2,
        slices=0.2,
        cut=0.2,
        bare=0.6,
        collar=0.35,
        collar_width=(0.0, 5.0),
        wide_blur=0.12,
        ghosts=0.12,
        spike=0.12,
    ),
    # For all inside of the skull, from close by, in scans that have their heads.
    "skull": replace(
        _SCANNER, tilt=20.0, shift=0.05, scale=(0.9, 1.2), curved_bias=0.4, wide_blur=0.1, ghosts=0.1, spike=0.08
    ),
    "none": Augmentation(probability=0.0),
}


def augment(image, labels, settings, generator, patch=None, head=None, classes=None):
    """Change an image and its labels in the same way.

    Args:
        image: float tensor (D, H, W), axes z (superior), y (anterior), x (right).
        labels: integer tensor (D, H, W), or with `classes` what `Grid.shares_to_cube` gives.
        settings: an `Augmentation`.
        generator: CPU `torch.Generator` that everything random is drawn from.
        patch: edge of a random cube to cut out, voxels; the whole image by default.
        head: a head built around the image, see `heads.prepare_heads`; none by default.
        classes: number of labels, background included, if they are soft.

    Returns:
        (image, labels) of the size (D, H, W), or of patch^3; outside of the image both are 0. Soft labels are shares
        (classes, D, H, W), interpolated as the image is.
    """
    if float(torch.rand((), generator=generator)) < settings.mild:
        settings = MILD
    size = torch.tensor(image.shape, dtype=torch.float64)
    output = [min(patch or s, s) for s in image.shape]
    matrix, offset = _spatial_change(settings, size, generator, shift=patch is None)
    if patch is not None:
        room = (size - torch.tensor(output)) / 2
        offset = offset + matrix @ (_uniform(generator, 3) * room)
    if head is not None:
        # Before all is interpolated: else the brain alone would be smooth, and tell itself from the rest by that.
        image = add_head(image, head, settings, generator)
    image = _sample(image, matrix, offset, output, "bilinear")
    if classes:
        labels = _sample_shares(labels, classes, matrix, offset, output)
    else:
        labels = _sample(labels, matrix, offset, output, "nearest").to(torch.uint8)
    return _change_intensity(*_cut(image, labels, settings, generator), settings, generator)


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


def _sample(image, matrix, offset, output, mode):
    """An image at matrix @ (index - output centre) + offset + image centre, 0 outside."""
    size = torch.tensor(image.shape, dtype=torch.float64)
    # grid_sample counts from -1 to 1 over the voxels' edges, and its last axis runs x, y, z.
    theta = matrix * torch.tensor(output) / size[:, None]
    theta = torch.cat([theta, (2 * offset / size)[:, None]], dim=1)
    theta = theta.flip(0)
    theta = torch.cat([theta[:, :3].flip(1), theta[:, 3:]], dim=1)
    where = functional.affine_grid(theta[None].float(), [1, 1, *output], align_corners=False).to(image.device)
    return functional.grid_sample(image[None, None].float(), where, mode=mode, align_corners=False)[0, 0]


def _sample_shares(packed, classes, matrix, offset, output):
    """Shares (classes, *output), each sampled as an image; what they lack of 1 is background."""
    labels, parts = packed
    shares = torch.empty(classes, *output, device=packed.device)
    for label in range(1, classes):
        share = torch.where(labels == label, parts, 0).sum(dim=0, dtype=torch.float32) / 255
        shares[label] = _sample(share, matrix, offset, output, "bilinear") if share.any() else 0
    shares[0] = (1 - shares[1:].sum(dim=0)).clamp(min=0)
    return shares


def _cut(image, labels, settings, generator):
    """Set one side of the image to 0, as where the field of view ends; its labels, too."""
    chance, side, place = torch.rand(3, generator=generator).tolist()
    if chance < settings.cut:
        axis, at_end = divmod(int(6 * side), 2)
        length = image.shape[axis]
        width = int(0.4 * place * length)
        image, labels = image.clone(), labels.clone()
        start = length - width if at_end else 0
        for array in (image, labels):
            array.narrow(axis - 3, start, width).zero_()
        if labels.dim() == 4:
            labels[0].narrow(axis, start, width).fill_(1)
    return image, labels


def _change_intensity(image, labels, settings, generator):
    """Gamma, bias fields, blur, thick slices and noise; what is 0 (background) stays 0 but for the noise."""
    contrast, amount = _uniform(generator, 2)
    field = _uniform(generator, 3)
    if settings.contrast:
        image = image.clamp(min=0) ** math.exp(contrast * settings.contrast)
    if settings.bias:
        z, y, x = _coordinates(image)
        image = image * torch.exp(settings.bias * (field[0] * z + field[1] * y + field[2] * x).float())
    if settings.curved_bias:
        image = image * _curved_field(image, settings.curved_bias, generator)
    if settings.blur or settings.slices:
        image = _coarsen(image, settings, generator)
    if settings.wide_blur or settings.ghosts or settings.spike:
        image = _spoil(image, settings, generator)
    if settings.noise:
        noise = torch.randn(image.shape, generator=generator).to(image.device)
        image = image + abs(float(amount)) * settings.noise * noise
    return image, labels


def _coordinates(image):
    """z, y and x, each from -1 to 1 over the image."""
    lines = [torch.linspace(-1, 1, s, device=image.device) for s in image.shape]
    return torch.meshgrid(*lines, indexing="ij")


def _curved_field(image, half_range, generator):
    """The exponential of a polynomial of order 3 without its constant, as of an uneven receiving coil."""
    powers = [(i, j, k) for i in range(4) for j in range(4 - i) for k in range(4 - i - j)][1:]
    strength = torch.rand((), generator=generator)
    coefficients = (half_range * strength * _uniform(generator, len(powers))).tolist()
    z, y, x = [[line**n for n in range(4)] for line in _coordinates(image)]
    exponent = sum(c * z[i] * y[j] * x[k] for c, (i, j, k) in zip(coefficients, powers))
    return torch.exp(exponent)


def _coarsen(image, settings, generator):
    """A slight blur, and one axis averaged over thick slices."""
    chances = torch.rand(4, generator=generator).tolist()
    if chances[0] < settings.blur:
        image = blur(image, 0.3 * chances[1])
    if chances[2] < settings.slices:
        axis, factor = int(3 * chances[3]), 1 + 2 * float(torch.rand((), generator=generator))
        size = list(image.shape)
        coarse = [max(1, round(s / factor)) if i == axis else s for i, s in enumerate(size)]
        image = functional.interpolate(image[None, None], size=coarse, mode="area")
        image = functional.interpolate(image, size=size, mode="trilinear")[0, 0]
    return image


def _spoil(image, settings, generator):
    """Wide blur, ghosts and a spike; in half of the images background stays 0, as if the brain was extracted later."""
    chances = torch.rand(4, generator=generator).tolist()
    spoilt = image
    if chances[0] < settings.wide_blur:
        for _ in range(1 + int(8 * torch.rand((), generator=generator))):  # each has a variance of half a voxel
            spoilt = blur(spoilt, 0.25)
    if chances[1] < settings.ghosts:
        axis, every, first, strength = torch.rand(4, generator=generator).tolist()
        every = 4 + int(7 * every)
        spoilt = _ghosts(spoilt, int(3 * axis), every, int(first * every), strength)
    if chances[2] < settings.spike:
        frequency = 0.5 * _uniform(generator, 3)
        spoilt = _spike(spoilt, frequency, *(torch.rand(2, generator=generator) * torch.tensor([1.5, 1.0])).tolist())
    return spoilt.where(image != 0, 0) if spoilt is not image and chances[3] < 0.5 else spoilt


def _ghosts(image, axis, every, first, strength):
    """Every so many planes of k-space along an axis weakened to 1 - strength, but for the one of frequency 0."""
    weights = torch.ones(image.shape[axis])
    weights[first::every] -= strength
    weights[0] = 1
    shape = [-1 if other == axis else 1 for other in range(3)]
    spectrum = torch.fft.fft(image, dim=axis) * weights.reshape(shape).to(image.device)
    return torch.fft.ifft(spectrum, dim=axis).real


def _spike(image, frequency, height, phase):
    """A wave of a frequency (cycles per voxel along z, y and x) and a height added; its phase in turns."""
    lines = [f * torch.arange(n, dtype=torch.float64) for f, n in zip(frequency, image.shape)]
    turns = lines[0][:, None, None] + lines[1][:, None] + lines[2] + phase
    return image + height * torch.cos(2 * math.pi * turns).to(image.device, image.dtype)
