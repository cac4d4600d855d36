"""slicer.app and what hangs on it: the scene with the real module logics, the module factory, the main window."""

import importlib.util
import os
import sys
import tempfile
import types
from pathlib import Path

import slicer
import slicer.util
import vtk
from PySide6 import QtCore, QtWidgets

from . import mrml_widgets, packaging, parameter_node, pythonqt, scripted_module, views

LOGICS = {
    "segmentations": "vtkSlicerSegmentationsModuleLogic",
    "volumes": "vtkSlicerVolumesLogic",
    "colors": "vtkSlicerColorLogic",
    "terminologies": "vtkSlicerTerminologiesModuleLogic",
    "tables": "vtkSlicerTablesLogic",
    "plots": "vtkSlicerPlotsLogic",
    "models": "vtkSlicerModelsLogic",
    "subjecthierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
}
VERSION = pythonqt.INVENTORY["versions"]["slicer"].split("-")[0]


class qSlicerApplication(QtWidgets.QApplication):
    startupCompleted = QtCore.Signal()

    def __init__(self):
        super().__init__(["Slicer"])
        self.setApplicationName("Slicer")
        self.setOrganizationName("GaborSegTestHost")
        self.setApplicationVersion(VERSION)
        self._folder = tempfile.TemporaryDirectory(prefix="slicer-host-")
        self.temporaryPath, self.slicerHome = self._subfolder("tmp"), self._subfolder("home")
        self._keep_settings_here()
        self.majorVersion, self.minorVersion = map(int, VERSION.split(".")[:2])
        self.revision = pythonqt.INVENTORY["versions"]["revision"]
        self._start_environment = QtCore.QProcessEnvironment.systemEnvironment()
        self._offer_python_slicer()

    def _subfolder(self, name):
        path = Path(self._folder.name, name)
        path.mkdir()
        return str(path)

    def _keep_settings_here(self):
        settings = QtCore.QSettings
        settings.setDefaultFormat(settings.Format.IniFormat)
        settings.setPath(settings.Format.IniFormat, settings.Scope.UserScope, self._subfolder("settings"))

    def _offer_python_slicer(self):
        """Slicer's interpreter is on its PATH: a launcher, whose end does not end the Python that it has started."""
        launcher = Path(self._subfolder("bin"), "PythonSlicer")
        launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
        launcher.chmod(0o755)
        os.environ["PATH"] = f"{launcher.parent}{os.pathsep}{os.environ.get('PATH', '')}"

    def _start_scene(self):
        self._scene = slicer.mrmlScene = slicer.vtkMRMLScene()
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._logic.SetMRMLScene(self._scene)
        self._layout_manager = views.qSlicerLayoutManager(self._logic)
        self._module_manager = qSlicerModuleManager()
        self._main_window = qSlicerMainWindow()

    def mrmlScene(self):
        return self._scene

    def applicationLogic(self):
        return self._logic

    def layoutManager(self):
        return self._layout_manager

    def moduleManager(self):
        return self._module_manager

    def moduleLogic(self, name):
        return getattr(slicer.modules, name.lower()).logic()

    def settings(self):
        return QtCore.QSettings()

    userSettings = revisionUserSettings = settings

    def testingEnabled(self):
        return False  # as for a user: messages are shown, and the tests answer them

    def startupEnvironment(self):
        return self._start_environment

    def pauseRender(self):
        return self.setRenderPaused(True)

    def resumeRender(self):
        return self.setRenderPaused(False)

    def setRenderPaused(self, paused):
        return paused


class qSlicerMainWindow(QtWidgets.QMainWindow):
    """Beside the module's panel there is nothing in it; it exists since Slicer shows messages only with one."""

    def __init__(self):
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self._selector = ModuleSelector(self)

    def moduleSelector(self):
        return self._selector


class ModuleSelector:
    """Entering a module leaves the one before."""

    selectedModule = ""

    def __init__(self, window):
        self._window = window

    def selectModule(self, name):
        manager = slicer.app.moduleManager()
        if self.selectedModule:
            manager.module(self.selectedModule).widgetRepresentation().exit()
        self.selectedModule = name
        panel = manager.module(name).widgetRepresentation()
        self._window.setCentralWidget(panel)
        panel.enter()


class qSlicerLoadableModule(QtCore.QObject):
    """A module of Slicer's own: its real logic."""

    def __init__(self, name, logic):
        super().__init__()
        self.setObjectName(name)
        self._logic = logic

    def logic(self):
        return self._logic


class qSlicerScriptedLoadableModule(QtCore.QObject):
    """A module in Python. What its class writes on `parent` is kept as plain attributes."""

    hidden, icon, index = False, None, -1

    def __init__(self, path):
        super().__init__()
        self.path = str(path)
        self.setObjectName(Path(path).stem)
        self.associatedNodeTypes, self._widget = [], None

    def widgetRepresentation(self):
        if self._widget is None:
            self._widget = qSlicerScriptedLoadableModuleWidget(self)
            self._widget.reload()
        return self._widget

    def mrmlScene(self):
        return slicer.mrmlScene


class qSlicerScriptedLoadableModuleWidget(QtWidgets.QWidget):
    def __init__(self, module):
        super().__init__()
        self._module, self._self = module, None
        QtWidgets.QVBoxLayout(self)

    def module(self):
        return self._module

    def reload(self):
        """Makes the Python widget anew from the file as it was read last."""
        name = self._module.name + "Widget"
        self._self = getattr(sys.modules[self._module.name], name)(self)
        setattr(slicer.modules, name, self._self)
        self._self.setup()

    def self(self):
        return self._self

    def enter(self):
        getattr(self._self, "enter", lambda: None)()

    def exit(self):
        getattr(self._self, "exit", lambda: None)()


class qSlicerModuleManager(QtCore.QObject):
    moduleAboutToBeUnloaded = QtCore.Signal(str)
    moduleLoaded = QtCore.Signal(str)

    def __init__(self):
        super().__init__()
        self._modules = {}

    def module(self, name):
        return self._modules.get(name) or next((m for n, m in self._modules.items() if n.lower() == name.lower()), None)

    def modulesNames(self):
        return tuple(self._modules)

    def factoryManager(self):
        return types.SimpleNamespace(loadedModuleNames=self.modulesNames)

    def _add(self, name, module):
        self._modules[name] = module
        setattr(slicer.modules, name.lower(), module)
        self.moduleLoaded.emit(name)

    def _unload(self, name):
        self.moduleAboutToBeUnloaded.emit(name)
        self._modules.pop(name).widgetRepresentation().deleteLater()


def start():
    known = set(pythonqt.INVENTORY["modules"]["slicer"])
    for name in [n for n in vars(slicer) if not n.startswith("_") and n not in known]:
        delattr(slicer, name)  # slicer-core puts all of slicer.util into slicer, too
    for name, module in zip(("ScriptedLoadableModule", "i18n"), scripted_module.make_modules()):
        _offer(name, module)
    _offer("parameterNodeWrapper", parameter_node.make_module())
    _offer("packaging", packaging.make_module())
    mrml_widgets.register()
    for item in (
        qSlicerScriptedLoadableModule,
        qSlicerScriptedLoadableModuleWidget,
        qSlicerLoadableModule,
        qSlicerModuleManager,
        qSlicerMainWindow,
        views.qMRMLThreeDView,
        views.qMRMLThreeDWidget,
        views.qMRMLPlotView,
        views.qMRMLPlotWidget,
        views.qSlicerLayoutManager,
    ):
        setattr(slicer, item.__name__, item)
    slicer.modules, slicer.selfTests = types.SimpleNamespace(), {}
    slicer.app = qSlicerApplication()
    slicer.app._start_scene()
    _load_own_modules()
    return slicer.app


def _offer(name, module):
    sys.modules[f"slicer.{name}"] = module
    setattr(slicer, name, module)


def _load_own_modules():
    level = vtk.vtkLogger.GetCurrentVerbosityCutoff()
    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)  # slicer-core has no colour and terminology files
    for name, logic_class in LOGICS.items():
        logic = getattr(slicer, logic_class)()
        logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        logic.SetMRMLScene(slicer.mrmlScene)
        slicer.app.applicationLogic().SetModuleLogic(name.capitalize(), logic)
        slicer.app.moduleManager()._add(name.capitalize(), qSlicerLoadableModule(name.capitalize(), logic))
    vtk.vtkLogger.SetStderrVerbosity(level)


def load_module(path):
    """Loads a scripted module as the module factory does for a folder of "Additional module paths"."""
    path = Path(path)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    python_module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(python_module)
    module = qSlicerScriptedLoadableModule(path)
    setattr(slicer.modules, path.stem + "Instance", getattr(python_module, path.stem)(module))
    slicer.app.moduleManager()._add(path.stem, module)
    slicer.app.startupCompleted.emit()
    return module


def unload_module(name):
    """As when the application ends."""
    selector = slicer.util.mainWindow().moduleSelector()
    selector.selectedModule = "" if selector.selectedModule == name else selector.selectedModule
    slicer.app.moduleManager()._unload(name)
