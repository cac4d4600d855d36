"""The faster ways between the network's levels, beside torch's functions in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from GaborSegLib.model import fast
from GaborSegLib.model.fast import BakedConv3d, fourier, pyramid


def trilinear(x):
    return functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)


@pytest.fixture
def image():
    torch.manual_seed(0)
    return torch.randn(2, 3, 4, 6, 10, dtype=torch.float64)


@torch.inference_mode()
def test_max_pool(image):
    assert torch.equal(fast.max_pool(image), functional.max_pool3d(image, 2))
    odd = image[:, :, 1:]
    assert torch.equal(fast.max_pool(odd), functional.max_pool3d(odd, 2))


@torch.inference_mode()
@pytest.mark.parametrize("size", [(4, 6, 10), (1, 2, 3)])
def test_upsample(image, size):
    image = image[:, :, : size[0], : size[1], : size[2]]
    torch.testing.assert_close(fast.upsample(image), trilinear(image), rtol=0, atol=1e-12)


@torch.inference_mode()
def test_add_projection(image):
    weight = torch.randn(5, 3, 1, 1, 1, dtype=torch.float64)
    expected = functional.conv3d(image, weight)
    sums = torch.ones_like(expected)
    torch.testing.assert_close(fast.add_projection(sums, image, weight), 1 + expected, rtol=0, atol=1e-12)


@torch.inference_mode()
@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("slab", [2, 6, 64])
@pytest.mark.parametrize("size", [(4, 6, 10), (2, 2, 2), (1, 3, 2)])
def test_convolution_of_an_upsampled_image(monkeypatch, image, size, slab, k):
    """Faces, edges and corners of the volume, too; where a slab ends inside, and where only the plain way is left."""
    monkeypatch.setattr(pyramid, "SLAB", slab)
    coarse = image[:, :, : size[0], : size[1], : size[2]]
    fine = torch.randn(2, 4, *(2 * n for n in size), dtype=torch.float64)
    layer = nn.Conv3d(7, 5, k, padding=k // 2, bias=False).double()
    expected = functional.conv3d(torch.cat([trilinear(coarse), fine], dim=1), layer.weight, padding=k // 2)
    torch.testing.assert_close(fast.convolve_joined(layer, coarse, fine), expected, rtol=0, atol=1e-12)


@torch.inference_mode()
def test_planes_of_a_joined_image(image):
    fine = torch.randn(2, 4, 8, 12, 20, dtype=torch.float64)
    joined = pyramid.Joined(image, fine)
    expected = torch.cat([trilinear(image), fine], dim=1)
    assert joined.shape == expected.shape
    for first in range(8):
        for count in range(1, 9 - first):
            torch.testing.assert_close(
                joined.narrow(2, first, count), expected[:, :, first : first + count], rtol=0, atol=1e-12
            )


@torch.inference_mode()
@pytest.mark.parametrize("windows_bytes", [1, 2**19, 2**30])
@pytest.mark.parametrize("way", [None, False, True])
def test_baked_convolution_of_an_upsampled_image(monkeypatch, image, way, windows_bytes):
    """Directly and by frequencies, with spectra that are kept and without; rows, layers or all tiles at a time."""
    monkeypatch.setattr(fourier, "WINDOWS_BYTES", windows_bytes)
    fine = torch.randn(2, 4, 8, 12, 20, dtype=torch.float64)
    axes = tuple(fourier.axis_of(size, 5, tiles) for size, tiles in zip((8, 12, 20), (3, 2, 3)))
    monkeypatch.setattr(fast, "choose_for_inference", lambda x, outputs, k: None if way is None else (axes, way))
    with torch.inference_mode(False):
        layer = BakedConv3d(torch.randn(5, 7, 5, 5, 5, dtype=torch.float64))
    expected = functional.conv3d(torch.cat([trilinear(image), fine], dim=1), layer.weight, padding=2)
    torch.testing.assert_close(fast.convolve_joined(layer, image, fine), expected, rtol=0, atol=1e-12)


def test_with_gradients_all_is_torchs_own(image):
    """Nothing is done in place, and gradients are those of the plain functions."""
    weight = torch.randn(3, 3, 1, 1, 1, dtype=torch.float64)
    layer = nn.Conv3d(6, 3, 3, padding=1, bias=False).double()
    skip = torch.randn(2, 3, 8, 12, 20, dtype=torch.float64)

    def ours(x):
        return fast.max_pool(fast.add_projection(fast.convolve_joined(layer, x, skip), skip, weight))

    def plain(x):
        joined = layer(torch.cat([trilinear(x), skip], dim=1))
        return functional.max_pool3d(joined + functional.conv3d(skip, weight), 2)

    results = []
    for function in (ours, plain):
        x = image.clone().requires_grad_()
        values = function(x)
        results.append((values, *torch.autograd.grad(values.square().sum(), [x, layer.weight])))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
