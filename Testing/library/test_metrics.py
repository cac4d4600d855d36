"""Scores: against closed forms, scikit-learn's F1 and surface distances from all pairs of points."""

import csv
import os

import numpy as np
import pytest
from sklearn.metrics import f1_score

from GaborSegLib.evaluation.metrics import dice, score_scan, score_table, surface_distances, write_scores
from GaborSegLib.structures import Structure


def cube(shift=(0, 0, 0), side=6, shape=(20, 22, 24)):
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(5 + s, 5 + s + side) for s in shift)] = 1
    return labels


def ball(radius, spacing=(1, 1, 1), size=48):
    grid = np.indices([int(size / s) for s in spacing]) * np.reshape(spacing, (3, 1, 1, 1))
    return (((grid - size / 2) ** 2).sum(axis=0) <= radius**2).astype(np.uint8)


@pytest.mark.parametrize("shift, expected", [(0, 1), (1, 5 / 6), (3, 1 / 2), (6, 0)])
def test_dice_of_shifted_cubes(shift, expected):
    assert dice(cube(), cube((shift, 0, 0)), [1])[0] == pytest.approx(expected)


def test_dice_is_f1_of_each_label():
    random = np.random.default_rng(1)
    truth = random.integers(0, 20, (12, 13, 14)).astype(np.uint8)
    prediction = np.where(random.random(truth.shape) < 0.7, truth, random.integers(0, 20, truth.shape)).astype(np.int16)
    labels = np.arange(1, 20)
    expected = f1_score(truth.ravel(), prediction.ravel(), labels=labels, average=None)
    np.testing.assert_allclose(dice(prediction, truth, labels), expected)


def test_dice_of_absent_labels():
    prediction, truth = np.array([0, 1, 1, 2]), np.array([0, 1, 1, 7])
    np.testing.assert_equal(dice(prediction, truth, [1, 2, 7, 9]), [1, 0, 0, np.nan])


def test_shapes_must_agree():
    for score in (lambda a, b: dice(a, b, [1]), lambda a, b: surface_distances(a, b, 1, (1, 1, 1))):
        with pytest.raises(ValueError, match=r"\(2, 2, 2\).*\(2, 2, 3\)"):
            score(np.ones((2, 2, 2), int), np.ones((2, 2, 3), int))


def test_same_surface_is_at_no_distance():
    assert surface_distances(cube(), cube(), 1, (1, 2, 3)) == (0, 0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_far_shifted_plates(axis):
    """Two plates one voxel thick are exactly so far apart, in the spacing of the axis they are apart along."""
    spacing = (0.5, 1.5, 4.0)
    prediction, truth = np.zeros((12, 12, 12), int), np.zeros((12, 12, 12), int)
    np.moveaxis(prediction, axis, 0)[2] = 3
    np.moveaxis(truth, axis, 0)[7] = 3
    assert surface_distances(prediction, truth, 3, spacing) == pytest.approx((5 * spacing[axis], 5 * spacing[axis]))


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 0.5, 2)])
def test_balls_in_each_other(spacing):
    """The surfaces of two balls with one centre are as far apart as their radii differ, but for the voxels' size."""
    hausdorff, mean = surface_distances(ball(18, spacing), ball(12, spacing), 1, spacing)
    assert mean == pytest.approx(6, abs=0.4 * max(spacing))
    assert hausdorff == pytest.approx(6, abs=1.0 * max(spacing))


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.8, 2.5, 1.1)])
def test_surface_distances_are_those_of_all_pairs(spacing):
    random = np.random.default_rng(2)
    prediction, truth = ((random.random((9, 10, 11)) < 0.5).astype(np.uint8) for _ in range(2))
    prediction[:3], truth[2:5, 3:8, 4:] = 1, 1  # compact parts, and voxels at the edge of the array

    def surface(mask):
        padded = np.pad(mask, 1).astype(bool)
        inside = np.logical_and.reduce([np.roll(padded, step, axis) for axis in range(3) for step in (1, -1)])
        return np.argwhere(padded & ~inside) * spacing

    apart = np.linalg.norm(surface(prediction)[:, None] - surface(truth)[None], axis=-1)
    forth, back = apart.min(axis=1), apart.min(axis=0)
    expected = max(np.percentile(forth, 95), np.percentile(back, 95)), np.concatenate([forth, back]).mean()
    assert surface_distances(prediction, truth, 1, spacing) == pytest.approx(expected, rel=1e-5)
    assert surface_distances(truth, prediction, 1, spacing) == pytest.approx(expected, rel=1e-5)


def test_missing_structure_has_no_distance():
    empty = np.zeros_like(cube())
    for pair in ((cube(), empty), (empty, cube()), (empty, empty)):
        assert np.isnan(surface_distances(*pair, 1, (1, 1, 1))).all()


@pytest.fixture
def rows():
    structures = [Structure(1, "Cube", (255, 0, 0)), Structure(2, "Nowhere", (0, 255, 0))]
    return [
        row
        for scan, shift in (("a", 0), ("b", 3))
        for row in score_scan(scan, cube((shift, 0, 0)), cube(), structures, (1, 1, 1))
    ]


def test_table(rows):
    assert rows[0] == {"scan": "a", "structure": "Cube", "dice": 1, "hd95_mm": 0, "msd_mm": 0}
    lines = score_table(rows).splitlines()
    assert lines[2].split()[:4] == ["Cube", "0.750", "±", "0.250"]
    assert lines[3].split()[:4] == ["Nowhere", "nan", "±", "nan"]
    assert lines[-1].split()[:4] == ["Mean", "of", "structures", "0.750"]


def test_no_scan_is_a_formula_for_a_spreadsheet(rows, tmp_path):
    names = ["=cmd|' /C calc'!A0", "\t=1", "s\udcff"]
    write_scores(tmp_path / "scores.csv", [{**rows[0], "scan": name, "structure": "-A"} for name in names])
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
        read = list(csv.reader(file))[1:]
    assert [row[0] for row in read] == ["'=cmd|' /C calc'!A0", "'\t=1", r"s\udcff"]
    assert {row[1] for row in read} == {"'-A"} and {float(row[2]) for row in read} == {1.0}


def test_csv(rows, tmp_path):
    write_scores(tmp_path / "scores.csv", rows)
    assert os.listdir(tmp_path) == ["scores.csv"]
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == ["scan", "structure", "dice", "hd95_mm", "msd_mm"]
    assert [row["dice"] for row in read] == ["1.00000", "", "0.50000", ""]
