"""GaborSeg in 3D Slicer: the module, its widget and its self-test. What they do stands in GaborSegPanel.

This file, `GaborSegPanel/__init__.py` and the library's `protocol.py` load in older Pythons, too, to say what is
needed.
"""

import sys

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

# Slicer reloads this file alone; the panel is to be read again with it.
for _name in [name for name in sys.modules if name.split(".")[0] == "GaborSegPanel"]:
    del sys.modules[_name]


def too_old():
    """Why the module cannot be used in this Slicer, in one line; "" if it can."""
    from GaborSegPanel import protocol

    if sys.version_info >= protocol.OLDEST_PYTHON:
        return ""
    return _(
        "GaborSeg needs 3D Slicer 5.10 or later; this is {slicer}, with Python {python}. Install a newer one."
    ).format(slicer=slicer.app.applicationVersion, python=sys.version.split()[0])


class GaborSeg(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        from GaborSegPanel import resource

        parent.title = "GaborSeg"
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations", "Terminologies"]
        parent.contributors = ["GaborSeg contributors"]
        parent.icon = qt.QIcon(str(resource("Icons/GaborSeg.png")))
        parent.helpText = _(
            "Segments nineteen structures of the brain in a T1-weighted MRI, with the very small networks of Gabor "
            "kernels of K. C. L. Wong and M. Moradi, <i>3D Segmentation with Fully Trainable Gabor Kernels and "
            "Pearson's Correlation Coefficient</i>, MLMI 2022. "
            "The licence of the weights stands below the chosen weight file. For research, not for diagnosis. "
            "For 3D Slicer 5.10 and later."
        )
        parent.acknowledgementText = _("An implementation of the paper by others than its authors.")


class GaborSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.panel = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        if too_old():
            label = qt.QLabel(too_old())
            label.wordWrap = True
            self.layout.addWidget(label)
            return
        from GaborSegPanel import resource
        from GaborSegPanel.panel import Panel

        widget = slicer.util.loadUI(str(resource("UI/GaborSeg.ui")))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = GaborSegLogic()
        self.panel = Panel(self.ui)
        for event, react in (
            (slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose),
            (slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose),
            (slicer.mrmlScene.StartImportEvent, self.onSceneStartImport),
            (slicer.mrmlScene.EndImportEvent, self.onSceneEndImport),
            (slicer.mrmlScene.NodeAboutToBeRemovedEvent, self.onNodeAboutToBeRemoved),
        ):
            self.addObserver(slicer.mrmlScene, event, react)
        self.panel.set_parameter_node(self.logic.getParameterNode())

    def enter(self):
        if self.panel is None:
            return
        self.panel.set_parameter_node(self.logic.getParameterNode())
        self.panel.enter()

    def cleanup(self):
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()

    def onSceneStartClose(self, caller, event):
        self.panel.cancel()
        self.panel.set_parameter_node(None)

    def onSceneEndClose(self, caller, event):
        self.panel.set_parameter_node(self.logic.getParameterNode())

    def onSceneStartImport(self, caller, event):
        # While nodes come one by one, selectors that do not find theirs yet must not write that down.
        self.panel.set_parameter_node(None)

    def onSceneEndImport(self, caller, event):
        self.panel.set_parameter_node(self.logic.getParameterNode())

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(self, caller, event, node):
        self.panel.node_removed(node)


class GaborSegLogic(ScriptedLoadableModuleLogic):
    """Holds the parameter node; see GaborSegPanel.parameters for what is in it."""


class GaborSegTest(ScriptedLoadableModuleTest):
    """Segments a small synthetic brain as a user would; see GaborSegPanel.selftest."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        if too_old():
            self.skipTest(too_old())
        from GaborSegPanel.selftest import SelfTest

        self.setUp()
        test = SelfTest(self, slicer.util.getModuleWidget("GaborSeg"))
        try:
            test.run()
        finally:
            test.close()
