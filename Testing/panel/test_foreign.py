"""What others have made: a scene, the folder where Slicer was started, a data set. Nothing of it is run or lost."""

import os
import sys
from pathlib import Path

import pytest
import qt
import slicer

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = {
    "interpreter": "/of/the/scene/python",
    "trainingOptions": "--heads /of/the/scene\n",
    "trainingFolder": "/of/the/scene/run",
    "correctionsFolder": "/of/the/scene/corrections",
}


@pytest.fixture
def panel(module_widget, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    module_widget.panel.errors = []
    module_widget.panel.show_error = module_widget.panel.errors.append
    return module_widget.panel


def load_scene(panel, folder, values):
    """A scene of somebody else: saved with other choices, then opened here."""
    node = panel.choices.parameterNode
    for name, value in values.items():
        node.SetParameter(name, value)
    folder.mkdir()
    assert slicer.mrmlScene.SaveSceneToSlicerDataBundleDirectory(str(folder))
    slicer.mrmlScene.Clear(True)
    panel.ui.log.plainText = panel.ui.statusLabel.text = ""
    slicer.mrmlScene.SetURL(str(folder / "scene.mrml"))
    assert slicer.mrmlScene.Connect()


def test_what_a_scene_wants_started_or_written_is_ignored_and_said_once(panel, module_widget, tmp_path, monkeypatch):
    from GaborSegPanel import parameters, worker

    started = []
    monkeypatch.setattr(worker, "_start", lambda command, *rest: started.append(command) or pytest.fail("started"))
    panel.choices.correctionsFolder = str(tmp_path / "mine")
    own = parameters.own_choices()
    load_scene(panel, tmp_path / "scene", {**FOREIGN, "trainingLoss": "dice"})
    assert panel.choices.trainingLoss == "dice"  # the scene is the one that was saved
    assert {name: getattr(panel.choices, name) for name in FOREIGN} == own == parameters.own_choices()
    line = panel.ui.statusLabel.text
    assert line.startswith("Ignored") and "\n" not in line and all(repr(value) in line for value in FOREIGN.values())
    assert panel.ui.log.plainText == line
    assert not any(panel.choices.parameterNode.HasParameter(name) for name in FOREIGN)
    with pytest.raises(pytest.fail.Exception):
        module_widget.enter()  # asks its Python what that has
    assert Path(started[0][0]).name == "PythonSlicer"
    panel.set_parameter_node(None)
    panel.set_parameter_node(slicer.modules.GaborSegWidget.logic.getParameterNode())
    assert panel.ui.log.plainText.count("Ignored") == 1


def test_an_older_scene_with_choices_like_the_users_says_nothing(panel, tmp_path):
    from GaborSegPanel import recipes

    panel.choices.interpreter = sys.executable
    values = {"interpreter": sys.executable, "trainingOptions": recipes.suggestion(False, True)["trainingOptions"]}
    load_scene(panel, tmp_path / "scene", {**values, "trainingFolder": "", "correctionsFolder": ""})
    assert panel.ui.log.plainText == ""
    assert panel.choices.interpreter == sys.executable and panel.choices.trainingOptions is None


def test_every_choice_of_a_scene_is_known_here(panel):
    """One more must be looked at first: can it be started, or written over? Then it belongs to `Own`."""
    from GaborSegPanel.parameters import OWN, Choices, Own, Parameters

    assert {name for name, item in vars(Choices).items() if isinstance(item, Own)} == set(OWN) == set(FOREIGN)
    assert set(Parameters.allParameters) == {
        *("inputVolume", "outputSegmentation"),  # nodes of the same scene
        *("variant", "device", "trainingVariant", "trainingLoss", "trainingDevices"),  # words that are looked up
        *("trainingShare", "trainingRate", "trainingEpochs", "trainingCubes", "trainingProcesses"),  # numbers
        "sides",  # true or false
        "trainingValidation",  # names that are looked up in the data
        *("weights", "trainingInit"),  # files that are read: safetensors, never a pickle
        *("trainingData", "trainingTable"),  # files that are read: scans, label maps, tables
    }


def test_names_of_foreign_data_are_shown_as_they_are(panel):
    """Not as rich text, which could bring pictures from anywhere."""
    labels = [name for name, widget in vars(panel.ui).items() if isinstance(widget, qt.QLabel) and widget.wordWrap]
    assert len(labels) == 10
    assert [name for name in labels if getattr(panel.ui, name).textFormat != qt.Qt.PlainText] == []


# The folder where Slicer was started


@pytest.mark.parametrize("path", ["", os.pathsep, "{}", os.pathsep + "{}"], ids=["none", "empty", "other", "both"])
def test_nothing_in_slicers_folder_is_imported_by_a_worker(module_widget, tmp_path, monkeypatch, wait_until, path):
    from GaborSegPanel import worker

    (tmp_path / "planted.py").write_text("")
    (tmp_path / "packages").mkdir()
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "__main__.py").write_text(
        "import importlib.util, json, os, sys\n"
        "print(json.dumps({'event': 'result', 'found': bool(importlib.util.find_spec('planted')),"
        " 'folder': os.getcwd(), 'path': sys.path}))"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", path.format("packages"))
    (tmp_path / "own").mkdir()
    ends = []
    started = worker.Worker("", [], tmp_path / "own", print, print, lambda *end: ends.append(end), tmp_path / "program")
    wait_until(lambda: ends, 20)
    started.stop()
    result, message = ends[0]
    assert message is None and result["found"] is False
    assert result["folder"] == str(tmp_path / "own")
    assert (str(tmp_path / "packages") in result["path"]) == ("{}" in path)  # means what it meant


def test_slicers_python_is_not_looked_for_in_slicers_folder(module_widget, tmp_path, monkeypatch):
    from GaborSegPanel import PanelError, worker

    (tmp_path / "here").mkdir()
    for folder in (tmp_path, tmp_path / "here"):
        (folder / "PythonSlicer").write_text("#!/bin/sh\n")
        (folder / "PythonSlicer").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join(["", ".", "here"]))
    with pytest.raises(PanelError, match="PythonSlicer was not found"):
        worker.python_executable("")
    monkeypatch.setenv("PATH", os.pathsep.join(["", str(tmp_path / "here")]))
    assert worker.python_executable("") == str(tmp_path / "here" / "PythonSlicer")


def test_relative_paths_mean_slicers_folder(panel, tmp_path, monkeypatch):
    from GaborSegPanel import arguments, parameters, worker

    monkeypatch.chdir(tmp_path)
    choices = panel.choices
    parameters.put(choices, trainingData="data", trainingTable="own.csv", weights="x.safetensors")
    assert arguments.data_arguments(choices)[:3] == [str(tmp_path / "data"), "--table", str(tmp_path / "own.csv")]
    assert parameters.weights_file(choices) == str(tmp_path / "x.safetensors")
    choices.trainingTable = "freesurfer"  # comes with the program
    choices.trainingData = "--output"  # a folder may be named so, and is no option
    assert arguments.data_arguments(choices)[:3] == [str(tmp_path / "--output"), "--table", "freesurfer"]
    choices.trainingTable = "sides"
    assert arguments.data_arguments(choices)[1:3] == ["--table", "sides"]
    assert panel.ui.tableBox.currentText == "GaborSeg, left and right"
    (tmp_path / "python").touch()
    assert worker.python_executable("python") == str(tmp_path / "python")


@pytest.mark.parametrize("folder", [ROOT / "GaborSegLib", ROOT / "GaborSeg" / "GaborSegPanel"], ids=lambda f: f.name)
def test_a_program_that_is_started_by_its_path_hides_no_standard_module(folder):
    """Python puts its folder on its path first, until the program itself takes it away."""
    assert {file.stem for file in folder.iterdir()} & sys.stdlib_module_names == {"__init__"} & sys.stdlib_module_names


# Outputs that are inputs


@pytest.fixture
def starts(monkeypatch):
    """Where runs were started."""
    from GaborSegPanel import training

    found = []
    monkeypatch.setattr(training, "start", lambda folder, *rest: found.append(folder) or training.TrainingRun(folder))
    return found


@pytest.fixture
def ready(panel, tmp_path):
    """A panel where all is chosen for a run from a CSV."""
    cpu = {"id": "cpu", "name": "CPU", "total_mib": None, "free_mib": None}
    panel.environment.take({"python": "3", "executable": "p", "versions": {}, "missing": [], "devices": [cpu]})
    (tmp_path / "data.csv").write_text("image,labels\n")
    panel.choices.trainingData = str(tmp_path / "data.csv")
    return panel


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("name", ["metrics.csv", "log.txt"])
def test_a_run_that_would_write_over_its_data_is_refused(ready, starts, tmp_path, link, name):
    folder = tmp_path / "run"
    folder.mkdir()
    link(tmp_path / "data.csv", folder / name)
    ready.choices.trainingFolder = str(folder)
    ready.ui.trainButton.click()
    assert starts == [] and (tmp_path / "data.csv").read_text() == "image,labels\n"
    assert ready.errors == [f"{folder / name}: is the training data; choose another output."]


def test_a_run_in_the_folder_of_its_data_is_refused(ready, starts, tmp_path):
    (tmp_path / "data").mkdir()
    ready.choices.trainingData = str(tmp_path / "data")
    ready.choices.trainingFolder = str(tmp_path / "x" / ".." / "data")
    (tmp_path / "x").mkdir()
    ready.ui.trainButton.click()
    assert starts == [] and len(ready.errors) == 1 and "is the training data" in ready.errors[0]


def test_weights_of_an_old_run_are_never_written_over(ready, starts, tmp_path):
    """Whoever keeps only the best weights of a run, perhaps to start from them, keeps them."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.safetensors").write_bytes((ROOT / "Resources/Weights/mixed.safetensors").read_bytes())
    ready.choices.trainingFolder = str(tmp_path / "run")
    ready.recipe.choose_init(tmp_path / "run" / "best.safetensors")
    ready.ui.trainButton.click()
    assert ready.errors == [] and starts == [tmp_path / "data mixed 1"]


@pytest.mark.parametrize("what", ["weights", "trainingInit", "trainingData", "trainingTable"])
def test_a_file_that_is_read_is_not_written(panel, tmp_path, what):
    from GaborSegPanel import PanelError, parameters

    (tmp_path / "file").touch()
    (tmp_path / "other").touch()
    (tmp_path / "link").symlink_to("file")
    setattr(panel.choices, what, str(tmp_path / "x" / ".." / "file"))
    (tmp_path / "x").mkdir()
    parameters.refuse_input(panel.choices, tmp_path / "other")
    parameters.refuse_input(panel.choices, tmp_path / "new")
    for name in ("file", "link"):
        with pytest.raises(PanelError, match=f"{name}: is the .*; choose another output"):
            parameters.refuse_input(panel.choices, tmp_path / name)


def test_the_scans_own_file_is_not_written(panel, tmp_path):
    from GaborSegPanel import PanelError, parameters

    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(tmp_path / "scan.nii"))
    volume.SetAndObserveStorageNodeID(storage.GetID())
    (tmp_path / "scan.nii").touch()
    panel.choices.inputVolume = volume
    with pytest.raises(PanelError, match="scan.nii: is the scan"):
        parameters.refuse_input(panel.choices, tmp_path / "scan.nii")


def test_corrections_do_not_go_into_somebodys_data_set(panel, tmp_path):
    """Its table of subjects would be written anew, from the scans that a folder of corrections can have."""
    from GaborSegPanel import PanelError, corrections

    table = tmp_path / "subjects.csv"
    table.write_text("scan,subject,age\na,A,33\n")
    volume = slicer.util.addVolumeFromArray(__import__("numpy").ones((3, 4, 5), "float32"))
    with pytest.raises(PanelError, match="was not made of corrections, and its subjects.csv would be written over"):
        corrections.take_correction(volume, None, tmp_path)
    assert table.read_text() == "scan,subject,age\na,A,33\n"
