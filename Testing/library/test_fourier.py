"""Convolution in the frequency domain: against direct convolution in float64, forward and by both inputs."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from GaborSegLib import fourier
from GaborSegLib.fourier import axis_of, choose_axes, convolve


def made(batch, inputs, outputs, size, k, dtype=torch.float64):
    generator = torch.Generator().manual_seed(k)
    image = torch.randn(batch, inputs, *size, dtype=torch.float64, generator=generator)
    kernel = torch.randn(outputs, inputs, k, k, k, dtype=torch.float64, generator=generator)
    gradient = torch.randn(batch, outputs, *size, dtype=torch.float64, generator=generator)
    return image.to(dtype).requires_grad_(), kernel.to(dtype).requires_grad_(), gradient.to(dtype)


def evaluated(convolution, image, kernel, gradient):
    output = convolution(image, kernel)
    return [output, *torch.autograd.grad(output, [image, kernel], gradient)]


def direct(image, kernel):
    return functional.conv3d(image, kernel, padding=kernel.shape[-1] // 2)


@pytest.mark.parametrize("k", [1, 3, 5, 7, 9])
@pytest.mark.parametrize(
    "size, tiles", [((4, 5, 6), (1, 1, 1)), ((7, 9, 13), (2, 1, 3)), ((16, 11, 5), (2, 4, 1)), ((1, 2, 3), (1, 1, 1))]
)
def test_is_a_convolution(monkeypatch, k, size, tiles):
    """Of odd sizes, more than one image, one tile or several, and however many channels are done at a time."""
    image, kernel, gradient = made(2, 3, 4, size, k)
    axes = [axis_of(n, k, count) for n, count in zip(size, tiles)]
    expected = evaluated(direct, image, kernel, gradient)
    for part in (1, fourier.PART_BYTES):
        monkeypatch.setattr(fourier, "PART_BYTES", part)
        found = evaluated(lambda *both: convolve(*both, axes), image, kernel, gradient)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_gradcheck():
    image, kernel, _ = made(1, 2, 2, (3, 4, 5), 3)
    axes = [axis_of(n, 3, count) for n, count in zip((3, 4, 5), (1, 2, 1))]
    assert gradcheck(lambda *both: convolve(*both, axes), (image, kernel))


@pytest.mark.parametrize("size, tiles", [((16, 16, 16), 1), ((28, 30, 26), 2)])
def test_float32_is_as_good_as_needed(size, tiles):
    """Within 1e-5 of the largest value; 1e-4 would do."""
    doubles = made(1, 16, 8, size, 7)
    axes = [axis_of(n, 7, tiles) for n in size]
    found = evaluated(lambda *both: convolve(*both, axes), *made(1, 16, 8, size, 7, torch.float32))
    for one, other in zip(found, evaluated(direct, *doubles)):
        assert (one - other).abs().max() < 1e-5 * other.abs().max()


def test_order_in_memory_changes_nothing():
    image, kernel, _ = made(1, 5, 4, (6, 7, 8), 5, torch.float32)
    axes = [axis_of(n, 5, 1) for n in (6, 7, 8)]
    other = kernel.permute(2, 3, 4, 0, 1).contiguous().permute(3, 4, 0, 1, 2)
    assert torch.equal(convolve(image, kernel, axes), convolve(image, other, axes))


def test_repeats_to_the_bit():
    inputs = made(1, 24, 24, (16, 16, 16), 7, torch.float32)
    axes = choose_axes(inputs[0], 24, 7)
    runs = [evaluated(lambda *both: convolve(*both, axes), *inputs) for _ in range(2)]
    assert axes and all(torch.equal(one, other) for one, other in zip(*runs))


def test_where_it_is_not_used():
    """Small sizes and kernels, other types and devices, and export: None, for a direct convolution."""
    large = torch.zeros(1, 48, 16, 16, 16)
    assert choose_axes(large, 48, 7)
    assert choose_axes(large, 48, 1) is None
    assert choose_axes(large[:, :, :4, :4, :4], 48, 7) is None
    assert choose_axes(large.bfloat16(), 48, 7) is None
    assert choose_axes(large.to("meta"), 48, 7) is None
    chosen = []
    torch.jit.trace(lambda x: (chosen.append(choose_axes(x, 48, 7)), x + 1)[1], large, check_trace=False)
    assert chosen == [None]
