"""Gabor kernels fitted to given kernels."""

import pytest
import torch
from torch.nn import functional

from GaborSegLib.model import fitting
from GaborSegLib.model.fitting import fit_gabor_kernels, fit_gabor_layers
from GaborSegLib.model.gabor import PARAMETER_NAMES, GaborConv3d
from GaborSegLib.model.network import build_network


def kernels_of(parameters, kernel_size):
    layer = GaborConv3d(*reversed(parameters["sigma"].shape), kernel_size)
    layer.load_state_dict(parameters)
    return layer.kernel().detach()


def test_finds_the_kernels_of_a_gabor_layer_again():
    torch.manual_seed(1)
    wanted = GaborConv3d(4, 6, 7).kernel().detach()
    found = kernels_of(fit_gabor_kernels(wanted, 7), 7)
    # Each by itself: a few may have ended in a wrong minimum.
    lost = (found - wanted).square().sum(dim=(2, 3, 4)) / wanted.square().sum(dim=(2, 3, 4))
    assert lost.median() < 0.02


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_blurs_and_edges_are_gabor_kernels(axis):
    """A blur and the edges along each axis (Sobel's kernels), padded from 3 to 7 voxels."""
    profiles = torch.tensor([[1.0, 2.0, 1.0], [-1.0, 0.0, 1.0]])
    shape = [2, 1, 1, 1, 1]
    shape[2 + axis] = 3
    across = torch.tensor([1.0, 2.0, 1.0])
    weight = profiles.view(shape)
    for other in {0, 1, 2} - {axis}:
        shape = [1] * 5
        shape[2 + other] = 3
        weight = weight * across.view(shape)
    found = kernels_of(fit_gabor_kernels(weight, 7), 7)
    # On smooth noise, as between the layers of a network.
    noise = torch.randn(1, 1, 30, 30, 30, generator=torch.Generator().manual_seed(0))
    image = functional.avg_pool3d(functional.avg_pool3d(noise, 3, 1), 3, 1)
    expected = functional.conv3d(image, weight, padding=1)[0, :, 3:-3, 3:-3, 3:-3]
    output = functional.conv3d(image, found, padding=3)[0, :, 3:-3, 3:-3, 3:-3]
    lost = (output - expected).square().mean(dim=(1, 2, 3)) / expected.square().mean(dim=(1, 2, 3))
    assert lost.max() < 0.05


@pytest.mark.slow  # many steps of fitting
def test_repeats_and_does_not_depend_on_the_parts(monkeypatch):
    weight = torch.randn(3, 2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    first, second = fit_gabor_kernels(weight, 5), fit_gabor_kernels(weight, 5)
    assert list(first) == list(PARAMETER_NAMES)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(value.shape == (3, 2) and value.isfinite().all() for value in first.values())
    monkeypatch.setattr(fitting, "PART", 4)
    assert fit_gabor_kernels(weight, 5)["sigma"].shape == (3, 2)


def test_silent_kernels_stay_silent():
    found = kernels_of(fit_gabor_kernels(torch.zeros(2, 2, 3, 3, 3), 7), 7)
    assert found.abs().max() < 1e-5


@pytest.mark.slow  # many steps of fitting
def test_layers_of_a_network():
    """Of a mixed network only the conventional layers are fitted, of another size none; progress reaches the end."""
    events = []
    gabor = build_network("gabor", base_channels=4)
    mixed = build_network("mixed", base_channels=4).state_dict()
    found = fit_gabor_layers(gabor, mixed, events.append)
    own = gabor.state_dict()
    assert {name for name in own if name not in mixed} == set(found)
    assert all(own[name].shape == value.shape for name, value in found.items())
    assert events[-1]["done"] == events[-1]["total"] > 0
    assert fit_gabor_layers(gabor, gabor.state_dict(), events.append) == {}
    assert fit_gabor_layers(build_network("gabor", base_channels=8), mixed, events.append) == {}
