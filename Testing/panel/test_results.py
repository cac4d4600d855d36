"""A label map into the scene: names, colours, codes, geometry, and what a second run keeps."""

import csv
import math
from dataclasses import asdict

import numpy as np
import pytest
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from GaborSegLib.inference.volumes import write_volumes
from GaborSegLib.structures import paired_structures, paper_structures, sided_structures

LEFT_HANDED = np.array([[-1.0, 0, 0, 30], [0, 1.5, 0, -20], [0, 0, 2, 5], [0, 0, 0, 1]])
SHAPE = (24, 22, 20)  # k, j, i


@pytest.fixture
def results(module_widget):
    from GaborSegPanel import results

    return results


@pytest.fixture
def volume(results):
    return slicer.util.addVolumeFromArray(np.ones(SHAPE, np.float32), ijkToRAS=LEFT_HANDED, name="Head")


@pytest.fixture
def labels():
    labels = np.zeros(SHAPE, np.uint8)
    for label in range(1, 20):
        k, j, i = np.unravel_index(label, (3, 3, 3))
        labels[1 + 7 * k : 7 + 7 * k, 1 + 7 * j : 7 + 7 * j, 1 + 6 * i : 6 + 6 * i] = label
    return labels


@pytest.fixture
def volumes(results):
    return {name: float(n) for n, name in enumerate(results.structure_colours(), start=1)}


@pytest.fixture
def halves(labels):
    """(label map, `segments` of the event) with left and right, each structure cut across the first axis."""
    parts = sided_structures(paper_structures(), paired_structures())
    names = {structure.label: structure.name for structure in paper_structures()}
    divided, is_right = np.zeros_like(labels), np.indices(SHAPE)[2] % 6 >= 3
    for (label, side), part in parts.items():
        where = {"left": ~is_right, "right": is_right, "": True}[side]
        divided[(labels == label) & where] = part.label
    segments = [{"structure": names[label], "side": side, **asdict(part)} for (label, side), part in parts.items()]
    return divided, segments


@pytest.fixture
def make_surfaces(results, tmp_path, wait_until):
    """make_surfaces(node, changed): as a run makes them, in processes of their own; whether they were put in.

    `changed` is called while they are made.
    """
    from GaborSegPanel.surfaces import Surfaces

    def make(node, changed=lambda: None):
        folder, ends, lines = tmp_path / f"surfaces-{len(folders)}", [], []
        folder.mkdir()
        folders.append(folder)
        surfaces = Surfaces(node, folder, lambda done, total: None, lines.append, ends.append)
        changed()
        wait_until(lambda: ends)
        surfaces.stop()
        if ends[0]:
            results.show_surfaces(node)
        assert lines == []
        return ends[0]

    folders = []
    return make


def surface_of(node, index):
    return node.GetSegmentation().GetNthSegment(index).GetRepresentation("Closed surface")


def array(node, index, volume):
    segment_id = node.GetSegmentation().GetNthSegmentID(index)
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume) > 0


def names(node):
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(i).GetName() for i in range(segmentation.GetNumberOfSegments())]


def test_segments_are_the_papers_in_order_on_the_volumes_voxels(results, volume, labels, volumes):
    node = results.show_results(volume, labels, volumes, {"variant": "mixed"})
    assert names(node) == list(volumes)
    assert node.GetName() == "Head segmentation"
    assert node.GetSegmentation().GetNumberOfLayers() == 1
    assert all((array(node, n, volume) == (labels == n + 1)).all() for n in range(19))
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    assert node.GetNodeReference(role) is volume


def test_surfaces_lie_where_the_labels_lie(results, volume, labels, volumes, make_surfaces):
    node = results.show_results(volume, labels, volumes, {})
    assert not node.GetSegmentation().ContainsRepresentation(results.SURFACE) and results.wants_surfaces(node)
    assert make_surfaces(node) and not results.wants_surfaces(node)
    assert node.GetDisplayNode().GetVisibility3D()
    assert node.GetDisplayNode().GetDisplayRepresentationName3D() == results.SURFACE
    for n in range(19):
        surface = node.GetSegmentation().GetNthSegment(n).GetRepresentation(results.SURFACE)
        k, j, i = np.argwhere(labels == n + 1).mean(axis=0)
        centre = (LEFT_HANDED @ [i, j, k, 1])[:3]
        np.testing.assert_allclose(surface.GetCenter(), centre, atol=0.6)
    properties = vtk.vtkMassProperties()
    properties.SetInputData(surface)
    assert properties.GetVolume() > 0  # faces look outwards, for left-handed volumes too


def test_codes_are_terms_of_the_own_terminology(results, volume, labels, volumes):
    logic = slicer.vtkSlicerTerminologiesModuleLogic()
    context = logic.LoadTerminologyFromFile(str(results.resource("GaborSeg.term.json")))
    assert context == "GaborSeg brain structures"
    entry, text = slicer.vtkSlicerTerminologyEntry(), vtk.reference("")
    node = results.show_results(volume, labels, volumes, {})
    for n in range(19):
        segment = node.GetSegmentation().GetNthSegment(n)
        assert segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), text)
        assert logic.DeserializeTerminologyEntry(str(text), entry)
        assert entry.GetTerminologyContextName() == context
        assert entry.GetTypeObject().GetCodingSchemeDesignator() == "SCT"
        assert int(entry.GetTypeObject().GetCodeValue()) > 0


def test_deep_structures_are_seen_through_the_outer_ones(results, volume, labels, volumes):
    node = results.show_results(volume, labels, volumes, {})
    display, segmentation = node.GetDisplayNode(), node.GetSegmentation()
    see_through = {
        segmentation.GetNthSegment(n).GetName()
        for n in range(19)
        if display.GetSegmentOpacity3D(segmentation.GetNthSegmentID(n)) < 0.5
    }
    assert see_through == {"Cerebral grey", "Cerebral white", "Cerebellar grey", "Cerebellar white"}


def read(results, node):
    from GaborSegPanel import volumes

    return volumes.read(results.volumes_table(node))


def test_table_and_provenance(results, volume, labels, volumes):
    node = results.show_results(volume, labels, volumes, {"variant": "gabor", "seconds": 1.5})
    columns = read(results, node)
    assert list(columns) == ["Structure", "Volume (mL)", "Percent", "Quality"]
    assert columns["Structure"] == list(volumes)
    assert columns["Volume (mL)"][1] == 2 and columns["Percent"][1] == pytest.approx(100 * 2 / 190)
    assert columns["Quality"] == [None] * 19
    assert (
        results.provenance(node)
        == results.provenance(results.volumes_table(node))
        == {"variant": "gabor", "seconds": "1.5"}
    )


def test_quality_stands_in_the_table(results, volume, labels, volumes):
    quality = {name: 1 / n for n, name in enumerate(volumes, start=1)}
    node = results.show_results(volume, labels, volumes, {}, quality=quality)
    assert read(results, node)["Quality"] == list(quality.values())


def test_nothing_segmented_gives_zeros(results, volume, labels, volumes):
    node = results.show_results(volume, 0 * labels, dict.fromkeys(volumes, 0.0), {})
    assert names(node) == list(volumes)
    assert set(read(results, node)["Percent"]) == {0.0}


@pytest.mark.parametrize("titles", [("Volume (mL)", "Percent"), ("Volume (mL)", "Percent", "Quality")])
def test_tables_of_older_scenes_are_read(titles):
    from GaborSegPanel import volumes

    table = vtk.vtkTable()
    for title, kind, values in [
        ("Structure", vtk.vtkStringArray, "ab"),
        *((t, vtk.vtkDoubleArray, (1, 3)) for t in titles),
    ]:
        column = kind()
        column.SetName(title)
        for value in values:
            column.InsertNextValue(value)
        table.AddColumn(column)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")
    node.SetAndObserveTable(table)
    columns = volumes.read(node)
    quality = [1, 3] if "Quality" in titles else [None, None]
    assert columns == {"Structure": ["a", "b"], "Volume (mL)": [1, 3], "Percent": [1, 3], "Quality": quality}
    assert volumes.texts(columns)[1] == ("a", "1.00", "1.00", "1.00" if "Quality" in titles else "")


HALVES = {
    "Hippocampus": {"left": 8.0, "right": 6.0, "asymmetry": 2 / 7},
    "Amygdala": {"left": 0.0, "right": 0.0, "asymmetry": None},  # not found
}


@pytest.mark.parametrize("known", [True, False], ids=["", "no intracranial volume"])
def test_what_is_saved_is_what_the_library_saves(results, volume, labels, volumes, tmp_path, known):
    """But for the titles of the first columns, and for their digits, which were there before."""
    from GaborSegPanel.volumes import texts

    quality = dict.fromkeys(volumes, 0.5)
    icv = {"ml": 1500.0 if known else None, "percent": {name: v / 15 for name, v in volumes.items()} if known else {}}
    node = results.show_results(volume, labels, volumes, {}, quality=quality, sides=HALVES, icv=icv)
    rows = texts(read(results, node))
    write_volumes(tmp_path / "volumes.csv", volumes, quality, HALVES)
    with open(tmp_path / "volumes.csv", newline="", encoding="utf-8") as file:
        expected = list(csv.reader(file))
    assert rows[0] == ("Structure", "Volume (mL)", "Percent", "Quality", *expected[0][4:], "icv_ml", "percent_of_icv")
    for row, wanted in zip(rows[1:], expected[1:], strict=True):
        assert row[4:7] == tuple(wanted[4:])
        assert [float(text) for text in row[1:4]] == pytest.approx([float(text) for text in wanted[1:4]], abs=0.005)
        assert row[7:] == (("1500.0000", f"{float(wanted[1]) / 15:.4f}") if known else ("", ""))


def test_the_table_of_a_saved_scene_has_its_empty_cells(results, volume, labels, volumes, tmp_path):
    node = results.show_results(volume, labels, volumes, {}, sides=HALVES)
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableStorageNode")
    storage.SetFileName(str(tmp_path / "volumes.tsv"))
    assert storage.WriteData(results.volumes_table(node))
    before, again = read(results, node), slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")
    assert storage.ReadData(again)
    from GaborSegPanel.volumes import read as read_table

    columns = read_table(again)
    assert columns["left"] == before["left"] and columns["left"].count(None) == 17 and 8.0 in columns["left"]
    assert columns["asymmetry"].count(None) == 18
    assert not any(math.isnan(number) for number in columns["asymmetry"] if number is not None)


def test_halves_are_segments_with_names_colours_and_codes(results, volume, halves, volumes):
    divided, segments = halves
    node = results.show_results(volume, divided, volumes, {}, segments=segments)
    assert len(names(node)) == 32 and names(node) == [segment["name"] for segment in segments]
    assert node.GetSegmentation().GetNumberOfLayers() == 1
    logic = slicer.vtkSlicerTerminologiesModuleLogic()
    logic.LoadTerminologyFromFile(str(results.resource("GaborSeg.term.json")))
    entry, text = slicer.vtkSlicerTerminologyEntry(), vtk.reference("")
    for n, expected in enumerate(segments):
        assert (array(node, n, volume) == (divided == expected["label"])).all() and expected["label"] in divided
        segment = node.GetSegmentation().GetNthSegment(n)
        np.testing.assert_allclose(np.multiply(segment.GetColor(), 255), expected["colour"], atol=0.01)
        assert segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), text)
        assert logic.DeserializeTerminologyEntry(str(text), entry)
        code = {"left": "7771000", "right": "24028007", "": ""}[expected["side"]]
        assert (entry.GetTypeModifierObject().GetCodeValue() or "") == code, expected["name"]
        opacity = node.GetDisplayNode().GetSegmentOpacity3D(node.GetSegmentation().GetNthSegmentID(n))
        assert (opacity < 0.5) == (expected["structure"] in results.SEE_THROUGH)


def test_slicers_own_file_keeps_the_halves(results, volume, halves, volumes, tmp_path):
    divided, segments = halves
    node = results.show_results(volume, divided, volumes, {}, segments=segments)
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "halves.seg.nrrd"))
    assert storage.WriteData(node)
    again = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert storage.ReadData(again)
    assert names(again) == names(node)
    tag, text = slicer.vtkSegment.GetTerminologyEntryTagName(), vtk.reference("")
    for n, expected in enumerate(segments):
        segment = again.GetSegmentation().GetNthSegment(n)
        assert segment.GetTag(tag, text) and str(text) == expected["term"]
        assert segment.GetLabelValue() == expected["label"]
        assert (array(again, n, volume) == (divided == expected["label"])).all()


@pytest.mark.parametrize("mine_first", [False, True])
def test_whole_structures_and_halves_take_each_others_place(results, volume, labels, halves, volumes, mine_first):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    if mine_first:
        node.GetSegmentation().AddEmptySegment("mine", "My lesion")
    results.show_results(volume, labels, volumes, {}, node)
    if not mine_first:
        node.GetSegmentation().AddEmptySegment("mine", "My lesion")
    brainstem = node.GetSegmentation().GetSegmentIdBySegmentName("Brainstem")
    node.GetDisplayNode().SetSegmentVisibility(brainstem, False)
    divided, segments = halves
    for array_, parts, expected in ((divided, segments, [s["name"] for s in segments]), (labels, None, list(volumes))):
        results.show_results(volume, array_, volumes, {}, node, segments=parts)
        assert names(node) == (["My lesion", *expected] if mine_first else [*expected, "My lesion"])
        assert not node.GetDisplayNode().GetSegmentVisibility(brainstem)  # it was there before
    assert all((array(node, n + mine_first, volume) == (labels == n + 1)).all() for n in range(19))


def test_no_surface_is_made_while_segments_are_exchanged(results, volume, labels, halves, volumes):
    """Slicer makes one of each segment that is added beside one with a surface, which takes it ten seconds."""
    divided, segments = halves
    node = results.show_results(volume, labels, volumes, {})
    node.CreateClosedSurfaceRepresentation()
    segmentation, found = node.GetSegmentation(), []
    segmentation.AddObserver(
        slicer.vtkSegmentation.SegmentAdded,
        lambda *event: found.append(segmentation.ContainsRepresentation(results.SURFACE)),
    )
    results.show_results(volume, divided, volumes, {}, node, segments=segments)
    segmentation.RemoveAllObservers()
    assert found == [False] * 26 and results.wants_surfaces(node)


def test_surfaces_of_halves_lie_where_these_lie(results, volume, halves, volumes, make_surfaces):
    divided, segments = halves
    node = results.show_results(volume, divided, volumes, {}, segments=segments)
    assert make_surfaces(node)
    for n, expected in enumerate(segments):
        k, j, i = np.argwhere(divided == expected["label"]).mean(axis=0)
        np.testing.assert_allclose(surface_of(node, n).GetCenter(), (LEFT_HANDED @ [i, j, k, 1])[:3], atol=0.6)


def test_running_again_replaces_the_result_and_keeps_the_view(results, volume, labels, volumes, make_surfaces):
    node = results.show_results(volume, labels, volumes, {})
    assert make_surfaces(node)
    segmentation, display = node.GetSegmentation(), node.GetDisplayNode()
    mine = segmentation.AddEmptySegment("mine", "My lesion")
    hidden, table = segmentation.GetNthSegmentID(4), results.volumes_table(node)
    display.SetSegmentVisibility(hidden, False)
    display.SetSegmentOpacity3D(hidden, 0.7)
    display.SetVisibility3D(False)
    count = slicer.mrmlScene.GetNumberOfNodes()
    again = results.show_results(volume, labels[::-1], volumes, {}, node)
    assert not segmentation.ContainsRepresentation(results.SURFACE)  # those of before are wrong now
    assert results.wants_surfaces(node) and make_surfaces(node)
    assert surface_of(node, 19).GetNumberOfPoints() == 0  # the user's own segment, which is empty
    assert again is node and results.volumes_table(node) is table
    assert slicer.mrmlScene.GetNumberOfNodes() == count
    assert names(node) == [*volumes, "My lesion"] and segmentation.GetSegment(mine)
    assert all((array(node, n, volume) == (labels[::-1] == n + 1)).all() for n in range(19))
    assert not display.GetSegmentVisibility(hidden) and display.GetSegmentOpacity3D(hidden) == pytest.approx(0.7)
    assert not display.GetVisibility3D()
    k, j, i = np.argwhere(labels[::-1] == 19).mean(axis=0)
    surface = segmentation.GetNthSegment(18).GetRepresentation(results.SURFACE)
    np.testing.assert_allclose(surface.GetCenter(), (LEFT_HANDED @ [i, j, k, 1])[:3], atol=0.6)


def test_surfaces_that_the_user_switched_off_stay_off(results, volume, labels, volumes, make_surfaces):
    node = results.show_results(volume, labels, volumes, {})
    assert make_surfaces(node)
    node.RemoveClosedSurfaceRepresentation()
    results.show_results(volume, labels, volumes, {}, node)
    assert not results.wants_surfaces(node)
    assert not node.GetSegmentation().ContainsRepresentation(results.SURFACE)


def test_surfaces_that_were_not_made_are_wanted_again(results, volume, labels, volumes):
    node = results.show_results(volume, labels, volumes, {})
    results.show_results(volume, labels, volumes, {}, node)
    assert results.wants_surfaces(node)


@pytest.mark.parametrize("parameters", [{}, {"Smoothing factor": "0.2", "Decimation factor": "0.3"}])
def test_surfaces_are_what_slicer_makes(results, volume, labels, volumes, make_surfaces, parameters):
    """Point by point, in the volume's own place and orientation, with the factors that the user has set."""
    node = results.show_results(volume, labels, volumes, {})
    for name, value in parameters.items():
        assert node.GetSegmentation().GetConversionParameter(name) not in ("", value)
        node.GetSegmentation().SetConversionParameter(name, value)
    assert make_surfaces(node)
    made = [vtk.vtkPolyData() for n in range(19)]
    for n, copy in enumerate(made):
        copy.DeepCopy(surface_of(node, n))
    node.RemoveClosedSurfaceRepresentation()
    node.CreateClosedSurfaceRepresentation()
    for n, surface in enumerate(made):
        expected = surface_of(node, n)
        assert surface.GetNumberOfPolys() == expected.GetNumberOfPolys() > 100
        for get in (
            lambda data: data.GetPoints().GetData(),
            lambda data: data.GetPolys().GetConnectivityArray(),
            lambda data: data.GetPointData().GetNormals(),
        ):
            np.testing.assert_array_equal(vtk_to_numpy(get(surface)), vtk_to_numpy(get(expected)))


def test_show_3d_finds_the_surfaces_and_makes_none(results, volume, labels, volumes, make_surfaces):
    node = results.show_results(volume, labels, volumes, {})
    assert make_surfaces(node)
    made = [surface_of(node, n) for n in range(19)]
    assert node.GetSegmentation().CreateRepresentation(results.SURFACE)
    assert [surface_of(node, n) for n in range(19)] == made


def test_surfaces_of_a_segmentation_that_was_changed_meanwhile_are_left_out(
    results, volume, labels, volumes, make_surfaces
):
    node = results.show_results(volume, labels, volumes, {})
    first = node.GetSegmentation().GetNthSegmentID(0)

    def edit():
        slicer.util.updateSegmentBinaryLabelmapFromArray((labels == 1).astype(np.uint8)[::-1], node, first, volume)

    assert not make_surfaces(node, edit)
    assert not node.GetSegmentation().ContainsRepresentation(results.SURFACE)


def test_without_processes_slicer_makes_the_surfaces_itself(results, volume, labels, volumes, tmp_path, wait_until):
    import GaborSegPanel.surfaces as surfaces

    node, ends, lines = results.show_results(volume, labels, volumes, {}), [], []
    program, surfaces.PROGRAM = surfaces.PROGRAM, tmp_path / "none.py"
    making = surfaces.Surfaces(node, tmp_path, lambda done, total: None, lines.append, ends.append)
    try:
        wait_until(lambda: ends)
    finally:
        making.stop()
        surfaces.PROGRAM = program
    assert ends == [True] and any("none.py" in line for line in lines)
    k, j, i = np.argwhere(labels == 19).mean(axis=0)
    np.testing.assert_allclose(surface_of(node, 18).GetCenter(), (LEFT_HANDED @ [i, j, k, 1])[:3], atol=0.6)


def test_a_full_disk_leaves_the_result_without_surfaces(results, volume, labels, volumes, tmp_path, wait_until):
    import GaborSegPanel.surfaces as surfaces

    node, ends, lines = results.show_results(volume, labels, volumes, {}), [], []
    making = surfaces.Surfaces(node, tmp_path / "none", lambda done, total: None, lines.append, ends.append)
    wait_until(lambda: ends)
    making.stop()
    assert ends == [False] and "none" in lines[0]
    assert results.wants_surfaces(node)


def test_a_failure_leaves_no_nodes(results, volume, labels, volumes, monkeypatch):
    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr(results, "fill", fail)
    count = slicer.mrmlScene.GetNumberOfNodes()
    with pytest.raises(MemoryError):
        results.show_results(volume, labels, volumes, {})
    assert slicer.mrmlScene.GetNumberOfNodes() == count


def test_structures_of_a_users_own_training_get_colours(results, volume, labels):
    node = results.show_results(volume, labels, {"Lesion": 1.0, "Hippocampus": 2.0}, {})
    assert names(node) == ["Lesion", "Hippocampus"]
    assert node.GetSegmentation().GetNthSegment(0).GetColor() != node.GetSegmentation().GetNthSegment(1).GetColor()
