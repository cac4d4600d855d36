"""Conformance: what every layout of data sets must do. A new one gets these tests, and its files are laid out here."""

import json
import shutil

import numpy as np
import pytest

from GaborSegLib.data.sources import LAYOUTS, find_data
from GaborSegLib.errors import DataError
from GaborSegLib.scans.reading import read_image

TABLE = "label,structure,ids\n1,Shell,10\n2,Core,20\n3,Left ball,31\n"


def lay_out_pairs(folder, files):
    for name, image, labels in files:
        copy_to(image, folder / "images" / f"{name}.nii.gz")
        copy_to(labels, folder / "labels" / f"{name}.nii.gz")
    return folder


def lay_out_bids(folder, files):
    for name, image, labels in files:
        copy_to(image, folder / f"sub-{name}" / "anat" / f"sub-{name}_T1w.nii.gz")
        copy_to(labels, folder / f"sub-{name}" / "anat" / f"sub-{name}_dseg.nii.gz")
    return folder


def lay_out_nnunet(folder, files):
    for name, image, labels in files:
        copy_to(image, folder / "imagesTr" / f"{name}_0000.nii.gz")
        copy_to(labels, folder / "labelsTr" / f"{name}.nii.gz")
    facts = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "Shell": 10, "Core": 20, "Left ball": 31}}
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


def lay_out_csv(folder, files):
    lay_out_pairs(folder, files)
    rows = [f"images/{name}.nii.gz,labels/{name}.nii.gz" for name, *_ in files]
    (folder / "scans.csv").write_text("\n".join(["image,labels", *rows]) + "\n")
    return folder / "scans.csv"


def copy_to(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    if source:
        shutil.copy(source, target)


# How to lay out files, a list of (name, image, labels), in a folder; returns what `find_data` is given.
LAY_OUT = {"pairs": lay_out_pairs, "bids": lay_out_bids, "nnunet": lay_out_nnunet, "csv": lay_out_csv}
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def test_every_layout_can_be_made():
    assert set(LAY_OUT) == set(LAYOUTS)


@layouts
def test_layout_is_found_with_its_voxels(layout, data_set, tmp_path):
    """The same scans in every layout give the same voxels. nnU-Net brings a table; a structures.csv goes before it."""
    files = [(f"s{i}", data_set / "images" / f"s{i}.nii.gz", data_set / "labels" / f"s{i}.nii.gz") for i in range(2)]
    (tmp_path / "set").mkdir()
    place = LAY_OUT[layout](tmp_path / "set", files)
    if layout != "nnunet":
        with pytest.raises(DataError, match=r"structures.csv: not found.*\(freesurfer, neuromorphometrics, sides\)"):
            find_data(place)
    (tmp_path / "table.csv").write_text(TABLE)
    sets = [find_data(place, tmp_path / "table.csv")]
    if layout == "nnunet":
        sets.append(find_data(place))
    (tmp_path / "set" / "structures.csv").write_text(TABLE)
    sets.append(find_data(place))
    for data in sets:
        assert (data.layout, data.folder, data.problems) == (layout, tmp_path / "set", ())
        assert data.table.names == ("Shell", "Core", "Left ball")
        assert [case.id for case in data.cases] == [f"sub-s{i}" if layout == "bids" else f"s{i}" for i in range(2)]
        assert len({case.subject for case in data.cases}) == 2
        for case, (_, image, labels) in zip(data.cases, files):
            assert np.array_equal(read_image(case.image).array, read_image(image).array)
            ids = read_image(labels).array
            expected = np.select([ids == 10, ids == 20, ids == 31], [1, 2, 3], 0)
            assert np.array_equal(data.table.apply(read_image(case.labels).array), expected)


@layouts
@pytest.mark.parametrize("missing", ["image", "labels"])
def test_half_a_case_is_told_and_left_out(layout, missing, data_set, tmp_path):
    """A CSV says what it wants in which row; the others name the file that is alone, or its scan."""
    files = []
    for i in range(2):
        image, labels = (data_set / kind / f"s{i}.nii.gz" for kind in ("images", "labels"))
        files.append((f"s{i}", image, labels))
    name, image, labels = files[1]
    files[1] = (name, None, labels) if missing == "image" else (name, image, None)
    (tmp_path / "set").mkdir()
    place = LAY_OUT[layout](tmp_path / "set", files)
    (tmp_path / "table.csv").write_text(TABLE)
    data = find_data(place, tmp_path / "table.csv")
    assert [case.id for case in data.cases] == ["sub-s0" if layout == "bids" else "s0"]
    (problem,) = data.problems
    assert "s1" in str(problem) and problem.kind in ("error", "note")
