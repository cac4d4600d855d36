"""Intracranial volume: of made heads whose skulls are spheres, and where there is none. The network is stood in for."""

import csv
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from made import made_scan, told

from GaborSegLib.inference import icv as module
from GaborSegLib.inference.finder import Brain
from GaborSegLib.inference.icv import NO_BRAIN, NO_SKULL, NOT_FOUND, NOT_WHOLE, intracranial_volume
from GaborSegLib.inference.volumes import percent_of_icv, volumes_table, write_volumes
from GaborSegLib.scans.grid import Grid

SKULL, SCALP = 60.0, 75.0  # mm, radii
EXPECTED = 4 / 3 * np.pi * SKULL**3 / 1000


@pytest.fixture(autouse=True)
def grey_is_inside(monkeypatch):
    """A network for which all is inside of the skull that is neither dark nor bright."""

    def network(image):
        inside = (image > 0.3) & (image < 1.3)
        return torch.cat([1 - inside.float(), inside.float()], dim=1)

    opened = SimpleNamespace(network=network, card={"grid_size": 64, "field": "cube"})
    monkeypatch.setattr(module, "open_bundled", lambda name, device: opened)


def made_head(spacing, affine=None, cut=0.0):
    """(array, affine) of a scalp, a skull and what is in it; `cut` mm are missing at the top."""
    spacing = np.array(spacing)
    shape = np.ceil(2 * (SCALP + 10) / spacing).astype(int)
    place = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing)]
    radius = np.sqrt(sum(part**2 for part in np.meshgrid(*place, indexing="ij")))
    array = np.where(radius < SKULL, 1.0, np.where(radius < SKULL + 8, 0.02, np.where(radius < SCALP, 2.0, 0.0)))
    affine = np.diag([*spacing, 1.0]) if affine is None else affine @ np.diag([*spacing, 1.0])
    return 100 * array[:, :, : shape[2] - round(cut / spacing[2])].astype(np.float32), affine


def brain_in(array, affine, radius, is_extracted=False):
    """A `Brain` of a radius, mm, in the middle of a head."""
    grid = Grid(array.shape, affine, 32)
    middle = (np.array(grid.turned_shape) - 1) / 2
    reach = radius / grid.turned_spacing
    place = (torch.arange(32) - 15.5) * grid.spacing
    mask = sum(part**2 for part in torch.meshgrid(place, place, place, indexing="ij")) < radius**2
    return Brain(middle - reach, middle + reach, grid, mask.float(), is_extracted)


@pytest.mark.parametrize("spacing", [(2, 2, 2), (1.5, 2, 3)])
def test_the_volume_of_a_sphere(spacing):
    array, affine = made_head(spacing)
    ml, missing = intracranial_volume(array, brain_in(array, affine, 55))
    assert ml == pytest.approx(EXPECTED, rel=0.03) and missing == ""


def test_the_axes_and_the_size_of_the_brain_do_not_matter():
    turned = np.array([[0.0, -1, 0, 5], [0, 0, 1, 7], [-1, 0, 0, 9], [0, 0, 0, 1]])
    found = []
    for affine, radius in ((None, 55), (turned, 55), (None, 48)):
        array, affine = made_head((2, 2, 2), affine)
        found.append(intracranial_volume(array, brain_in(array, affine, radius))[0])
    assert found[1] == pytest.approx(found[0], rel=1e-4) and found[2] == pytest.approx(found[0], rel=0.02)


def test_no_volume_is_guessed():
    array, affine = made_head((2, 2, 2))
    assert intracranial_volume(array, None) == (None, NO_BRAIN)
    assert intracranial_volume(array, brain_in(array, affine, 55, is_extracted=True)) == (None, NO_SKULL)
    for wrong in (0 * array, np.where(array == 100, 2, array)):  # nothing is grey, or only the border of the scalp
        assert intracranial_volume(wrong, brain_in(array, affine, 55)) == (None, NOT_FOUND)
    # A cap of 25 mm is missing: a circle of 85 cm² is open.
    array, affine = made_head((2, 2, 2), cut=50)
    assert intracranial_volume(array, brain_in(array, affine, 45)) == (None, NOT_WHOLE)


VOLUMES, QUALITY = {"Big": 300.0, "Small": 15.0}, {"Big": 0.9, "Small": 0.8}
SIDES = {"Small": {"left": 8.0, "right": 7.0, "asymmetry": 2 / 15}}


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_columns_follow_those_that_were_there(tmp_path):
    assert percent_of_icv(VOLUMES, 1500.0) == {"Big": 20.0, "Small": 1.0}
    known = {"ml": 1500.0, "missing": "", "percent": {"Big": 20.0, "Small": 1.0}}
    none = {"ml": None, "missing": NO_SKULL, "percent": {}}
    for name, icv in (("known", known), ("none", none), ("before", None)):
        write_volumes(tmp_path / name, VOLUMES, QUALITY, SIDES, icv)
    rows, empty, before = (rows_of(tmp_path / name) for name in ("known", "none", "before"))
    assert list(rows[0]) == list(empty[0]) == [*before[0], "icv_ml", "percent_of_icv"]
    assert [(float(row["icv_ml"]), float(row["percent_of_icv"])) for row in rows] == [(1500, 20), (1500, 1)]
    assert {row["icv_ml"] + row["percent_of_icv"] for row in empty} == {""}
    for row, other in zip(rows, before):
        assert {key: row[key] for key in other} == other


def test_the_table_has_it_or_says_why_not():
    known = {"ml": 1500.0, "missing": "", "percent": {"Big": 20.0, "Small": 1.0}}
    head, _, big, small, *_, last = volumes_table(VOLUMES, QUALITY, SIDES, known).splitlines()
    assert head.endswith("% of ICV") and big.endswith(" 20.00") and small.endswith(" 1.00")
    assert len(head) == len(big) == len(small) and "1500.0 mL" in last
    none = volumes_table(VOLUMES, QUALITY, SIDES, {"ml": None, "missing": NO_SKULL, "percent": {}}).splitlines()
    assert none[:-1] == volumes_table(VOLUMES, QUALITY, SIDES).splitlines() and none[-1].endswith(NO_SKULL)


def test_segment_tells_it(tiny_weights, tmp_path, capsys):
    """These weights take every scan for a brain alone."""
    scan = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(made_scan(0)[0], np.diag([2.0, 2.0, 2.0, 1.0])), scan)
    command = ["segment", scan, "--weights", tiny_weights, "--device", "cpu", "--no-mirror", "--volumes"]
    status, events = told(capsys, *command, "-o", tmp_path)
    icv = events[-1]["icv"]
    assert status == 0 and icv["ml"] is None and icv["percent"] == {} and "do not look for" in icv["missing"]
    assert {row["icv_ml"] for row in rows_of(tmp_path / "scan_volumes.csv")} == {""}
