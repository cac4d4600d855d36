"""Gabor layers of fewer free parameters, or with other initial values: what Wong & Moradi 2022 leave open.

Each keeps the names and shapes of `GaborConv3d`'s eight tensors, in such a state that a `GaborConv3d` with the same
tensors is the same layer: weight files and snapshots are the ordinary ones.
"""

import functools
import math

import torch

from GaborSegLib.model.gabor import PARAMETER_NAMES, GaborConv3d
from GaborSegLib.training.trainer import Trainer

PAIRS = (("frequency_re", "frequency_im"), ("amplitude_re", "amplitude_im"))


class OtherGaborConv3d(GaborConv3d):
    """A `GaborConv3d` whose tensors are `limit`ed, and have the same energy in the beginning."""

    @torch.no_grad()
    def reset_parameters(self):
        super().reset_parameters()
        self.limit()
        energy = self.kernel().square().sum(dim=(2, 3, 4))
        scale = (self.in_channels * energy.clamp(min=1e-12)).rsqrt()
        self.amplitude_re.mul_(scale)
        self.amplitude_im.mul_(scale)

    def limit(self):
        """Bring newly drawn tensors into the state that they are to stay in."""


class SixParameters(OtherGaborConv3d):
    """Equal frequencies and equal amplitudes.

    What the kernels are made of is the mean of both tensors. So both get the same gradient, and as they begin the same
    and the optimiser treats each number for itself, they stay the same.
    """

    def limit(self):
        for one, other in PAIRS:
            getattr(self, other).copy_(getattr(self, one))

    def _parameters_in_order(self):
        tensors = {name: getattr(self, name) for name in PARAMETER_NAMES}
        for one, other in PAIRS:
            tensors[one] = tensors[other] = (tensors[one] + tensors[other]) / 2
        return [tensors[name] for name in PARAMETER_NAMES]


class RealPart(OtherGaborConv3d):
    """The cosine alone, Eq. (1): the sine's amplitude is 0 and stays so, for it gets no gradient."""

    def limit(self):
        self.amplitude_im.zero_()

    def _parameters_in_order(self):
        tensors = [getattr(self, name) for name in PARAMETER_NAMES]
        return [tensor.detach() if name.endswith("_im") else tensor for name, tensor in zip(PARAMETER_NAMES, tensors)]


class Fixed(GaborConv3d):
    """Kernels that stay as they were drawn; the rest of the network is trained."""

    def _parameters_in_order(self):
        return [tensor.detach() for tensor in super()._parameters_in_order()]


class UniformStart(GaborConv3d):
    """Initial values that are uniform in plain ranges: sigma up to k / 2, frequencies up to a half, amplitudes -1 to 1.

    Directions are then denser at the poles, and the energy of a kernel is what it happens to be.
    """

    @torch.no_grad()
    def reset_parameters(self):
        if self.sigma.is_meta:
            return
        self.sigma.uniform_(0.7, max(self.kernel_size / 2, 0.8))
        for name in ("theta_y", "theta_z", "phase"):
            getattr(self, name).uniform_(-math.pi, math.pi)
        for frequency, amplitude in zip(*PAIRS):
            getattr(self, frequency).uniform_(0, 0.5)
            getattr(self, amplitude).uniform_(-1, 1)


LAYERS = {"six": SixParameters, "real": RealPart, "fixed": Fixed, "uniform": UniformStart}


def trainer_with(layer):
    """The class of the trainer of networks with these Gabor layers: a key of `LAYERS`, or "" for the ordinary ones."""
    return functools.partial(_OtherTrainer, LAYERS[layer]) if layer else Trainer


class _OtherTrainer(Trainer):
    def __init__(self, layer, *arguments, **more):
        self.layer = layer
        super().__init__(*arguments, **more)

    def configure_network(self):
        return with_layers(super().configure_network(), self.layer)


def with_layers(network, layer):
    """Replace every `GaborConv3d` in a network by another of this class, in place, and return it."""
    for name, module in network.named_children():
        if isinstance(module, GaborConv3d):
            setattr(network, name, layer(module.in_channels, module.out_channels, module.kernel_size))
        else:
            with_layers(module, layer)
    return network
