"""Gabor kernels that do what given convolution kernels do: where a Gabor network starts from a conventional one."""

import math

import torch
from torch.nn import functional

from .gabor import PARAMETER_NAMES, SMALLEST_SIGMA, GaborConv3d, gabor_kernels

# How fast the correlation of two voxels of a layer's input is taken to fall with their distance (city blocks): to 1/e
# over so many voxels. What a kernel does to slow changes, which are most of its input, then counts most.
CORRELATION_LENGTH = 8.0
STEPS = 150
LEARNING_RATE = 0.03
# Kernels that are fitted at a time.
PART = 1024


def fit_gabor_kernels(weight, kernel_size):
    """The eight Gabor parameters whose kernels come nearest to those of a convolution.

    Near is where outputs are near: the squared difference of two kernels is weighed by the correlation of the voxels
    they meet. The two amplitudes enter linearly and follow by least squares from the other six (variable projection),
    which take 150 steps of Adam from random values, always the same.

    Args:
        weight: the kernels, k odd and at most `kernel_size`.
        kernel_size: of the Gabor kernels, odd.

    Returns:
        Dictionary from `gabor.PARAMETER_NAMES` to tensors, the state of a `GaborConv3d`.

    Shape:
        (O, I, k, k, k) -> (O, I) each.

    Example::

        >>> layer = GaborConv3d(2, 3, kernel_size=5)
        >>> layer.load_state_dict(fit_gabor_kernels(torch.randn(3, 2, 3, 3, 3), kernel_size=5))
        <All keys matched successfully>
    """
    generator = torch.Generator().manual_seed(0)
    missing = (kernel_size - weight.shape[-1]) // 2
    targets = functional.pad(weight.detach().float().flatten(0, 1), [missing] * 6).movedim(0, -1)
    fitted = torch.cat([_fit(part, generator) for part in targets.split(PART, dim=-1)], dim=1)
    return dict(zip(PARAMETER_NAMES, fitted.unflatten(1, weight.shape[:2])))


def fit_gabor_layers(network, loaded, report):
    """Starting values for the Gabor layers of a network, fitted to another network's conventional layers.

    Args:
        network: the one that is to start.
        loaded: state dictionary of the other, of the same shape.
        report: takes events.

    Returns:
        Dictionary with the parameters of those layers that are Gabor layers here and conventional there.
    """
    layers = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, GaborConv3d)
        and f"{name}.weight" in loaded
        and loaded[f"{name}.weight"].shape[:2] == layer.sigma.shape
        and loaded[f"{name}.weight"].shape[-1] <= layer.kernel_size
    }
    total = sum(layer.sigma.numel() for layer in layers.values())
    result, done = {}, 0
    for name, layer in layers.items():
        report({"event": "progress", "stage": "Fitting Gabor kernels", "done": done, "total": total})
        parameters = fit_gabor_kernels(loaded[f"{name}.weight"], layer.kernel_size)
        result.update({f"{name}.{key}": value for key, value in parameters.items()})
        done += layer.sigma.numel()
    if total:
        report({"event": "progress", "stage": "Fitting Gabor kernels", "done": total, "total": total})
    return result


def _fit(targets, generator):
    """Parameters (8, P) for kernels (k, k, k, P)."""
    weigh = _weighing(len(targets))
    weighed = weigh(targets)
    energy = weighed.square().sum(dim=(0, 1, 2)).clamp(min=1e-12)
    shape = _first_shape(targets.shape[-1], generator).requires_grad_()
    optimiser = torch.optim.Adam([shape], lr=LEARNING_RATE)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, 2.5 * (1 - step / STEPS))
        with torch.enable_grad():
            _, difference = _best_amplitudes(shape, weighed, weigh)
            optimiser.zero_grad()
            (difference / energy).sum().backward()
        optimiser.step()
    with torch.no_grad():
        amplitudes, _ = _best_amplitudes(shape, weighed, weigh)
        sigma, theta_y, theta_z, frequency_re, frequency_im, phase = shape
        return torch.stack([_bounded(sigma), theta_y, theta_z, *amplitudes, frequency_re, frequency_im, phase])


def _first_shape(count, generator):
    """Random sigma, theta_y, theta_z, both frequencies and phase, (6, P), as `GaborConv3d` draws them."""
    random = torch.rand(6, count, generator=generator)
    random[0] += 0.5
    random[1] = (2 * random[1] - 1).asin()
    random[3:5] *= 0.25
    random[[2, 5]] = math.pi * (2 * random[[2, 5]] - 1)
    return random


def _bounded(sigma):
    return sigma.abs().clamp(min=SMALLEST_SIGMA)


def _best_amplitudes(shape, weighed, weigh):
    """The two amplitudes (2, P) with the least squared difference from the weighed targets, and that difference (P).

    The squared difference follows from the products of the three kernels, without the kernel of the result.
    """
    sigma, theta_y, theta_z, frequency_re, frequency_im, phase = shape
    one, zero = torch.ones_like(sigma), torch.zeros_like(sigma)
    re, im = [
        weigh(
            gabor_kernels(
                _bounded(sigma), theta_y, theta_z, *amplitudes, frequency_re, frequency_im, phase, len(weighed), True
            ).movedim(0, -1)
        )
        for amplitudes in ((one, zero), (zero, one))
    ]

    def dot(first, second):
        return (first * second).sum(dim=(0, 1, 2))

    re_re, im_im, re_im = dot(re, re), dot(im, im), dot(re, im)
    # Cosine and sine may be the same function (a quarter of a turn in phase): a little of their energy keeps them
    # apart.
    little = 1e-3 * (re_re + im_im) + 1e-12
    re_re, im_im = re_re + little, im_im + little
    by_re, by_im = dot(re, weighed), dot(im, weighed)
    determinant = re_re * im_im - re_im.square()
    first = (im_im * by_re - re_im * by_im) / determinant
    second = (re_re * by_im - re_im * by_re) / determinant
    return torch.stack([first, second]), dot(weighed, weighed) - first * by_re - second * by_im


def _weighing(k):
    """A linear function of kernels (k, k, k, P) whose squared sum is the variance of the kernels' outputs.

    The variance of an output is g' C g for kernel voxels g and the correlation C of what they meet. C is a product
    of one factor for each axis, and so is its root.
    """
    place = torch.arange(k, dtype=torch.float64)
    correlation = torch.exp(-(place[:, None] - place).abs() / CORRELATION_LENGTH)
    root = torch.linalg.cholesky(correlation).float().mT.contiguous()

    def weigh(kernels):
        kernels = torch.mm(root, kernels.reshape(k, -1))
        kernels = torch.bmm(root.expand(k, k, k), kernels.view(k, k, -1))
        return torch.bmm(root.expand(k * k, k, k), kernels.view(k * k, k, -1)).view(k, k, k, -1)

    return weigh
