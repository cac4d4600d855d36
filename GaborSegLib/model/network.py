"""The network (Wong & Moradi 2022, Section 2.3 and Fig. 2): five levels, deep supervision, three kernel variants."""

from torch import nn
from torch.nn import functional

from ..protocol import VARIANTS
from ..scans.grid import content
from . import fast
from .gabor import GaborConv3d

# Spatial convolutions of a block at each level, finest first. With 12 channels doubling from level to level this meets
# the paper's five parameter counts (Section 3.2).
CONVOLUTIONS = (1, 2, 3, 3, 3)
# The levels, both ways, whose kernels the mixed variant keeps conventional: the red blocks of Fig. 2.
CONVENTIONAL_LEVELS_OF_MIXED = (0, 1)
NORM_GROUPS = 4


def build_network(
    variant,
    conventional_kernel_size=3,
    gabor_kernel_size=7,
    in_channels=1,
    classes=20,
    base_channels=12,
    dropout=0.1,
):
    """Build the paper's network.

    Args:
        variant: ``"conventional"``, ``"gabor"`` or ``"mixed"``: which kernels the spatial convolutions have.
        conventional_kernel_size: k of the conventional kernels, odd; the paper uses 3, and 5 for comparison.
        gabor_kernel_size: k of the Gabor kernels, odd; the paper uses 7.
        in_channels: channels of the image, 1 for a T1 scan.
        classes: output classes with background, 20 for the paper's nineteen structures.
        base_channels: channels of the finest level, a multiple of 4 (GroupNorm has four groups).
        dropout: probability of spatial dropout (of whole channels) in a block. The paper gives none.

    Returns:
        `SegmentationNetwork`. With the defaults 4,990,416 (conventional), 1,529,148 (gabor) or 1,597,776 (mixed)
        parameters; the paper's 4.99, 1.53 and 1.60 million.

    Raises:
        ValueError: for an unknown variant, an even kernel size, or channels that are no multiple of 4.

    Example::

        >>> import torch
        >>> network = build_network("mixed")
        >>> network(torch.zeros(1, 1, 32, 32, 32)).shape
        torch.Size([1, 20, 32, 32, 32])
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    if base_channels < NORM_GROUPS or base_channels % NORM_GROUPS:
        raise ValueError(f"base_channels must be a multiple of {NORM_GROUPS}, got {base_channels}")
    if conventional_kernel_size < 1 or conventional_kernel_size % 2 == 0:
        raise ValueError(f"conventional_kernel_size must be odd, got {conventional_kernel_size}")

    def convolution(level, inputs, outputs):
        if variant == "conventional" or (variant == "mixed" and level in CONVENTIONAL_LEVELS_OF_MIXED):
            return nn.Conv3d(inputs, outputs, conventional_kernel_size, padding="same", bias=False)
        return GaborConv3d(inputs, outputs, gabor_kernel_size)

    return SegmentationNetwork(convolution, in_channels, classes, base_channels, dropout)


def cube_scores(network, cube, field):
    """Class scores of one cube.

    Args:
        network: from `build_network`, in evaluation mode.
        cube: from `grid.normalise`, on the network's device.
        field: what the network sees: `cube` for all of it; `content` for the box around what is not background, which
            a network trained on small cubes does better with (2 to 3 points of validation Dice at the time). The
            likely reason: these were never as empty as a whole scan's cube, and group normalisation takes its mean and
            variance from all that is seen. Outside of the box all is background.

    Shape:
        cube (D, H, W) -> (C, D, H, W), on the network's device.

    Example::

        >>> import torch
        >>> network = build_network("conventional", base_channels=4).eval()
        >>> cube_scores(network, torch.rand(16, 16, 16), "cube").shape
        torch.Size([20, 16, 16, 16])
    """
    if field == "cube":
        return network(cube[None, None])[0]
    part = content(cube)
    inside = network(cube[part][None, None])[0]
    scores = inside.new_zeros(len(inside), *cube.shape)
    scores[0] = 1
    scores[(slice(None), *part)] = inside
    return scores


class Block(nn.Module):
    """A level's times (spatial convolution, GroupNorm, ReLU), spatial dropout, and a projection of the input added.

    Args:
        convolution: makes the spatial convolutions, `convolution(level, in_channels, out_channels)`.
        level: 0 is the finest; `CONVOLUTIONS` has its number of convolutions.
        inputs, outputs: channels.
        dropout: probability that a channel is dropped.

    Shape:
        x (B, inputs, D, H, W) -> (B, outputs, D, H, W). If there is a coarse image (B, J, D / 2, H / 2, W / 2), it is
        upsampled and joined before the channels of x, (B, inputs - J, D, H, W).
    """

    def __init__(self, convolution, level, inputs, outputs, dropout):
        super().__init__()
        layers = []
        for i in range(CONVOLUTIONS[level]):
            layers += [
                convolution(level, inputs if i == 0 else outputs, outputs),
                nn.GroupNorm(NORM_GROUPS, outputs),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.Dropout3d(dropout))
        self.projection = nn.Conv3d(inputs, outputs, 1, bias=False)

    def forward(self, x, coarse=None):
        first, *others = self.layers
        result = fast.convolve(first, x) if coarse is None else fast.convolve_joined(first, coarse, x)
        for layer in others:
            result = layer(result)
        weight = self.projection.weight
        if coarse is not None:
            # The projection of the coarse image commutes with its upsampling, and leaves fewer channels for it.
            for_coarse, weight = weight.split([coarse.shape[1], x.shape[1]], dim=1)
            result = fast.add(result, fast.upsample(functional.conv3d(coarse, for_coarse)))
        return fast.add_projection(result, x, weight)


class SegmentationNetwork(nn.Module):
    """V-Net-like network with deep supervision; build it with `build_network`.

    Down: blocks with max-pooling between them. Up: the coarser level is upsampled, the skip concatenated, a block
    follows. The outputs of all five levels of the way up, brought to full size and concatenated, would go through one
    1x1x1 convolution to the classes. That convolution is the sum of one per level and commutes with upsampling, so
    each level is projected to the classes at its own size and added on the way up: the same function, without a
    372-channel tensor at full size.

    Shape:
        Image (B, in_channels, D, H, W), any size -> scores (B, classes, D, H, W), which sum to 1 over the classes.
        The size is padded with zeros to a multiple of 16 inside, and cropped back.

    Raises:
        ValueError: the image has not five dimensions.
    """

    def __init__(self, convolution, in_channels, classes, base_channels, dropout):
        super().__init__()
        levels = len(CONVOLUTIONS)
        channels = [base_channels * 2**level for level in range(levels)]
        inputs = [in_channels, *channels[:-1]]
        self.down = nn.ModuleList(
            Block(convolution, level, inputs[level], channels[level], dropout) for level in range(levels)
        )
        self.up = nn.ModuleList(
            Block(convolution, level, channels[level + 1] + channels[level], channels[level], dropout)
            for level in range(levels - 1)
        )
        self.outputs = nn.ModuleList(nn.Conv3d(c, classes, 1, bias=False) for c in channels)

    def forward(self, image):
        return self.logits(image).softmax(dim=1)

    def logits(self, image):
        """The values before the softmax, (B, classes, D, H, W)."""
        if image.dim() != 5:
            raise ValueError(f"the image must have the shape (B, C, D, H, W), got {tuple(image.shape)}")
        size = image.shape[2:]
        step = 2 ** (len(self.down) - 1)
        missing = [-s % step for s in size]
        if any(missing):
            image = functional.pad(image, (0, missing[2], 0, missing[1], 0, missing[0]))
        result = self._logits(image)
        return result[:, :, : size[0], : size[1], : size[2]] if any(missing) else result

    def _logits(self, x):
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else fast.max_pool(x))
            skips.append(x)
        x = skips.pop()
        result = self.outputs[-1](x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](skips.pop(), x)
            result = fast.add_projection(fast.upsample(result), x, self.outputs[level].weight)
        return result
