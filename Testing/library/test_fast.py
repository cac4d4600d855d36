"""The choice between plain and faster forms: all agree, the switch reaches everything, and where the faster ones go."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from GaborSegLib.model import fast
from GaborSegLib.model.fast import costs, plain, separable
from GaborSegLib.model.fitting import fit_gabor_kernels
from GaborSegLib.model.gabor import GaborConv3d, bake_kernels
from GaborSegLib.model.losses import PCCLoss
from GaborSegLib.model.network import VARIANTS, build_network

# With Gabor kernels of 7^3 at every level, the plain side takes seconds.
EACH = pytest.mark.parametrize(
    "variant", ["conventional", *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS[1:])]
)
FILES = {"fourier.py", "pyramid.py", "separable.py", "fused.py"}


@pytest.fixture(autouse=True)
def switch_off(monkeypatch):
    monkeypatch.delenv("GABORSEG_PLAIN", raising=False)


def made(variant, dtype=torch.float64, base_channels=4, size=(32, 32, 16)):
    """A network, an image and its labels; there are Gabor layers that are convolved by frequencies, and others."""
    torch.manual_seed(0)
    network = build_network(variant, classes=5, base_channels=base_channels, dropout=0.0).to(dtype)
    return network, torch.rand(1, 1, *size, dtype=dtype), torch.randint(5, (1, *size))


def trained(network, image, labels, steps=2):
    """The losses and all gradients of training steps of a copy of the network."""
    network = copy.deepcopy(network).train()
    optimiser = torch.optim.NAdam(network.parameters(), 1e-3)
    results = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = PCCLoss()(network(image), labels)
        loss.backward()
        optimiser.step()
        results += [loss.detach(), *(parameter.grad.clone() for parameter in network.parameters())]
    return results


def looked_at(network, image):
    """The scores by the network's own layers, without gradients, and by baked ones."""
    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        scores = network(image)
    baked = bake_kernels(network)
    with torch.inference_mode():
        return [scores, baked(image), baked(image.flip(2)).flip(2)]


def assert_near(found, expected, tolerance):
    """Each within a share of its expected norm."""
    for one, other in zip(found, expected, strict=True):
        assert torch.linalg.vector_norm(one - other) <= tolerance * torch.linalg.vector_norm(other)


@EACH
def test_with_and_without_the_switch_networks_do_the_same(variant):
    network, image, labels = made(variant)
    with plain():
        expected = trained(network, image, labels), looked_at(network, image)
    found = trained(network, image, labels), looked_at(network, image)
    for one, other in zip(found, expected):
        assert_near(one, other, 1e-8)


@EACH
def test_and_in_single_precision(variant):
    """On a larger image, with spectra that are kept in the Gabor network; direct convolution is as far from float64."""
    network, image, labels = made(variant, torch.float32, 8, (48, 32, 32))
    with plain():
        expected = trained(network, image, labels, 1), looked_at(network, image)
    assert_near(trained(network, image, labels, 1), expected[0], 3e-3)
    assert_near(looked_at(network, image), expected[1], 1e-5)


def files_run(function):
    """The files of `FILES` of which a function runs something."""
    found, folder = set(), str(Path(fast.__file__).parent)

    def note(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and str(path.parent) == folder:
            found.add(path.name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return found & FILES


@EACH
def test_with_the_switch_none_of_the_faster_files_is_run(variant):
    network, image, labels = made(variant, torch.float32)
    gabor = set() if variant == "conventional" else {"separable.py"}
    assert files_run(lambda: trained(network, image, labels, 1)) >= gabor
    assert files_run(lambda: looked_at(network, image)) >= gabor | {"pyramid.py"}
    with plain():
        assert files_run(lambda: trained(network, image, labels, 1)) == set()
        baked = bake_kernels(copy.deepcopy(network)).eval()
        with torch.inference_mode():
            assert files_run(lambda: baked(image)) == set()
            assert files_run(lambda: network.eval()(image)) == set()


@pytest.mark.slow  # kernels are fitted
def test_a_layer_and_a_fit_follow_the_switch():
    layer, image = GaborConv3d(8, 8), torch.rand(1, 8, 16, 16, 16, requires_grad=True)
    weight = torch.rand(1, 1, 3, 3, 3)
    baked = bake_kernels(nn.Sequential(copy.deepcopy(layer)))
    runs = [
        (lambda: layer(image).sum().backward(), {"fourier.py", "separable.py"}),
        (lambda: fit_gabor_kernels(weight, 3), {"separable.py"}),
        (torch.no_grad()(lambda: baked(image)), {"fourier.py"}),
    ]
    for run, files in runs:
        assert files_run(run) == files
        with plain():
            assert files_run(run) == set()


def test_the_switch(monkeypatch):
    """Its own value comes back, an error in it changes nothing; 0 and nothing are off."""
    assert not fast.is_plain()
    with pytest.raises(KeyError), plain():
        assert fast.is_plain()
        raise KeyError
    assert not fast.is_plain() and "GABORSEG_PLAIN" not in os.environ
    for value, expected in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv("GABORSEG_PLAIN", value)
        assert fast.is_plain() == expected
        with plain(), plain():
            assert fast.is_plain()
        assert os.environ["GABORSEG_PLAIN"] == value


@pytest.mark.processes
def test_processes_inherit_the_switch():
    asks = "from GaborSegLib.model.fast import is_plain; print(is_plain())"

    def answer():
        return subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True).stdout.strip()

    assert answer() == "False"
    with plain():
        assert answer() == "True"


def test_a_backward_pass_goes_the_way_of_its_forward_pass():
    """Also if the switch was turned in between."""
    network, image, labels = made("gabor")
    expected = trained(network, image, labels, 1)
    loss = PCCLoss()(network.train()(image), labels)
    with plain():
        assert files_run(loss.backward) == {"fourier.py", "separable.py"}
    assert_near([parameter.grad for parameter in network.parameters()], expected[1:], 1e-8)


@pytest.mark.parametrize("works", [True, False])
def test_triton_is_for_single_precision_on_a_gpu_where_it_works(monkeypatch, works):
    """Described by what is asked of a tensor, as there is no GPU here."""
    fused = object()
    monkeypatch.setattr(fast, "_working_fused", lambda device: fused if works else None)
    expected = fused if works else separable
    assert fast._synthesis(SimpleNamespace(is_cuda=True, dtype=torch.float32, device="cuda")) is expected
    assert fast._synthesis(SimpleNamespace(is_cuda=True, dtype=torch.float64, device="cuda")) is separable
    assert fast._synthesis(torch.zeros(8, 1)) is separable


def test_the_choice_is_the_cheapest_way():
    shape = (1, 24, 64, 64, 64)
    axes, keeps = fast._cheapest_for_inference(shape, 24, 7)
    chosen = costs.with_kept_spectra(shape, 24, axes)
    others = [costs.by_frequencies(shape, 24, 7, cut, costs.INFERENCE) for cut in costs.cuts(shape[2:], 7)]
    assert keeps and chosen < min(others) < costs.direct(shape, 24, 7, costs.INFERENCE)
    axes = fast._cheapest(shape, 24, 7)
    cuts = {cut: costs.by_frequencies(shape, 24, 7, cut, costs.TRAINING) for cut in costs.cuts(shape[2:], 7)}
    assert cuts[axes] == min(cuts.values()) < costs.direct(shape, 24, 7, costs.TRAINING)


@pytest.mark.processes
def test_the_files_below_know_nothing_of_those_above():
    """In a process of its own, where `fast` is all that was asked for."""
    asks = "import sys, GaborSegLib.model.fast; print([n for n in sys.modules if n.startswith('GaborSegLib.model.')])"
    done = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    names = {f"GaborSegLib.model.fast{name}" for name in ("", ".costs", ".fourier", ".pyramid", ".separable")}
    assert set(eval(done.stdout)) == names
