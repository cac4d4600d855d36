"""The test host behaves as a real Slicer was seen to (PythonQt's manners), and what it shows are real MRML nodes."""

import enum
import pathlib
import shutil
from typing import Annotated

import ctk
import numpy as np
import pytest
import qt
import slicer
from host import dialogs
from slicer.parameterNodeWrapper import Choice, Default, WithinRange, parameterNodeWrapper


def add_segmentation():
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[2:6, 2:6, 2:6], labels[7:10, 2:10, 2:10] = 1, 2
    label_node = slicer.util.addVolumeFromArray(labels, name="labels", nodeClassName="vtkMRMLLabelMapVolumeNode")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "result")
    node.CreateDefaultDisplayNodes()
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(label_node, node)
    return node


def test_properties_are_attributes(scene):
    button = qt.QPushButton("Segment")
    button.enabled = False
    assert (button.text, button.enabled, button.isEnabled()) == ("Segment", False, False)
    with pytest.raises(TypeError):
        button.text()
    box = qt.QComboBox()
    box.addItems(["a", "b"])
    box.currentIndex = 1
    assert (box.currentText, box.count, box.findText("a")) == ("b", 2, 0)
    table = qt.QTableWidget(2, 3)
    assert (table.rowCount, table.columnCount, table.item(0, 0)) == (2, 3, None)
    with pytest.raises(AttributeError):
        qt.QCheckBox().checkStateChanged  # came with Qt 6.7


def test_signals_are_connected_by_signature(scene):
    button, got = qt.QPushButton(), []
    slot = lambda value="nothing": got.append(value)
    button.connect("clicked()", slot)
    button.connect("clicked(bool)", slot)
    button.click()
    assert got == ["nothing", False]
    button.disconnect("clicked()", slot)
    button.disconnect("clicked(bool)", slot)
    button.click()
    assert len(got) == 2
    with pytest.raises(AttributeError):
        button.connect("clickd()", slot)


def test_process(scene, wait_until):
    process, ended = qt.QProcess(), []
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: ended.append((code, status)))
    process.start(shutil.which("PythonSlicer"), ["-c", "print('hello'); raise SystemExit(3)"])
    wait_until(lambda: ended)
    assert ended == [(3, 0)] and process.exitCode() == 3 and process.exitStatus() == 0 == qt.QProcess.NormalExit
    assert isinstance(process.state(), int) and process.state() == 0 and process.processId() == 0
    assert process.readAllStandardOutput().data() == b"hello\n"


def test_settings_keep_types(scene):
    settings = qt.QSettings()
    settings.setValue("a", True)
    settings.setValue("b", 3)
    assert (settings.value("a"), settings.value("b"), settings.value("c")) == (True, 3, None)


def test_timer(scene, wait_until):
    fired = []
    qt.QTimer.singleShot(1, lambda: fired.append(1))
    wait_until(lambda: fired)


def test_messages_are_answered(scene):
    slicer.util.errorDisplay("It failed.")
    dialogs.answers += [qt.QMessageBox.Yes, qt.QMessageBox.Cancel, "/a/file"]
    assert slicer.util.confirmYesNoDisplay("Sure?") and not slicer.util.confirmOkCancelDisplay("Really?")
    assert qt.QFileDialog.getSaveFileName(None, "Save as") == "/a/file"
    assert dialogs.shown == ["It failed.", "Sure?", "Really?", "Save as"]
    with pytest.raises(AssertionError):
        slicer.util.confirmYesNoDisplay("Unforeseen?")


def test_node_combo_box_follows_the_scene(scene):
    box, changes = slicer.qMRMLNodeComboBox(), []
    box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    box.showChildNodeTypes = False
    box.connect("currentNodeChanged(vtkMRMLNode*)", changes.append)
    box.setMRMLScene(scene)
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    assert box.currentNode() is None
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert box.currentNode() is volume and box.currentNodeID == volume.GetID() and box.nodeCount() == 1
    box.noneEnabled = True
    scene.RemoveNode(volume)
    assert box.currentNode() is None and changes == [volume, None]


def test_segments_table_and_show_3d(scene):
    node = add_segmentation()
    table, button = slicer.qMRMLSegmentsTableView(), slicer.qMRMLSegmentationShow3DButton()
    table.setSegmentationNode(node)
    button.setSegmentationNode(node)
    assert table.segmentCount == 2 and not button.checked
    button.click()
    assert button.checked and node.GetClosedSurfaceInternalRepresentation(node.GetSegmentation().GetNthSegmentID(0))
    table.tableWidget().item(0, 0).setCheckState(qt.Qt.Unchecked)
    assert not node.GetDisplayNode().GetSegmentVisibility(node.GetSegmentation().GetNthSegmentID(0))


def test_3d_view_renders_segments(scene):
    widget = slicer.app.layoutManager().threeDWidget(0)
    view = widget.threeDView()
    view.mrmlViewNode().SetBoxVisible(False)
    view.forceRender()
    empty = widget.grab().toImage()
    node = add_segmentation()
    node.CreateClosedSurfaceRepresentation()
    view.resetFocalPoint()
    assert widget.grab().toImage() != empty and not empty.isNull()


def test_plot_view_draws_the_chart_that_is_shown(scene):
    chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode")
    series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", "line")
    table = scene.AddNewNodeByClass("vtkMRMLTableNode")
    slicer.util.updateTableFromArray(table, np.array([[0.0, 0], [1, 5], [2, 3]]), ["x", "y"])
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("x")
    series.SetYColumnName("y")
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    widget = slicer.app.layoutManager().plotWidget(0)
    empty = widget.grab().toImage()
    slicer.modules.plots.logic().ShowChartInLayout(chart)
    assert widget.mrmlPlotViewNode().GetPlotChartNodeID() == chart.GetID()
    assert widget.grab().toImage() != empty and not empty.isNull()


class Size(enum.Enum):
    SMALL = 1
    LARGE = 2


@parameterNodeWrapper
class Parameters:
    volume: slicer.vtkMRMLScalarVolumeNode
    variant: Annotated[str, Choice(["mixed", "gabor"]), Default("mixed")]
    epochs: Annotated[int, WithinRange(1, 99)] = 7
    rate: float = 0.5
    deep: bool = True
    weights: pathlib.Path
    size: Size = Size.LARGE
    folds: list[int]


def test_parameters_are_saved_with_the_scene(scene, tmp_path):
    node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "Mine")
    parameters = Parameters(node)
    assert (parameters.epochs, parameters.variant, parameters.size) == (7, "mixed", Size.LARGE)
    parameters.volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "T1")
    parameters.folds, parameters.weights, parameters.deep = [1, 2], pathlib.Path("a b"), False
    for name, value, error in (("epochs", 100, ValueError), ("epochs", "8", TypeError), ("variant", "x", ValueError)):
        with pytest.raises(error):
            setattr(parameters, name, value)
    scene.SetURL(str(tmp_path / "s.mrml"))
    scene.Commit()
    scene.Clear(False)
    scene.Connect()
    again = Parameters(slicer.util.getNode("Mine"))
    assert (again.volume.GetName(), again.folds, again.weights) == ("T1", [1, 2], pathlib.Path("a b"))
    assert (again.deep, again.size, again.epochs) == (False, Size.LARGE, 7)


UI = """<ui version="4.0"><class>Panel</class><widget class="qMRMLWidget" name="Panel"><layout class="QVBoxLayout">
<item><widget class="qMRMLNodeComboBox" name="input"><property name="nodeTypes"><stringlist>
 <string>vtkMRMLScalarVolumeNode</string></stringlist></property>
 <property name="SlicerParameterName" stdset="0"><string>volume</string></property></widget></item>
<item><widget class="ctkPathLineEdit" name="path"><property name="filters"><set>ctkPathLineEdit::Dirs</set></property>
 <property name="SlicerParameterName" stdset="0"><string>weights</string></property></widget></item>
<item><widget class="QSpinBox" name="epochs">
 <property name="SlicerParameterName" stdset="0"><string>epochs</string></property></widget></item>
<item><widget class="ctkCollapsibleButton" name="log"><property name="collapsed"><bool>true</bool></property>
 <layout class="QVBoxLayout"><item><widget class="QComboBox" name="variant">
 <property name="SlicerParameterName" stdset="0"><string>variant</string></property></widget></item></layout></widget>
</item></layout></widget><customwidgets/>
<connections><connection><sender>Panel</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
 <receiver>input</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


def test_designer_file_is_bound_to_parameters(scene, tmp_path):
    file = tmp_path / "Panel.ui"
    file.write_text(UI)
    widget = slicer.util.loadUI(str(file))
    ui = slicer.util.childWidgetVariables(widget)
    assert type(ui.log) is ctk.ctkCollapsibleButton and ui.path.filters == ctk.ctkPathLineEdit.Dirs
    widget.setMRMLScene(scene)
    parameters = Parameters(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    parameters.connectGui(ui)
    volume = ui.input.addNode()
    ui.epochs.value, ui.variant.currentText, ui.path.currentPath = 9, "gabor", "/x"
    ui.variant.setCurrentIndex(1)
    assert (parameters.volume, parameters.epochs, parameters.variant) == (volume, 9, "gabor")
    assert parameters.weights == pathlib.Path("/x")
    parameters.epochs, parameters.volume = 11, None
    assert ui.epochs.value == 11 and ui.input.currentNode() is None
    widget.show()
    assert not ui.variant.visible
    ui.log.click()
    assert ui.variant.visible


@parameterNodeWrapper
class Named:
    name: str = "of the class"


def test_a_bound_wrapper_outlives_its_binding_and_writes_its_defaults(scene):
    node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    parameters, edit = Named(node), qt.QLineEdit()
    tag = parameters.connectParametersToGui({"name": edit})
    parameters.name = "mine"
    assert edit.text == "mine"
    parameters.disconnectGui(tag)
    edit.text = "other"
    assert parameters.name == "mine"
    del parameters
    node.Reset(None)  # as when the scene is closed
    assert node.GetParameter("name") == "of the class"
    free = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    Named(free)  # was never bound, so that nothing keeps it
    free.Reset(None)
    assert free.GetParameterCount() == 0


def test_a_bound_line_edit_loses_its_cursor(scene):
    parameters, edit = Named(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")), qt.QLineEdit()
    parameters.connectParametersToGui({"name": edit})
    edit.cursorPosition = 2
    edit.insert("x")
    assert parameters.name == "ofx the class" and edit.cursorPosition == len("ofx the class")


def test_errors_in_slots_are_noticed(scene, failures):
    button = qt.QPushButton()
    button.connect("clicked()", lambda: 1 / 0)
    button.click()
    assert failures == ["ZeroDivisionError: division by zero"]
    failures.clear()
    tag = scene.AddObserver("ModifiedEvent", lambda caller, event: 1 / 0)
    scene.Modified()
    scene.RemoveObserver(tag)
    assert failures.pop().startswith("ZeroDivisionError")
