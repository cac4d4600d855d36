"""Volumes: against sizes worked out by hand, and on a real scan against the paper's relative sizes."""

import csv
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from GaborSegLib.data.tables import read_rows
from GaborSegLib.inference.volumes import structure_volumes, volumes_table, write_volumes
from GaborSegLib.structures import Structure, paper_structures

STRUCTURES = [Structure(1, "Big", (255, 0, 0)), Structure(2, "Small", (0, 255, 0)), Structure(5, "Absent", (0, 0, 255))]


@pytest.fixture
def volumes():
    labels = np.zeros((10, 12, 14), np.uint8)
    labels[1:9, 1:9, 1:9] = 1
    labels[3:5, 3:5, 3:5] = 2
    labels[0, 0, 0] = 7  # a label outside the list counts for nothing
    return structure_volumes(labels, np.diag([-1, 2, 0.5, 1]), STRUCTURES)


def test_volume_is_voxels_times_their_size(volumes):
    assert volumes == pytest.approx({"Big": 0.504, "Small": 0.008, "Absent": 0.0})
    assert all(type(volume) is float for volume in volumes.values())


def test_turned_affine_has_the_same_volume():
    angle = np.radians(30)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, 3] = 100
    labels = np.ones((10, 10, 10), np.int64)
    assert structure_volumes(labels, affine @ np.diag([1, 1, 3, 1]), STRUCTURES)["Big"] == pytest.approx(3)


def test_csv(volumes, tmp_path):
    write_volumes(tmp_path / "volumes.csv", volumes)
    assert os.listdir(tmp_path) == ["volumes.csv"]
    with open(tmp_path / "volumes.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["structure"] for row in rows] == ["Big", "Small", "Absent"]
    assert [float(row["volume_ml"]) for row in rows] == pytest.approx([0.504, 0.008, 0])
    assert sum(float(row["percent"]) for row in rows) == pytest.approx(100)


def test_no_name_is_a_formula_for_a_spreadsheet_and_all_are_read_again(tmp_path):
    names = ["=1+1", "+A", "-A", "@A", "'=A", "A, =B", "-7"]
    write_volumes(tmp_path / "volumes.csv", dict.fromkeys(names, 1.0))
    with open(tmp_path / "volumes.csv", newline="", encoding="utf-8") as file:
        cells = [row["structure"] for row in csv.DictReader(file)]
    assert cells == ["'=1+1", "'+A", "'-A", "'@A", "''=A", "A, =B", "-7"]
    rows = read_rows(tmp_path / "volumes.csv", "structure", "volume_ml")
    assert [row["structure"] for row in rows] == names and {float(row["volume_ml"]) for row in rows} == {1.0}


def test_table_lines_up_and_ends_with_the_total(volumes):
    lines = volumes_table(volumes).splitlines()
    assert len(lines) == 7 and lines[-1].split() == ["Total", "0.51"]
    assert len({line.rfind(".") for line in lines[2:5]}) == 1


def test_quality_is_one_more_column(volumes, tmp_path):
    quality = {"Big": 0.912345, "Small": 0.5, "Absent": 0.0}
    write_volumes(tmp_path / "volumes.csv", volumes, quality)
    with open(tmp_path / "volumes.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["structure", "volume_ml", "percent", "quality"]
    assert {row["structure"]: float(row["quality"]) for row in rows} == pytest.approx(quality, abs=1e-4)
    lines = volumes_table(volumes, quality).splitlines()
    assert lines[0].split()[-1] == "Quality" and lines[2].split()[-1] == "0.91"
    assert len({len(line) for line in lines[:6]}) == 1


def test_nothing_segmented(tmp_path):
    volumes = structure_volumes(np.zeros((4, 4, 4), np.uint8), np.eye(4), STRUCTURES)
    assert set(volumes.values()) == {0.0}
    write_volumes(tmp_path / "volumes.csv", volumes)
    assert "0.00" in volumes_table(volumes)


def test_real_labels_have_the_papers_relative_sizes():
    data = Path(os.environ.get("GABORSEG_DATA", Path(__file__).parents[3] / "shared" / "data"))
    folder = data / "oasis-neuromorphometrics"
    if not folder.is_dir():
        pytest.skip(f"no real scans in {folder} (GABORSEG_DATA names their folder)")
    image = nibabel.load(folder / "labels" / "1000.nii.gz")
    with open(folder / "structures.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    to_label = np.zeros(1000, np.uint8)
    for row in rows:
        for part in row["neuromorphometrics_ids"].split():
            first, _, last = part.partition("-")
            to_label[int(first) : int(last or first) + 1] = int(row["label"])
    volumes = structure_volumes(to_label[np.asarray(image.dataobj)], image.affine, paper_structures())
    total = sum(volumes.values())
    assert 1000 < total < 2000  # mL, a human brain
    for row in rows:
        # One brain against the paper's mean: ventricles differ by a factor of three.
        ratio = 100 * volumes[row["structure"]] / total / float(row["paper_relative_size_percent"])
        assert 1 / 4 < ratio < 4, row["structure"]
