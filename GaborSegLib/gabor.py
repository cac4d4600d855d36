"""Convolution kernels that are Gabor functions with eight trainable parameters (Wong & Moradi 2022, Section 2.1)."""

import math

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from . import fourier

# Below this standard deviation (in voxels) a kernel is a single voxel and more shrinking changes nothing, while the
# derivative by sigma runs off to infinity.
SMALLEST_SIGMA = 0.3
# Kernel voxels that are computed at a time on a CPU: a megabyte in float32, which stays in its cache.
PART_ELEMENTS = 2**18

PARAMETER_NAMES = (
    "sigma", "theta_y", "theta_z", "amplitude_re", "amplitude_im", "frequency_re", "frequency_im", "phase"
)


def gabor_kernels(
    sigma, theta_y, theta_z, amplitude_re, amplitude_im, frequency_re, frequency_im, phase, kernel_size, taps_first=False
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
        taps_first: the order in memory: (k, k, k, out, in), as `fourier.convolve` likes it, instead of that of the result.

    Returns:
        Tensor (out, in, k, k, k), axes z, y, x.
    """
    shape = sigma.shape
    flat = [p.reshape(-1) for p in (theta_y, theta_z, amplitude_re, amplitude_im, phase)]
    theta_y, theta_z, amplitude_re, amplitude_im, phase = flat
    u = torch.arange(kernel_size, dtype=sigma.dtype, device=sigma.device)[:, None] - (kernel_size - 1) / 2
    envelope = torch.exp(-0.5 * (u / sigma.reshape(-1)) ** 2)
    waves = 2 * math.pi * u * torch.stack([frequency_re.reshape(-1), frequency_im.reshape(-1)])[:, None]
    z = envelope * _cos_sin(waves * torch.sin(theta_y))
    y = envelope * _cos_sin(waves * -torch.cos(theta_y) * torch.sin(theta_z))
    x = envelope * _cos_sin(waves * torch.cos(theta_y) * torch.cos(theta_z) + phase)
    # What the real and the imaginary part of the product of the z and y factors are to be multiplied with.
    (re_cos, re_sin), (im_cos, im_sin) = x
    lines = torch.stack([
        torch.stack([amplitude_re * re_cos, -amplitude_re * re_sin]),
        torch.stack([amplitude_im * im_sin, amplitude_im * im_cos]),
    ])
    return _Product.apply(z, y, lines, taps_first).unflatten(0, shape)


def _cos_sin(angle):
    """(2, k, P) angles of two frequencies -> (2, 2, k, P), cosine and sine for each."""
    return torch.stack([torch.cos(angle), torch.sin(angle)], dim=1)


class _Product(torch.autograd.Function):
    """Kernels from their factors along the axes: the sum over two frequencies of Re(z y) x_0 + Im(z y) x_1.

    z and y hold the real and imaginary parts of complex factors, x what their product is multiplied with; all are
    (2 frequencies, 2 parts, k, P) for P kernels, and the result is (P, k, k, k). The backward pass contracts the
    kernels' gradient with the factors again, so nothing of the size k^3 is kept. Kernels stand along the last,
    contiguous axis and are done a few hundred at a time, so that all of the work happens in the cache.
    """

    @staticmethod
    def forward(ctx, z, y, x, taps_first):
        ctx.save_for_backward(z, y, x)
        k, count = z.shape[-2:]
        result = z.new_empty(k, k, k, count) if taps_first else z.new_empty(count, k, k, k).movedim(0, -1)
        for part in _parts(z):
            plane, line = _planes(z[..., part], y[..., part])[:, :, :, :, None], x[..., part]
            product = plane[0, 0] * line[0, 0]
            for i, j in ((0, 1), (1, 0), (1, 1)):
                product.addcmul_(plane[i, j], line[i, j])
            result[..., part] = product
        return result.movedim(-1, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        z, y, x = ctx.saved_tensors
        grad_z, grad_y, grad_x = torch.empty_like(z), torch.empty_like(y), torch.empty_like(x)
        for part in _parts(z):
            zs, ys, line = z[..., part], y[..., part], x[..., part]
            kernels = gradient[part].movedim(0, -1).contiguous()
            plane = _planes(zs, ys)
            for i in range(2):
                for j in range(2):
                    grad_x[i, j, :, part] = _contract(kernels, plane[i, j][:, :, None], 0).sum(dim=0)
                re, im = [_contract(kernels, line[i, j][None, None], 2) for j in range(2)]
                grad_z[i, 0, :, part] = (re * ys[i, 0] + im * ys[i, 1]).sum(dim=1)
                grad_z[i, 1, :, part] = (im * ys[i, 0] - re * ys[i, 1]).sum(dim=1)
                grad_y[i, 0, :, part] = (re * zs[i, 0][:, None] + im * zs[i, 1][:, None]).sum(dim=0)
                grad_y[i, 1, :, part] = (im * zs[i, 0][:, None] - re * zs[i, 1][:, None]).sum(dim=0)
        return grad_z, grad_y, grad_x, None


def _contract(kernels, factor, dim):
    """(kernels * factor).sum(dim) without the product in memory."""
    slices = zip(kernels.unbind(dim), factor.unbind(dim))
    result = torch.mul(*next(slices))
    for one, other in slices:
        result.addcmul_(one, other)
    return result


def _parts(factors):
    """Slices of the kernels to do at a time: as many as stay in a CPU's cache, all on other devices."""
    k, count = factors.shape[-2:]
    step = max(1, PART_ELEMENTS // k**3) if factors.device.type == "cpu" else max(1, count)
    return [slice(start, start + step) for start in range(0, count, step)]


def _planes(z, y):
    """Real and imaginary part of the product of the z and y factors, (2, 2, k, k, P)."""
    z, y = z[:, :, :, None], y[:, :, None]
    re = z[:, 0] * y[:, 0] - z[:, 1] * y[:, 1]
    im = z[:, 0] * y[:, 1] + z[:, 1] * y[:, 0]
    return torch.stack([re, im], dim=1)


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
        parameters = {name: getattr(self, name) for name in PARAMETER_NAMES}
        # The value is clamped and the gradient is not, so that a sigma that ran into the bound can come back.
        sigma = parameters["sigma"]
        parameters["sigma"] = sigma + (sigma.clamp(min=SMALLEST_SIGMA) - sigma).detach()
        return gabor_kernels(**parameters, kernel_size=self.kernel_size, taps_first=taps_first)

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.sigma.dtype)
            axes = fourier.choose_axes(x, self.out_channels, self.kernel_size)
            if axes is None:
                return functional.conv3d(x, self.kernel(), padding=self.kernel_size // 2)
            return fourier.convolve(x, self.kernel(taps_first=True), axes)

    def extra_repr(self):
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"


def bake_kernels(network):
    """Replace every `GaborConv3d` in a network by an `nn.Conv3d` with the same kernels, in place, and return it.

    For inference and export: the kernels are computed once, and any runtime knows the layer.
    """
    for name, module in network.named_children():
        if isinstance(module, GaborConv3d):
            plain = nn.Conv3d(
                module.in_channels, module.out_channels, module.kernel_size, padding=module.kernel_size // 2, bias=False
            )
            plain.weight = nn.Parameter(module.kernel().detach(), requires_grad=False)
            setattr(network, name, plain)
        else:
            bake_kernels(module)
    return network
