"""Gabor kernels on a GPU: all taps of a kernel, or all of its eight gradients, in one pass over memory. Needs Triton.

There the exponentials cost less than reading and writing the kernels, so Eq. (2) is computed as it is written, tap by
tap. The functions are those of `separable`, which needs no Triton.
"""

import torch
import triton
import triton.language as tl

# Kernels that a program does at a time.
BLOCK = 4


def kernels(parameters, k, taps_first):
    """Kernels of Eq. (2); arguments and shape as of `separable.kernels`, in float32 on a GPU."""
    count = parameters.shape[1]
    taps = parameters.new_empty(k**3, count) if taps_first else parameters.new_empty(count, k**3).T
    _launch(_make_kernels, parameters, taps, k)
    return taps.unflatten(0, (k, k, k))


def parameter_gradients(parameters, gradient):
    """Gradients of the parameters from that of the kernels; as `separable.parameter_gradients`."""
    result = torch.empty_like(parameters, memory_format=torch.contiguous_format)
    k = gradient.shape[-1]
    gradient = gradient.movedim(0, -1)
    taps = gradient.flatten(0, 2) if gradient.is_contiguous() else gradient.movedim(-1, 0).flatten(1).T
    _launch(_make_gradients, parameters, taps, k, result)
    return result


def _launch(program, parameters, taps, k, *results):
    count = parameters.shape[1]
    if count:
        size = triton.next_power_of_2(k**3)
        with torch.cuda.device_of(parameters):  # Triton takes the current device, whatever the tensors are on
            program[(triton.cdiv(count, BLOCK),)](
                parameters.contiguous(), taps, *results, count, *taps.stride(), k, size, BLOCK
            )


# In what follows rows are kernels and columns are taps, filled up to a power of 2.


@triton.jit
def _make_kernels(
    parameters, taps, count, tap_stride, kernel_stride, k: tl.constexpr, size: tl.constexpr, block: tl.constexpr
):
    kernel = tl.program_id(0) * block + tl.arange(0, block)
    z, y, x = _positions(k, size)
    along = _along(parameters, kernel, count, z, y, x)
    wave_re = _parameter(parameters, 3, kernel, count) * tl.cos(_angle(parameters, 5, kernel, count, along))
    wave_im = _parameter(parameters, 4, kernel, count) * tl.sin(_angle(parameters, 6, kernel, count, along))
    values = _envelope(parameters, kernel, count, z, y, x) * (wave_re + wave_im)
    place, inside = _places(kernel, count, tap_stride, kernel_stride, k, size)
    tl.store(taps + place, values, mask=inside)


@triton.jit
def _make_gradients(
    parameters,
    gradient,
    result,
    count,
    tap_stride,
    kernel_stride,
    k: tl.constexpr,
    size: tl.constexpr,
    block: tl.constexpr,
):
    kernel = tl.program_id(0) * block + tl.arange(0, block)
    place, inside = _places(kernel, count, tap_stride, kernel_stride, k, size)
    z, y, x = _positions(k, size)
    by_wave = tl.load(gradient + place, mask=inside, other=0.0) * _envelope(parameters, kernel, count, z, y, x)
    along = _along(parameters, kernel, count, z, y, x)
    angle_re = _angle(parameters, 5, kernel, count, along)
    angle_im = _angle(parameters, 6, kernel, count, along)
    by_amplitude_re = by_wave * tl.cos(angle_re)
    by_amplitude_im = by_wave * tl.sin(angle_im)
    amplitude_re = _parameter(parameters, 3, kernel, count)
    amplitude_im = _parameter(parameters, 4, kernel, count)
    by_angle_re = -by_wave * amplitude_re * tl.sin(angle_re)
    by_angle_im = by_wave * amplitude_im * tl.cos(angle_im)
    turn = 6.283185307179586
    by_along = turn * (
        by_angle_re * _parameter(parameters, 5, kernel, count) + by_angle_im * _parameter(parameters, 6, kernel, count)
    )
    sigma = _parameter(parameters, 0, kernel, count)
    theta_y = _parameter(parameters, 1, kernel, count)
    theta_z = _parameter(parameters, 2, kernel, count)
    across = x * tl.cos(theta_z) - y * tl.sin(theta_z)
    by_sigma = (amplitude_re * by_amplitude_re + amplitude_im * by_amplitude_im) * (z * z + y * y + x * x)
    _store_sum(result, 0, kernel, count, by_sigma / (sigma * sigma * sigma))
    _store_sum(result, 1, kernel, count, by_along * (z * tl.cos(theta_y) - tl.sin(theta_y) * across))
    _store_sum(result, 2, kernel, count, by_along * -tl.cos(theta_y) * (y * tl.cos(theta_z) + x * tl.sin(theta_z)))
    _store_sum(result, 3, kernel, count, by_amplitude_re)
    _store_sum(result, 4, kernel, count, by_amplitude_im)
    _store_sum(result, 5, kernel, count, turn * by_angle_re * along)
    _store_sum(result, 6, kernel, count, turn * by_angle_im * along)
    _store_sum(result, 7, kernel, count, by_angle_re + by_angle_im)


@triton.jit
def _positions(k: tl.constexpr, size: tl.constexpr):
    """z, y and x of the taps, voxels from the centre."""
    tap = tl.arange(0, size)[None, :]
    z = (tap // (k * k) - k // 2).to(tl.float32)
    y = (tap // k % k - k // 2).to(tl.float32)
    return z, y, (tap % k - k // 2).to(tl.float32)


@triton.jit
def _places(kernel, count, tap_stride, kernel_stride, k: tl.constexpr, size: tl.constexpr):
    """Where the taps lie in memory, and which of them there are."""
    tap = tl.arange(0, size)[None, :]
    place = tap.to(tl.int64) * tap_stride + kernel[:, None].to(tl.int64) * kernel_stride
    return place, (kernel < count)[:, None] & (tap < k * k * k)


@triton.jit
def _parameter(parameters, row, kernel, count):
    """A parameter of the kernels, a column; 1 where there is no kernel."""
    return tl.load(parameters + row * count + kernel, mask=kernel < count, other=1.0)[:, None]


@triton.jit
def _envelope(parameters, kernel, count, z, y, x):
    sigma = _parameter(parameters, 0, kernel, count)
    return tl.exp(-0.5 * (z * z + y * y + x * x) / (sigma * sigma))


@triton.jit
def _along(parameters, kernel, count, z, y, x):
    """x' of Eq. (2): the first coordinate after the rotation."""
    theta_y = _parameter(parameters, 1, kernel, count)
    theta_z = _parameter(parameters, 2, kernel, count)
    return z * tl.sin(theta_y) + tl.cos(theta_y) * (x * tl.cos(theta_z) - y * tl.sin(theta_z))


@triton.jit
def _angle(parameters, row, kernel, count, along):
    """2 pi f x' + psi, with the frequency in that row."""
    return 6.283185307179586 * _parameter(parameters, row, kernel, count) * along + _parameter(
        parameters, 7, kernel, count
    )


@triton.jit
def _store_sum(result, row, kernel, count, values):
    tl.store(result + row * count + kernel, tl.sum(values, axis=1), mask=kernel < count)
