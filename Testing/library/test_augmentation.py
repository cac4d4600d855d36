"""Random changes of training images."""

from dataclasses import replace

import numpy as np
import SimpleITK
import torch

from GaborSegLib.data.augmentation import (
    AUGMENTATIONS,
    Augmentation,
    _ghosts,
    _sample,
    _spatial_change,
    _spike,
    augment,
)
from GaborSegLib.data.dataset import generator


def smooth_image(size=(20, 24, 28)):
    noise = SimpleITK.GetImageFromArray(torch.rand(size, generator=generator(3)).numpy())
    return torch.from_numpy(SimpleITK.GetArrayFromImage(SimpleITK.SmoothingRecursiveGaussian(noise, 2.0)))


def test_none_changes_nothing():
    image = smooth_image()
    labels = (image > image.mean()).byte()
    changed, changed_labels = augment(image, labels, AUGMENTATIONS["none"], generator(0))
    assert torch.allclose(changed, image, atol=1e-5)
    assert torch.equal(changed_labels, labels)


def test_a_patch_without_changes_is_a_part_of_the_image():
    image = torch.arange(32.0**3).reshape(32, 32, 32)
    for place in range(5):
        patch, _ = augment(image, image > 0, AUGMENTATIONS["none"], generator(place), patch=16)
        # Between voxels the patch is an interpolation of this linear ramp, so its steps are the ramp's own.
        inner = patch[1:-1, 1:-1, 1:-1]
        for axis, step in enumerate((1024.0, 32.0, 1.0)):
            assert torch.allclose(inner.diff(dim=axis), torch.tensor(step), atol=0.05)


def test_the_spatial_change_agrees_with_simpleitk():
    image = smooth_image()
    settings = Augmentation(probability=1.0, tilt=15.0, flip=0.5)
    for seed in range(4):
        size = torch.tensor(image.shape, dtype=torch.float64)
        matrix, offset = _spatial_change(settings, size, generator(seed), shift=True)
        changed = _sample(image, matrix, offset, list(image.shape), "bilinear")
        transform = SimpleITK.AffineTransform(3)  # its axes run x, y, z
        transform.SetMatrix(matrix.numpy()[::-1, ::-1].ravel().tolist())
        transform.SetCenter([(n - 1) / 2 for n in reversed(image.shape)])
        transform.SetTranslation(offset.flip(0).tolist())
        expected = SimpleITK.Resample(SimpleITK.GetImageFromArray(image.numpy()), transform, SimpleITK.sitkLinear, 0.0)
        expected = SimpleITK.GetArrayFromImage(expected)
        inside = expected > 0  # at the border the two fade to 0 in different ways
        assert inside.mean() > 0.2
        difference = np.abs(changed.numpy() - expected)[inside]
        assert np.percentile(difference, 90) < 1e-4


def test_the_papers_ranges():
    size = torch.tensor([128.0, 128.0, 128.0], dtype=torch.float64)
    changed = 0
    for seed in range(400):
        matrix, offset = _spatial_change(AUGMENTATIONS["paper"], size, generator(seed), shift=True)
        if torch.equal(matrix, torch.eye(3, dtype=torch.float64)):
            assert not offset.any()
            continue
        changed += 1
        scale = 1 / torch.linalg.det(matrix) ** (1 / 3)
        rotation = matrix * scale
        angle = torch.rad2deg(torch.atan2(rotation[2, 1], rotation[1, 1]))
        assert 0.8 <= scale <= 1.2 and abs(angle) <= 30 and offset.abs().max() <= 0.2 * 128
        assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
        assert torch.allclose(rotation[0], torch.tensor([1.0, 0, 0], dtype=torch.float64))  # about the axial axis
    assert 0.74 < changed / 400 < 0.86  # 80%, within three standard deviations


def test_the_same_numbers_draw_the_same_change():
    image = smooth_image()
    first, second, other = [
        augment(image, image > 0, AUGMENTATIONS["strong"], generator(*numbers))[0]
        for numbers in ((1, 2), (1, 2), (2, 1))
    ]
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_a_cut_field_of_view_ends_in_a_plane():
    image = torch.ones(16, 20, 24)
    settings = Augmentation(probability=0.0, cut=1.0)
    for place in range(8):
        cut, labels = augment(image, image.byte(), settings, generator(place))
        assert torch.equal(cut, labels.float())  # both end in the same place
        lengths = [int(cut.amax(dim=[a for a in range(3) if a != axis]).sum()) for axis in range(3)]
        assert cut.sum() == np.prod(lengths)  # a box is left
        assert sum(length < full for length, full in zip(lengths, image.shape)) <= 1


def test_the_curved_field_is_a_polynomial_of_order_3_in_its_logarithm():
    field = (
        augment(
            torch.ones(16, 16, 16), torch.ones(16, 16, 16), Augmentation(probability=0.0, curved_bias=0.5), generator(1)
        )[0]
        .double()
        .log()
    )
    for axis in range(3):
        assert field.diff(n=1, dim=axis).abs().max() > 1e-3
        assert field.diff(n=4, dim=axis).abs().max() < 1e-5


def test_thick_slices_keep_the_mean_and_change_one_axis():
    image = torch.rand(24, 24, 24, generator=generator(2))
    changed, _ = augment(image, image > 0, Augmentation(probability=0.0, slices=1.0), generator(4))
    assert abs(float(changed.mean() / image.mean()) - 1) < 0.02
    rough = [float(changed.diff(dim=axis).square().mean() / image.diff(dim=axis).square().mean()) for axis in range(3)]
    assert sum(value < 0.5 for value in rough) >= 1


def test_a_spike_is_one_wave():
    image = torch.rand(12, 16, 20, generator=generator(5))
    frequency = torch.tensor([2 / 12, -3 / 16, 5 / 20], dtype=torch.float64)
    spectrum = np.fft.fftn((_spike(image, frequency, 0.8, 0.3) - image).double().numpy())
    size, phase = 12 * 16 * 20, 2 * np.pi * 0.3
    expected = np.zeros_like(spectrum)
    expected[2, -3, 5] = 0.4 * size * np.exp(1j * phase)
    expected[-2, 3, -5] = 0.4 * size * np.exp(-1j * phase)
    assert np.allclose(spectrum, expected, atol=1e-3)


def test_ghosts_are_shifted_copies():
    image = torch.rand(16, 12, 8, generator=generator(6))
    copies = sum(image.roll(shift, dims=0) for shift in (0, 4, 8, 12)) / 4  # what the planes 0, 4, 8, 12 hold
    expected = image - 0.6 * (copies - image.mean(dim=0))
    assert torch.allclose(_ghosts(image, 0, 4, 0, 0.6), expected, atol=1e-6)


def test_a_wide_blur_keeps_the_sum_and_spreads_by_up_to_two_voxels():
    point = torch.zeros(33, 33, 33)
    point[16, 16, 16] = 1
    place = torch.arange(33.0) - 16
    widths = set()
    for seed in range(20):
        image, _ = augment(point, point, Augmentation(probability=0.0, wide_blur=1.0), generator(seed))
        if image.count_nonzero() == 1:  # background was to stay 0
            continue
        assert abs(float(image.sum()) - 1) < 1e-5
        widths.update(round(float((image.sum(dim=other) * place**2).sum()), 3) for other in ((0, 1), (0, 2), (1, 2)))
    assert widths <= {n / 2 for n in range(1, 9)} and len(widths) > 2


def test_artefacts_leave_the_background_in_half_of_the_images():
    image = torch.zeros(24, 24, 24)
    image[8:16, 8:16, 8:16] = 1
    settings = Augmentation(probability=0.0, spike=1.0)
    kept = [not augment(image, image, settings, generator(seed))[0][0].any() for seed in range(40)]
    assert 10 <= sum(kept) <= 30  # three standard deviations


def test_about_half_of_balanced_images_are_hardly_changed():
    """Here all others have a spike, which is seen in what was empty."""
    empty = torch.zeros(16, 16, 16)
    settings = replace(AUGMENTATIONS["balanced"], spike=1.0, noise=0.0)
    spoilt = [
        float(augment(empty + 1e-6, empty, settings, generator(seed))[0].abs().max()) > 0.15 for seed in range(60)
    ]
    assert 15 <= sum(spoilt) <= 40
