"""Heads built around brain-extracted scans."""

import nibabel
import numpy as np
import pytest
import torch

from GaborSegLib.data.augmentation import AUGMENTATIONS, Augmentation, augment
from GaborSegLib.data.dataset import generator
from GaborSegLib.data.heads import AIR, BRAIN, FLUID, add_head, build_head, find_heads, prepare_heads, show_tissues
from GaborSegLib.errors import DataError

SKULL, SCALP = 516, 511


def ball(size, centre, radius):
    z, y, x = np.mgrid[:size, :size, :size]
    return np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) <= radius


def made_scan(size=32):
    brain = ball(size, (16, 15, 17), 9)
    return brain.astype(np.float32), (3 * brain).astype(np.uint8)


def made_head(size=80):
    """A brain twice as large as the scan's, in fluid, skull and scalp."""
    head = np.zeros([size] * 3, dtype=np.int32)
    for radius, label in ((30, SCALP), (26, SKULL), (22, 24), (18, 3)):
        head[ball(size, (40, 41, 39), radius)] = label
    return head


def test_the_head_is_laid_over_the_scan_at_its_scale():
    image, labels = made_scan()
    codes, distance = build_head(image, labels, made_head())
    assert codes.shape == (48, 48, 48)
    centre = np.array([16, 15, 17]) + 8
    assert np.array_equal(codes == BRAIN, ball(48, centre, 9))
    # Half the head's radii: 11 fluid, 13 skull, 15 scalp, then air.
    along = codes[centre[0], centre[1], centre[2] :]
    assert list(along[:10]) == [BRAIN] * 10
    assert along[10] == FLUID and along[12] == SKULL - 500 + 3 and along[14] == SCALP - 500 + 3
    assert set(along[17:]) == {AIR}
    assert distance[centre[0], centre[1], centre[2] + 14] == 5  # voxels from the outermost of the brain
    assert not distance[codes == BRAIN].any()


def test_the_scan_itself_stays_as_it_is():
    image, labels = made_scan()
    codes = torch.from_numpy(build_head(image, labels, made_head())[0])
    tissue = show_tissues(codes, generator(5))
    # Blurring reaches one voxel along each axis; deeper inside nothing is added.
    deep = torch.from_numpy(ball(48, (24, 23, 25), 6))
    assert not tissue[deep].any()
    assert tissue[codes == SCALP - 500 + 3].mean() > 5 * tissue[codes == AIR].mean()


def test_tissues_are_as_bright_as_in_a_t1_scan_only_where_that_is_asked_for():
    """Far from borders, in one tissue each; the texture changes each brightness by a fifth and more."""
    codes = torch.full((12, 12, 24), SKULL - 500 + 3)
    codes[:, :, 12:] = SCALP - 500 + 3
    brighter = {False: [], True: []}
    for t1 in brighter:
        for seed in range(20):
            tissue = show_tissues(codes, generator(seed), t1)
            brighter[t1].append(float(tissue[:, :, 14:].mean()) > float(tissue[:, :, :10].mean()))
            assert not t1 or (tissue[:, :, 14:].mean() > 0.7 and tissue[:, :, :10].mean() < 0.8)
    assert all(brighter[True]) and not all(brighter[False])


def test_what_is_shown_depends_on_the_generator_alone():
    image, labels = made_scan()
    head = torch.from_numpy(build_head(image, labels, made_head()))
    shown = [
        add_head(torch.from_numpy(image), head, Augmentation(bare=0.5), generator(seed))
        for seed in (1, 1, 2, 3, 4, 5, 6, 7)
    ]
    assert torch.equal(shown[0], shown[1])
    assert {one.shape for one in shown} == {(32, 32, 32), (48, 48, 48)}  # without and with surroundings


def test_the_brain_lies_in_its_head_where_it_was_in_the_scan():
    image, labels = (torch.from_numpy(array) for array in made_scan())
    head = torch.from_numpy(build_head(image.numpy(), labels.numpy(), made_head()))
    still = Augmentation(probability=0.0)
    shown, _ = augment(image, labels, still, generator(4), head=head)
    deep = torch.from_numpy(ball(48, (24, 23, 25), 6))[8:-8, 8:-8, 8:-8]
    factor = shown[deep] / image[deep]
    assert torch.allclose(factor, factor[0], atol=1e-5) and 0.74 < factor[0] < 1.36
    assert shown[~(labels > 0)].any()


def test_training_images_with_heads_have_the_labels_of_the_scan():
    image, labels = (torch.from_numpy(array) for array in made_scan())
    head = torch.from_numpy(build_head(image.numpy(), labels.numpy(), made_head()))
    for place in range(6):
        plain = augment(image, labels, AUGMENTATIONS["strong"], generator(place), 16)
        built = augment(image, labels, AUGMENTATIONS["strong"], generator(place), 16, head)
        assert torch.equal(plain[1], built[1])


def test_prepared_heads_are_found_again(tmp_path):
    image, labels = made_scan()
    np.save(tmp_path / "a.image.npy", image)
    np.save(tmp_path / "a.labels.npy", labels)
    files = []
    for name in ("one", "two"):
        files.append(tmp_path / f"{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(made_head().astype(np.int16).transpose(2, 1, 0), np.eye(4)), files[-1])
    first = prepare_heads([tmp_path / "a"], files, tmp_path)
    assert len(first) == 1 and len(first[0]) == 2
    written = [path.stat().st_mtime_ns for path in first[0]]
    again = prepare_heads([tmp_path / "a"], files, tmp_path)
    assert again == first and [path.stat().st_mtime_ns for path in again[0]] == written
    assert np.array_equal(np.load(first[0][0]), build_head(image, labels, made_head()))


def test_what_is_no_head_or_no_brain_is_named(tmp_path):
    image, labels = made_scan()
    np.save(tmp_path / "a.image.npy", image)
    head = made_head().astype(np.float32).transpose(2, 1, 0)
    nan, no_brain = head.copy(), np.where((head > 0) & (head < 500), 24, head)
    nan[0, 0, 0] = np.nan
    for wrong, scan, message in (
        (nan, labels, "one.nii.gz: holds no brain"),
        (no_brain, labels, "one.nii.gz: holds no brain, numbers from 1 to 499"),
        (head, labels * 0, "a.labels.npy: no structure of this prepared scan is left"),
    ):
        np.save(tmp_path / "a.labels.npy", scan)
        nibabel.save(nibabel.Nifti1Image(wrong, np.eye(4)), tmp_path / "one.nii.gz")
        with pytest.raises(DataError, match=message):
            prepare_heads([tmp_path / "a"], [tmp_path / "one.nii.gz"], tmp_path)


def test_a_folder_without_head_label_maps_is_named(tmp_path):
    with pytest.raises(DataError, match=str(tmp_path)):
        find_heads(tmp_path)
