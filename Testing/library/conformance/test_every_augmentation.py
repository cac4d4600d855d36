"""Conformance: what every augmentation must do. A new one gets these tests by being registered."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from GaborSegLib.data.augmentation import AUGMENTATIONS, MILD, augment
from GaborSegLib.data.dataset import generator

# MILD is what some images of another one get.
settings_of_all = {**AUGMENTATIONS, "mild": MILD}
augmentations = pytest.mark.parametrize("settings", settings_of_all.values(), ids=list(settings_of_all))
# What leaves voxels where they are, and their labels, too.
INTENSITY = ("contrast", "bias", "noise", "curved_bias", "blur", "slices", "wide_blur", "ghosts", "spike")


def box(shape=(40, 44, 36)):
    """(image, labels): a box of label 5 in a larger one of label 2, off the centre; the labels are the intensities."""
    labels = torch.zeros(shape, dtype=torch.uint8)
    labels[8:30, 10:34, 6:26] = 2
    labels[12:24, 14:26, 10:20] = 5
    return labels.float() / 5, labels


@augmentations
@pytest.mark.parametrize("patch", [None, 16, 64])
def test_augmented_images_have_their_size_and_the_labels_that_there_were(settings, patch):
    """64 is more than the image has; what is drawn differs from seed to seed, unless nothing changes."""
    image, labels = box()
    kept = image.clone(), labels.clone()
    seen = []
    for seed in range(6):
        changed, moved = augment(image, labels, settings, generator(seed), patch)
        assert changed.shape == moved.shape == torch.Size([16] * 3 if patch == 16 else image.shape)
        assert (changed.dtype, moved.dtype) == (torch.float32, torch.uint8)
        assert changed.isfinite().all() and set(moved.unique().tolist()) <= {0, 2, 5}
        again = augment(image, labels, settings, generator(seed), patch)
        assert torch.equal(again[0], changed) and torch.equal(again[1], moved)
        seen.append(changed)
    assert torch.equal(image, kept[0]) and torch.equal(labels, kept[1])
    same = all(torch.equal(one, seen[0]) for one in seen)
    assert same == (settings == AUGMENTATIONS["none"] and patch != 16)


@augmentations
def test_image_and_labels_are_moved_alike(settings):
    """Seen without what changes intensities; where there is no label, there is no image."""
    still = replace(settings, mild=0.0, **dict.fromkeys(INTENSITY, 0.0))
    image, labels = box()
    for seed in range(6):
        changed, moved = augment(image, labels, still, generator(seed))
        for label, least in ((2, 0.2), (5, 0.7)):  # halfway to the next lower intensity
            found, expected = changed > least, moved >= label
            overlap = 2 * (found & expected).sum() / (found.sum() + expected.sum())
            assert expected.sum() > 50 and overlap > 0.98
        near = functional.max_pool3d((moved > 0).float()[None], 3, 1, 1)[0] > 0
        assert not changed[~near].any()


@augmentations
def test_an_empty_image_has_no_labels_after_augmentation(settings):
    """Noise and stripes may be seen in it, but neither a field nor a blur makes something of nothing."""
    empty = torch.zeros(20, 24, 16)
    for seed in range(4):
        changed, moved = augment(empty, empty.byte(), settings, generator(seed))
        assert not moved.any() and changed.isfinite().all()
        calm = replace(settings, mild=0.0, noise=0.0, spike=0.0)
        assert not augment(empty, empty.byte(), calm, generator(seed))[0].any()
