"""Data sets on disk."""

import nibabel
import numpy as np
import pytest

from GaborSegLib.augmentation import AUGMENTATIONS
from GaborSegLib.dataset import TrainingImages, find_data, load_prepared, prepare, read_case, read_label_table
from GaborSegLib.errors import DataError


def test_finds_scans_labels_and_subjects(data_set):
    data = find_data(data_set)
    assert [case.id for case in data.cases] == ["s0", "s1", "s2", "s3", "s4", "s5"]
    assert data.table.names == ("Shell", "Core", "Left ball")
    assert data.cases[5].subject == data.cases[0].subject == "A"


def test_splits_by_subject(data_set):
    data = find_data(data_set)
    for names in (["s0"], ["s5"], ["A"]):
        training, validation = data.split(names)
        assert [case.id for case in validation] == ["s0", "s5"]
        assert [case.id for case in training] == ["s1", "s2", "s3", "s4"]
    for seed in range(10):
        training, validation = data.split(seed=seed, share=0.4)
        assert not {case.subject for case in training} & {case.subject for case in validation}
        assert len({case.subject for case in validation}) == 2
    with pytest.raises(DataError, match="named nobody"):
        data.split(["nobody"])
    with pytest.raises(DataError, match="none is left"):
        data.split(["A", "B", "C", "D", "E"])


def test_label_table_maps_ids(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("label,structure,x_ids\n2,B,7 9\n1,A,100-103\n")
    table = read_label_table(path)
    assert table.names == ("A", "B")
    mapped = table.apply(np.array([[99, 100, 103, 104], [7, 8, 9, -1]]))
    assert mapped.dtype == np.uint8 and mapped.tolist() == [[0, 1, 1, 0], [2, 0, 2, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,structure\n1,A\n", "ends in ids"),
        ("", "columns none"),
        ("label,structure,ids\n1,A,x\n", "whole numbers"),
        ("label,structure,ids\n1,A,1\n3,B,2\n", "count from 1"),
        ("label,structure,ids\n1,A,1-5\n2,B,4\n", r"\[4\]"),
    ],
)
def test_wrong_label_tables_are_refused(text, message, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_label_table(path)


def test_incomplete_data_sets_are_refused(data_set):
    (data_set / "labels" / "s3.nii.gz").unlink()
    (data_set / "images" / "s1.nii.gz").unlink()
    with pytest.raises(DataError, match="s1, s3"):
        find_data(data_set)
    (data_set / "structures.csv").unlink()
    with pytest.raises(DataError, match="label table"):
        find_data(data_set)
    with pytest.raises(DataError, match="images or T1w"):
        find_data(data_set / "labels")


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


def test_an_epoch_shows_each_scan_once(data_set, tmp_path):
    data = find_data(data_set)
    stems = prepare(data.cases, data.table, tmp_path, size=32)
    epochs = [TrainingImages(stems, AUGMENTATIONS["none"], None, 0, epoch) for epoch in range(5)]
    assert all(sorted(epoch.order) == [0, 1, 2, 3, 4, 5] for epoch in epochs)
    assert len({tuple(epoch.order) for epoch in epochs}) > 1
