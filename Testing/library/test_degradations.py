"""What the benchmarks do to scans: against closed forms, and the strengths against TorchIO's own."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torchio

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import degradations as made
from degradations import DEGRADATIONS, degraded

from GaborSegLib.scans.image import Image

AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])
AFFINE[:3, 3] = -10, 5, 7


@pytest.fixture
def scan():
    array = np.zeros((24, 20, 18), np.float32)
    array[4:20, 4:16, 3:15] = 100
    array[8:14, 6:12, 6:12] = 150
    return Image(array, AFFINE), (array > 120).astype(np.uint8) + (array > 0)


def random():
    return np.random.default_rng(3)


@pytest.mark.parametrize("degradation", DEGRADATIONS, ids=lambda d: f"{d.name} {d.strength}")
def test_each_gives_a_scan_and_its_labels_and_the_same_again(degradation, scan):
    before = scan[0].array.copy()
    image, truth = degraded(degradation, *scan, "scan")
    again, _ = degraded(degradation, *scan, "scan")
    assert image.array.shape == truth.shape and image.array.dtype == np.float32 and truth.dtype == np.uint8
    assert np.isfinite(image.array).all() and set(np.unique(truth)) == {0, 1, 2}
    assert np.array_equal(image.array, again.array) and not np.array_equal(image.array, before)
    assert np.array_equal(scan[0].array, before)


def test_gamma_and_noise_have_their_strength(scan):
    image, _ = made.gamma(*scan, random(), log_gamma=np.log(2))
    assert np.allclose(image.array, scan[0].array ** 2)
    image, _ = made.noise(*scan, random(), std=0.25)
    assert (image.array - scan[0].array).std() == pytest.approx(0.25 * scan[0].array.std(), rel=0.03)


def test_the_bias_field_is_smooth_and_bounded(scan):
    flat = Image(np.ones((30, 30, 30), np.float32), AFFINE)
    field = np.log(made.bias_field(flat, None, random(), coefficients=0.5)[0].array)
    assert abs(field).max() <= 0.5 * 20  # twenty monomials up to order 3, each at most 1
    assert np.abs(np.diff(field, n=4, axis=0)).max() < 1e-4  # fourth differences of a cubic are 0
    assert np.abs(np.diff(field, n=3, axis=0)).max() > 1e-4  # and its third ones are not
    assert field.std() > 0.05


def test_blur_of_a_point_is_a_gaussian_in_mm():
    array = np.zeros((31, 31, 31), np.float32)
    array[15, 15, 15] = 1
    image, _ = made.blur(Image(array, np.diag([1, 2, 1, 1.0])), None, random(), std=2.0)
    assert image.array.sum() == pytest.approx(1, abs=1e-4)
    for axis, spacing in enumerate((1, 2, 1)):
        profile = image.array.sum(axis=tuple(other for other in range(3) if other != axis))
        assert np.sqrt((profile * ((np.arange(31) - 15) * spacing) ** 2).sum()) == pytest.approx(2, rel=0.01)


def test_thick_slices_lie_where_the_header_says(scan):
    image, truth = made.thick_slices(*scan, random(), axis=2, thickness=3)
    assert image.array.shape == (24, 20, 6) and image.spacing == pytest.approx((1, 1, 3))
    # The middle of the first slice is that of the second old one.
    assert image.affine @ [0, 0, 0, 1] == pytest.approx(scan[0].affine @ [0, 0, 1, 1])
    assert np.array_equal(truth, scan[1].reshape(24, 20, 6, 3)[..., 1])
    # A ramp keeps its value at each place.
    ramp = replace(scan[0], array=np.fromfunction(lambda x, y, z: 100 + z, (24, 20, 18), dtype=np.float32))
    image, _ = made.thick_slices(ramp, scan[1], random(), axis=2, thickness=3)
    assert np.allclose(image.array[..., 1:-1], [104, 107, 110, 113], atol=0.1)


def test_a_thick_slice_is_a_gaussian_that_is_half_as_high_at_its_borders():
    """Slices of 3 mm from ones of 1 mm: a Gaussian whose full width at half maximum has 3^2 = 1^2 + width^2."""
    std = np.sqrt(3**2 - 1**2) / np.sqrt(8 * np.log(2))
    for off in range(3):
        array = np.zeros((8, 8, 27), np.float32)
        array[4, 4, 13 + off] = 1
        image, _ = made.thick_slices(Image(array, AFFINE), np.ones(array.shape), random(), axis=2, thickness=3)
        seen = np.exp(-((off / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi))
        assert image.array[4, 4, 4] == pytest.approx(seen, rel=0.02)
        assert abs(image.array[4, 5]).max() < 1e-6  # and nothing of it in the next column


def test_axes_that_are_not_resampled_stay_as_they_are():
    """Of 24 voxels of 0.7 mm one gets lost where their number is computed in mm, and all move by half of one."""
    array = np.arange(24 * 20 * 18, dtype=np.float32).reshape(24, 20, 18)
    affine = np.diag([0.7, 0.7, 0.7, 1.0])
    image, _ = made.thick_slices(Image(array, affine), np.ones(array.shape), random(), axis=2, thickness=2)
    assert image.array.shape == (24, 20, 6)
    assert (image.affine @ [3, 4, 0, 1])[:2] == pytest.approx([3 * 0.7, 4 * 0.7])
    image, _ = made.anisotropy(Image(array, affine), None, random(), downsampling=3.0)
    axis = random().integers(3)
    assert np.array_equal(image.array.take(4, axis), array.take(4, axis))  # the second of each three is kept


def test_finer_voxels_keep_what_lies_where(scan):
    image, truth = made.resolution(*scan, random(), spacing=(0.5,) * 3)
    assert image.array.shape == (48, 40, 36)
    # But for the eight corners of both boxes, where the corner's own share is (3/4)^3 < 1/2.
    assert (truth != scan[1].repeat(2, 0).repeat(2, 1).repeat(2, 2)).sum() == 16
    assert (image.affine @ [0.5, 0.5, 0.5, 1])[:3] == pytest.approx(AFFINE[:3, 3])
    assert image.array[20, 20, 20] == 150


def test_anisotropy_keeps_a_ramp_and_steps_a_fine_pattern():
    ramp = np.fromfunction(lambda x, y, z: x + y + z, (30, 30, 30), dtype=np.float32)
    image, _ = made.anisotropy(Image(ramp, AFFINE), None, random(), downsampling=3.0)
    middle = (slice(2, -2),) * 3
    assert np.allclose(image.array[middle], ramp[middle], atol=1e-3)
    stripes = np.fromfunction(lambda x, y, z: (x + y + z) % 2, (30, 30, 30), dtype=np.float32)
    assert not np.allclose(made.anisotropy(Image(stripes, AFFINE), None, random(), downsampling=3.0)[0].array, stripes)


def test_ghosts_are_copies_at_equal_distances():
    array = np.zeros((24, 24, 24), np.float32)
    array[12, 12, 12] = 24.0
    image, _ = made.ghosting(Image(array, AFFINE), None, random(), ghosts=4, intensity=1.0)
    # Of 24 planes of k-space every fourth is lost, which puts a quarter of the point, negative, at every quarter of the
    # axis; the central one is kept, which adds 24 / 24 along the line.
    expected = np.ones(24)
    expected[[0, 6, 12, 18]] -= 6
    expected[12] += 24
    lines = [image.array[:, 12, 12], image.array[12, :, 12], image.array[12, 12]]
    assert sum(np.allclose(line, expected, atol=1e-4) for line in lines) == 1


def test_a_spike_is_a_stripe_pattern_of_its_height(scan):
    image, _ = made.spike(*scan, random(), intensity=2.0)
    change = image.array - scan[0].array
    mean = scan[0].array.mean()
    assert np.abs(change).max() == pytest.approx(2 * mean, rel=1e-4)
    assert np.sqrt((change**2).mean()) == pytest.approx(2 * mean / np.sqrt(2), rel=1e-4)


def test_no_movement_changes_nothing_and_a_movement_something(scan):
    image, _ = made.motion(*scan, random(), degrees=0.0, translation=0.0)
    assert np.allclose(image.array, scan[0].array, atol=1e-3)
    image, _ = made.motion(*scan, random(), degrees=10.0, translation=3.0)
    assert image.array.mean() == pytest.approx(scan[0].array.mean(), rel=0.02)  # the centre of k-space
    assert np.abs(image.array - scan[0].array).max() > 5


def test_the_head_turns_about_the_middle_of_the_scan():
    """A ball there looks the same after each turn, though the origin of the coordinates is 25 mm away."""
    shape = np.array([34, 32, 30])
    away = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - (shape - 1) / 2, axis=-1)
    affine = np.eye(4)
    affine[:3, 3] = [25, 0, 0] - (shape - 1) / 2
    ball = Image(np.exp(-((away / 2.5) ** 2) / 2).astype(np.float32), affine)
    for seed in range(6):
        image, _ = made.motion(ball, None, np.random.default_rng(seed), degrees=40.0, translation=0.0)
        assert np.abs(image.array - ball.array).max() < 0.02


def test_strengths_are_those_that_torchio_draws_by_default():
    drawn = {
        "Gamma": ("log_gamma", torchio.RandomGamma().log_gamma_range),
        "Bias field": ("coefficients", torchio.RandomBiasField().coefficients_range),
        "Noise": ("std", torchio.RandomNoise().std_range),
        "Blur": ("std", torchio.RandomBlur().std_ranges[:2]),
        "Anisotropy": ("downsampling", torchio.RandomAnisotropy().downsampling_range),
        "Ghosting": ("intensity", torchio.RandomGhosting().intensity_range),
        "Spike": ("intensity", torchio.RandomSpike().intensity_range),
        "Motion": ("degrees", torchio.RandomMotion().degrees_range[:2]),
    }
    named = [degradation for degradation in DEGRADATIONS if degradation.name in drawn]
    assert len(named) == 17
    for degradation in named:
        setting, (low, high) = drawn[degradation.name]
        low = max(low, 0)  # of a range of ± a limit the sign is no strength
        strengths = {"weakest": low, "middle": (low + high) / 2, "strongest": high}
        value = abs(degradation.change.keywords[setting])
        assert value == strengths[degradation.strength.split(", ")[-1]], degradation
    assert torchio.RandomBiasField().order == 3 and torchio.RandomGhosting().num_ghosts_range == (4, 10)
    motion = torchio.RandomMotion()
    assert motion.num_transforms == 2 and motion.translation_range == motion.degrees_range


def test_a_cut_keeps_the_rest_where_it_is(scan):
    low, _ = made.cut(*scan, random(), axis=2, share=1 / 6)
    high, truth = made.cut(*scan, random(), axis=2, share=-1 / 6)
    assert np.array_equal(low.array, scan[0].array[..., 3:]) and np.array_equal(truth, scan[1][..., :15])
    assert (low.affine @ [1, 2, 0, 1]) == pytest.approx(AFFINE @ [1, 2, 3, 1])
    assert np.array_equal(high.affine, AFFINE)
