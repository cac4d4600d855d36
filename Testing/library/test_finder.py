"""Finding the brain in a scan."""

import numpy as np
import pytest
import SimpleITK
import torch

from GaborSegLib.inference.finder import BRAIN_SHARE, KEPT, Brain, _grown, _opened, find_brain, largest_component
from GaborSegLib.scans.grid import Grid


def brain_in(shape, low, high, spacing=1.0, size=64):
    """A `Brain` that fills a box (voxels of a scan in right-anterior-superior order)."""
    affine = np.diag([spacing, spacing, spacing, 1.0])
    array = np.zeros(shape, dtype=np.float32)
    array[tuple(slice(first, last + 1) for first, last in zip(low, high))] = 1
    grid = Grid(shape, affine, size)
    return Brain(np.array(low), np.array(high), grid, (grid.image_to_cube(array) > 0.5).float()), array


def test_a_brain_that_fills_the_scan_is_seen_in_the_whole_scan():
    brain, _ = brain_in((100, 120, 100), (5, 5, 5), (94, 114, 94))
    grid = brain.grid_for(128)
    assert grid.low is None and grid.spacing == pytest.approx(120 / 128)


def test_the_voxel_size_does_not_depend_on_how_much_else_was_scanned():
    spacings = []
    for shape in ((200, 200, 220), (256, 256, 256), (180, 256, 400)):
        brain, _ = brain_in(shape, (20, 30, 40), (159, 199, 169))
        grid = brain.grid_for(128)
        spacings.append(grid.spacing)
        centre = grid.cube_to_turned([63.5] * 3)
        assert np.allclose(centre, (89.5, 114.5, 104.5))
    assert spacings == pytest.approx([170 / BRAIN_SHARE / 128] * 3, rel=0.01)


def test_what_is_near_the_brain_stays_and_the_rest_goes():
    low, high = (40, 60, 50), (109, 99, 109)
    brain, array = brain_in((160, 160, 160), low, high, size=80)
    head = np.full(array.shape, 0.8, dtype=np.float32)
    grid = brain.grid_for(64)
    cube = brain.extract(grid.image_to_cube(head), grid)
    kept = np.argwhere(cube.numpy() > 0.4)  # z, y, x
    ends = [grid.cube_to_turned(kept.min(axis=0)[::-1]), grid.cube_to_turned(kept.max(axis=0)[::-1])]
    assert np.allclose(ends[0], np.array(low) - KEPT, atol=2 * grid.spacing)
    assert np.allclose(ends[1], np.array(high) + KEPT, atol=2 * grid.spacing)


def test_an_extracted_brain_is_found_without_a_network_and_left_as_it_is():
    """1,000 mL of tissue in noise, off the centre of a wide field of view."""
    noise = np.random.default_rng(0).normal(0, 10, (200, 220, 240)).astype(np.float32)
    noise[30:130, 40:140, 50:150] += 100
    brain = find_brain(noise, np.eye(4))
    assert brain.is_extracted
    assert np.allclose(brain.low, (30, 40, 50), atol=3) and np.allclose(brain.high, (129, 139, 149), atol=3)
    grid = brain.grid_for(64)
    assert grid.spacing == pytest.approx(100 / BRAIN_SHARE / 64, rel=0.04)
    cube = grid.image_to_cube(noise)
    assert brain.extract(cube, grid) is cube


def test_a_part_of_a_brain_is_believed_only_where_no_more_was_in_view():
    """512 and 1,200 mL in a cube of 200 mm; 512 mL in a slab of 80 mm."""
    part, _ = brain_in((200, 200, 200), (60, 60, 60), (139, 139, 139), size=100)
    whole, _ = brain_in((200, 200, 200), (40, 40, 50), (159, 149, 149), size=100)
    slab, _ = brain_in((200, 200, 80), (60, 60, 0), (139, 139, 79), size=100)
    assert not part.is_plausible
    assert whole.is_plausible
    assert slab.is_plausible


def test_between_cubes_agrees_with_simpleitk():
    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    first = Grid((40, 44, 36), affine, 24)
    second = Grid((40, 44, 36), affine, 32, (8.0, 10.0, 6.0), (30.0, 33.0, 29.0))
    cube = torch.rand(24, 24, 24, generator=torch.Generator().manual_seed(0))

    def as_itk(array, grid):
        image = SimpleITK.GetImageFromArray(array)
        image.SetOrigin(grid.cube_affine()[:3, 3].tolist())
        image.SetSpacing([grid.spacing] * 3)
        return image

    reference = as_itk(np.zeros((32, 32, 32), dtype=np.float32), second)
    expected = SimpleITK.Resample(as_itk(cube.numpy(), first), reference, SimpleITK.Transform(), SimpleITK.sitkLinear)
    assert np.allclose(second.cube_from(cube, first).numpy(), SimpleITK.GetArrayFromImage(expected), atol=1e-5)


def test_the_largest_component_is_filled():
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[2:9, 2:9, 2:9] = True
    mask[5, 5, 5] = False
    mask[15:18, 15:18, 15:18] = True
    expected = np.zeros_like(mask)
    expected[2:9, 2:9, 2:9] = True
    assert np.array_equal(largest_component(mask), expected)
    assert not largest_component(np.zeros_like(mask)).any()


def test_what_is_thin_is_no_brain():
    """A ball that ends at the array's edge, with a plate on it: where the plate leaves the ball, it goes."""
    z, y, x = np.mgrid[:40, :40, :60]
    ball = (z - 20) ** 2 + (y - 20) ** 2 + (x - 14) ** 2 <= 15**2
    plate = (abs(z - 20) <= 1) & (x > 20)
    opened = _opened(ball | plate, 3)
    assert not opened[:, :, 33:].any()
    assert (opened & ball).sum() > 0.97 * ball.sum()


def test_what_is_near_a_mask():
    mask = np.zeros((30, 30, 30), dtype=bool)
    mask[15, 15, 15] = True
    z, y, x = np.mgrid[:30, :30, :30]
    ball = (z - 15) ** 2 + (y - 15) ** 2 + (x - 15) ** 2
    grown = _grown(mask, 6)
    assert grown[ball <= 5**2].all() and not grown[ball > 7**2].any()
