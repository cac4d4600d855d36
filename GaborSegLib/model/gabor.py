"""Convolution kernels that are Gabor functions with eight trainable parameters (Wong & Moradi 2022, Section 2.1)."""

import math
from functools import cache

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .fast import fourier

# Below this standard deviation (in voxels) a kernel is a single voxel and more shrinking changes nothing, while the
# derivative by sigma runs off to infinity.
SMALLEST_SIGMA = 0.3
# Kernel voxels that are computed at a time on a CPU: two megabytes in float32, which stay in the caches of two cores.
PART_ELEMENTS = 2**19

PARAMETER_NAMES = (
    "sigma",
    "theta_y",
    "theta_z",
    "amplitude_re",
    "amplitude_im",
    "frequency_re",
    "frequency_im",
    "phase",
)


def gabor_kernels(
    sigma,
    theta_y,
    theta_z,
    amplitude_re,
    amplitude_im,
    frequency_re,
    frequency_im,
    phase,
    kernel_size,
    taps_first=False,
):
    r"""Kernels of Eq. (2) on a grid of `kernel_size`^3 voxels around 0.

    .. math::
        G(\mathbf{x}) = e^{-|\mathbf{x}|^2 / 2 \sigma^2}
        \left(A_{re} \cos(2\pi f_{re} x' + \psi) + A_{im} \sin(2\pi f_{im} x' + \psi)\right)

    with x' the first coordinate of :math:`R_y(\theta_y) R_z(\theta_z) \mathbf{x}`.

    The envelope is isotropic and x' is linear in x, y and z, so each complex exponential is a product of one factor
    per axis: 3 k of them are computed instead of k^3, and the kernel is a matrix product with an inner size of 4
    (real and imaginary part, two frequencies).

    Args:
        sigma: standard deviation, voxels. All parameters have the shape (out, in).
        theta_y, theta_z: rotation angles, radians.
        amplitude_re, amplitude_im: amplitudes of the cosine and the sine.
        frequency_re, frequency_im: their frequencies, cycles per voxel.
        phase: their phase, radians.
        kernel_size: k, odd.
        taps_first: the order in memory: (k, k, k, out, in), as `fourier.convolve` likes it, instead of that of the
            result.

    Returns:
        Tensor (out, in, k, k, k), axes z, y, x.
    """
    parameters = (sigma, theta_y, theta_z, amplitude_re, amplitude_im, frequency_re, frequency_im, phase)
    kernels = _Kernels.apply(torch.stack([p.reshape(-1) for p in parameters]), kernel_size, taps_first)
    return kernels.unflatten(0, sigma.shape)


class _Kernels(torch.autograd.Function):
    """Kernels (P, k, k, k) of parameters (8, P), in the order of PARAMETER_NAMES.

    A kernel is the sum over its two frequencies of a Re(z y x), with complex factors z, y and x along the axes. Nothing
    but the parameters is kept: the backward pass makes the factors again and contracts the kernels' gradient with them.
    Kernels stand along the last, contiguous axis and are done a few hundred at a time, so that all of the work happens
    in the cache. On a GPU where Triton works, `fused` does both passes.
    """

    @staticmethod
    def forward(ctx, parameters, k, taps_first):
        ctx.save_for_backward(parameters)
        fused = _fused_for(parameters)
        make = fused.kernels if fused else _make_kernels
        return make(parameters, k, taps_first).movedim(-1, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (parameters,) = ctx.saved_tensors
        fused = _fused_for(parameters)
        return (fused.parameter_gradients if fused else _parameter_gradients)(parameters, gradient), None, None


def _fused_for(parameters):
    """The module `fused` for these parameters, or None."""
    return _working_fused(parameters.device) if parameters.is_cuda and parameters.dtype == torch.float32 else None


@cache
def _working_fused(device):
    """The module `fused`, or None where Triton is not there or its results on that device are not the plain ones.

    At its first call Triton needs a C compiler and more. Whatever it lacks, without it kernels are only slower.
    """
    try:
        from .fast import fused

        parameters = torch.linspace(0.5, 1.5, 8 * 6, device=device).view(8, 6)
        gradient = torch.linspace(-1, 1, 6 * 27, device=device).view(6, 3, 3, 3)
        pairs = [(fused.parameter_gradients(parameters, gradient), _parameter_gradients(parameters, gradient))]
        pairs += [(fused.kernels(parameters, 3, first), _make_kernels(parameters, 3, first)) for first in (False, True)]
        return fused if all(torch.allclose(*pair, rtol=1e-4, atol=1e-5) for pair in pairs) else None
    except Exception:
        return None


def _make_kernels(parameters, k, taps_first):
    """Kernels (k, k, k, P) of parameters (8, P); in memory either the taps or the kernels come first."""
    count = parameters.shape[1]
    result = parameters.new_empty(k, k, k, count) if taps_first else parameters.new_empty(count, k, k, k).movedim(0, -1)
    for part in _parts(parameters, k):
        z, y, x = _factors(parameters[:, part], k)
        x = x * parameters[3:5, None, None, part]
        re = z[:, 0, :, None] * y[:, 0, None] - z[:, 1, :, None] * y[:, 1, None]
        im = z[:, 0, :, None] * y[:, 1, None] + z[:, 1, :, None] * y[:, 0, None]
        kernels = re[0, :, :, None] * x[0, 0]
        kernels.addcmul_(im[0, :, :, None], x[0, 1], value=-1)
        kernels.addcmul_(re[1, :, :, None], x[1, 0]).addcmul_(im[1, :, :, None], x[1, 1], value=-1)
        result[..., part] = kernels
    return result


def _parameter_gradients(parameters, gradient):
    """Gradients (8, P) of the parameters from that of the kernels, (P, k, k, k)."""
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


class GaborConv3d(nn.Module):
    r"""3D convolution whose kernels are Gabor functions with trainable parameters, Eq. (2); see `gabor_kernels`.

    Takes the place of ``nn.Conv3d(in_channels, out_channels, kernel_size, padding="same", bias=False)``. It has
    8 x in_channels x out_channels parameters, whatever the kernel size. Under autocast it computes in float32, because
    the phases of a kernel do not survive half precision.

    Initial values (the paper gives none): directions uniform over the sphere, phase uniform, frequencies uniform in
    [0, 0.25] cycles per voxel, sigma uniform in [0.7, k / 4] voxels, amplitudes normal and then scaled so that each
    kernel has the energy 1 / in_channels, which keeps the variance of a white input.

    Args:
        in_channels, out_channels: channels of the input and the output.
        kernel_size: odd size k of the cubic grid on which the kernels are evaluated.

    Shape:
        (B, in_channels, D, H, W) -> (B, out_channels, D, H, W).

    Raises:
        ValueError: for an even kernel size (its grid has no centre voxel) or sizes below 1.

    Example::

        >>> layer = GaborConv3d(12, 24)
        >>> layer(torch.randn(1, 12, 16, 16, 16)).shape
        torch.Size([1, 24, 16, 16, 16])
    """

    def __init__(self, in_channels, out_channels, kernel_size=7):
        super().__init__()
        if in_channels < 1 or out_channels < 1:
            raise ValueError(f"channels must be at least 1, got in_channels={in_channels}, out_channels={out_channels}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that the kernel has a centre voxel, got {kernel_size}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        for name in PARAMETER_NAMES:
            setattr(self, name, nn.Parameter(torch.empty(out_channels, in_channels)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self):
        """Draw new initial values (see the class)."""
        if self.sigma.is_meta:  # shapes alone; to compute with them, torch would import its compiler, for a second
            return
        self.sigma.uniform_(0.7, max(self.kernel_size / 4, 0.8))
        self.theta_y.uniform_(-1, 1).asin_()  # uniform over the sphere: the sine of the elevation is uniform
        self.theta_z.uniform_(-math.pi, math.pi)
        self.frequency_re.uniform_(0, 0.25)
        self.frequency_im.uniform_(0, 0.25)
        self.phase.uniform_(-math.pi, math.pi)
        self.amplitude_re.normal_()
        self.amplitude_im.normal_()
        energy = self.kernel().square().sum(dim=(2, 3, 4))
        scale = (self.in_channels * energy.clamp(min=1e-12)).rsqrt()
        self.amplitude_re.mul_(scale)
        self.amplitude_im.mul_(scale)

    def kernel(self, taps_first=False):
        """The kernels, (out_channels, in_channels, k, k, k), axes z, y, x; differentiable by all eight parameters."""
        return self._made_of(*self._parameters_in_order(), taps_first=taps_first)

    def _parameters_in_order(self):
        return [getattr(self, name) for name in PARAMETER_NAMES]

    def _made_of(self, sigma, *others, taps_first=True):
        # The value is clamped and the gradient is not, so that a sigma that ran into the bound can come back.
        sigma = sigma + (sigma.clamp(min=SMALLEST_SIGMA) - sigma).detach()
        return gabor_kernels(sigma, *others, kernel_size=self.kernel_size, taps_first=taps_first)

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.sigma.dtype)
            axes = fourier.choose_axes(x, self.out_channels, self.kernel_size)
            if axes is None:
                return functional.conv3d(x, self.kernel(), padding=self.kernel_size // 2)
            return fourier.convolve_with(x, self._made_of, self._parameters_in_order(), axes)

    def extra_repr(self):
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"


class BakedConv3d(nn.Conv3d):
    """What `bake_kernels` makes of a `GaborConv3d`: an ``nn.Conv3d`` that convolves by frequencies where faster.

    That is without gradients, in float32 on a CPU. Where the spectra of the kernels are small they are computed for
    the first image of a size and kept until the weight or the size changes; they are no part of the state. Traced,
    exported, in half precision or on another device it is the plain layer.
    """

    def __init__(self, layer):
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            padding=layer.kernel_size // 2,
            bias=False,
            device="meta",
        )
        self.weight = nn.Parameter(layer.kernel(taps_first=True).detach(), requires_grad=False)
        self._spectra = None

    def forward(self, x):
        """x: (B, I, D, H, W), or a `pyramid.Joined`, which is whole only where that is needed."""
        way = None
        if not torch.is_grad_enabled() and x.dtype == self.weight.dtype:
            way = fourier.choose_for_inference(x, self.out_channels, self.kernel_size[0])
        if way and way[1]:
            return fourier.convolve_spectra(x, self._spectra_for(way[0]), way[0])
        whole = x if isinstance(x, torch.Tensor) else x.narrow(2, 0, x.shape[2])
        return fourier.convolve(whole, self.weight, way[0]) if way else super().forward(whole)

    def _spectra_for(self, axes):
        weight = self.weight
        key = (
            weight.data_ptr(),
            None if weight.is_inference() else weight._version,
            weight.dtype,
            *(a.n for a in axes),
        )
        if self._spectra is None or self._spectra[0] != key:
            self._spectra = None  # the old ones go first
            self._spectra = key, fourier.kernel_spectra(weight, axes)
        return self._spectra[1]

    def __getstate__(self):
        return {**super().__getstate__(), "_spectra": None}


def bake_kernels(network):
    """Replace every `GaborConv3d` in a network by a `BakedConv3d` with the same kernels, in place, and return it.

    For inference and export: the kernels are computed once for all images. The layers are of the type ``nn.Conv3d``,
    and traced or exported (TorchScript's trace, ONNX) they are nothing else, so that any runtime knows them.
    """
    for name, module in network.named_children():
        if isinstance(module, GaborConv3d):
            setattr(network, name, BakedConv3d(module))
        else:
            bake_kernels(module)
    return network
