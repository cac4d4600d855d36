"""GaborConv3d: against Eq. (2) evaluated directly, with the two rotation matrices multiplied out in float64."""

import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional

from GaborSegLib.model.fast import separable
from GaborSegLib.model.gabor import (
    PARAMETER_NAMES,
    SMALLEST_SIGMA,
    GaborConv3d,
    bake_kernels,
    equation_2,
    gabor_kernels,
)


def random_parameters(*shape, seed=0):
    """Parameters well beyond their initial ranges, float64, in the order of PARAMETER_NAMES."""
    generator = torch.Generator().manual_seed(seed)
    low_high = {"sigma": (0.4, 3), "theta_y": (-4, 4), "theta_z": (-4, 4), "phase": (-4, 4)}
    result = []
    for name in PARAMETER_NAMES:
        low, high = low_high.get(name, (-1, 1))
        result.append(low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64))
    return [parameter.requires_grad_() for parameter in result]


def direct(sigma, theta_y, theta_z, amplitude_re, amplitude_im, frequency_re, frequency_im, phase, k):
    """Eq. (2) voxel by voxel; the envelope from all three rotated coordinates, as in Eq. (1)."""
    zero, one = torch.zeros_like(theta_y), torch.ones_like(theta_y)

    def matrix(*entries):
        return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))

    c, s = theta_y.cos(), theta_y.sin()
    r_y = matrix(c, zero, s, zero, one, zero, -s, zero, c)
    c, s = theta_z.cos(), theta_z.sin()
    r_z = matrix(c, -s, zero, s, c, zero, zero, zero, one)
    u = torch.arange(k, dtype=torch.float64) - k // 2
    z, y, x = torch.meshgrid(u, u, u, indexing="ij")
    rotated = torch.einsum("oirc,czyx->roizyx", r_y @ r_z, torch.stack([x, y, z]))
    parameters = (sigma, amplitude_re, amplitude_im, frequency_re, frequency_im, phase)
    sigma, a_re, a_im, f_re, f_im, psi = [p[..., None, None, None] for p in parameters]
    wave = a_re * torch.cos(2 * math.pi * f_re * rotated[0] + psi) + a_im * torch.sin(
        2 * math.pi * f_im * rotated[0] + psi
    )
    return torch.exp(-0.5 * (rotated / sigma).square().sum(dim=0)) * wave


def layer_with(parameters, k):
    outputs, inputs = parameters[0].shape
    layer = GaborConv3d(inputs, outputs, k).double()
    with torch.no_grad():
        for name, value in zip(PARAMETER_NAMES, parameters):
            getattr(layer, name).copy_(value)
    return layer


@pytest.mark.parametrize("k", [1, 3, 5, 7])
def test_kernel_is_equation_2(k):
    parameters = random_parameters(3, 4, seed=k)
    kernel = layer_with(parameters, k).kernel()
    assert kernel.shape == (3, 4, k, k, k)
    torch.testing.assert_close(kernel, direct(*parameters, k), rtol=0, atol=1e-10)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_the_plain_form_is_equation_2(k):
    """With its gradients by autograd."""
    parameters, gradient = random_parameters(3, 4, seed=k), torch.randn(3, 4, k, k, k, dtype=torch.float64)
    kernel, expected = equation_2(*parameters, k), direct(*parameters, k)
    torch.testing.assert_close(kernel, expected, rtol=0, atol=1e-10)
    gradients = [torch.autograd.grad((kernels * gradient).sum(), parameters) for kernels in (kernel, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)


def test_axes_are_z_y_x():
    """Unrotated, the wave runs along x, the last axis; turned by theta_z = 90 degrees it runs along -y."""
    u = torch.arange(7, dtype=torch.float64) - 3
    wave = torch.sin(2 * math.pi * 0.2 * u)
    flat = 1e6  # an envelope so wide that only the wave is left
    values = {"sigma": flat, "amplitude_im": 1, "frequency_im": 0.2}
    for theta_z, expected in ((0, wave.expand(7, 7, 7)), (math.pi / 2, -wave[:, None].expand(7, 7, 7))):
        values["theta_z"] = theta_z
        parameters = [torch.full((1, 1), float(values.get(name, 0)), dtype=torch.float64) for name in PARAMETER_NAMES]
        torch.testing.assert_close(gabor_kernels(*parameters, 7)[0, 0], expected, rtol=0, atol=1e-9)


def test_gradcheck_of_all_parameters():
    assert gradcheck(lambda *p: gabor_kernels(*p, kernel_size=3), random_parameters(1, 2))


@pytest.mark.parametrize("part", [1, 3 * 5**3, separable.PART_ELEMENTS])
def test_layer_gradients(monkeypatch, part):
    """Through kernel and convolution: as through the direct evaluation, however many kernels are done at a time."""
    monkeypatch.setattr(separable, "PART_ELEMENTS", part)
    parameters = random_parameters(4, 2)
    layer = layer_with(parameters, 5)
    torch.manual_seed(0)
    image = torch.randn(2, 2, 5, 6, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 4, 5, 6, 7, dtype=torch.float64)

    (layer(image) * weights).sum().backward()
    output = functional.conv3d(image, direct(*parameters, 5), padding=2)
    expected = torch.autograd.grad((output * weights).sum(), [image, *parameters])

    found = [image.grad, *(getattr(layer, name).grad for name in PARAMETER_NAMES)]
    torch.testing.assert_close(found, list(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("k", [1, 3, 7, 9])
def test_eight_parameters_per_kernel(k):
    parameters = dict(GaborConv3d(5, 3, k).named_parameters())
    assert {name: tuple(p.shape) for name, p in parameters.items()} == dict.fromkeys(PARAMETER_NAMES, (3, 5))
    assert sum(p.numel() for p in parameters.values()) == 8 * 5 * 3


@pytest.mark.parametrize("inputs, outputs", [(1, 12), (12, 12), (48, 96), (288, 96), (192, 192)])
def test_variance_is_kept_at_initialisation(inputs, outputs):
    """Away from the borders: there the zero padding takes its share of the variance."""
    torch.manual_seed(0)
    layer = GaborConv3d(inputs, outputs)
    size = 10 if inputs * outputs > 1000 else 16
    output = layer(torch.randn(1, inputs, size, size, size))[..., 3:-3, 3:-3, 3:-3]
    assert 0.5 < output.var().item() < 2


def test_is_a_convolution_with_same_padding():
    torch.manual_seed(0)
    layer = GaborConv3d(3, 5, 7)
    image = torch.randn(2, 3, 5, 8, 11)
    plain = nn.Conv3d(3, 5, 7, padding="same", bias=False)
    plain.weight = nn.Parameter(layer.kernel().detach())
    assert layer(image).shape == (2, 5, 5, 8, 11)
    torch.testing.assert_close(layer(image), plain(image))


def test_float32_under_autocast():
    """Equal to the bit: nothing inside is rounded to bfloat16, not even when the input is."""
    torch.manual_seed(0)
    layer = GaborConv3d(3, 4)
    image = torch.randn(1, 3, 6, 6, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(image)
    assert output.dtype == torch.float32
    assert torch.equal(output, layer(image.float()))


def test_sizes_are_checked():
    for k in (0, 2, 6):
        with pytest.raises(ValueError, match=f"kernel_size must be odd.*got {k}"):
            GaborConv3d(1, 1, k)
    with pytest.raises(ValueError, match="in_channels=0"):
        GaborConv3d(0, 1)


@pytest.mark.parametrize("value", [0.1, 0.0, -2.0])
def test_sigma_below_the_smallest(value):
    """Its value is the bound's, and so is its gradient: it is pushed back where it came from, not stuck."""
    gradients = []
    for sigma in (value, SMALLEST_SIGMA):
        parameters = random_parameters(2, 2)
        parameters[0] = torch.full((2, 2), sigma, dtype=torch.float64)
        layer = layer_with(parameters, 3)
        kernel = layer.kernel()
        assert kernel.isfinite().all()
        (kernel * torch.arange(27.0).reshape(3, 3, 3)).sum().backward()
        gradients.append(layer.sigma.grad)
    assert gradients[0].isfinite().all() and (gradients[0] != 0).all()
    torch.testing.assert_close(gradients[0], gradients[1])


def test_baked_kernels_give_the_same_output():
    torch.manual_seed(0)
    network = nn.Sequential(GaborConv3d(2, 4, 5), nn.Sequential(nn.ReLU(), GaborConv3d(4, 3)))
    image = torch.randn(1, 2, 6, 7, 8)
    expected = network(image)
    baked = bake_kernels(network)
    assert not any(isinstance(module, GaborConv3d) for module in baked.modules())
    torch.testing.assert_close(baked(image), expected)


def test_state_dict_and_repr():
    layer, other = GaborConv3d(2, 3, 5), GaborConv3d(2, 3, 5)
    assert not torch.equal(layer.kernel(), other.kernel())
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer.kernel(), other.kernel())
    assert repr(layer) == "GaborConv3d(2, 3, kernel_size=5)"
