"""On which side of the patient a voxel lies: a very small network tells the right half of the brain from the left.

It says nothing of structures: that a voxel is hippocampus stays as it is, and this makes it left or right hippocampus.
Left and right are those of the scan's affine. A file in which they are wrong is not corrected: a brain is so symmetric
that nothing in it would tell.
"""

from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import torch

from ..model.network import cube_scores
from ..model.weights import load_weights
from ..scans.grid import normalise
from ..structures import resource_path
from .at_once import at_once

WEIGHTS = "Weights/sides.safetensors"
# The classes of the network, after background.
LEFT, RIGHT = 1, 2
# Scores below this are as good as none: their logarithm has to end somewhere.
SMALLEST_SCORE = 1e-6


@torch.inference_mode()
def find_right(array, grid, brain=None, device="cpu"):
    """Tell the right half of a brain from the left, in every voxel of a scan.

    Args:
        array: the scan's intensities, (I, J, K).
        grid: the `Grid` over it, of any size, in which its structures were looked for.
        brain: the `finder.Brain` in it; None if nothing is to be taken away around it.
        device: of torch, to compute on.

    Returns:
        bool array (I, J, K), true on the right. It means nothing outside of the brain.
    """
    opened = _network(str(device))
    grid = replace(grid, size=opened.card["grid_size"])
    cube = grid.image_to_cube(array)
    cube = normalise(brain.extract(cube, grid) if brain else cube).to(device)
    return grid.cube_to_image(_log_odds(opened, cube).cpu()) > 0


def divide(labels, right, parts):
    """A label map (I, J, K) with the halves of structures in their place.

    Args:
        labels: label map of the structures, uint8.
        right: from `find_right`.
        parts: from `structures.sided_structures`.

    Returns:
        uint8, or int16 where that is too small for the labels.
    """
    largest = max(part.label for part in parts.values())
    new = np.zeros((2, 256), dtype=np.uint8 if largest < 256 else np.int16)
    for (label, side), part in parts.items():
        new[{"left": 0, "right": 1, "": slice(None)}[side], label] = part.label
    return new[right.astype(np.uint8), labels]


def _log_odds(opened, cube):
    """How much rather right than left: logarithms of ratios, (D, H, W).

    With f(x) the network's, this is (f(x) - f(mirrored x)) / 2: a mirrored scan has the same sides, mirrored.
    """

    @torch.inference_mode()
    def odds(cube):
        scores = cube_scores(opened.network, cube, opened.card["field"]).clamp(min=SMALLEST_SCORE).log()
        return scores[RIGHT] - scores[LEFT]

    passes = partial(odds, cube), partial(odds, cube.flip(2))
    found, mirrored = at_once(*passes) if cube.device.type == "cpu" else [run() for run in passes]
    return (found - mirrored.flip(2)) / 2


@lru_cache(maxsize=2)
def _network(device):
    opened = load_weights(resource_path(WEIGHTS))
    opened.network.to(device)
    return opened
