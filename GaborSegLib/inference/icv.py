"""Intracranial volume: all inside of the inner skull (brain, fluid, dura), down to the foramen magnum.

A very small network, trained on built heads whose skulls are known, sees the head around the brain that was found. In
its training brains of many sizes lay in the same skulls, so that it looks at the skull: a brain that has shrunk has the
same intracranial volume as before.
"""

import torch
from torch.nn import functional

from ..model.network import cube_scores
from ..model.weights import open_bundled
from ..scans.grid import Grid, content, normalise
from .finder import largest_component

WEIGHTS = "Weights/icv.safetensors"
# Seen around the brain that was found, as a share of its edges; the skull has to be in it where the brain is small.
MARGIN = 0.2
# The foramen magnum has about 8 cm². Where the inside of the skull meets the end of the field of view with more than
# this, cm², a part of it is missing.
LARGEST_OPENING = 20
# No skull was found if less than this is inside of it, of the brain that was found.
SMALLEST_SHARE = 0.8
# Why there is no intracranial volume.
NO_SKULL = "the scan is of a brain without its skull"
NO_BRAIN = "no brain was found in the scan"
NOT_WHOLE = "the field of view ends inside of the skull"
NOT_FOUND = "no skull was found around the brain"


def intracranial_volume(array, brain, device="cpu"):
    """Measure all that is inside of the inner skull.

    Args:
        array: the scan's intensities, (I, J, K).
        brain: the `finder.Brain` in it, or None.
        device: of torch, to compute on.

    Returns:
        (mL, ""), or (None, why there is none).
    """
    if brain is None or brain.is_extracted:
        return None, NO_BRAIN if brain is None else NO_SKULL
    scores, cube, grid = inside_of_skull(array, brain, device)
    # Scores at the border are the share of a voxel that is inside, so they are added and not counted.
    ml = float(scores.sum()) * grid.spacing**3 / 1000
    if ml < SMALLEST_SHARE * float(brain.mask.sum()) * brain.grid.spacing**3 / 1000:
        return None, NOT_FOUND
    if _cut_area(scores > 0.5, cube, grid) > LARGEST_OPENING:
        return None, NOT_WHOLE
    return ml, ""


@torch.inference_mode()
def inside_of_skull(array, brain, device="cpu"):
    """What is inside of the inner skull around a `finder.Brain`, as `intracranial_volume` takes it.

    Returns:
        Scores, 0 to 1, of one connected part without holes, (D, H, W); the scan's cube, (D, H, W); their `Grid`.
    """
    opened = open_bundled(WEIGHTS, str(device))
    margin = MARGIN * (brain.high - brain.low)
    low, high = tuple(brain.low - margin), tuple(brain.high + margin)
    grid = Grid(brain.grid.shape, brain.grid.affine, opened.card["grid_size"], low, high)
    cube = normalise(grid.image_to_cube(array))
    scores = cube_scores(opened.network, cube.to(device), opened.card["field"])[1].cpu()
    return _one_part(scores), cube, grid


def _one_part(scores):
    """Scores (D, H, W) of the largest connected part, changed in place: nothing besides, and no holes."""
    if not (scores > 0.5).any():
        return scores.zero_()
    inside = torch.from_numpy(largest_component((scores > 0.5).numpy()))
    near = functional.max_pool3d(inside[None, None].float(), 3, 1, 1)[0, 0] > 0
    scores[~near] = 0
    scores[inside & (scores < 0.5)] = 1
    return scores


def _cut_area(inside, cube, grid):
    """The largest area, cm², with which the inside meets an end of what the scan shows."""
    area = 0.0
    for axis, part in enumerate(content(cube)):
        # `content` has a voxel around it, and what lies at the very end is half outside.
        ends = [min(part.start + 2, len(inside) - 1), max(part.stop - 3, 0)]
        area = max(area, *(float(inside.select(axis, end).sum()) for end in ends))
    return area * grid.spacing**2 / 100
