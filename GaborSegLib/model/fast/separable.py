"""Gabor kernels as sums of products of one factor per axis, with gradients written by hand; plain torch, any device.

The envelope of Eq. (2) is isotropic, and x' is linear in x, y and z. So each of the two complex exponentials of a
kernel is a product of a factor along z, one along y and one along x: 3 k of them are computed instead of k^3, and the
kernel is the sum over its two frequencies of amplitude Re(z y x). The backward pass makes the factors again and
contracts the kernels' gradient with them. Kernels stand along the last, contiguous axis and are done a few hundred at a
time, so that all of the work happens in the cache.
"""

import math

import torch

# Kernel voxels that are computed at a time on a CPU: two megabytes in float32, which stay in the caches of two cores.
PART_ELEMENTS = 2**19


def kernels(parameters, k, taps_first):
    """Kernels of Eq. (2).

    Args:
        parameters: (8, P), in the order of `gabor.PARAMETER_NAMES`.
        k: the kernels' size, odd.
        taps_first: whether in memory the taps come first, or the kernels.

    Shape:
        (8, P) -> (k, k, k, P), axes z, y, x and kernels.
    """
    count = parameters.shape[1]
    result = parameters.new_empty(k, k, k, count) if taps_first else parameters.new_empty(count, k, k, k).movedim(0, -1)
    for part in _parts(parameters, k):
        z, y, x = _factors(parameters[:, part], k)
        x = x * parameters[3:5, None, None, part]
        re = z[:, 0, :, None] * y[:, 0, None] - z[:, 1, :, None] * y[:, 1, None]
        im = z[:, 0, :, None] * y[:, 1, None] + z[:, 1, :, None] * y[:, 0, None]
        values = re[0, :, :, None] * x[0, 0]
        values.addcmul_(im[0, :, :, None], x[0, 1], value=-1)
        values.addcmul_(re[1, :, :, None], x[1, 0]).addcmul_(im[1, :, :, None], x[1, 1], value=-1)
        result[..., part] = values
    return result


def parameter_gradients(parameters, gradient):
    """Gradients of the parameters from that of the kernels; either axis may come first in the memory of the latter.

    Shape:
        parameters (8, P), gradient (P, k, k, k) -> (8, P).
    """
    result = torch.empty_like(parameters)
    for part in _parts(parameters, gradient.shape[-1]):
        result[:, part] = _gradients_of_part(parameters[:, part], gradient[part].movedim(0, -1).contiguous())
    return result


def _parts(parameters, k):
    """Slices of the kernels to do at a time: as many as stay in a CPU's cache, all on other devices."""
    count = parameters.shape[1]
    step = max(1, PART_ELEMENTS // k**3) if parameters.device.type == "cpu" else max(1, count)
    return [slice(start, start + step) for start in range(0, count, step)]


def _factors(parameters, k):
    """Factors along z, y and x without the amplitudes, (3 axes, 2 frequencies, real and imaginary part, k, P)."""
    sigma, phase = parameters[0], parameters[7]
    u = _positions(parameters, k)
    angle = _slopes(parameters)[:, :, None] * u
    angle[2] += torch.stack([phase, phase - math.pi / 2])[:, None]  # a sine is a cosine a quarter of a turn later
    return torch.stack([angle.cos(), angle.sin()], dim=2).mul_(torch.exp(-0.5 * (u / sigma) ** 2))


def _positions(parameters, k):
    return torch.arange(k, dtype=parameters.dtype, device=parameters.device)[:, None] - (k - 1) / 2


def _slopes(parameters):
    """Radians per voxel along the axes, (3, 2 frequencies, P): 2 pi f times the first row of the rotation."""
    _, theta_y, theta_z, _, _, *frequencies, _ = parameters
    cos_y = theta_y.cos()
    row = torch.stack([theta_y.sin(), -cos_y * theta_z.sin(), cos_y * theta_z.cos()])
    return 2 * math.pi * row[:, None] * torch.stack(frequencies)


def _gradients_of_part(parameters, gradient):
    """Gradients (8, P) of the parameters from that of the kernels, (k, k, k, P)."""
    k = len(gradient)
    sigma, theta_y, theta_z, _, _, frequency_re, frequency_im, _ = parameters
    factors = _factors(parameters, k)
    amplitudes = parameters[3:5, None, None]
    z, y, x = factors
    zy = _contract(gradient, x * amplitudes, 2)
    yx = _contract(gradient, z, 0)
    by_factors = torch.stack([_contract(zy, y, 3), _contract(zy, z, 2), _contract(yx, y, 2)])
    by_amplitude = (by_factors[2] * x).sum(dim=(1, 2))
    by_factors[2] *= amplitudes
    # A factor is e^(log envelope + i angle).
    by_log = (by_factors * factors).sum(dim=(0, 1, 2))
    by_angle = by_factors[:, :, 1] * factors[:, :, 0] - by_factors[:, :, 0] * factors[:, :, 1]
    u = _positions(parameters, k)
    by_z, by_y, by_x = 2 * math.pi * (by_angle * u).sum(dim=2)
    frequencies = torch.stack([frequency_re, frequency_im])
    (sin_y, cos_y), (sin_z, cos_z) = [(angle.sin(), angle.cos()) for angle in (theta_y, theta_z)]
    by_frequency = sin_y * by_z - cos_y * sin_z * by_y + cos_y * cos_z * by_x
    by_theta_y = (frequencies * (cos_y * by_z + sin_y * sin_z * by_y - sin_y * cos_z * by_x)).sum(dim=0)
    by_theta_z = (frequencies * -cos_y * (cos_z * by_y + sin_z * by_x)).sum(dim=0)
    by_sigma = (by_log * u**2).sum(dim=0) / sigma**3
    by_phase = by_angle[2].sum(dim=(0, 1))
    return torch.stack([by_sigma, by_theta_y, by_theta_z, *by_amplitude, *by_frequency, by_phase])


def _contract(values, factor, dim):
    """Sum along one axis of values times the conjugate of a complex factor, (2 frequencies, 2 parts, k, P).

    Values are real, (k, k, k, P), or complex, (2, 2, k, k, P); the result is complex. It is summed up slice by slice,
    so that the products are nowhere in memory.
    """
    re, im = factor.unbind(1)
    if values.dim() == 4:
        conjugate = torch.stack([re, -im], dim=1)[:, :, :, None, None]
        terms = zip(values.unbind(dim), conjugate.unbind(2))
    else:
        turned = torch.stack([values[:, 1], -values[:, 0]], dim=1)
        terms = zip(
            (*values.unbind(dim), *turned.unbind(dim)),
            (*re[:, None, :, None].unbind(2), *im[:, None, :, None].unbind(2)),
        )
    result = torch.mul(*next(terms))
    for one, other in terms:
        result.addcmul_(one, other)
    return result
