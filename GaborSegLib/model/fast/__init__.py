"""The one place that chooses, for each operation of the networks, between its plain form and a faster one.

The plain form is torch's own function, or the equation as it is written in the paper. The other files here hold the
faster ones; they compute and choose nothing. All give the same within rounding. In words:

- **Kernels of Gabor parameters** (`kernels`): on a GPU in float32, where Triton works there, by `fused`; everywhere
  else by `separable`.
- **Their convolution** (`convolve_made`): on known ground by `fourier` where `costs` says that it is faster.
- **Convolution with kernels that stay** (`BakedConv3d`): the same without gradients, with other costs; and by spectra
  that are kept where these are small and used often.
- **From level to level** (`max_pool`, `upsample`, `add_projection`, `convolve`, `convolve_joined`): in inference mode
  on known ground by `pyramid`, where the sizes allow it.

Known ground is a CPU in float32 or float64, and nothing that is traced, compiled or exported: an exported network has
torch's operations alone. On a GPU convolutions are cuDNN's, and nothing was measured there.

With ``GABORSEG_PLAIN=1`` in the environment, or inside ``with plain():``, everything takes its plain form: to check
the faster ones, to find out whether they are to blame for something, and for machines that they do not suit. The
variable is read at each use, and processes that are started inherit it.
"""

import os
from contextlib import contextmanager
from functools import cache, lru_cache

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from . import costs, fourier, pyramid, separable

SWITCH = "GABORSEG_PLAIN"
# What the spectra of one layer may take where they are kept.
SPECTRA_BYTES = 80 * 2**20


# The switch


@contextmanager
def plain():
    """Context in which every operation takes its plain form, in all threads and in processes that are started in it.

    A backward pass goes the way of its forward pass, whatever the switch says by then.

    Example::

        >>> x = torch.rand(1, 1, 4, 4, 4)
        >>> with plain(), torch.inference_mode():
        ...     expected = upsample(x)
        >>> with torch.inference_mode():
        ...     torch.allclose(upsample(x), expected)
        True
    """
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(SWITCH, None)
        else:
            os.environ[SWITCH] = before


def is_plain():
    """Whether the switch says that every operation is to take its plain form."""
    return os.environ.get(SWITCH, "") not in ("", "0")


def _on_known_ground(x):
    """Whether the faster ways are known to be right and faster for x: on a CPU, in full precision, not traced."""
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
    return not traced and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and not is_plain()


# Kernels


def kernels(equation, parameters, kernel_size, taps_first=False):
    """Kernels of Gabor parameters.

    Args:
        equation: the plain form, `equation(*parameters, kernel_size)`.
        parameters: eight tensors, in the order of `gabor.PARAMETER_NAMES`.
        kernel_size: k, odd.
        taps_first: a wish for the order in memory: (k, k, k, O, I), as `fourier.convolve` likes it, instead of that of
            the result.

    Shape:
        eight times (O, I) -> (O, I, k, k, k), differentiable by all of them.
    """
    if is_plain():
        return equation(*parameters, kernel_size)
    rows = torch.stack([p.reshape(-1) for p in parameters])
    return _Kernels.apply(rows, kernel_size, taps_first).unflatten(0, parameters[0].shape)


class _Kernels(torch.autograd.Function):
    """Kernels (P, k, k, k) of parameters (8, P). Nothing but these is kept for the backward pass."""

    @staticmethod
    def forward(ctx, parameters, k, taps_first):
        ctx.save_for_backward(parameters)
        return _synthesis(parameters).kernels(parameters, k, taps_first).movedim(-1, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (parameters,) = ctx.saved_tensors
        return _synthesis(parameters).parameter_gradients(parameters, gradient), None, None


def _synthesis(parameters):
    """The file that makes the kernels of these parameters: `fused` or `separable`."""
    fused = _working_fused(parameters.device) if parameters.is_cuda and parameters.dtype == torch.float32 else None
    return fused or separable


@cache
def _working_fused(device):
    """The module `fused`, or None where Triton is not there or its results on that device are not the plain ones.

    At its first call Triton needs a C compiler and more. Whatever it lacks, without it kernels are only slower.
    """
    try:
        from . import fused

        parameters = torch.linspace(0.5, 1.5, 8 * 6, device=device).view(8, 6)
        gradient = torch.linspace(-1, 1, 6 * 27, device=device).view(6, 3, 3, 3)
        pairs = [[way.parameter_gradients(parameters, gradient) for way in (fused, separable)]]
        pairs += [[way.kernels(parameters, 3, first) for way in (fused, separable)] for first in (False, True)]
        return fused if all(torch.allclose(*pair, rtol=1e-4, atol=1e-5) for pair in pairs) else None
    except Exception:
        return None


# Convolution with large kernels


def convolve_made(x, make_kernel, parameters, outputs, kernel_size):
    """Convolution, with zeros around and an output of the same size, with kernels that a function makes of parameters.

    Args:
        x: the image.
        make_kernel: `make_kernel(*parameters, taps_first=...)`, see `kernels`; a faster way calls it again for the
            backward pass.
        parameters: tensors.
        outputs, kernel_size: O and k of the kernels (O, I, k, k, k).

    Shape:
        (B, I, D, H, W) -> (B, O, D, H, W), differentiable by x and the parameters.
    """
    axes = choose_axes(x, outputs, kernel_size)
    if axes is None:
        return functional.conv3d(x, make_kernel(*parameters, taps_first=False), padding=kernel_size // 2)
    return fourier.convolve_with(x, make_kernel, parameters, axes)


class BakedConv3d(nn.Conv3d):
    """An ``nn.Conv3d`` whose kernels are there and stay; for inference it convolves by frequencies where faster.

    Where the spectra of the kernels are small they are computed for the first image of a size and kept until the
    weight or the size changes; they are no part of the state. With gradients it is the plain layer.

    Args:
        weight: the kernels, k odd.

    Shape:
        weight (O, I, k, k, k), image (B, I, D, H, W) -> (B, O, D, H, W).
    """

    def __init__(self, weight):
        outputs, inputs, k = weight.shape[:3]
        super().__init__(inputs, outputs, k, padding=k // 2, bias=False, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        self._kept = fourier.KeptSpectra()

    def forward(self, x):
        """x: (B, I, D, H, W), or a `pyramid.Joined`, which is whole only where that is needed."""
        way = None
        if not torch.is_grad_enabled() and x.dtype == self.weight.dtype:
            way = choose_for_inference(x, self.out_channels, self.kernel_size[0])
        if way and way[1]:
            return fourier.convolve_spectra(x, self._kept.of(self.weight, way[0]), way[0])
        whole = x if isinstance(x, torch.Tensor) else x.narrow(2, 0, x.shape[2])
        return fourier.convolve(whole, self.weight, way[0]) if way else super().forward(whole)


def choose_axes(x, outputs, k):
    """How `fourier.convolve` is to cut x, (B, I, D, H, W), for k^3 kernels in training: three `Axis`, or None.

    None is for torch's own convolution, which is faster for small volumes: most taps of a large kernel fall beside
    such a volume, and it skips them.
    """
    return _cheapest(tuple(x.shape), outputs, k) if _on_known_ground(x) else None


def choose_for_inference(x, outputs, k):
    """Three `Axis`, and whether `convolve_spectra` is to take them (else `convolve`); None as for `choose_axes`."""
    return _cheapest_for_inference(tuple(x.shape), outputs, k) if _on_known_ground(x) else None


@lru_cache(maxsize=1024)
def _cheapest(shape, outputs, k):
    ways = [(costs.direct(shape, outputs, k, costs.TRAINING), None)]
    ways += [(costs.by_frequencies(shape, outputs, k, axes, costs.TRAINING), axes) for axes in costs.cuts(shape[2:], k)]
    return min(ways, key=lambda way: way[0])[1]


@lru_cache(maxsize=1024)
def _cheapest_for_inference(shape, outputs, k):
    size = shape[2:]
    ways = [(costs.direct(shape, outputs, k, costs.INFERENCE), None)]
    for axes in costs.cuts(size, k):
        ways.append((costs.by_frequencies(shape, outputs, k, axes, costs.INFERENCE), (axes, False)))
    for axes in costs.cuts(size, k, costs.KEPT_STEPS):
        # One window alone would use them once, and its spectra are the largest.
        small = 8 * fourier.frequencies(axes) * shape[1] * outputs <= SPECTRA_BYTES
        if small and min(axis.tiles for axis in axes) > 1:
            ways.append((costs.with_kept_spectra(shape, outputs, axes), (axes, True)))
    return min(ways, key=lambda way: way[0])[1]


# From level to level


def _in_inference(x):
    return torch.is_inference_mode_enabled() and _on_known_ground(x)


def max_pool(x):
    """Maxima of 2^3 voxels.

    Shape:
        (B, C, D, H, W) -> (B, C, D // 2, H // 2, W // 2).
    """
    if _in_inference(x) and not any(size % 2 for size in x.shape[2:]):
        return pyramid.max_pool(x)
    return functional.max_pool3d(x, 2)


def upsample(x):
    """Twice the size, trilinear.

    Shape:
        (B, C, D, H, W) -> (B, C, 2 D, 2 H, 2 W).
    """
    if _in_inference(x):
        return pyramid.upsample(x)
    return functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)


def add(result, x):
    """The sum, in the place of `result` in inference mode, on any device."""
    return result.add_(x) if torch.is_inference_mode_enabled() and not is_plain() else result + x


def add_projection(result, x, weight):
    """`result` plus a 1x1x1 convolution of x; in the place of `result` in inference mode.

    Shape:
        result (B, O, D, H, W), x (B, I, D, H, W), weight (O, I, 1, 1, 1) -> (B, O, D, H, W).
    """
    if _in_inference(x):
        return pyramid.add_projection(result, x, weight)
    return add(result, functional.conv3d(x, weight))


def convolve(layer, x):
    """A convolution layer with x; an ``nn.Conv3d`` with a large volume does a few planes at a time in inference mode.

    Shape:
        (B, I, D, H, W) -> (B, O, D, H, W).
    """
    if type(layer) is nn.Conv3d and _in_inference(x) and x.shape[2] > pyramid.SLAB:
        return pyramid.convolve(x, layer.weight)
    return layer(x)


def convolve_joined(layer, coarse, x):
    """A convolution layer with `upsample(coarse)` and x, joined along the channels.

    In inference mode a `BakedConv3d` makes what it needs of the joined image, a few planes at a time, and for an
    ``nn.Conv3d`` of 3^3 kernels it is not made at all.

    Shape:
        coarse (B, J, D, H, W), x (B, I, 2 D, 2 H, 2 W) -> (B, O, 2 D, 2 H, 2 W).
    """
    if _in_inference(x):
        if isinstance(layer, BakedConv3d):
            return layer(pyramid.Joined(coarse, x))
        if type(layer) is nn.Conv3d and layer.kernel_size == (3, 3, 3) and min(coarse.shape[2:]) > 1:
            return pyramid.convolve_joined(coarse, x, layer.weight)
    return layer(torch.cat([upsample(coarse), x], dim=1))
