"""A label map into the scene: names, colours, codes, geometry, and what a second run keeps."""

import numpy as np
import pytest
import slicer
import vtk

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


def test_surfaces_lie_where_the_labels_lie(results, volume, labels, volumes):
    node = results.show_results(volume, labels, volumes, {})
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


def test_table_and_provenance(results, volume, labels, volumes):
    node = results.show_results(volume, labels, volumes, {"variant": "gabor", "seconds": 1.5})
    rows = results.volume_rows(results.volumes_table(node))
    assert [row[0] for row in rows] == list(volumes)
    assert rows[1] == ("3rd ventricle", "2.00", f"{100 * 2 / 190:.2f}", "")
    assert (
        results.provenance(node)
        == results.provenance(results.volumes_table(node))
        == {"variant": "gabor", "seconds": "1.5"}
    )


def test_quality_stands_in_the_table(results, volume, labels, volumes):
    quality = {name: 1 / n for n, name in enumerate(volumes, start=1)}
    node = results.show_results(volume, labels, volumes, {}, quality=quality)
    assert [row[3] for row in results.volume_rows(results.volumes_table(node))][:3] == ["1.00", "0.50", "0.33"]


def test_nothing_segmented_gives_zeros(results, volume, labels, volumes):
    node = results.show_results(volume, 0 * labels, dict.fromkeys(volumes, 0.0), {})
    assert names(node) == list(volumes)
    assert {row[2] for row in results.volume_rows(results.volumes_table(node))} == {"0.00"}


def test_running_again_replaces_the_result_and_keeps_the_view(results, volume, labels, volumes):
    node = results.show_results(volume, labels, volumes, {})
    segmentation, display = node.GetSegmentation(), node.GetDisplayNode()
    mine = segmentation.AddEmptySegment("mine", "My lesion")
    hidden, table = segmentation.GetNthSegmentID(4), results.volumes_table(node)
    display.SetSegmentVisibility(hidden, False)
    display.SetSegmentOpacity3D(hidden, 0.7)
    display.SetVisibility3D(False)
    count = slicer.mrmlScene.GetNumberOfNodes()
    again = results.show_results(volume, labels[::-1], volumes, {}, node)
    assert again is node and results.volumes_table(node) is table
    assert slicer.mrmlScene.GetNumberOfNodes() == count
    assert names(node) == [*volumes, "My lesion"] and segmentation.GetSegment(mine)
    assert all((array(node, n, volume) == (labels[::-1] == n + 1)).all() for n in range(19))
    assert not display.GetSegmentVisibility(hidden) and display.GetSegmentOpacity3D(hidden) == pytest.approx(0.7)
    assert not display.GetVisibility3D()
    k, j, i = np.argwhere(labels[::-1] == 19).mean(axis=0)
    surface = segmentation.GetNthSegment(18).GetRepresentation(results.SURFACE)
    np.testing.assert_allclose(surface.GetCenter(), (LEFT_HANDED @ [i, j, k, 1])[:3], atol=0.6)


def test_surfaces_that_the_user_switched_off_stay_off(results, volume, labels, volumes):
    node = results.show_results(volume, labels, volumes, {})
    node.RemoveClosedSurfaceRepresentation()
    results.show_results(volume, labels, volumes, {}, node)
    assert not node.GetSegmentation().ContainsRepresentation(results.SURFACE)


def test_a_failure_leaves_no_nodes(results, volume, labels, volumes, monkeypatch):
    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr(results, "_fill_table", fail)
    count = slicer.mrmlScene.GetNumberOfNodes()
    with pytest.raises(MemoryError):
        results.show_results(volume, labels, volumes, {})
    assert slicer.mrmlScene.GetNumberOfNodes() == count


def test_structures_of_a_users_own_training_get_colours(results, volume, labels):
    node = results.show_results(volume, labels, {"Lesion": 1.0, "Hippocampus": 2.0}, {})
    assert names(node) == ["Lesion", "Hippocampus"]
    assert node.GetSegmentation().GetNthSegment(0).GetColor() != node.GetSegmentation().GetNthSegment(1).GetColor()
