"""Convolution with large kernels in the frequency domain, made of matrix products alone.

At 7^3 taps and the sizes of a network's deeper levels a Fourier transform is so short (7 to 20 points) that it is best
done as a product with its matrix, one axis after the other, with hundreds of channel pairs as columns. The spectra of
the kernels are several times larger than the kernels, so they are made, used and forgotten in parts that stay in the
cache, and the backward pass makes them again.
"""

import math
import threading
from functools import lru_cache
from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Bytes of kernel spectra that are worked on at a time.
PART_BYTES = 3 * 2**20
# What the windows of an image may take at a time.
WINDOWS_BYTES = 2**24


class Axis(NamedTuple):
    """How an axis of `size` voxels is cut into windows, and the n points of their transforms.

    There are `tiles` windows of `window` voxels, the first at voxel `-margin`, `step` apart. Of the circular
    convolution of a window with a kernel, the `step` voxels from its voxel `margin` on are those of the convolution of
    the axis.
    """

    size: int
    n: int
    tiles: int
    window: int
    step: int
    margin: int


def axis_of(size, k, tiles):
    """The `Axis` of so many tiles.

    Several overlap by k - 1; one needs (k - 1) / 2 zeros behind it to wrap around into.
    """
    reach = k // 2
    if tiles == 1:
        return Axis(size, size + reach, 1, size, size, 0)
    step = -(-size // tiles)
    return Axis(size, step + 2 * reach, tiles, step + 2 * reach, step, reach)


def frequencies(axes):
    """The number of points of a real volume's spectrum, for three `Axis`."""
    return (axes[0].n // 2 + 1) * axes[1].n * axes[2].n


def convolve(x, kernel, axes):
    """Convolution as of `torch.nn.functional.conv3d` (correlation), with zeros around and an output of the same size.

    Args:
        x: the image.
        kernel: k is odd; fastest where O and I are its last axes in memory.
        axes: an `Axis` for D, H and W.

    Shape:
        x (B, I, D, H, W), kernel (O, I, k, k, k) -> (B, O, D, H, W), differentiable by both.

    Example::

        >>> x, kernel = torch.randn(1, 2, 12, 10, 9), torch.randn(3, 2, 5, 5, 5)
        >>> axes = [axis_of(size, 5, tiles) for size, tiles in zip((12, 10, 9), (2, 1, 1))]
        >>> torch.allclose(convolve(x, kernel, axes), functional.conv3d(x, kernel, padding=2), atol=1e-4)
        True
    """
    return convolve_with(x, lambda kernel: kernel, (kernel,), axes)


def convolve_with(x, make_kernel, parameters, axes):
    """`convolve` with the kernel that a function makes of these tensors; it is made again for the backward pass.

    Neither the kernel nor the spectrum of x is kept in between, so that in training x and the parameters are all that
    the layer holds.
    """
    product = _Product.apply(x, make_kernel, axes, *parameters)
    half, n, lines = axes[0].n // 2 + 1, axes[1].n, axes[2].n
    product = product.view(half, n, 2, lines, 2, -1, product.shape[-1])
    (re_re, re_im), (im_re, im_im) = [[product[:, :, i, :, j] for j in range(2)] for i in range(2)]
    spectrum = torch.stack([re_re - im_im, re_im + im_re], dim=2).transpose(-1, -2).flatten(4)
    inside = [range(axis.margin, axis.margin + axis.step) for axis in axes]
    inverse = _matrices(axes, inside, inverse=True, dtype=x.dtype, device=x.device)
    return _assemble(_transpose(spectrum, inverse), axes, len(x))


def kernel_spectra(kernel, axes):
    """The spectra of kernels for `convolve_spectra`.

    Shape:
        (O, I, k, k, k) -> (frequencies of z, real and imaginary part, frequencies of y and x, O, I).
    """
    taps, matrices = _taps(kernel.detach(), axes)
    lines = axes[2].n
    result = taps.new_empty(axes[0].n // 2 + 1, 2, axes[1].n * lines, *kernel.shape[:2])
    for spectra, slab in zip(result, _first(taps, matrices)):
        parts = _spectra(slab, matrices).view(axes[1].n, 2, lines, -1).transpose(0, 1)
        spectra.view(2, axes[1].n, lines, -1).copy_(parts)
    return result


class KeptSpectra:
    """The `kernel_spectra` of a layer: made when they are asked for, and kept until its kernels or the axes change.

    Copies and pickles of it start empty. Threads that ask at the same time wait for one of them to make it.
    """

    def __init__(self):
        self.key = self.spectra = None
        self._making = threading.Lock()

    def of(self, kernel, axes):
        """The spectra of kernels (O, I, k, k, k), as `kernel_spectra` gives them."""
        version = None if kernel.is_inference() else kernel._version
        key = (kernel.data_ptr(), version, kernel.dtype, *(axis.n for axis in axes))
        with self._making:
            if self.key != key:
                self.key = self.spectra = None  # the old ones go first
                self.spectra, self.key = kernel_spectra(kernel, axes), key
            return self.spectra

    def __reduce__(self):
        return KeptSpectra, ()


@torch.no_grad()
def convolve_spectra(x, spectra, axes):
    """`convolve` with `kernel_spectra`, for inference.

    Args:
        x: (B, I, D, H, W), or what has its `shape`, `dtype`, `device` and `narrow(2, first, count)`, such as a
            `pyramid.Joined`: a few planes are asked for at a time.
        spectra, axes: see `kernel_spectra`.

    Shape:
        (B, I, D, H, W) -> (B, O, D, H, W).
    """
    make = {"dtype": x.dtype, "device": x.device}
    outputs, inputs = spectra.shape[3:]
    result = torch.empty(x.shape[0], outputs, *x.shape[2:], **make)
    forward = _matrices(axes, [range(axis.window) for axis in axes], **make)
    inverse = _matrices(axes, [range(axis.margin, axis.margin + axis.step) for axis in axes], inverse=True, **make)
    one = 4 * frequencies(axes) * x.shape[0] * axes[2].tiles * (inputs + outputs)  # of a row of tiles
    rows = max(1, WINDOWS_BYTES // one)
    for layers in _runs(axes[0], max(1, rows // axes[1].tiles)):
        padded = _padded(x, axes, layers)
        for line in _runs(axes[1], rows):
            windows = _unfold(padded[..., _reach(axes[1], line), :], axes)
            values = _convolve_windows(windows.flatten(3), spectra, forward, inverse)
            values = values.view(*(axis.step for axis in axes), outputs, *windows.shape[4:])
            inside = [slice(run.start * axis.step, run.stop * axis.step) for axis, run in zip(axes, (layers, line))]
            target = result[:, :, inside[0], inside[1]]
            target.copy_(_fold(values)[:, :, : target.shape[2], : target.shape[3], : target.shape[4]])
    return result


def _runs(axis, count):
    """The tiles of an axis, so many at a time: slices."""
    return [slice(start, min(start + count, axis.tiles)) for start in range(0, axis.tiles, count)]


def _reach(axis, tiles):
    """The voxels of the padded axis that the windows of these tiles have."""
    return slice(tiles.start * axis.step, (tiles.stop - 1) * axis.step + axis.window)


def _convolve_windows(windows, spectra, forward, inverse):
    """(window, window, window, I tiles) -> (step, step, step, O tiles). Nothing is moved between the products."""
    z, y, x, count = windows.shape
    n, step = len(forward[1]) // 2, inverse[2].shape[1] // 2
    slabs = torch.mm(forward[0], windows.view(z, -1)).view(len(spectra), 2 * y, -1)
    outputs, inputs = spectra.shape[3:]
    out = windows.new_empty(len(spectra), inverse[1].shape[1], step * outputs * (count // inputs))
    for kernels, slab, out_slab in zip(spectra, slabs, out):
        rows = torch.mm(forward[1], slab).view(n, 2 * x, count)
        re, im = [
            torch.bmm(half.expand(n, -1, -1), rows).view(-1, inputs, count // inputs) for half in forward[2].chunk(2)
        ]
        by_re = torch.bmm(kernels[0], re).baddbmm_(kernels[1], im, alpha=-1)
        by_im = torch.bmm(kernels[0], im).baddbmm_(kernels[1], re)
        parts = [
            (half.mT.expand(n, -1, -1), by.view(n, half.shape[0], -1))
            for half, by in zip(inverse[2].chunk(2), (by_re, by_im))
        ]
        rows = torch.bmm(*parts[0]).baddbmm_(*parts[1])
        torch.mm(inverse[1].mT, rows.view(len(inverse[1]), -1), out=out_slab)
    return torch.mm(inverse[0].mT, out.view(len(inverse[0]), -1))


class _Product(torch.autograd.Function):
    """Products of an image's spectrum with those of kernels, for each frequency and each part, real and imaginary.

    x, a function that makes kernels (O, I, k, k, k) of parameters, axes, parameters -> (half, 2 n lines, N, O), where
    half, n and lines are the frequencies of z, y and x, and N counts the parts of the tiles' spectra. One frequency of
    z is done at a time, and so many output channels that their spectra stay in the cache.
    """

    @staticmethod
    def forward(ctx, x, make_kernel, axes, *parameters):
        ctx.save_for_backward(x, *parameters)
        ctx.make_kernel, ctx.axes = make_kernel, axes
        rows = _rows(x, axes)
        taps, matrices = _taps(make_kernel(*parameters), axes)
        half, n, lines, count, _ = rows.shape
        result = rows.new_empty(half, 2 * n * lines, count, taps.shape[3])
        slabs = _first(taps, matrices)
        for i in range(half):
            doubled = _twice(rows[i])
            for part in _parts(rows, taps):
                result[i, ..., part] = torch.bmm(doubled, _spectra(slabs[i, ..., part, :], matrices).mT)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        by_x, _, _, *by_parameters = ctx.needs_input_grad
        x, *parameters = [
            t.detach().requires_grad_(wanted) for t, wanted in zip(ctx.saved_tensors, (by_x, *by_parameters))
        ]
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            rows = _rows(x, ctx.axes)
            taps, matrices = _taps(ctx.make_kernel(*parameters), ctx.axes)
        by_rows, by_taps = _product_gradients(
            rows.detach(), taps.detach(), matrices, gradient, by_x, any(by_parameters)
        )
        found = iter(
            (torch.autograd.grad(rows, x, by_rows) if by_x else ())
            + (
                torch.autograd.grad(taps, [p for p in parameters if p.requires_grad], by_taps)
                if any(by_parameters)
                else ()
            )
        )
        by_x, *by_parameters = [next(found) if t.requires_grad else None for t in (x, *parameters)]
        return by_x, None, None, *by_parameters


def _product_gradients(rows, taps, matrices, gradient, by_rows, by_taps):
    """Gradients by rows and by taps, each where it is wanted, from that of the products."""
    by_rows, by_taps = [torch.zeros_like(t) if wanted else None for t, wanted in ((rows, by_rows), (taps, by_taps))]
    slabs = _first(taps, matrices)
    for i in range(len(rows)):
        doubled = _twice(rows[i])
        by_doubled = None if by_rows is None else torch.zeros_like(doubled)
        for part in _parts(rows, taps):
            share = gradient[i, ..., part].contiguous()
            slab = slabs[i, ..., part, :]
            if by_rows is not None:
                by_doubled.baddbmm_(share, _spectra(slab, matrices))
            if by_taps is not None:  # a slab that has been used holds its gradient
                slab.copy_(_spectra_transpose(torch.bmm(share.mT, doubled), matrices).view_as(slab))
        if by_rows is not None:
            torch.sum(by_doubled.view(len(rows[i]), 2, *rows.shape[2:]), dim=1, out=by_rows[i])
    if by_taps is not None:
        torch.mm(matrices[0].mT, slabs.view(len(matrices[0]), -1), out=by_taps.view(len(taps), -1))
    return by_rows, by_taps


def _rows(x, axes):
    """The spectrum of the windows of (B, I, D, H, W): (half, n, lines, N, I), with N their real and imaginary parts."""
    matrices = _matrices(axes, [range(axis.window) for axis in axes], x.dtype, x.device)
    spectrum = _transform(_windows(x, axes), matrices)
    return spectrum.unflatten(4, (x.shape[1], -1)).permute(0, 1, 3, 2, 5, 4).flatten(3, 4)


def _taps(kernel, axes):
    """Kernels (O, I, k, k, k) as (k, k, k, O, I), and the matrices of their transform."""
    k = kernel.shape[-1]
    # A correlation is a convolution with the kernel mirrored.
    matrices = _matrices(axes, [range(k // 2, -(k // 2) - 1, -1)] * 3, kernel.dtype, kernel.device)
    return kernel.permute(2, 3, 4, 0, 1).contiguous(), matrices


def _twice(rows):
    """Rows (n, lines, N, I) for both parts of the kernels' spectra: (2 n lines, N, I)."""
    return rows[:, None].expand(-1, 2, -1, -1, -1).flatten(0, 2)


def _parts(rows, taps):
    """Slices of the output channels."""
    outputs, inputs = taps.shape[3:]
    step = max(1, PART_BYTES // (2 * rows.shape[1] * rows.shape[2] * inputs * taps.element_size()))
    return [slice(o, min(o + step, outputs)) for o in range(0, outputs, step)]


def _first(taps, matrices):
    """Taps after the transform of z, (frequency, part and y, x, O, I)."""
    values = torch.mm(matrices[0], taps.view(len(taps), -1))
    return values.view(len(values) // 2, 2 * taps.shape[1], *taps.shape[2:])


def _spectra(slab, matrices):
    """The transforms of y and x of the kernels of some output channels, (2 F, O, I)."""
    _, by_y, by_x = matrices
    yc, x, outputs, inputs = slab.shape
    values = torch.mm(by_y, slab.reshape(yc, -1)).view(-1, 2 * x, outputs * inputs)
    return torch.bmm(by_x.expand(len(values), -1, -1), values).view(-1, outputs, inputs)


def _spectra_transpose(spectra, matrices):
    """The transpose of `_spectra`, (part and y, x O I)."""
    _, by_y, by_x = matrices
    n = len(by_y) // 2
    values = torch.bmm(by_x.mT.expand(n, -1, -1), spectra.view(n, len(by_x), -1))
    return torch.mm(by_y.mT, values.view(len(by_y), -1))


def _transform(values, matrices):
    """Spectrum of real values: (z, y, x, P) -> (frequencies of z, of y, real and imaginary part, of x, P)."""
    z, y, x, count = values.shape
    by_z, by_y, by_x = matrices
    values = torch.mm(by_z, values.reshape(z, -1))
    half = len(by_z) // 2
    values = torch.bmm(by_y.expand(half, -1, -1), values.view(half, 2 * y, x * count))
    planes = half * len(by_y) // 2
    values = torch.bmm(by_x.expand(planes, -1, -1), values.view(planes, 2 * x, count))
    return values.view(half, -1, 2, len(by_x) // 2, count)


def _transpose(spectrum, matrices):
    """The transpose of `_transform`."""
    by_z, by_y, by_x = matrices
    half, n, _, lines, count = spectrum.shape
    y, x = by_y.shape[1] // 2, by_x.shape[1] // 2
    values = torch.bmm(by_x.mT.expand(half * n, -1, -1), spectrum.reshape(half * n, 2 * lines, count))
    values = torch.bmm(by_y.mT.expand(half, -1, -1), values.view(half, len(by_y), x * count))
    return torch.mm(by_z.mT, values.view(2 * half, y * x * count)).view(-1, y, x, count)


def _matrices(axes, positions, dtype, device, inverse=False):
    """Matrices of the transforms of values at these positions, for `_transform`; for `_transpose` if `inverse`."""
    return [
        _matrix(axis.n, place, tuple(where), inverse, dtype, device)
        for place, (axis, where) in enumerate(zip(axes, positions))
    ]


@lru_cache(maxsize=256)
def _matrix(n, place, positions, inverse, dtype, device):
    """Matrix of one axis: z, y or x by its place.

    The values are real, so that half of the frequencies of z are enough. Rows are (frequency, part) for z and y and
    (part, frequency) for x, columns are (part, position), or position for z: each product then leaves its result in the
    order in memory that the next one needs.
    """
    with torch.inference_mode(False):
        frequencies = torch.arange(n if place else n // 2 + 1, dtype=torch.float64)
        angle = 2 * math.pi / n * frequencies[:, None] * torch.tensor(positions, dtype=torch.float64)
        re, im = angle.cos(), -angle.sin()
        if inverse:
            scale = torch.full((len(frequencies), 1), 1 / n, dtype=torch.float64)
            if place == 0:  # a frequency that is left out has the part of its conjugate
                scale[1 : (n + 1) // 2] *= 2
            re, im = re * scale, im * scale
        if place == 0:
            matrix = torch.stack([re, im], dim=1).flatten(0, 1)
        else:
            matrix = torch.stack([torch.cat([re, -im], dim=1), torch.cat([im, re], dim=1)], dim=2 - place)
            matrix = matrix.flatten(0, 1)
        return matrix.to(device, dtype)


def _windows(x, axes):
    """(B, C, D, H, W) -> (window, window, window, C B tiles)"""
    return _unfold(_padded(x, axes, slice(0, axes[0].tiles)), axes).flatten(3)


def _padded(x, axes, layers):
    """The planes of x that the windows of these layers of tiles reach into, with the zeros that they do."""
    planes = _reach(axes[0], layers)
    first, end = planes.start - axes[0].margin, planes.stop - axes[0].margin
    inside = max(0, first), min(end, axes[0].size)
    padding = [pad for axis in axes[:0:-1] for pad in (axis.margin, _behind(axis))] + [
        inside[0] - first,
        end - inside[1],
    ]
    x = x.narrow(2, inside[0], inside[1] - inside[0])
    return functional.pad(x, padding) if any(padding) else x


def _unfold(x, axes):
    """(B, C, D, H, W), padded -> (window, window, window, C, B, tiles, tiles, tiles)"""
    for dimension, axis in enumerate(axes, start=2):
        x = x.unfold(dimension, axis.window, axis.step)
    return x.permute(5, 6, 7, 1, 0, 2, 3, 4)


def _behind(axis):
    """Zeros behind the axis that the last window reaches into."""
    return (axis.tiles - 1) * axis.step + axis.window - axis.margin - axis.size


def _assemble(values, axes, batch):
    """(step, step, step, C B tiles) -> (B, C, D, H, W)"""
    values = _fold(values.unflatten(3, (-1, batch, *(axis.tiles for axis in axes))))
    return values[:, :, : axes[0].size, : axes[1].size, : axes[2].size]


def _fold(values):
    """(step, step, step, C, B, tiles, tiles, tiles) -> (B, C, tiles step, tiles step, tiles step)"""
    return values.permute(4, 3, 5, 0, 6, 1, 7, 2).flatten(6, 7).flatten(4, 5).flatten(2, 3)
