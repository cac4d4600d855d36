"""Labelled scans on the network's grid."""

import dataclasses

import nibabel
import numpy as np
import pytest
import torch

from GaborSegLib.data.augmentation import AUGMENTATIONS, Augmentation
from GaborSegLib.data.dataset import TrainingImages, load_prepared, prepare, read_case
from GaborSegLib.data.sources import find_data
from GaborSegLib.errors import DataError
from GaborSegLib.scans.grid import Grid
from GaborSegLib.training.remedies import cannot_read, readable


def test_labels_on_another_grid_are_refused(data_set):
    file = data_set / "labels" / "s2.nii.gz"
    image = nibabel.load(file)
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine + np.eye(4) * 0.5), file)
    data = find_data(data_set)
    with pytest.raises(DataError, match="s2.nii.gz"):
        read_case(data.cases[2], data.table)


def test_prepared_scans_are_kept_and_renewed(data_set, tmp_path):
    data = find_data(data_set)
    cache = tmp_path / "cache"
    stems = prepare(data.cases, data.table, cache, size=32)
    image, labels = load_prepared(stems[0])
    assert image.shape == labels.shape == (32, 32, 32)
    assert set(labels.unique().tolist()) == {0, 1, 2, 3}
    times = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    assert prepare(data.cases, data.table, cache, size=32) == stems
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == times
    scan = nibabel.load(data.cases[0].image)
    nibabel.save(nibabel.Nifti1Image(scan.get_fdata() + 1, scan.affine), data.cases[0].image)
    assert prepare(data.cases, data.table, cache, size=32)[0] != stems[0]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", b"\x80\x04K\x01."])
def test_a_damaged_prepared_scan_is_named(content, data_set, tmp_path):
    """Here, and where a loading process read it and only the text of its error came back."""
    data = find_data(data_set)
    stem = prepare(data.cases[:1], data.table, tmp_path / "cache", size=32)[0]
    path = f"{stem}.labels.npy"
    with open(path, "wb") as file:
        file.write(content)
    with pytest.raises(DataError, match=rf"{path}: cannot be read.*made anew once its cache folder is") as caught:
        list(readable(map(load_prepared, [stem])))
    assert len(str(caught.value).splitlines()) == 1
    told = OSError(f"Caught OSError in DataLoader worker process 0.\nTraceback\nOSError: [Errno 5] damaged: '{path}'")
    assert f"OSError: [Errno 5] damaged: '{path}'. When" in str(cannot_read(told))


def test_with_the_brain_found_first_the_field_of_view_does_not_matter(data_set, tmp_path):
    """A scan of little tissue counts as an extracted brain, so no network is needed here."""
    data = find_data(data_set)
    wide = [dataclasses.replace(data.cases[0], image=tmp_path / "image.nii.gz", labels=tmp_path / "labels.nii.gz")]
    for case, kind in zip(data.cases[:1] * 2, ("image", "labels")):
        scan = nibabel.load(getattr(case, kind))
        padded = np.pad(np.asanyarray(scan.dataobj), ((9, 30), (4, 25), (12, 20)))
        origin = scan.affine @ nibabel.affines.from_matvec(np.eye(3), (-9, -4, -12))
        nibabel.save(nibabel.Nifti1Image(padded, origin), tmp_path / f"{kind}.nii.gz")
    stems = [
        prepare(cases, data.table, tmp_path / "cache", 32, find_brain=find)[0]
        for cases, find in ((data.cases[:1], False), (wide, False), (wide, True))
    ]
    sizes = [int((load_prepared(stem)[1] > 0).sum()) for stem in stems]
    assert sizes[1] < 0.5 * sizes[0]
    assert sizes[2] == pytest.approx(sizes[0], rel=0.4)


def test_an_epoch_shows_each_scan_once(data_set, tmp_path):
    data = find_data(data_set)
    stems = prepare(data.cases, data.table, tmp_path, size=32)
    epochs = [TrainingImages(stems, AUGMENTATIONS["none"], None, 0, epoch) for epoch in range(5)]
    assert all(sorted(epoch.order) == [0, 1, 2, 3, 4, 5] for epoch in epochs)
    assert len({tuple(epoch.order) for epoch in epochs}) > 1


def test_training_images_are_normalised_as_scans_are(data_set, tmp_path):
    """Noise and a spike leave values below 0, and another mean, behind."""
    stems = prepare(find_data(data_set).cases[:1], find_data(data_set).table, tmp_path, size=32)
    spoilt = Augmentation(probability=0.0, noise=0.5, spike=1.0)
    for epoch in range(4):
        image, _ = TrainingImages(stems, spoilt, None, 0, epoch)[0]
        shown = image[image > 0.1 * np.percentile(image, 99)]
        assert image.min() == 0
        assert float(shown.mean()) == pytest.approx(1, abs=0.02)


def test_soft_labels_are_shares_of_voxels_and_move_with_the_image(data_set, tmp_path):
    """Each is the share that resampling the structure as an image gives; mirrored, they are the mirrored ones."""
    data = find_data(data_set)
    stem = prepare(data.cases[:1], data.table, tmp_path, size=16, soft_labels=True)[0]
    image, labels = read_case(data.cases[0], data.table)
    grid = Grid(image.array.shape, image.affine, 16)
    shares = TrainingImages([stem], AUGMENTATIONS["none"], None, 0, 0, classes=4)[0][1]
    assert shares.shape == (4, 16, 16, 16)
    for label in (1, 2, 3):
        expected = grid.image_to_cube((labels == label).astype(np.float32))
        assert ((expected > 0.1) & (expected < 0.9)).sum() > 0
        assert torch.allclose(shares[label], expected, atol=0.01)
    assert torch.allclose(shares.sum(dim=0), torch.tensor(1.0), atol=0.01)
    mirrored = TrainingImages([stem], Augmentation(probability=0.0, flip=1.0), None, 0, 0, classes=4)[0][1]
    assert torch.allclose(mirrored, shares.flip(-1), atol=1e-4)


def test_where_the_field_of_view_is_cut_soft_labels_are_background(data_set, tmp_path):
    data = find_data(data_set)
    stem = prepare(data.cases[:1], data.table, tmp_path, size=16, soft_labels=True)[0]
    cut = Augmentation(probability=0.0, cut=1.0)
    images = [TrainingImages([stem], cut, None, 0, epoch, classes=4)[0] for epoch in range(4)]
    for image, shares in images:
        assert torch.allclose(shares.sum(dim=0), torch.tensor(1.0), atol=0.01)
        assert (shares[1:, (image[0] == 0)] < 0.6).all()
