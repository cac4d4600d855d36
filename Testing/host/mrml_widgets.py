"""The MRML widgets that a panel is made of: small real Qt widgets over real MRML nodes, under the same names."""

import slicer
from PySide6 import QtCore, QtGui, QtWidgets

from .pythonqt import QUiLoader

Property, Signal = QtCore.Property, QtCore.Signal


class _Observing:
    """Calls `self._refresh()` after each of the observed events, as long as the widget lives."""

    def _observe(self, node, *events):
        if not hasattr(self, "_observations"):
            self._observations = observations = []
            self.destroyed.connect(lambda *ignored: _stop(observations))
        _stop(self._observations)
        self._observations += [(node, node.AddObserver(event, self._on_event)) for event in events] if node else []

    def _on_event(self, caller, event):
        self._refresh()


def _stop(observations):
    while observations:
        node, tag = observations.pop()
        node.RemoveObserver(tag)


class qMRMLWidget(QtWidgets.QWidget):
    mrmlSceneChanged = Signal(object)
    _scene = None

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene):
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


class qMRMLNodeComboBox(_Observing, QtWidgets.QWidget):
    """Chooses a node of the scene. Without "None" the first suitable node is chosen by itself."""

    currentNodeChanged = Signal((object,), (bool,))
    currentNodeIDChanged = Signal(str)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._node, self._attributes = None, None, []
        self._options = {
            "nodeTypes": [],
            "hideChildNodeTypes": [],
            "baseName": "",
            "noneDisplay": "None",
            "noneEnabled": False,
            "addEnabled": True,
            "removeEnabled": True,
            "renameEnabled": False,
            "editEnabled": False,
            "showHidden": False,
            "showChildNodeTypes": True,
            "selectNodeUponCreation": True,
        }
        self._combo = QtWidgets.QComboBox()
        self._combo.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self._combo.activated.connect(self._chosen)

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene):
        self._scene = scene
        self._observe(
            scene,
            slicer.vtkMRMLScene.NodeAddedEvent,
            slicer.vtkMRMLScene.NodeRemovedEvent,
            slicer.vtkMRMLScene.EndBatchProcessEvent,
        )
        self._refresh()

    def _on_event(self, caller, event):
        if not caller.IsBatchProcessing():
            self._refresh()

    def currentNode(self):
        return self._node

    def setCurrentNode(self, node):
        node = node if node in self._nodes() else None
        if node is not self._node:
            self._node = node
            self._show()
            self.currentNodeChanged[object].emit(node)
            self.currentNodeChanged[bool].emit(node is not None)
            self.currentNodeIDChanged.emit(self._id())

    def setCurrentNodeID(self, node_id):
        self.setCurrentNode(self._scene.GetNodeByID(node_id) if self._scene and node_id else None)

    def _id(self):
        return self._node.GetID() if self._node else ""

    def nodeCount(self):
        return len(self._nodes())

    def nodeFromIndex(self, index):
        return self._nodes()[index]

    def addAttribute(self, node_type, name, value=None):
        self._attributes.append((node_type, name, value))
        self._refresh()

    def addNode(self, node_type=""):
        kind = node_type or self._options["nodeTypes"][0]
        base = self._options["baseName"] or kind.replace("vtkMRML", "").replace("Node", "")
        node = self._scene.AddNewNodeByClass(kind, self._scene.GenerateUniqueName(base))
        if self._options["selectNodeUponCreation"]:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self):
        self._scene.RemoveNode(self._node)

    def _nodes(self):
        if not self._scene:
            return []
        nodes = [self._scene.GetNthNode(i) for i in range(self._scene.GetNumberOfNodes())]
        return [node for node in nodes if self._suits(node)]

    def _suits(self, node):
        options, kind = self._options, node.GetClassName()
        if options["showChildNodeTypes"]:
            fits = any(node.IsA(t) for t in options["nodeTypes"]) and kind not in options["hideChildNodeTypes"]
        else:
            fits = kind in options["nodeTypes"]
        wanted = [(name, value) for node_type, name, value in self._attributes if node.IsA(node_type)]
        return (
            fits
            and (options["showHidden"] or not node.GetHideFromEditors())
            and all(node.GetAttribute(name) and value in (None, node.GetAttribute(name)) for name, value in wanted)
        )

    def _refresh(self):
        nodes = self._nodes()
        first = nodes[0] if nodes and not self._options["noneEnabled"] else None
        wanted = self._node if self._node in nodes else first
        if wanted is self._node:
            self._show()
        else:
            self.setCurrentNode(wanted)

    def _show(self):
        self._combo.clear()
        if self._options["noneEnabled"]:
            self._combo.addItem(self._options["noneDisplay"], lambda: self.setCurrentNode(None))
        for node in self._nodes():
            self._combo.addItem(node.GetName(), lambda node=node: self.setCurrentNode(node))
            if node is self._node:
                self._combo.setCurrentIndex(self._combo.count - 1)
        if self._node is None and not self._options["noneEnabled"]:
            self._combo.setCurrentIndex(-1)
        for kind in self._options["nodeTypes"] if self._options["addEnabled"] else ():
            label = kind.replace("vtkMRML", "").replace("Node", "")
            self._combo.addItem(f"Create new {label}", lambda kind=kind: self.addNode(kind))

    def _chosen(self, index):
        self._combo.itemData(index)()
        self._show()

    def _option(name, kind):
        def put(self, value):
            self._options[name] = list(value) if kind == "QStringList" else value
            self._refresh()

        return Property(kind, lambda self: self._options[name], put)

    nodeTypes, hideChildNodeTypes = _option("nodeTypes", "QStringList"), _option("hideChildNodeTypes", "QStringList")
    baseName, noneDisplay = _option("baseName", str), _option("noneDisplay", str)
    noneEnabled, addEnabled = _option("noneEnabled", bool), _option("addEnabled", bool)
    removeEnabled, renameEnabled = _option("removeEnabled", bool), _option("renameEnabled", bool)
    editEnabled, showHidden = _option("editEnabled", bool), _option("showHidden", bool)
    showChildNodeTypes = _option("showChildNodeTypes", bool)
    selectNodeUponCreation = _option("selectNodeUponCreation", bool)
    currentNodeID = Property(str, _id, setCurrentNodeID)


class qMRMLSegmentsTableView(_Observing, qMRMLWidget):
    """Name, colour, opacity and visibility of the segments of a segmentation."""

    selectionChanged = Signal(object, object)
    _node = None

    def __init__(self, parent=None):
        super().__init__(parent)
        self._table = QtWidgets.QTableWidget(0, 4)
        self._table.setHorizontalHeaderLabels(["", "", "Opacity", "Name"])
        self._table.setSelectionBehavior(QtWidgets.QAbstractItemView.SelectionBehavior.SelectRows)
        self._table.verticalHeader().hide()
        self._table.horizontalHeader().setStretchLastSection(True)
        for column, width in enumerate((28, 28, 60)):
            self._table.setColumnWidth(column, width)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._table)
        self._table.itemChanged.connect(self._edited)

    def segmentationNode(self):
        return self._node

    def setSegmentationNode(self, node):
        self._node = node
        self._observe(
            node,
            slicer.vtkSegmentation.SegmentAdded,
            slicer.vtkSegmentation.SegmentRemoved,
            slicer.vtkSegmentation.SegmentModified,
            slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent,
        )
        self._refresh()

    def tableWidget(self):
        return self._table

    def _ids(self):
        segmentation = self._node.GetSegmentation() if self._node else None
        return tuple(segmentation.GetSegmentIDs()) if segmentation else ()

    def displayedSegmentIDs(self):
        return self._ids()

    def selectedSegmentIDs(self):
        return tuple(self._ids()[row] for row in sorted({index.row() for index in self._table.selectedIndexes()}))

    def setSelectedSegmentIDs(self, ids):
        self._table.clearSelection()
        for row in [row for row, segment_id in enumerate(self._ids()) if segment_id in ids]:
            self._table.selectRow(row)

    def _refresh(self):
        self._table.blockSignals(True)
        ids = self._ids()
        display = self._node.GetDisplayNode() if self._node else None
        self._table.setRowCount(len(ids))
        for row, segment_id in enumerate(ids):
            segment = self._node.GetSegmentation().GetSegment(segment_id)
            visible = display is None or display.GetSegmentVisibility(segment_id)
            opacity = display.GetSegmentOpacity3D(segment_id) if display else 1
            for column, text in enumerate(("", "", f"{opacity:.2f}", segment.GetName())):
                self._table.setItem(row, column, QtWidgets.QTableWidgetItem(text))
            check = QtCore.Qt.CheckState
            self._table.item(row, 0).setCheckState(check.Checked if visible else check.Unchecked)
            self._table.item(row, 1).setBackground(QtGui.QColor.fromRgbF(*segment.GetColor()))
        self._table.blockSignals(False)

    def _edited(self, item):
        display = self._node.GetDisplayNode()
        if item.column() == 0 and display:
            shown = item.checkState() == QtCore.Qt.CheckState.Checked
            display.SetSegmentVisibility(self._ids()[item.row()], shown)

    def _column(number):
        return Property(
            bool,
            lambda self: not self._table.isColumnHidden(number),
            lambda self, on: self._table.setColumnHidden(number, not on),
        )

    visibilityColumnVisible, colorColumnVisible, opacityColumnVisible = _column(0), _column(1), _column(2)
    statusColumnVisible = Property(bool, lambda self: False, lambda self, on: None)
    headerVisible = Property(
        bool,
        lambda self: not self._table.horizontalHeader().isHidden(),
        lambda self, on: self._table.horizontalHeader().setVisible(on),
    )
    readOnly = Property(bool, lambda self: False, lambda self, on: None)
    filterBarVisible = Property(bool, lambda self: False, lambda self, on: None)
    selectionMode = Property(
        int,
        lambda self: int(self._table.selectionMode),
        lambda self, mode: self._table.setProperty("selectionMode", mode) and None,
    )
    segmentCount = Property(int, lambda self: len(self._ids()))


class qMRMLSegmentationShow3DButton(_Observing, QtWidgets.QPushButton):
    """Pressed: the segmentation has closed surfaces and they are visible in 3D."""

    _node = None

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.setText("Show 3D")
        self.setCheckable(True)
        self.setEnabled(False)
        self.clicked.connect(self._switch)

    def segmentationNode(self):
        return self._node

    def setSegmentationNode(self, node):
        self._node = node
        self._observe(
            node,
            slicer.vtkSegmentation.ContainedRepresentationNamesModified,
            slicer.vtkSegmentation.SegmentAdded,
            slicer.vtkSegmentation.SegmentRemoved,
            slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent,
        )
        self._refresh()

    def _switch(self, on):
        if on:
            self._node.CreateClosedSurfaceRepresentation()
            self._node.GetDisplayNode().SetVisibility3D(True)
        else:
            self._node.RemoveClosedSurfaceRepresentation()
        self._refresh()

    def _refresh(self):
        segmentation = self._node.GetSegmentation() if self._node else None
        self.setEnabled(bool(segmentation and segmentation.GetNumberOfSegments()))
        surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
        display = self._node.GetDisplayNode() if self._node else None
        self.setChecked(
            bool(
                segmentation and segmentation.ContainsRepresentation(surface) and display and display.GetVisibility3D()
            )
        )


WIDGETS = {name: item for name, item in list(globals().items()) if name.startswith("qMRML")}


def register():
    for name, widget in WIDGETS.items():
        setattr(slicer, name, widget)
    QUiLoader.custom_widgets.update(WIDGETS)
