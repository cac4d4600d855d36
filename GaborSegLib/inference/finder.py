"""Where the brain is in a scan: a very small network finds it in the whole field of view, another its outline.

The networks for the structures are trained on brain-extracted scans, as the paper's are. With what is not near the
brain taken away, and the brain as large in the cube as it was in training, a scan with its skull, its neck or a wide
field of view looks to them like one of those.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from ..model.network import cube_scores
from ..model.weights import open_bundled, read_card
from ..scans.grid import Grid, normalise
from ..structures import resource_path

# The network for the whole field of view, and the one for the outline from close by.
WEIGHTS = ("Weights/brain.safetensors", "Weights/outline.safetensors")
# In the training scans, which are cropped to the brain, the brain takes this share of the cube's edge.
BRAIN_SHARE = 0.87
# If it takes less than this in the cube over the whole scan, a closer one is laid over it.
SMALLEST_BRAIN_SHARE = 0.8
# The second network finds the outline anew, with this much more around what the first found, as a share of its edges,
# and only this far from it, mm: where one of the two runs out into muscles or skin, the other hardly ever does.
MARGIN, REACH = 0.15, 6.0
# What is thinner than twice this, mm, is no brain: muscles and skin that a mask runs out into.
THINNEST = 6.0
# Kept around the brain that was found, mm.
KEPT = 1.0
# Adult brains lie well between these, mL. A scan with less in it than the largest has is a brain that was extracted
# already: heads are twice as large and more.
SMALLEST_BRAIN, LARGEST_BRAIN = 600, 2000
# What was found, with the fluid in it, is not believed if it is less than this, mL, where the shortest side of the
# field of view, mm, holds a whole brain: ghosts of an extracted brain can look like a head, and hide its cerebellum.
SMALLEST_FOUND, BRAIN_HEIGHT = 800, 120
# Of the mean of tissue: what is darker, averaged over 3^3 voxels, is background or its noise.
TISSUE_LEVEL = 0.35


@dataclass(frozen=True)
class Brain:
    """A brain in a scan.

    Args:
        low, high: corners of its box in the scan turned to right-anterior-superior, as `Grid` takes them.
        grid: the `Grid` of `mask`.
        mask: float tensor (D, H, W), 1 in the brain.
        is_extracted: there is nothing else in the scan.
    """

    low: np.ndarray
    high: np.ndarray
    grid: Grid
    mask: torch.Tensor
    is_extracted: bool = False

    @property
    def is_plausible(self):
        """False if a whole brain would have been in the field of view, and only a part was found."""
        field = min(self.grid.turned_shape * self.grid.turned_spacing)
        return field < BRAIN_HEIGHT or float(self.mask.sum()) * self.grid.spacing**3 / 1000 >= SMALLEST_FOUND

    def grid_for(self, size):
        """The cube to look for structures in: over the whole scan, or closer if the brain would be small in that."""
        whole = Grid(self.grid.shape, self.grid.affine, size)
        edges = (self.high - self.low + 1) * whole.turned_spacing
        if edges.max() >= SMALLEST_BRAIN_SHARE * whole.spacing * size:
            return whole
        margin = edges.max() * (1 / BRAIN_SHARE - 1) / 2 / whole.turned_spacing
        return Grid(whole.shape, whole.affine, size, tuple(self.low - margin), tuple(self.high + margin))

    def extract(self, cube, grid):
        """A cube of the scan (D, H, W) on a grid, with what is not near the brain set to 0."""
        if self.is_extracted:
            return cube
        kept = grid.cube_from(self.mask, self.grid) > 0.5
        reach = max(1, round(KEPT / grid.spacing))
        return cube * functional.max_pool3d(kept[None, None].float(), 2 * reach + 1, 1, reach)[0, 0]


def find_brain(array, affine, device="cpu"):
    """Find the brain in a scan.

    Args:
        array: the scan's intensities, (I, J, K).
        affine: its (4, 4), voxel index to right-anterior-superior millimetres.
        device: of torch, to compute on.

    Returns:
        `Brain`, or None if there is none, or only what cannot be all of it.
    """
    first = open_bundled(WEIGHTS[0], str(device))
    grid = Grid(array.shape, affine, first.card["grid_size"])
    cube = normalise(grid.image_to_cube(array))
    brain = _extracted(cube, grid) or _predict_brain(first, cube, grid)
    if brain is None or brain.is_extracted:
        return brain
    close = open_bundled(WEIGHTS[1], str(device))
    margin = MARGIN * (brain.high - brain.low)
    closer = Grid(grid.shape, affine, close.card["grid_size"], tuple(brain.low - margin), tuple(brain.high + margin))
    near = torch.from_numpy(_grown(brain.mask.numpy(), REACH / grid.spacing)).float()
    near = closer.cube_from(near, grid).numpy() > 0.5
    brain = _predict_brain(close, normalise(closer.image_to_cube(array)), closer, near)
    return brain if brain is not None and brain.is_plausible else None


@torch.inference_mode()
def _predict_brain(opened, cube, grid, near=True):
    """The `Brain` that a network finds in a cube of the scan, within `near` (bool, as the cube); None for none."""
    device = next(opened.network.parameters()).device
    background = cube_scores(opened.network, cube.to(device), opened.card["field"])[0].cpu().numpy()
    mask = largest_component(_opened((background < 0.5) & near, THINNEST / grid.spacing))
    return Brain(*_corners(mask, grid), grid, torch.from_numpy(mask).float()) if mask.any() else None


def _extracted(cube, grid):
    """The `Brain` of a scan in which there is nothing else, or None."""
    tissue = functional.avg_pool3d(cube[None, None], 3, 1, 1)[0, 0] > TISSUE_LEVEL
    if not tissue.any() or float(tissue.sum()) * grid.spacing**3 / 1000 > LARGEST_BRAIN:
        return None
    mask = largest_component(tissue.numpy())
    return Brain(*_corners(mask, grid), grid, torch.from_numpy(mask).float(), True)


def checksum():
    """The SHA-256 of the finder's weights: what was prepared with others is to be prepared anew."""
    return " ".join(read_card(resource_path(weights))["sha256"] for weights in WEIGHTS)


def largest_component(mask):
    """The largest connected part of a boolean array, with its holes filled."""
    import SimpleITK

    components = SimpleITK.ConnectedComponent(SimpleITK.GetImageFromArray(mask.astype(np.uint8)))
    largest = SimpleITK.RelabelComponent(components) == 1
    return SimpleITK.GetArrayFromImage(SimpleITK.BinaryFillhole(largest)).astype(bool)


def _opened(mask, radius):
    """A boolean array without what no ball of a radius (voxels) fits into."""
    return _by_ball("BinaryMorphologicalOpening", mask, radius)


def _grown(mask, radius):
    """A boolean array with what is within a radius (voxels) of it."""
    return _by_ball("BinaryDilate", mask, radius)


def _by_ball(operation, mask, radius):
    import SimpleITK

    image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    return SimpleITK.GetArrayFromImage(getattr(SimpleITK, operation)(image, [max(1, round(radius))] * 3)) > 0


def _corners(mask, grid):
    """The box of a mask on a grid's cube, in voxel indices of the turned scan."""
    places = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in (2, 1, 0)]
    ends = [grid.cube_to_turned([p[i] for p in places]) for i in (0, -1)]
    return np.array(ends[0]), np.array(ends[1])
