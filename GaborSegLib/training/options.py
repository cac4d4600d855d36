"""What a training run is defined by."""

import math
from dataclasses import dataclass

from ..scans.grid import SIZE


@dataclass(frozen=True)
class Options:
    """What a run is defined by; a resumed run must have the same.

    Args:
        variant: kernel variant of the network.
        loss: `pcc`, `dice`, `cross-entropy` or `pcc+cross-entropy`.
        learning_rate: Nadam's.
        epochs: passes over the training scans.
        batch_size: images a step in each process. It takes time and no memory. A run may be resumed with another number
            of processes if the images a step stay as many.
        augmentation: a key of `data.augmentation.AUGMENTATIONS`.
        patch: edge of the random cubes trained on, a multiple of 16; whole images if None.
        decay: share of the steps, at the end, over which the learning rate falls to zero along a cosine.
        validate_every: epochs from one validation to the next.
        dropout: probability of the spatial dropout.
        seed: all random numbers follow from it.
        grid_size: voxels along the edge of the network's cube.
        conventional_kernel_size, gabor_kernel_size, base_channels: of the network.
        heads: number of head label maps that heads are built from around the training scans.
        soft_labels: targets are the shares that the structures have of each voxel, not the label of the largest.
        find_brain: find the brain first and take away what is not near it, in training and, by the card, ever after.
    """

    variant: str = "mixed"
    loss: str = "pcc"
    learning_rate: float = 1e-3
    epochs: int = 300
    batch_size: int = 1
    augmentation: str = "paper"
    patch: int | None = None
    decay: float = 0.0
    validate_every: int = 1
    dropout: float = 0.1
    seed: int = 0
    grid_size: int = SIZE
    conventional_kernel_size: int = 3
    gabor_kernel_size: int = 7
    base_channels: int = 12
    heads: int = 0
    find_brain: bool = False
    soft_labels: bool = False

    @property
    def field(self):
        """What a network trained like this is to see of a scan; see `model.network.cube_scores`."""
        return "content" if self.patch else "cube"


def learning_rate(options, step, steps):
    """The learning rate of a step: constant, and over the last `decay` of all steps falling to 0 along a cosine."""
    falling = options.decay * steps
    done = step - (steps - falling)
    if done <= 0:
        return options.learning_rate
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * done / falling))
