"""Scan to cube and back: against SimpleITK, closed forms, and all 48 ways to store the same scan."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from GaborSegLib.evaluation.metrics import dice
from GaborSegLib.scans.grid import Grid, normalise


def oblique(spacing, degrees=(12, -17, 20), origin=(-31, 15, 40)):
    """An affine of these spacings, turned about all three axes."""
    result = np.eye(4)
    for axis, angle in enumerate(np.radians(degrees)):
        i, j = [a for a in range(3) if a != axis]
        turn = np.eye(4)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        result = result @ turn
    result[:3, :3] *= spacing
    result[:3, 3] = origin
    return result


SHAPE, AFFINE = (26, 21, 15), oblique((0.9, 1.2, 2.0))


def world(shape, affine):
    """World coordinates of all voxels, (3, I, J, K)."""
    index = np.indices(shape).reshape(3, -1)
    return (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, *shape)


def centre(shape, affine):
    return affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]


def stored_ways():
    """All 48 orders and directions of three axes, as functions of (array, affine) that store the same scan so."""

    def store(array, affine, order, steps):
        matrix = np.zeros((4, 4))  # new voxel index to old voxel index
        matrix[3, 3] = 1
        for new, (old, step) in enumerate(zip(order, steps)):
            matrix[old, new] = step
            matrix[old, 3] = array.shape[old] - 1 if step < 0 else 0
        return array.transpose(order)[tuple(slice(None, None, step) for step in steps)], affine @ matrix

    for order in itertools.permutations(range(3)):
        for steps in itertools.product((1, -1), repeat=3):
            yield lambda array, affine, order=order, steps=steps: store(array, affine, order, steps)


def random_smooth(shape, seed=0, width=2.0):
    image = sitk.GetImageFromArray(np.random.default_rng(seed).normal(size=shape))
    return sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(image, width))


def to_itk(array, affine):
    """SimpleITK image of an array (I, J, K); its world is left-posterior-superior."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)).astype(np.float64))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def resampled(array, affine, shape, new_affine, outside=0):
    """Linear resampling by SimpleITK, an array of `shape`."""
    reference = to_itk(np.zeros(shape), new_affine)
    image = sitk.Resample(to_itk(array, affine), reference, sitk.Transform(), sitk.sitkLinear, float(outside))
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0)


# To the cube


def test_cube_is_a_linear_resampling():
    """Of an isotropic scan stored as left, inferior, anterior; where SimpleITK interpolates, inside of the scan."""
    array = random_smooth((22, 18, 20))
    affine = oblique((1.5, 1.5, 1.5)) @ np.array([[-1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    grid = Grid(array.shape, affine, 40)
    cube = grid.image_to_cube(array)
    assert (cube.dtype, cube.shape) == (torch.float32, (40, 40, 40))
    assert grid.spacing == pytest.approx(22 * 1.5 / 40)
    cube = cube.numpy().transpose(2, 1, 0)
    expected = resampled(array, affine, cube.shape, grid.cube_affine(), np.nan)
    # Not the scan's last voxels: SimpleITK repeats the outermost values beyond their centres.
    without_last = np.pad(np.ones(np.array(array.shape) - 2), 1)
    full = resampled(without_last, affine, cube.shape, grid.cube_affine()) > 1 - 1e-9
    assert full.sum() > 20_000
    np.testing.assert_allclose(cube[full], expected[full], atol=1e-5)


def test_cube_affine_of_all_stored_ways():
    """A ball of light at a place in the world is found at that place through the cube's affine."""
    place = np.add(centre(SHAPE, AFFINE), (3, -2, 1.5))
    for store in stored_ways():
        array, affine = store(np.zeros(SHAPE), AFFINE)
        blob = np.exp(-0.5 * ((world(array.shape, affine) - place[:, None, None, None]) ** 2).sum(axis=0) / 2.5**2)
        grid = Grid(array.shape, affine, 32)
        cube = grid.image_to_cube(blob).numpy().transpose(2, 1, 0)
        found = (world(cube.shape, grid.cube_affine()) * cube).sum(axis=(1, 2, 3)) / cube.sum()
        np.testing.assert_allclose(found, place, atol=0.05)


def test_stored_order_changes_nothing():
    """All 48 give the same cube, and the same labels at the same places in the world, on their own grids."""
    image = random_smooth(SHAPE)
    size = 24
    scores = torch.from_numpy(np.stack([random_smooth((size,) * 3, seed) for seed in range(4)]))
    grid = Grid(SHAPE, AFFINE, size)
    cube, labels = grid.image_to_cube(image), grid.scores_to_labels(scores)
    assert cube.std() > 0.01 and len(np.unique(labels)) == 4
    for store in stored_ways():
        array, affine = store(image, AFFINE)
        other = Grid(array.shape, affine, size)
        np.testing.assert_allclose(other.cube_affine(), grid.cube_affine(), atol=1e-9)
        np.testing.assert_allclose(other.image_to_cube(array), cube, atol=1e-5)
        np.testing.assert_array_equal(other.scores_to_labels(scores), store(labels, AFFINE)[0])
        np.testing.assert_array_equal(other.turn_back(other.turn(array)), array)


def test_axes_are_nearest_to_right_anterior_superior():
    for store in stored_ways():
        array, affine = store(np.zeros(SHAPE), AFFINE)
        axes = Grid(array.shape, affine, 16).cube_affine()[:3, :3]
        np.testing.assert_array_equal(np.abs(axes).argmax(axis=0), [0, 1, 2])
        assert (np.diag(axes) > 0).all()


@pytest.mark.parametrize("size", [12, 48], ids=["coarse", "fine"])
def test_constant_scan(size):
    """Constant wherever a cube voxel's reach (the larger of the two voxel sizes) lies in the scan, 0 far outside."""
    shape = (26, 21, 8)
    grid = Grid(shape, AFFINE, size)
    cube = grid.image_to_cube(np.full(shape, 7.0)).numpy().transpose(2, 1, 0)
    position = world(cube.shape, np.linalg.solve(AFFINE, grid.cube_affine()))  # in the scan's voxels
    reach = np.maximum(1, grid.spacing / np.array([0.9, 1.2, 2.0]))[:, None, None, None] + 1e-6
    last = np.array(shape)[:, None, None, None] - 1
    inside = ((position >= reach) & (position <= last - reach)).all(axis=0)
    outside = ((position < -reach) | (position > last + reach)).any(axis=0)
    assert inside.sum() > 0.1 * cube.size and outside.sum() > 0.1 * cube.size
    np.testing.assert_allclose(cube[inside], 7, rtol=1e-6)
    assert cube.max() < 7.00001 and (cube[outside] == 0).all()


def test_fine_scans_do_not_alias():
    """0.5 mm in a cube of 1.25 mm, where linear interpolation would be off by 0.06 and 0.25."""
    i, j, k = np.indices((40, 40, 40))
    grid = Grid(i.shape, np.diag([0.5, 0.5, 0.5, 1]), 16)
    assert grid.spacing == 1.25
    for pattern, tolerance in (((i + j + k) % 2, 0.002), (i % 2, 0.05)):
        inside = grid.image_to_cube(pattern)[2:-2, 2:-2, 2:-2]
        assert (inside - 0.5).abs().max() < tolerance


# A part of the scan


def test_cube_over_a_part():
    """Centred on it, as long as its longest side (voxel edges included), and a linear ramp has its values there."""
    low, high = (6, 8, 5), (15, 14, 8)
    sides = (np.array(high) - low + 1) * (0.9, 1.2, 2.0)
    grid = Grid(SHAPE, AFFINE, 16, low, high)
    assert grid.spacing == pytest.approx(sides.max() / 16)
    middle = AFFINE[:3, :3] @ ((np.array(low) + high) / 2) + AFFINE[:3, 3]
    np.testing.assert_allclose(centre((16, 16, 16), grid.cube_affine()), middle)

    slope = np.array([0.3, -0.5, 0.7])
    cube = grid.image_to_cube(np.tensordot(slope, world(SHAPE, AFFINE), 1)).numpy().transpose(2, 1, 0)
    np.testing.assert_allclose(cube, np.tensordot(slope, world(cube.shape, grid.cube_affine()), 1), atol=1e-4)


def test_part_of_a_turned_scan():
    """Corners count along right, anterior, superior, whatever the stored order."""
    low, high = (6, 8, 5), (15, 14, 8)
    expected = Grid(SHAPE, AFFINE, 16, low, high).cube_affine()
    for store in stored_ways():
        array, affine = store(np.zeros(SHAPE), AFFINE)
        grid = Grid(array.shape, affine, 16, low, high)
        np.testing.assert_allclose(grid.cube_affine(), expected, atol=1e-9)
        index = np.array([3.0, 10.0, 1.0])
        position = np.linalg.solve(AFFINE, expected @ (*index, 1))[:3]
        np.testing.assert_allclose(grid.cube_to_turned(index), position, atol=1e-9)


@pytest.mark.parametrize("size", [4, 16])
def test_outside_of_the_cube_is_background(size):
    """The cube ends at the edges of its voxels, half a voxel from the outermost centres."""
    grid = Grid(SHAPE, AFFINE, size, (6, 8, 5), (15, 14, 8))
    scores = torch.zeros(3, size, size, size)
    scores[2] = 1
    labels = grid.scores_to_labels(scores)
    index = world(SHAPE, np.linalg.solve(grid.cube_affine(), AFFINE))
    inside = ((index >= -0.5 - 1e-6) & (index <= size - 0.5 + 1e-6)).all(axis=0)
    assert 0.02 < inside.mean() < 0.5
    np.testing.assert_array_equal(labels, np.where(inside, 2, 0))


def test_part_beyond_the_scan():
    """A cube that lies outside altogether is empty, and so is what comes back from it."""
    grid = Grid(SHAPE, AFFINE, 8, (100, 100, 100), (110, 110, 110))
    assert not grid.image_to_cube(np.ones(SHAPE)).any()
    assert not grid.labels_to_cube(np.ones(SHAPE, np.uint8), 2).any()
    assert not grid.scores_to_labels(torch.ones(2, 8, 8, 8) * torch.tensor([0, 1]).reshape(2, 1, 1, 1)).any()


# Labels


def label_volume(shape, affine):
    """A large ellipsoid with two others in it, at places without symmetry."""
    labels = np.zeros(shape, np.uint8)
    position = world(shape, affine) - centre(shape, affine)[:, None, None, None]
    for label, place, axes in ((1, (0, 0, 0), (9, 10, 11)), (2, (3, 2, 4), (4, 5, 4)), (3, (-4, -2, -3), (3.5, 4, 5))):
        distance = (position - np.reshape(place, (3, 1, 1, 1))) / np.reshape(axes, (3, 1, 1, 1))
        labels[(distance**2).sum(axis=0) < 1] = label
    return labels


@pytest.mark.parametrize(
    "shape, affine, size",
    [
        pytest.param(SHAPE, AFFINE, 32, id="anisotropic"),
        pytest.param((40, 44, 42), np.diag([-0.6, -0.6, 0.6, 1]), 32, id="finer than the cube"),
    ],
)
def test_labels_survive_the_cube(shape, affine, size):
    labels = label_volume(shape, affine)
    grid = Grid(shape, affine, size)
    cube = grid.labels_to_cube(labels, 4)
    assert (cube.dtype, cube.shape) == (torch.uint8, (size, size, size))
    # The cube's labels are where the formula has them in the world, too.
    expected = label_volume(cube.shape, grid.cube_affine())
    assert min(dice(cube.numpy().transpose(2, 1, 0), expected, [1, 2, 3])) > 0.8
    scores = torch.nn.functional.one_hot(cube.long(), 4).movedim(-1, 0)
    back = grid.scores_to_labels(scores)
    assert (back.dtype, back.shape) == (np.uint8, shape)
    assert min(dice(back, labels, [1, 2, 3])) > 0.9


def test_labels_cover_the_scan():
    """Up to its edges, half a voxel from the outermost centres, and no further. Its very corners are rounded: a quarter
    of a voxel within all three edges the label weighs 0.75^3, less than the background outside."""
    grid = Grid((16, 16, 8), np.eye(4), 32)
    cube = grid.labels_to_cube(np.full((16, 16, 8), 2, np.uint8), 3)
    expected = torch.zeros(32, 32, 32, dtype=torch.uint8)
    expected[8:24] = 2  # z is 8 of 16 mm
    expected[np.ix_([8, 23], [0, 31], [0, 31])] = 0
    assert torch.equal(cube, expected)


def test_labels_are_the_highest_of_interpolated_scores():
    """SimpleITK interpolates linearly, which is nearly the same for scores as smooth as these."""
    values = np.stack([random_smooth((20, 20, 20), seed) for seed in range(5)])
    scores = torch.from_numpy(2 * values).softmax(dim=0)
    grid = Grid(SHAPE, AFFINE, 20)
    labels = grid.scores_to_labels(scores)
    volumes = [s.log().numpy().transpose(2, 1, 0) for s in scores]
    expected = np.stack([resampled(volume, grid.cube_affine(), SHAPE, AFFINE, np.nan) for volume in volumes])
    known = ~np.isnan(expected).any(axis=0)
    assert known.mean() > 0.9
    assert (labels == expected.argmax(axis=0))[known].mean() > 0.95


def plain_labels(grid, scores):
    """Every class at every voxel, in float64, by one dense matrix for each axis: the logarithms of scores by cubic
    convolution, but where all that linear interpolation would weigh is of one class, that class."""
    step = grid.spacing / grid.turned_spacing
    found = np.log(scores.double().numpy().clip(1e-4)).transpose(0, 3, 2, 1)
    share = np.eye(len(scores))[scores.argmax(dim=0).numpy()].transpose(3, 2, 1, 0)
    inside = np.ones(grid.turned_shape, dtype=bool)
    for axis in range(3):
        start = grid.cube_to_turned((0, 0, 0))[axis]
        index = (np.arange(grid.turned_shape[axis]) - start) / step[axis]
        within = (index >= -0.5) & (index <= grid.size - 0.5)
        inside &= within.reshape([-1 if a == axis else 1 for a in range(3)])
        distance = np.abs(index.clip(0, grid.size - 1)[:, None] - np.arange(-2, grid.size + 2))
        cubic = cubic_convolution(distance)
        cubic[:, 2] += cubic[:, :2].sum(axis=1)  # the outermost values go on beyond the cube
        cubic[:, -3] += cubic[:, -2:].sum(axis=1)
        found = np.moveaxis(np.tensordot(cubic[:, 2:-2], found, axes=(1, axis + 1)), 0, axis + 1)
        hat = np.maximum(0, 1 - distance[:, 2:-2])
        share = np.moveaxis(np.tensordot(hat, share, axes=(1, axis + 1)), 0, axis + 1)
    order = np.sort(found, axis=0)
    one = share.max(axis=0) > 1 - 1e-9
    best = np.where(one, share.argmax(axis=0), found.argmax(axis=0))
    # Where rounding decides nothing: neither which class is best, nor whether a voxel lies on one of the cube's.
    clear = (order[-1] - order[-2] > 1e-4) & (one | (share.max(axis=0) < 1 - 1e-5))
    return grid.turn_back(np.where(inside, best, 0)), grid.turn_back(clear)


def cubic_convolution(distance):
    """Keys' kernel (1981, Eq. 15)."""
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


@pytest.mark.parametrize("size, part", [(20, None), (33, None), (16, ((6, 8, 5), (15, 14, 8)))])
def test_labels_are_those_of_every_class_at_every_voxel(size, part):
    """Pieces with one label, and borders at which a third class wins that is best at no neighbour."""
    blobs = np.stack([random_smooth((size,) * 3, seed) for seed in range(7)])
    scores = torch.from_numpy(2 * blobs).float().softmax(dim=0)
    for store in list(stored_ways())[::7]:
        array, affine = store(np.zeros(SHAPE), AFFINE)
        grid = Grid(array.shape, affine, size, *(part or ()))
        expected, clear = plain_labels(grid, scores)
        labels = grid.scores_to_labels(scores)
        assert len(np.unique(labels)) > 3 and clear.mean() > 0.99
        np.testing.assert_array_equal(labels[clear], expected[clear])


def test_equal_scores_go_to_the_first_class_and_labels_may_reach_255():
    scores = torch.zeros(256, 4, 4, 4)
    grid = Grid((6, 6, 6), np.eye(4), 4)
    assert not grid.scores_to_labels(scores).any()
    scores[0, :, :, :2] = scores[255, :, :, 2:] = 1
    assert grid.scores_to_labels(scores)[:, 2, 2].tolist() == [0, 0, 0, 255, 255, 255]


# Intensities


def test_normalise():
    """The mean of the foreground is 1 in any unit; a spike ends at 10, nothing is below 0."""
    random = np.random.default_rng(0)
    cube = torch.zeros(20, 20, 20)
    cube[4:14] = torch.from_numpy(random.uniform(50, 150, (10, 20, 20)))
    cube[:4] = torch.from_numpy(random.uniform(0, 3, (4, 20, 20)))  # noise in the air
    result = normalise(cube)
    assert result[4:14].mean().item() == pytest.approx(1, abs=1e-5)
    assert (result[14:] == 0).all()
    for scale in (1e-3, 4095.0):
        torch.testing.assert_close(normalise(scale * cube), result)
    cube[5, 5, 5], cube[15, 15, 15] = 1e5, -1e5
    spiked = normalise(cube)
    assert spiked.max() == 10 and spiked.min() == 0
    assert torch.equal(normalise(torch.zeros(4, 4, 4)), torch.zeros(4, 4, 4))


def test_cube_to_image_is_exact_for_what_is_linear():
    """In millimetres, in each order of the scan's axes, and where the cube is coarser than the scan."""
    shape, slope = (20, 24, 16), np.array([0.3, -0.2, 0.5])
    for store in stored_ways():
        array, affine = store(np.zeros(shape), np.diag([2.0, 1.5, 2.5, 1.0]))
        grid = Grid(array.shape, affine, 12)
        index = np.indices([12] * 3)[::-1].reshape(3, -1)
        cube = slope @ millimetres_of(grid.cube_affine(), index)
        found = grid.cube_to_image(torch.from_numpy(cube.reshape(12, 12, 12).astype(np.float32)))
        place = millimetres_of(affine, np.indices(array.shape).reshape(3, -1))
        ends = millimetres_of(grid.cube_affine(), np.array([[0] * 3, [11] * 3]).T)
        inside = ((place > ends.min(axis=1)[:, None]) & (place < ends.max(axis=1)[:, None])).all(axis=0)
        assert inside.mean() > 0.7 and np.allclose(found.ravel()[inside], (slope @ place)[inside], atol=1e-4)


def millimetres_of(affine, index):
    """(3, n) of voxel indices (3, n)."""
    return affine[:3, :3] @ index + affine[:3, 3:]
