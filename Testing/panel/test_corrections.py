"""Learning from corrections: a volume and its edited segmentation into a data set that the library takes."""

import csv
import json

import nibabel
import numpy as np
import pytest
import slicer

from GaborSegLib.data.sources import find_data

# Left-handed (left, anterior, superior), as the OASIS scans are; and others.
AFFINES = {
    "L-A-S": np.array([[-1.0, 0, 0, 30], [0, 1.5, 0, -20], [0, 0, 2, 5], [0, 0, 0, 1]]),
    "R-A-S": np.diag([1.0, 1.5, 2, 1]),
    "oblique": np.array([[0.8, -0.66, 0, 5], [0.6, 0.88, 0, -7], [0, 0, 3.0, 11], [0, 0, 0, 1]]),
}
SHAPE = (12, 11, 10)  # k, j, i
NAMES = ["Shell", "Core", "Ball"]


@pytest.fixture
def corrections(module_widget):
    from GaborSegPanel import corrections

    return corrections


@pytest.fixture
def refusal(module_widget):
    from GaborSegPanel import PanelError

    return PanelError


def add_volume(affine=AFFINES["L-A-S"], name="Head", seed=0):
    array = np.random.default_rng(seed).normal(100, 20, SHAPE).astype(np.float32)
    return slicer.util.addVolumeFromArray(array, ijkToRAS=np.asarray(affine, float), name=name)


def scene_nodes():
    nodes = [slicer.mrmlScene.GetNthNode(i) for i in range(slicer.mrmlScene.GetNumberOfNodes())]
    return {node.GetID() for node in nodes if not node.IsA("vtkMRMLSubjectHierarchyNode")}


def made_labels(seed=0):
    return np.random.default_rng(seed).integers(0, 4, SHAPE).astype(np.uint8)


@pytest.fixture
def segment(module_widget, tmp_path):
    """segment(volume, labels): a segmentation node as a run makes it, with weights of the structures `NAMES`."""
    from GaborSegPanel import results

    weights = tmp_path / "own.safetensors"
    card = {"variant": "mixed", "structures": NAMES, "classes": len(NAMES) + 1, "sha256": "1" * 64, "field": "cube"}
    card |= {"format": 1, "grid_size": 128, "in_channels": 1, "base_channels": 12}
    card |= {"conventional_kernel_size": 3, "gabor_kernel_size": 7}
    header = json.dumps({"__metadata__": {"gaborseg": json.dumps(card)}}).encode()
    weights.write_bytes(len(header).to_bytes(8, "little") + header)
    facts = {"variant": "mixed", "weights_sha256": "1" * 64, "weights_file": str(weights)}
    facts |= dict.fromkeys(("weights", "gaborseg", "torch", "seconds", "device"), "x")

    def make(volume, labels=None):
        labels = made_labels() if labels is None else labels
        node = results.show_results(volume, labels, dict.fromkeys(NAMES, 1.0), facts)
        node.GetSegmentation().RemoveRepresentation(results.SURFACE)
        return node

    return make


def put_array(node, name, array, volume):
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        array.astype(np.uint8), node, node.GetSegmentation().GetSegmentIdBySegmentName(name), volume
    )


def read(folder, case):
    image, labels = (nibabel.load(folder / part / f"{case}.nii.gz") for part in ("images", "labels"))
    np.testing.assert_array_equal(image.affine, labels.affine)
    return image.affine, np.asarray(image.dataobj).T, np.asarray(labels.dataobj).T


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("moved", [False, True], ids=["", "under a transform"])
def test_round_trip_is_voxel_exact(corrections, segment, tmp_path, affine, moved):
    volume, labels = add_volume(affine), made_labels()
    expected = affine
    if moved:
        turn = np.array([[0.6, -0.8, 0, 10], [0.8, 0.6, 0, -20], [0, 0, 1.0, 30], [0, 0, 0, 1]])
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(turn))
        volume.SetAndObserveTransformNodeID(transform.GetID())
        expected = turn @ affine
    node = segment(volume, labels)
    ball = labels == 3
    ball[2:5, 3:9, 1:4] = True  # the edit
    put_array(node, "Ball", ball, volume)
    for other, label in (("Shell", 1), ("Core", 2)):
        put_array(node, other, (labels == label) & ~ball, volume)
    nodes = scene_nodes()
    assert corrections.take_correction(volume, node, tmp_path / "data") == ("Head", 0)
    assert scene_nodes() == nodes
    found, image, result = read(tmp_path / "data", "Head")
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(image, slicer.util.arrayFromVolume(volume))
    np.testing.assert_array_equal(result, np.where(ball, 3, labels))


def test_the_library_takes_the_folder_and_counts_corrections_of_one_scan_as_one_subject(corrections, segment, tmp_path):
    folder = tmp_path / "data"
    one, other = add_volume(seed=1), add_volume(seed=2)
    cases = [
        corrections.take_correction(volume, segment(volume, made_labels(n)), folder)[0]
        for n, volume in enumerate((one, other, one))
    ]
    assert cases == ["Head", "Head_2", "Head_3"]  # none is written over
    data = find_data(folder)
    assert [(case.id, case.subject) for case in data.cases] == [
        ("Head", "Head"),
        ("Head_2", "Head_2"),
        ("Head_3", "Head"),
    ]
    assert data.table.names == tuple(NAMES) and data.table.complete and data.problems == ()
    np.testing.assert_array_equal(read(folder, "Head")[2], made_labels(0))
    np.testing.assert_array_equal(read(folder, "Head_3")[2], made_labels(2))
    assert corrections.count_cases(folder) == 3 and corrections.count_subjects(folder) == 2
    assert sorted(path.name for path in folder.iterdir()) == [
        "corrections.json",
        "images",
        "labels",
        "structures.csv",
        "subjects.csv",
    ]
    assert corrections.weights_of(folder) == ("mixed", str(tmp_path / "own.safetensors"))


def test_segments_are_told_by_name_in_any_order(corrections, segment, tmp_path):
    volume, labels = add_volume(), made_labels()
    node = segment(volume, labels)
    segmentation = node.GetSegmentation()
    segmentation.SetSegmentIndex(segmentation.GetSegmentIdBySegmentName("Ball"), 0)
    segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName("Core")).SetName(" core")
    corrections.take_correction(volume, node, tmp_path)
    np.testing.assert_array_equal(read(tmp_path, "Head")[2], labels)


def test_a_name_that_a_spreadsheet_would_run_is_quoted_and_read_again(corrections, segment, tmp_path):
    volume = add_volume(name="-Head")
    for labels in (made_labels(0), made_labels(1)):
        corrections.take_correction(volume, segment(volume, labels), tmp_path)
    with open(tmp_path / "subjects.csv", newline="") as file:
        assert [row["scan"] for row in csv.DictReader(file)] == ["'-Head", "'-Head_2"]
    assert corrections.count_cases(tmp_path) == 2 and corrections.count_subjects(tmp_path) == 1
    assert [(case.id, case.subject) for case in find_data(tmp_path).cases] == [("-Head", "-Head"), ("-Head_2", "-Head")]


def test_two_segments_of_one_name_are_one_structure(corrections, segment, tmp_path):
    volume, labels = add_volume(), made_labels()
    node = segment(volume, np.where(labels == 2, 0, labels).astype(np.uint8))
    half = np.indices(SHAPE)[2] < 5
    put_array(node, "Core", (labels == 2) & half, volume)
    more = node.GetSegmentation().AddEmptySegment("more", "Core")
    slicer.util.updateSegmentBinaryLabelmapFromArray(((labels == 2) & ~half).astype(np.uint8), node, more, volume)
    corrections.take_correction(volume, node, tmp_path)
    np.testing.assert_array_equal(read(tmp_path, "Head")[2], labels)


@pytest.fixture
def divided(module_widget, segment):
    """divided(volume, labels): a segmentation in which Core has halves, the right one where the first index is small;
    the rest is whole."""
    from GaborSegPanel import results

    def make(volume, labels):
        whole = segment(volume, labels)
        is_right = np.indices(SHAPE)[2] < 5
        names = [("Shell", 1), ("Left core", 102), ("Right core", 202), ("Ball", 3)]
        parts = [{"structure": n, "name": n, "label": label, "colour": (9, 9, 9), "term": ""} for n, label in names]
        halved = np.where(labels == 2, np.where(is_right, 202, 102), labels).astype(np.uint8)
        facts = results.provenance(whole)
        return results.show_results(volume, halved, dict.fromkeys(NAMES, 1.0), facts, whole, segments=parts)

    return make


def test_halves_are_learned_as_their_structure(corrections, divided, tmp_path):
    volume, labels = add_volume(), made_labels()
    node = divided(volume, labels)
    put_array(node, "Left core", (labels == 2) & (np.indices(SHAPE)[2] < 7), volume)  # it grows to the other side
    put_array(node, "Right core", (labels == 2) & (np.indices(SHAPE)[2] >= 7), volume)
    corrections.take_correction(volume, node, tmp_path)
    np.testing.assert_array_equal(read(tmp_path, "Head")[2], labels)
    data = find_data(tmp_path)
    assert data.table.names == tuple(NAMES) and data.problems == ()


def test_a_whole_structure_beside_its_halves_is_the_same_structure(corrections, divided, tmp_path):
    volume, labels = add_volume(), made_labels()
    node = divided(volume, labels)
    node.GetSegmentation().AddEmptySegment("core", "Core")
    corner = np.zeros(SHAPE, bool)
    corner[:2, :2, :2] = True
    put_array(node, "Core", corner, volume)
    corrections.take_correction(volume, node, tmp_path)
    np.testing.assert_array_equal(read(tmp_path, "Head")[2], np.where(corner, 2, labels))


@pytest.mark.parametrize(
    ("removed", "missing"), [(["Left core"], "Left core"), (["Left core", "Right core"], "Core"), (["Ball"], "Ball")]
)
def test_a_half_that_is_not_there_is_named(corrections, divided, refusal, tmp_path, removed, missing):
    volume = add_volume()
    node = divided(volume, made_labels())
    for name in removed:
        node.GetSegmentation().RemoveSegment(node.GetSegmentation().GetSegmentIdBySegmentName(name))
    with pytest.raises(refusal, match=f"Without a segment: {missing}. Add a segment of that name"):
        corrections.take_correction(volume, node, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_halves_go_into_a_folder_of_whole_structures(corrections, segment, divided, tmp_path):
    one, other = add_volume(seed=1), add_volume(seed=2)
    corrections.take_correction(one, segment(one, made_labels(1)), tmp_path)  # an older result
    corrections.take_correction(other, divided(other, made_labels(2)), tmp_path)
    assert np.array_equal(read(tmp_path, "Head_2")[2], made_labels(2))
    assert [case.id for case in find_data(tmp_path).cases] == ["Head", "Head_2"]


def test_where_segments_overlap_the_later_one_wins_and_it_is_said(corrections, segment, tmp_path):
    volume, labels = add_volume(), made_labels()
    node = segment(volume, labels)
    wide = labels > 0
    node.GetSegmentation().SeparateSegmentLabelmap(node.GetSegmentation().GetSegmentIdBySegmentName("Core"))
    core = node.GetSegmentation().GetSegment(node.GetSegmentation().GetSegmentIdBySegmentName("Core"))
    put_array(node, "Core", wide, volume)
    assert core and node.GetSegmentation().GetNumberOfLayers() == 2
    _, overlap = corrections.take_correction(volume, node, tmp_path)
    assert overlap == np.count_nonzero(np.isin(labels, (1, 3)))
    np.testing.assert_array_equal(read(tmp_path, "Head")[2], np.where(labels == 1, 2, labels))  # Shell, Core, Ball


def test_added_renamed_and_removed_segments_are_refused_in_words(corrections, segment, refusal, tmp_path):
    volume = add_volume()
    node = segment(volume)
    segmentation = node.GetSegmentation()
    segmentation.AddEmptySegment("lesion", "My lesion")
    segmentation.RemoveSegment(segmentation.GetSegmentIdBySegmentName("Ball"))
    with pytest.raises(refusal) as error:
        corrections.take_correction(volume, node, tmp_path / "data")
    assert "Not among them: My lesion. Rename or remove" in str(error.value)
    assert "Without a segment: Ball. Add a segment of that name, an empty one" in str(error.value)
    assert not (tmp_path / "data").exists()
    segmentation.RemoveSegment("lesion")
    segmentation.AddEmptySegment("ball", "Ball")
    corrections.take_correction(volume, node, tmp_path / "data")
    labels = made_labels()
    np.testing.assert_array_equal(read(tmp_path / "data", "Head")[2], np.where(labels == 3, 0, labels))


def test_a_folder_of_other_structures_is_named(corrections, segment, refusal, tmp_path):
    (tmp_path / "structures.csv").write_text("label,structure,ids\n1,Shell,1\n2,Lesion,2\n")
    with pytest.raises(refusal, match="structures stand in .*structures.csv; for others, choose another folder"):
        corrections.take_correction(add_volume(), segment(add_volume()), tmp_path)


def test_nothing_to_learn_from(corrections, segment, refusal, tmp_path):
    volume = add_volume()
    with pytest.raises(refusal, match="No segmentation is chosen"):
        corrections.take_correction(volume, None, tmp_path)
    with pytest.raises(refusal, match="all segments are empty on Head"):
        corrections.take_correction(volume, segment(volume, np.zeros(SHAPE, np.uint8)), tmp_path)


def test_a_folder_that_cannot_be_written(corrections, segment, refusal, tmp_path):
    (tmp_path / "file").write_text("")
    volume = add_volume()
    with pytest.raises(refusal, match="cannot be written"):
        corrections.take_correction(volume, segment(volume), tmp_path / "file")


def test_the_button_and_the_training_that_follows(corrections, segment, module_widget, tmp_path):
    panel, ui = module_widget.panel, module_widget.ui
    errors = []
    panel.show_error = errors.append
    volume = add_volume()
    panel.choices.inputVolume, panel.choices.correctionsFolder = volume, str(tmp_path / "mine")
    panel.choices.outputSegmentation = segment(volume)
    ui.learnButton.click()
    assert errors == [] and "Added as Head to" in ui.learnLabel.text and "corrections there: 1." in ui.learnLabel.text
    assert ui.dataBox.findText("Corrections (1)") > 0
    panel.data.choose_data(tmp_path / "mine")
    panel.data.stop_check_data()
    choices = panel.choices
    assert choices.trainingInit == str(tmp_path / "own.safetensors") and choices.trainingShare == 0
    assert (choices.trainingRate, choices.trainingEpochs, choices.trainingCubes) == (3e-4, 20, 96)
    from GaborSegPanel import arguments

    assert arguments.train_arguments(choices, []) == [
        str(tmp_path / "mine"),
        "--validation-share",
        "0",
        "--variant",
        "mixed",
        "--loss",
        "pcc",
        "--lr",
        "0.0003",
        "--epochs",
        "20",
        "--patch",
        "96",
        "--init",
        str(tmp_path / "own.safetensors"),
        "--processes",
        "1",
        "--augmentation",
        "strong",
        "--dropout",
        "0",
        "--decay",
        "1",
        "--validate-every",
        "5",
    ]
    with open(tmp_path / "mine" / "subjects.csv", newline="") as file:
        assert [row["scan"] for row in csv.DictReader(file)] == ["Head"]
