"""Convolution kernels that are Gabor functions with eight trainable parameters (Wong & Moradi 2022, Section 2.1)."""

import math

import torch
from torch import nn

from . import fast

# Below this standard deviation (in voxels) a kernel is a single voxel and more shrinking changes nothing, while the
# derivative by sigma runs off to infinity.
SMALLEST_SIGMA = 0.3

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

    `equation_2` is the equation as it is written; `fast` chooses how it is computed.

    Args:
        sigma: standard deviation, voxels.
        theta_y, theta_z: rotation angles, radians.
        amplitude_re, amplitude_im: amplitudes of the cosine and the sine.
        frequency_re, frequency_im: their frequencies, cycles per voxel.
        phase: their phase, radians.
        kernel_size: k, odd.
        taps_first: a wish for the order in memory: (k, k, k, out, in), as convolution by frequencies likes it, instead
            of that of the result.

    Shape:
        each parameter (out, in) -> (out, in, k, k, k), axes z, y, x.

    Example::

        >>> one = torch.ones(24, 12)
        >>> gabor_kernels(one, 0 * one, 0 * one, one, one, 0.1 * one, 0.1 * one, 0 * one, kernel_size=7).shape
        torch.Size([24, 12, 7, 7, 7])
    """
    parameters = (sigma, theta_y, theta_z, amplitude_re, amplitude_im, frequency_re, frequency_im, phase)
    return fast.kernels(equation_2, parameters, kernel_size, taps_first)


def equation_2(sigma, theta_y, theta_z, amplitude_re, amplitude_im, frequency_re, frequency_im, phase, kernel_size):
    """Eq. (2) as the paper writes it, voxel by voxel; arguments and shape as of `gabor_kernels`."""
    parameters = (sigma, theta_y, theta_z, amplitude_re, amplitude_im, frequency_re, frequency_im, phase)
    sigma, theta_y, theta_z, a_re, a_im, f_re, f_im, psi = [p[..., None, None, None] for p in parameters]
    u = torch.arange(kernel_size, dtype=sigma.dtype, device=sigma.device) - kernel_size // 2
    z, y, x = torch.meshgrid(u, u, u, indexing="ij")
    # The first coordinate, turned about the z axis, and then that about the y axis, which leaves z as it is.
    turned = theta_z.cos() * x - theta_z.sin() * y
    turned = theta_y.cos() * turned + theta_y.sin() * z
    envelope = torch.exp(-(x**2 + y**2 + z**2) / (2 * sigma**2))
    wave = a_re * torch.cos(2 * math.pi * f_re * turned + psi) + a_im * torch.sin(2 * math.pi * f_im * turned + psi)
    return envelope * wave


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
            return fast.convolve_made(
                x, self._made_of, self._parameters_in_order(), self.out_channels, self.kernel_size
            )

    def extra_repr(self):
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"


def bake_kernels(network):
    """Replace every `GaborConv3d` in a network by a `fast.BakedConv3d` with its kernels, in place, and return it.

    For inference and export: the kernels are computed once for all images. The layers are of the type ``nn.Conv3d``,
    and traced or exported (TorchScript's trace, ONNX) they are nothing else, so that any runtime knows them.

    Example::

        >>> bake_kernels(nn.Sequential(GaborConv3d(1, 4), nn.ReLU()))[0].weight.shape
        torch.Size([4, 1, 7, 7, 7])
    """
    for name, module in network.named_children():
        if isinstance(module, GaborConv3d):
            setattr(network, name, fast.BakedConv3d(module.kernel(taps_first=True).detach()))
        else:
            bake_kernels(module)
    return network
