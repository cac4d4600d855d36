"""Conformance: what every variant of the network must do. A new one gets these tests by being registered."""

import copy

import pytest
import torch

from GaborSegLib import protocol
from GaborSegLib.model.gabor import bake_kernels
from GaborSegLib.model.network import build_network
from GaborSegLib.model.weights import load_weights, save_weights

variants = pytest.mark.parametrize("variant", protocol.VARIANTS)
SMALL = {"classes": 7, "in_channels": 2, "base_channels": 4, "conventional_kernel_size": 3, "gabor_kernel_size": 5}


def small(variant, **options):
    """A network of 4 to 64 channels, two channels in and 7 classes out, that is ready for comparisons."""
    torch.manual_seed(0)
    return build_network(variant, **{**SMALL, **options}).eval()


# The paper, Section 3.2: 4.99, 22.84, 1.53, 1.60 and 1.95 million. A bias per class would add 20 to each.
PARAMETERS = {
    "conventional": {3: 4_990_416, 5: 22_843_272},
    "gabor": {3: 1_529_148, 5: 1_529_148},
    "mixed": {3: 1_597_776, 5: 1_951_752},
}


@variants
def test_variant_has_the_papers_parameters(variant):
    if variant not in PARAMETERS:
        pytest.skip("not in the paper")
    for conventional, expected in PARAMETERS[variant].items():
        with torch.device("meta"):  # shapes only
            network = build_network(variant, conventional)
        assert sum(parameter.numel() for parameter in network.parameters()) == expected
        assert all(module.bias is None for module in network.modules() if isinstance(module, torch.nn.Conv3d))


@variants
def test_scores_of_a_variant_sum_to_1(variant):
    """Of as many classes as asked for, from as many channels, at an odd size; and they are not all the same."""
    with torch.no_grad():
        scores = small(variant)(torch.randn(1, 2, 15, 17, 30))
    assert scores.shape == (1, 7, 15, 17, 30)
    assert scores.min() >= 0 and scores.std(dim=1).max() > 0.01
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(1, 15, 17, 30))


@variants
def test_gradient_reaches_every_parameter_of_a_variant(variant):
    """From 32 voxels: the coarsest level of 16 is a single voxel, which neither direction nor frequency matters to."""
    network = small(variant).train()
    scores = network(torch.randn(1, 2, 32, 32, 32))
    (scores * torch.randn_like(scores)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


@variants
def test_variant_comes_back_from_a_weight_file(variant, tmp_path):
    """Exactly in float32: every weight, and the scores; in float16 each weight is the nearest number of that."""
    network, path, image = small(variant), tmp_path / "a.safetensors", torch.randn(1, 2, 16, 16, 16)
    names = [f"Structure {i}" for i in range(1, 7)]
    card = {"variant": variant, **SMALL, "structures": names, "grid_size": 32, "field": "cube"}
    for dtype in (torch.float32, torch.float16):
        save_weights(path, network, card, dtype)
        opened = load_weights(path)
        state = opened.network.state_dict()
        assert state.keys() == network.state_dict().keys()
        for name, tensor in network.state_dict().items():
            assert torch.equal(state[name], tensor.to(dtype).float()), name
        assert opened.card["variant"] == protocol.read_card(path)["variant"] == variant
        with torch.no_grad():
            assert torch.equal(opened.network(image), network(image)) == (dtype == torch.float32)


@variants
def test_baked_variant_gives_the_same_scores(variant):
    network = small(variant).double()
    image = torch.randn(1, 2, 32, 16, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = network(image)
        baked = bake_kernels(copy.deepcopy(network))
        torch.testing.assert_close(baked(image), expected, rtol=0, atol=1e-10)
    assert all(type(module).__name__ != "GaborConv3d" for module in baked.modules())


@variants
def test_variant_repeats_to_the_bit(variant):
    """The same seed gives the same weights, dropout and gradients."""

    def run(seed):
        torch.manual_seed(seed)
        network = build_network(variant, **SMALL, dropout=0.5).train()
        scores = network(torch.randn(1, 2, 16, 16, 16))
        scores[:, 1].sum().backward()
        return [scores, *(parameter.grad for parameter in network.parameters()), *network.state_dict().values()]

    first, second, other = run(1), run(1), run(2)
    assert all(torch.equal(one, two) for one, two in zip(first, second))
    assert not torch.equal(first[0], other[0])
