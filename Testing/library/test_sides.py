"""Left and right: of the patient, whatever the order of a scan's axes; antisymmetric; told in tables and files.

The network is stood in for where a made scan has to have a side; the bundled one is looked at in test_real.py.
"""

import csv
import re
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from made import made_scan, told
from test_grid import stored_ways

from GaborSegLib.data.tables import open_table
from GaborSegLib.errors import GaborSegError
from GaborSegLib.inference import sides as module
from GaborSegLib.inference.sides import divide, find_right
from GaborSegLib.inference.volumes import side_volumes, volumes_table, write_volumes
from GaborSegLib.model.network import build_network
from GaborSegLib.model.weights import load_weights, save_weights
from GaborSegLib.protocol import OWN_NAMES
from GaborSegLib.scans.grid import Grid
from GaborSegLib.scans.writing import write_label_map
from GaborSegLib.structures import named_structures, paired_structures, paper_structures, sided_structures

UNPAIRED = {"3rd ventricle", "4th ventricle", "Brainstem", "CVL I-V", "CVL VI-VII", "CVL VIII-X"}


def opened(network, size):
    return SimpleNamespace(network=network, card={"grid_size": size, "field": "cube"})


@pytest.fixture
def upper_is_right(monkeypatch):
    """A network for which the upper half of the cube's last axis is right."""

    def network(image):
        right = (20 * torch.linspace(-1, 1, image.shape[-1])).sigmoid().expand_as(image)
        return torch.cat([0 * right, 1 - right, right], dim=1)

    monkeypatch.setattr(module, "_network", lambda device: opened(network, 24))


def test_right_is_the_patients_in_each_order_of_the_axes(upper_is_right):
    """What has the larger x in millimetres, in all 48 orders."""
    shape, affine = (20, 24, 16), np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -15, 7, 3
    middle = -15 + 2 * (shape[0] - 1) / 2
    for store in stored_ways():
        array, turned = store(np.ones(shape, np.float32), affine)
        right = find_right(array, Grid(array.shape, turned))
        index = np.indices(array.shape).reshape(3, -1).T
        place = nibabel.affines.apply_affine(turned, index)[:, 0]
        assert np.array_equal(right.ravel(), place > middle)


def test_a_mirrored_scan_has_its_sides_mirrored(monkeypatch):
    """Whatever the network's weights are, and where the scan is not its own mirror image."""
    torch.manual_seed(3)
    network = build_network("conventional", classes=3, base_channels=4).eval()
    monkeypatch.setattr(module, "_network", lambda device: opened(network, 32))
    scan = made_scan(1, (36, 40, 32))[0]
    grid = Grid(scan.shape, np.diag([2.0, 2.0, 2.0, 1.0]))
    right = find_right(scan, grid)
    inside = scan > 0
    assert 0.02 < right[inside].mean() < 0.98
    mirrored = find_right(scan[::-1], grid)[::-1]
    assert (mirrored != right)[inside].mean() > 0.9999  # but for rounding where neither wins


def test_structures_are_divided_and_stay_what_they_are():
    structures = paper_structures()
    paired = paired_structures()
    assert {structure.name for structure in structures} - set(paired) == UNPAIRED
    parts = sided_structures(structures, paired)
    assert len(parts) == len({part.label for part in parts.values()}) == 32
    labels = np.random.default_rng(0).integers(0, 20, (7, 8, 9)).astype(np.uint8)
    right = np.broadcast_to(np.arange(7)[:, None, None] > 3, labels.shape)
    divided = divide(labels, right, parts)
    assert divided.dtype == np.uint8 and np.array_equal(divided % 100, labels)
    halves = np.isin(labels, [structure.label for structure in structures if structure.name in paired])
    assert np.array_equal(divided // 100, np.where(halves, 1 + right, 0))


def test_names_and_colours_of_halves():
    parts = sided_structures(paper_structures(), paired_structures())
    names = [part.name for part in parts.values()]
    assert {"Left hippocampus", "Right hippocampus", "Left inf. lateral vent.", "Brainstem", "CVL I-V"} < set(names)
    for whole in paper_structures():
        if whole.name not in UNPAIRED:
            left, right = parts[whole.label, "left"], parts[whole.label, "right"]
            assert left.colour == whole.colour and sum(right.colour) < sum(left.colour)
            assert "SCT^7771000^Left" in left.term and "SCT^24028007^Right" in right.term
        else:
            assert "^Left" not in parts[whole.label, ""].term and parts[whole.label, ""].colour == whole.colour


def test_freesurfers_labels_are_those_of_its_table():
    """The table of its ids tells no sides, but which structure each of them is."""
    table = open_table("freesurfer")
    for (label, side), part in sided_structures(paper_structures(), paired_structures(), "freesurfer").items():
        assert part.name.startswith({"left": "Left-", "right": "Right-", "": part.name}[side])
        if not part.name.startswith("CVL"):
            assert table.apply(np.array([part.label])).tolist() == [label]
    with pytest.raises(GaborSegError, match="Knee: FreeSurfer has no name.*gaborseg"):
        sided_structures(named_structures(["Knee"]), ["Knee"], "freesurfer")


def test_more_structures_than_a_byte_has_halves_for():
    structures = named_structures([f"Area {number}" for number in range(120)])
    parts = sided_structures(structures, ["Area 7"])
    assert len({part.label for part in parts.values()}) == 121
    assert divide(np.full((1, 1, 1), 8, np.uint8), np.ones((1, 1, 1), bool), parts).item() == 2008


def test_label_maps_with_sides_are_understood():
    """By the bundled table, as the structures that they are halves of."""
    table, parts = open_table("sides"), sided_structures(paper_structures(), paired_structures())
    for (label, _), part in parts.items():
        assert table.apply(np.array([part.label])).tolist() == [label]
    assert len(table.listed) == 33 and table.complete


@pytest.fixture
def volumes():
    """8 voxels of 0.5 mL on the left and 4 on the right of the first; the second is absent, the third not paired."""
    labels = np.zeros((6, 4, 2), np.uint8)
    labels[0, :, :], labels[5, :2, :], labels[2, 0, 0] = 1, 1, 3
    right = np.broadcast_to(np.arange(6)[:, None, None] > 2, labels.shape)
    affine = np.diag([-5.0, 10.0, 10.0, 1.0])
    names = named_structures(["Both", "None", "Middle"])
    return {"Both": 6.0, "None": 0.0, "Middle": 0.5}, side_volumes(labels, right, affine, names[:2])


def test_volumes_of_halves(volumes):
    _, sides = volumes
    assert sides["Both"] == pytest.approx({"left": 4, "right": 2, "asymmetry": 2 * (4 - 2) / (4 + 2)})
    assert sides["None"] == {"left": 0, "right": 0, "asymmetry": None} and "Middle" not in sides


def test_halves_are_the_last_columns(volumes, tmp_path):
    whole, sides = volumes
    quality = dict.fromkeys(whole, 0.5)
    write_volumes(tmp_path / "v.csv", whole, quality, sides)
    rows = list(csv.reader((tmp_path / "v.csv").open(encoding="utf-8")))
    assert rows[0] == ["structure", "volume_ml", "percent", "quality", "left", "right", "asymmetry"]
    assert [row[4:] for row in rows[1:]] == [["4.0000", "2.0000", "0.6667"], ["0.0000", "0.0000", ""], ["", "", ""]]
    lines = volumes_table(whole, quality, sides).splitlines()
    assert lines[0].endswith("Left (mL)  Right (mL)   Asymmetry") and lines[2].split()[-3:] == ["4.00", "2.00", "0.67"]
    assert lines[4].split()[-1] == "0.50"


def test_segments_have_their_names_and_terms(tmp_path):
    parts = list(sided_structures(paper_structures(), paired_structures()).values())
    labels = np.array([part.label for part in parts], np.uint8).reshape(4, 4, 2)
    write_label_map(tmp_path / "l.seg.nrrd", labels, np.eye(4), parts)
    image = sitk.ReadImage(str(tmp_path / "l.seg.nrrd"))
    number = next(i for i in range(32) if image.GetMetaData(f"Segment{i}_Name") == "Right hippocampus")
    assert image.GetMetaData(f"Segment{number}_LabelValue") == "214"
    tag = (
        "TerminologyEntry:GaborSeg brain structures~SCT^123037004^Anatomical Structure~SCT^5366008^Hippocampus"
        "~SCT^24028007^Right~~^^~^^|"
    )
    assert image.GetMetaData(f"Segment{number}_Tags") == tag
    assert not image.HasMetaDataKey("Segment32_Name")


# The command


@pytest.fixture(scope="module")
def paired_weights(tiny_weights, tmp_path_factory):
    """The tiny weights, with a card that has nothing to say of sides: the paper's structures have them."""
    weights = load_weights(tiny_weights)
    path = tmp_path_factory.mktemp("weights") / "paired.safetensors"
    save_weights(path, weights.network, {key: value for key, value in weights.card.items() if key != "paired"})
    return path


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(made_scan(0)[0], np.diag([-2.0, 2.0, 2.0, 1.0])), path)
    return path


def test_segment_divides_only_what_it_finds_without(scan, paired_weights, tmp_path, capsys, upper_is_right):
    command = ["segment", scan, "--weights", paired_weights, "--device", "cpu", "--no-mirror"]
    (_, plain), (status, divided) = (
        told(capsys, *command, "-o", tmp_path / f"{name}.nii", *more)
        for name, more in (("plain", []), ("sides", ["--sides"]))
    )
    assert status == 0
    whole, halves = (np.asarray(nibabel.load(tmp_path / f"{n}.nii").dataobj) for n in ("plain", "sides"))
    assert np.array_equal(halves % 100, whole) and halves.max() > 200
    assert plain[-1]["volumes"] == divided[-1]["volumes"] and plain[-1]["sides"] == divided[-1]["sides"]
    assert "segments" not in plain[-1] and len(divided[-1]["segments"]) == 32
    for segment in divided[-1]["segments"]:
        if segment["side"]:
            millilitres = 0.008 * (halves == segment["label"]).sum()
            assert plain[-1]["sides"][segment["structure"]][segment["side"]] == pytest.approx(millilitres)


def test_the_documents_have_all_keys_of_a_result(scan, paired_weights, tmp_path, capsys, upper_is_right):
    command = ["segment", scan, "--weights", paired_weights, "--no-mirror", "--sides", "--profile"]
    _, events = told(capsys, *command, "-o", tmp_path / "l.nii")
    page = (Path(__file__).parents[2] / "docs" / "usage.md").read_text(encoding="utf-8")
    table = page.split("The `result` of `segment` and `demo`:\n\n")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.M)) == set(events[-1]) - {"event"}


def test_what_cannot_be_divided_is_refused(scan, paired_weights, tmp_path, capsys):
    weights = load_weights(paired_weights)
    names = [f"Area {number}" for number in range(19)]
    other, paired = tmp_path / "other.safetensors", tmp_path / "paired.safetensors"
    save_weights(other, weights.network, {**weights.card, "structures": names})
    save_weights(paired, weights.network, {**weights.card, "structures": names, "paired": ["Area 3"]})
    for arguments, text in (
        (["--weights", other, "--sides"], f"{other}: its card does not say which structures have a left and a right"),
        (["--weights", paired, "--sides", "--names", "freesurfer"], "FreeSurfer has no name"),
        (["--weights", paired_weights, "--names", "freesurfer"], "use it with --sides"),
    ):
        status, events = told(capsys, "segment", scan, "-o", tmp_path / "l.nii", *arguments)
        assert status == 2 and text in events[-1]["message"]
    assert not (tmp_path / "l.nii").exists() and OWN_NAMES == "gaborseg"


def test_other_structures_have_sides_only_if_their_card_says_so(scan, paired_weights, tmp_path, capsys, upper_is_right):
    weights = load_weights(paired_weights)
    names = [f"Area {number}" for number in range(19)]
    for facts, expected in (({}, set()), ({"paired": ["Area 3", "Area 5"]}, {"Area 3", "Area 5"})):
        path = tmp_path / "other.safetensors"
        save_weights(path, weights.network, {**weights.card, "structures": names, **facts})
        _, events = told(capsys, "segment", scan, "-o", tmp_path / "l.nii", "--weights", path, "--no-mirror")
        assert events[-1]["sides"].keys() == expected
