"""The network: its kinds of kernels, its form, and what must not change its result.

What all variants have in common, such as the paper's parameter counts, is in conformance/test_every_variant.py.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional

from GaborSegLib.model.gabor import GaborConv3d
from GaborSegLib.model.network import VARIANTS, build_network, cube_scores


def small(variant="mixed", **options):
    """A network of 4 to 64 channels and 5 classes that is ready for comparisons."""
    torch.manual_seed(0)
    return build_network(variant, **{"classes": 5, "base_channels": 4, **options}).eval()


def test_unknown_configurations():
    with pytest.raises(ValueError, match="conventional, gabor, mixed, got 'gobar'"):
        build_network("gobar")
    with pytest.raises(ValueError, match="conventional_kernel_size must be odd, got 4"):
        build_network("conventional", conventional_kernel_size=4)
    with pytest.raises(ValueError, match="kernel_size must be odd.*got 6"):
        build_network("gabor", gabor_kernel_size=6)
    with pytest.raises(ValueError, match="base_channels must be a multiple of 4, got 6"):
        build_network("mixed", base_channels=6)
    with pytest.raises(ValueError, match=r"\(B, C, D, H, W\), got \(1, 16, 16, 16\)"):
        small()(torch.zeros(1, 16, 16, 16))


@pytest.mark.parametrize("variant, gabor_levels", [("conventional", ()), ("gabor", range(5)), ("mixed", (2, 3, 4))])
def test_kinds_of_kernels(variant, gabor_levels):
    """By level, both ways; the numbers of convolutions are 1, 2, 3, 3, 3."""
    network = small(variant, conventional_kernel_size=5, gabor_kernel_size=9)
    for blocks in (network.down, network.up):
        for level, block in enumerate(blocks):
            layers = [module for module in block.layers if isinstance(module, (GaborConv3d, nn.Conv3d))]
            kind, k = (GaborConv3d, 9) if level in gabor_levels else (nn.Conv3d, (5, 5, 5))
            assert [(type(layer), layer.kernel_size) for layer in layers] == [(kind, k)] * [1, 2, 3, 3, 3][level]


def test_deep_supervision_is_one_convolution_of_the_concatenation():
    """The paper's form: the five outputs at full size (31 x 4 channels; 372 with 12), concatenated, 1x1x1, softmax."""
    network = small().double()
    outputs = {}
    for level, block in enumerate([*network.up, network.down[4]]):
        block.register_forward_hook(lambda module, inputs, output, level=level: outputs.update({level: output}))
    with torch.no_grad():
        scores = network(torch.randn(1, 1, 32, 16, 48, dtype=torch.float64))
        full = []
        for level in range(5):
            x = outputs[level]
            for _ in range(level):
                x = functional.interpolate(x, scale_factor=2, mode="trilinear")
            full.append(x)
        together = torch.cat(full, dim=1)
        weight = torch.cat([layer.weight for layer in network.outputs], dim=1)
        expected = functional.conv3d(together, weight).softmax(dim=1)
    assert together.shape == (1, 31 * 4, 32, 16, 48)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-10)


def test_any_size():
    network = small()
    image = torch.randn(1, 1, 17, 30, 33)
    padded = torch.zeros(1, 1, 32, 32, 48)
    padded[..., :17, :30, :33] = image
    with torch.no_grad():
        scores = network(image)
        assert scores.shape == (1, 5, 17, 30, 33)
        torch.testing.assert_close(scores, network(padded)[..., :17, :30, :33])
        assert network(torch.randn(1, 1, 1, 2, 3)).shape == (1, 5, 1, 2, 3)


def test_images_of_a_batch_are_independent():
    network = small().double()
    images = torch.randn(3, 1, 16, 16, 16, dtype=torch.float64) * torch.tensor([1, 10, 0.1]).reshape(3, 1, 1, 1, 1)
    with torch.no_grad():
        alone = torch.cat([network(image[None]) for image in images])
        torch.testing.assert_close(network(images), alone)


def test_dropout_is_of_whole_channels():
    """In training every channel of a block is dropped or, for that, doubled; GroupNorm does the same in both modes."""
    layers = small("conventional", dropout=0.5).down[2].layers
    x = torch.randn(4, 8, 6, 6, 6)
    with torch.no_grad():
        evaluated, trained = layers(x).flatten(2), layers.train()(x).flatten(2)
    dropped = (trained == 0).all(dim=2)
    assert 10 < dropped.sum() < 54  # of 64, half of them expected
    torch.testing.assert_close(trained, torch.where(dropped[..., None], 0, 2 * evaluated))


def test_scores_of_the_content_alone():
    """`content` shows the network the box around what is not background, and calls the rest background."""
    network = build_network("conventional", classes=3, base_channels=4, dropout=0.0).eval()
    cube = torch.zeros(32, 32, 32)
    cube[5:25, 3:30, 10:27] = torch.rand(20, 27, 17) + 0.5
    with torch.no_grad():
        scores = cube_scores(network, cube, "content")
        inside = network(cube[None, None, 4:26, 2:31, 9:28])[0]
        whole = cube_scores(network, cube, "cube")
        assert torch.equal(whole, network(cube[None, None])[0])
    assert torch.equal(scores[:, 4:26, 2:31, 9:28], inside)
    outside = torch.ones(32, 32, 32, dtype=torch.bool)
    outside[4:26, 2:31, 9:28] = False
    assert (scores[0, outside] == 1).all() and (scores[1:, outside] == 0).all()
    with torch.no_grad():  # an empty cube is shown whole
        assert cube_scores(network, torch.zeros(32, 32, 32), "content").shape == (3, 32, 32, 32)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("slab", [1, 5, 16])
def test_slabs_of_inference_change_nothing(monkeypatch, variant, slab):
    """A few planes at a time, or all of them, as with gradients."""
    torch.manual_seed(0)
    network = build_network(variant, conventional_kernel_size=5, base_channels=4).eval()
    image = torch.randn(2, 1, 32, 16, 16)
    with torch.no_grad():
        expected = network.double()(image.double())
    monkeypatch.setattr("GaborSegLib.model.fast.pyramid.SLAB", slab)
    with torch.inference_mode():
        torch.testing.assert_close(network(image.double()), expected, rtol=0, atol=1e-12)
