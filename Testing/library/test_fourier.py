"""Convolution in the frequency domain: against direct convolution in float64, forward and by both inputs."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional

from GaborSegLib.model.fast import choose_axes, choose_for_inference, fourier
from GaborSegLib.model.fast.fourier import axis_of, convolve, convolve_spectra, kernel_spectra
from GaborSegLib.model.gabor import GaborConv3d, bake_kernels


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


@pytest.mark.slow  # against float64
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
    for choose in (choose_axes, choose_for_inference):
        assert choose(large, 48, 7)
        assert choose(large, 48, 1) is None
        assert choose(large[:, :, :4, :4, :4], 48, 7) is None
        assert choose(large.bfloat16(), 48, 7) is None
        assert choose(large.to("meta"), 48, 7) is None
        chosen = []
        torch.jit.trace(lambda x: (chosen.append(choose(x, 48, 7)), x + 1)[1], large, check_trace=False)
        assert chosen == [None]


def test_spectra_are_kept_where_they_are_small():
    """In a network, few channels meet large volumes: many tiles and few kernels.

    With many channels it is the other way round.
    """
    assert choose_for_inference(torch.zeros(1, 24, 64, 64, 64), 24, 7)[1]
    assert not choose_for_inference(torch.zeros(1, 96, 16, 16, 16), 96, 7)[1]


@pytest.mark.parametrize("k", [3, 5, 7, 9])
@pytest.mark.parametrize("size, tiles", [((7, 9, 13), (2, 1, 3)), ((16, 11, 5), (4, 3, 2))])
def test_with_spectra_that_are_kept(monkeypatch, k, size, tiles):
    image, kernel, _ = made(2, 3, 4, size, k)
    axes = [axis_of(n, k, count) for n, count in zip(size, tiles)]
    spectra = kernel_spectra(kernel, axes)
    for windows in (1, fourier.WINDOWS_BYTES):
        monkeypatch.setattr(fourier, "WINDOWS_BYTES", windows)
        found = convolve_spectra(image.detach(), spectra, axes)
        torch.testing.assert_close(found, direct(image, kernel).detach(), rtol=0, atol=1e-11)


def baked_layer(inputs=16, outputs=16):
    torch.manual_seed(0)
    return bake_kernels(nn.Sequential(GaborConv3d(inputs, outputs)))


def agrees(layer, image):
    """Whether the layer gives what its weight says, without a gradient and through spectra if they are used."""
    with torch.no_grad():
        expected = direct(image.double(), layer[0].weight.double())
        return (layer(image) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.slow  # the sizes at which spectra are kept
def test_kept_spectra_follow_the_weight_and_the_size():
    network, image = baked_layer(), torch.randn(1, 16, 32, 32, 32)
    layer = network[0]
    assert agrees(network, image)
    kept = layer._kept.spectra
    assert kept is not None
    assert agrees(network, image + 1) and layer._kept.spectra is kept
    layer.weight.mul_(2)
    assert agrees(network, image) and layer._kept.spectra is not kept
    network.load_state_dict({"0.weight": torch.randn_like(layer.weight)})
    assert agrees(network, image)
    layer.weight = nn.Parameter(torch.randn_like(layer.weight), requires_grad=False)
    assert agrees(network, image)
    assert agrees(network, torch.randn(2, 16, 33, 26, 41))
    assert agrees(network.double(), image.double()) and layer._kept.spectra.dtype == torch.float64
    assert agrees(network.float(), image)
    assert list(network.state_dict()) == ["0.weight"]


@pytest.mark.slow  # the sizes at which spectra are kept
def test_copies_of_a_baked_layer():
    network, image = baked_layer(), torch.randn(1, 16, 32, 32, 32)
    assert agrees(network, image)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert other[0]._kept.spectra is None
        other[0].weight.neg_()
        assert agrees(other, image) and agrees(network, image)
    assert len(pickle.dumps(network)) < 2 * network[0].weight.nbytes


def test_kept_spectra_are_of_inference_alone():
    """With gradients a baked layer is a plain one; spectra made in inference mode serve outside of it.

    There are none in a `GaborConv3d`, whose kernels change.
    """
    network, image = baked_layer(), torch.randn(1, 16, 32, 32, 32, requires_grad=True)
    with torch.inference_mode():
        network(image)
    assert agrees(network, image)
    kept = network[0]._kept.spectra
    assert kept is not None
    torch.testing.assert_close(
        torch.autograd.grad(network(image).sum(), image)[0][0, 0, 16, 16, 16],
        network[0].weight[:, 0].sum(),
        rtol=1e-4,
        atol=1e-4,
    )
    assert network[0]._kept.spectra is kept
    layer = GaborConv3d(16, 16).eval()
    with torch.no_grad():
        before = layer(image)
        layer.phase.add_(1)
        assert (layer(image) - before).abs().max() > 0.1


def test_a_traced_layer_is_a_plain_convolution():
    network, image = baked_layer(), torch.randn(1, 16, 32, 32, 32)
    with torch.no_grad():
        traced = torch.jit.trace(network, image)
        graph = str(traced.inlined_graph)
        assert "aten::_convolution" in graph and "bmm" not in graph
        torch.testing.assert_close(traced(image), network(image), rtol=1e-4, atol=1e-4)
    assert isinstance(network[0], nn.Conv3d)


def test_half_precision_is_left_to_torch():
    network = baked_layer().bfloat16()
    with torch.no_grad():
        assert network(torch.randn(1, 16, 32, 32, 32).bfloat16()).dtype == torch.bfloat16
    assert network[0]._kept.spectra is None


def test_a_layer_in_training_keeps_its_input_and_its_parameters_alone():
    layer = GaborConv3d(24, 16)
    x = torch.randn(1, 24, 32, 32, 32, requires_grad=True)
    assert choose_axes(x, 16, 7)
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    matrices = 3 * (2 * 40) ** 2  # at most, of the transforms; shared by all layers
    parameters = 8 * 24 * 16
    assert 4 * (x.numel() + parameters) <= sum(kept.values()) <= 4 * (x.numel() + 2 * parameters + matrices)
