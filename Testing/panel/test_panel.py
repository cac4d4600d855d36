"""The panel from the click to the segmentation, with the real library in real processes."""

import itertools
import os
import subprocess
import sys
import time
import unittest

import numpy as np
import pytest
import qt
import slicer


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="session")
def environment():
    """What this Python has, as the worker would tell it; it takes the worker two seconds before each run."""
    from GaborSegLib.environment import environment

    return environment()


@pytest.fixture
def user(module_widget, weights_folder, environment, monkeypatch):
    """The self-test's hands: chooses, clicks, waits. What a dialog would show is collected in `user.errors`."""
    from GaborSegPanel.selftest import SelfTest, synthetic_brain

    monkeypatch.setenv("GABORSEG_PYTHON", sys.executable)
    case = unittest.TestCase()
    case.maxDiff = None
    user = SelfTest(case, module_widget)
    user.scan, user.labels = synthetic_brain()
    user.weights = weights_folder / "mixed.safetensors"
    if not user.weights.exists():
        make_weights(user, weights_folder)
    user.panel.environment.stop_check()
    user.panel.choices.interpreter = sys.executable
    user.panel.environment.take(environment)
    yield user
    module_widget.panel.cancel()
    module_widget.panel.environment.stop_check()
    left = user.leftovers()
    user.close()
    assert left == []


def make_weights(user, folder):
    """The self-test's own weights, made in this process instead of one for each variant."""
    from GaborSegPanel import selftest

    np.savez(folder / "brain.npz", scan=user.scan, labels=user.labels, affine=selftest.AFFINE)
    for variant in ("gabor", "mixed"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["-c", str(selftest.beside_module("GaborSegLib").parent), str(folder), variant])
            patch.setattr(sys, "path", list(sys.path))
            exec(selftest.MAKE_WEIGHTS, {})


@pytest.fixture
def volume(user):
    return user.load_volume()


def node_count():
    return slicer.mrmlScene.GetNumberOfNodes()


def put_under_transform(node, matrix):
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.asarray(matrix, dtype=float)))
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


# Runs


@pytest.mark.processes
def test_under_a_linear_transform_the_result_lies_with_the_volume(user, volume):
    turn = np.array([[0.6, -0.8, 0, 10], [0.8, 0.6, 0, -20], [0, 0, 1.0, 30], [0, 0, 0, 1]])
    transform = put_under_transform(volume, turn)
    user.choose(volume)
    user.click_segment()
    user.wait_for_end()
    assert user.errors == []
    node = user.panel.choices.outputSegmentation
    assert node.GetParentTransformNode() is transform
    user.labels_are_right(node, volume)
    user.volumes_are_right(node)
    bounds, expected = np.zeros(6), np.zeros(6)
    node.GetRASBounds(bounds)
    volume.GetRASBounds(expected)
    np.testing.assert_allclose(bounds, expected, atol=8)


@pytest.mark.processes
def test_running_again_replaces_the_result(user, volume):
    user.choose(volume)
    user.click_segment()
    user.wait_for_end()
    node, count = user.panel.choices.outputSegmentation, node_count()
    first = node.GetSegmentation().GetNthSegmentID(0)
    node.GetDisplayNode().SetSegmentVisibility(first, False)
    user.choose(weights=user.weights.with_name("gabor.safetensors"))
    assert user.ui.variantBox.currentText == "Gabor"
    user.click_segment()
    user.wait_for_end()
    from GaborSegPanel import results

    assert user.errors == []
    assert user.panel.choices.outputSegmentation is node and node_count() == count
    assert results.provenance(node)["variant"] == "gabor"
    assert not node.GetDisplayNode().GetSegmentVisibility(first)
    user.labels_are_right(node, volume)


@pytest.mark.processes
def test_a_double_click_starts_one_run_and_slicer_stays_responsive(user, volume):
    """The longest time that the event loop is not served, surfaces included."""
    user.choose(volume)
    user.click_segment()
    run = user.panel.segment.run
    user.ui.segmentButton.click()
    assert user.panel.segment.run is run and run is not None
    longest, last = 0, time.monotonic()
    while user.panel.segment.run is not None:
        slicer.app.processEvents()
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
        time.sleep(0.01)
    assert user.errors == []
    assert longest < 1
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1


@pytest.mark.processes
def test_the_event_loop_is_served_between_any_two_steps_of_showing_a_result(user, volume, monkeypatch):
    """Counted: a timer of this test ticks once a turn; no two steps see the same number of ticks."""
    from GaborSegPanel import camera, results, run, surfaces

    steps, ticks = [], [0]
    timer = qt.QTimer()
    timer.setInterval(0)
    timer.connect("timeout()", lambda: ticks.append(ticks.pop() + 1))

    def counted(owner, name):
        real = getattr(owner, name)

        def step(*arguments, **options):
            steps.append((name, ticks[0]))
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, step)

    for owner, name in (
        (run, "read_labels"),
        (results, "show_results"),
        (run.Run, "_tell_result"),
        (surfaces.Surfaces, "_start"),
        (surfaces.Surfaces, "_read"),
        (results, "show_surfaces"),
    ):
        counted(owner, name)
    counted(camera, "fit_cameras")
    user.choose(volume)
    timer.start()
    user.click_segment()
    user.wait_for_end()
    timer.stop()
    assert user.errors == []
    names = [name for name, _ in steps]
    shown = ["read_labels", "show_results", "_tell_result"]
    assert names == [*shown, "_start", *["_read"] * 19, "show_surfaces", "fit_cameras"]
    turns = [turn for name, turn in steps if name != "fit_cameras"]  # a part of the step before
    assert all(later > earlier for earlier, later in itertools.pairwise(turns))


@pytest.mark.processes
def test_cancel_while_the_surfaces_are_made_leaves_the_coloured_result(user, volume):
    from GaborSegPanel import results

    user.choose(volume)
    user.click_segment()
    user.wait(lambda: user.panel.choices.outputSegmentation is not None, "the result")
    node = user.panel.choices.outputSegmentation
    assert node is user.panel.segment.run.result and user.ui.volumesTable.rowCount == 19
    user.ui.segmentButton.click()
    assert user.panel.segment.run is None and user.errors == []
    assert "Their surfaces were not made" in user.ui.statusLabel.text
    assert not node.GetSegmentation().ContainsRepresentation(results.SURFACE)
    user.labels_are_right(node, volume)
    user.click_segment()
    user.wait_for_end()
    assert node.GetSegmentation().ContainsRepresentation(results.SURFACE)
    assert user.ui.statusLabel.text.startswith("19 structures in")


@pytest.mark.processes
@pytest.mark.parametrize("removed", ["input", "output"])
def test_deleting_a_node_while_the_surfaces_are_made(user, volume, removed):
    user.choose(volume)
    user.click_segment()
    user.wait(lambda: user.panel.choices.outputSegmentation is not None, "the result")
    node = user.panel.choices.outputSegmentation
    slicer.mrmlScene.RemoveNode(volume if removed == "input" else node)
    user.wait_for_end()
    assert user.errors == []
    assert (removed == "input") == bool(slicer.mrmlScene.IsNodePresent(node))


@pytest.mark.processes
def test_where_the_time_went_stands_with_the_result_and_in_the_log(user, volume):
    from GaborSegPanel import results

    user.choose(volume)
    started = time.monotonic()
    user.click_segment()
    user.wait_for_end()
    whole = time.monotonic() - started
    text = results.provenance(user.panel.choices.outputSegmentation)["phases"]
    phases = dict(phase.removesuffix(" s").rpartition(" ")[::2] for phase in text.split(", "))
    assert list(phases) == [
        "writing the scan",
        "starting and ending Python",
        "importing torch",
        "opening the weights",
        "reading",
        "network",
        "writing",
        "reading the labels",
        "into the scene",
        "surfaces",
    ]
    assert 0.7 * whole < sum(map(float, phases.values())) < whole + 0.1
    assert text in user.ui.log.plainText


@pytest.mark.processes
def test_one_process_where_the_python_is_known(user, volume, monkeypatch):
    from GaborSegPanel import run

    commands, real = [], run.Worker

    def noted(interpreter, arguments, *others):
        commands.append(arguments[0])
        return real(interpreter, arguments, *others)

    monkeypatch.setattr(run, "Worker", noted)
    user.choose(volume)
    user.panel.environment.found = None
    for expected in (["environment", "segment"], ["segment"]):
        user.click_segment()
        user.wait_for_end()
        assert commands == expected
        commands.clear()


def test_showing_a_choice_does_not_make_slicers_table_anew(user, volume, monkeypatch):
    """Slicer fills it with rows again whenever it is told a node, and each takes a while."""
    user.choose(volume)
    user.panel.choices.outputSegmentation = shown(volume)
    calls = []
    monkeypatch.setattr(type(user.ui.segmentsTable), "setSegmentationNode", lambda self, node: calls.append(node))
    user.panel.choices.trainingRate = 0.123
    user.panel.show_choices()
    assert calls == []
    user.panel.choices.outputSegmentation = None
    assert calls == [None]


@pytest.mark.processes
def test_closing_the_scene_while_running(user, volume, module_widget):
    user.choose(volume)
    user.click_segment()
    user.wait_for_worker()
    process_id = user.panel.segment.run.worker.process_id
    slicer.mrmlScene.Clear(False)
    assert user.panel.segment.run is None and user.errors == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process_id, 0)
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []
    module_widget.enter()
    assert user.ui.segmentButton.text == "Segment"


@pytest.mark.processes
def test_deleting_the_input_while_running(user, volume):
    user.choose(volume)
    user.click_segment()
    user.wait_for_worker()
    slicer.mrmlScene.RemoveNode(volume)
    assert user.panel.segment.run is None and user.errors == []
    assert "Brain was deleted" in user.ui.statusLabel.text


@pytest.mark.processes
def test_deleting_the_output_while_running_makes_a_new_one(user, volume):
    output = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Old")
    user.choose(volume)
    user.ui.outputSelector.setCurrentNode(output)
    user.click_segment()
    user.wait_for_worker()
    slicer.mrmlScene.RemoveNode(output)
    user.wait_for_end()
    assert user.errors == []
    assert user.panel.choices.outputSegmentation.GetName() == "Brain segmentation"


@pytest.mark.processes
def test_leaving_slicer_while_running(user, volume, module_widget):
    user.choose(volume)
    user.click_segment()
    user.wait_for_worker()
    process_id = user.panel.segment.run.worker.process_id
    module_widget.panel.close()
    with pytest.raises(ProcessLookupError):
        os.killpg(process_id, 0)
    assert user.leftovers() == []


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)])


def fill(folder):
    file = os.open(folder / "filling", os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(file, b"\0" * 4096)
    except OSError:
        os.close(file)


def test_a_full_disk_is_found_before_the_start(user, volume, small_disk, monkeypatch):
    user.choose(volume)
    monkeypatch.setattr("GaborSegPanel.run.make_temporary_folder", lambda: _folder_on(small_disk))
    with open(small_disk / "filling", "wb") as file:
        file.write(b"\0" * (60 << 20))
    before = node_count()
    user.click_segment()
    user.wait_for_end()
    assert len(user.errors) == 1 and "the disk is full" in user.errors[0]
    assert node_count() == before and os.listdir(small_disk) == ["filling"]


@pytest.mark.processes
def test_a_disk_that_fills_up_meanwhile(user, volume, small_disk, monkeypatch):
    user.choose(volume)
    monkeypatch.setattr("GaborSegPanel.run.make_temporary_folder", lambda: _folder_on(small_disk))
    before = node_count()
    user.click_segment()
    user.wait_for_worker()
    fill(small_disk)
    user.wait_for_end()
    assert len(user.errors) == 1
    assert "room" in user.errors[0]
    assert node_count() == before and os.listdir(small_disk) == ["filling"]


def _folder_on(disk):
    folder = disk / "GaborSeg-run"
    folder.mkdir()
    return folder


# Choices


def test_the_first_volume_is_chosen_and_no_label_map(user, module_widget):
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    volume = user.load_volume("Scan")
    user.load_volume("Later")
    module_widget.enter()
    assert user.ui.inputSelector.currentNode() is volume
    assert user.ui.inputSelector.nodeCount() == 2
    assert user.panel.choices.inputVolume is volume
    assert user.ui.outputSelector.currentNode() is None


def test_a_weight_file_sets_the_variant_and_a_variant_the_bundled_file(user):
    ui, choices = user.ui, user.panel.choices
    assert (ui.variantBox.currentText, ui.weightsBox.currentText) == ("Mixed (recommended)", "Bundled")
    user.panel.segment.choose_weights(user.weights.with_name("gabor.safetensors"))
    assert (choices.variant, ui.variantBox.currentText) == ("gabor", "Gabor")
    assert ui.weightsBox.currentText.endswith("gabor.safetensors")
    assert "19 structures, licence: none, made by a test" in ui.cardLabel.text
    ui.variantBox.currentIndex = ui.variantBox.findData("conventional")
    assert (choices.variant, choices.weights, ui.weightsBox.currentText) == ("conventional", "", "Bundled")


def test_browsing_for_weights(user):
    from host import dialogs

    ui = user.ui
    dialogs.answers += ["", str(user.weights), str(user.folder / "none.safetensors")]
    browse = ui.weightsBox.findData("browse")
    ui.weightsBox.currentIndex = browse
    assert ui.weightsBox.currentText == "Bundled"
    ui.weightsBox.currentIndex = browse
    assert user.panel.choices.weights == str(user.weights)
    ui.weightsBox.currentIndex = ui.weightsBox.findData("browse")
    assert len(user.errors) == 1 and "cannot be read" in user.errors[0]
    assert user.panel.choices.weights == str(user.weights)
    assert ui.weightsBox.currentData == str(user.weights)


@pytest.mark.parametrize("content", [b"", b"\x10\0\0\0\0\0\0\0{}", b"PK\x03\x04" * 9, b"\xff" * 20])
def test_what_is_not_a_weight_file(user, content):
    file = user.folder / "bad.safetensors"
    file.write_bytes(content)
    user.panel.segment.choose_weights(file)
    assert len(user.errors) == 1 and "is not a weight file of GaborSeg" in user.errors[0]
    assert user.panel.choices.weights == ""


def test_missing_bundled_weights_are_named(user, volume, monkeypatch):
    monkeypatch.setattr("GaborSegPanel.parameters.bundled_weights", lambda variant: user.folder / "none")
    user.choose(volume)
    user.panel.segment.choose_weights("")
    user.click_segment()
    assert len(user.errors) == 1 and "no weights of this variant" in user.errors[0]


def test_another_input_gets_an_output_of_its_own(user, volume):
    user.choose(volume)
    output = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
    output.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    user.ui.outputSelector.setCurrentNode(output)
    assert user.panel.choices.outputSegmentation is output
    user.ui.inputSelector.setCurrentNode(user.load_volume("Other"))
    assert user.panel.choices.outputSegmentation is None


def test_choices_are_remembered_for_the_next_session(user, volume, module_widget):
    from GaborSegPanel import parameters

    user.choose(volume)
    parameters.remember(user.panel.choices)
    slicer.mrmlScene.Clear(True)
    module_widget.enter()
    assert user.panel.choices.weights == str(user.weights)
    assert user.panel.choices.device == "cpu"
    assert user.panel.choices.interpreter == sys.executable
    assert user.ui.weightsBox.findData(str(user.weights)) > 0


def test_closing_the_scene_brings_the_remembered_choices_back(user, volume):
    """Not the defaults of the class, which a wrapper that is still alive would write into the emptied node."""
    from GaborSegPanel import parameters

    user.choose(volume)
    parameters.remember(user.panel.choices)
    for _ in range(2):
        user.panel.choices.weights, user.panel.choices.trainingEpochs = "", 7
        slicer.mrmlScene.Clear(False)
        remembered = [getattr(user.panel.choices, name) for name in ("weights", "device", "interpreter")]
        assert remembered == [str(user.weights), "cpu", sys.executable]
        assert user.panel.choices.trainingEpochs == user.ui.epochsBox.value == 60


def test_device_choices_come_from_the_worker(user):
    gpu = {"id": "cuda:0", "name": "Fast GPU", "total_mib": 8192, "free_mib": 6144}
    cpu = {"id": "cpu", "name": "CPU", "total_mib": None, "free_mib": None}
    found = {"python": "3", "executable": "p", "versions": {"torch": "2"}, "missing": [], "devices": [cpu, gpu]}
    user.panel.environment.take(found)
    texts = [user.ui.deviceBox.itemText(i) for i in range(user.ui.deviceBox.count)]
    assert texts == ["Auto", "CPU", "Fast GPU, 6.0 GiB free"]
    user.ui.deviceBox.currentIndex = 2
    assert user.panel.choices.device == "cuda:0"


# The environment


@pytest.mark.processes
def test_checking_the_environment(user, wait_until):
    user.panel.choices.interpreter = sys.executable
    user.ui.checkButton.click()
    wait_until(lambda: "Everything" in user.ui.environmentLabel.text)
    assert f"torch {__import__('importlib.metadata').metadata.version('torch')}" in user.ui.environmentLabel.text
    assert user.ui.installButton.isHidden()


@pytest.fixture
def bare_python(user, tmp_path):
    """A Python that has none of the packages."""
    python = tmp_path / "PythonSlicer"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return python


def test_missing_packages_in_another_python_are_named_and_left_to_the_user(user, volume, bare_python):
    user.choose(volume)
    user.panel.choices.interpreter = str(bare_python)
    user.click_segment()
    user.wait_for_end()
    assert len(user.errors) == 1
    assert "lacks torch, numpy, nibabel, SimpleITK, safetensors" in user.errors[0]
    assert f'"{bare_python}" -m pip install "torch>=2.5"' in user.errors[0]


@pytest.mark.parametrize("agree", [True, False])
def test_installing_asks_first(user, volume, bare_python, monkeypatch, agree):
    from host import dialogs, packaging

    monkeypatch.setenv("PATH", str(bare_python.parent), prepend=os.pathsep)
    user.choose(volume)
    user.panel.choices.interpreter = ""
    dialogs.answers.append(qt.QMessageBox.Ok if agree else qt.QMessageBox.Cancel)
    user.click_segment()
    user.wait_for_end()
    assert len(dialogs.shown) == 1 and "torch, numpy, nibabel" in dialogs.shown[0]
    if agree:  # the host installs nothing, so that they are still missing
        assert [r.split(">")[0] for r in packaging.requested[0]] == [
            "torch",
            "numpy",
            "nibabel",
            "SimpleITK",
            "safetensors",
        ]
        assert len(user.errors) == 1 and "still missing after the installation" in user.errors[0]
    else:  # the question was a dialog; another one with the same words would tell nothing
        assert packaging.requested == [] and user.errors == []
        assert "are missing" in user.ui.statusLabel.text


def test_a_torch_that_is_too_old_counts_as_missing_and_is_replaced_only_if_the_user_agrees(user, volume):
    from host import dialogs, packaging

    cpu = {"id": "cpu", "name": "CPU", "total_mib": None, "free_mib": None}
    versions = {"torch": "1.13.1+cu117", "numpy": "2.1.0"}
    found = {"python": "3", "executable": "p", "versions": versions, "missing": ["torch"], "devices": [cpu]}
    user.panel.choices.interpreter = ""
    user.panel.environment.take(found)
    assert "torch 1.13.1+cu117, 2.5 or later is needed" in user.ui.environmentLabel.text
    assert "numpy 2.1.0\n" in user.ui.environmentLabel.text + "\n"
    dialogs.answers.append(qt.QMessageBox.Cancel)
    user.ui.installButton.click()
    user.panel.environment.stop_check()
    assert "torch 2.5 or later (it has 1.13.1+cu117, which other extensions may need)" in dialogs.shown[0]
    assert packaging.requested == [] and user.errors == []


def test_declining_to_install_for_a_training_says_so_in_the_panel(user, tmp_path, monkeypatch):
    from host import dialogs

    monkeypatch.setattr("GaborSegPanel.training.start", lambda *arguments: pytest.fail("started"))
    cpu = {"id": "cpu", "name": "CPU", "total_mib": None, "free_mib": None}
    found = {"python": "3", "executable": "p", "versions": {"torch": None}, "missing": ["torch"], "devices": [cpu]}
    user.panel.choices.interpreter = ""
    user.panel.choices.trainingData = str(tmp_path)
    user.panel.environment.stop_check()
    user.panel.environment.take(found)
    dialogs.answers.append(qt.QMessageBox.Cancel)
    user.ui.trainButton.click()
    assert len(dialogs.shown) == 1 and user.errors == []
    assert "are missing: torch" in user.ui.trainingLabel.text


def test_torch_comes_through_the_pytorch_extension(user, monkeypatch):
    import types

    from host import dialogs, packaging

    from GaborSegPanel import installation

    asked = []
    logic = types.SimpleNamespace(installTorch=lambda torchVersionRequirement: [asked.append(torchVersionRequirement)])
    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=lambda: logic))
    dialogs.answers.append(qt.QMessageBox.Ok)
    found = {"missing": ["torch", "nibabel"], "versions": {"torch": None, "nibabel": None}}
    installation.ask_and_install(found, "")
    assert asked == [">=2.5"]
    assert packaging.requested == [["nibabel>=5"]]


# Results


def test_volumes_are_copied_and_saved(user, volume, tmp_path, monkeypatch):
    from GaborSegPanel import results

    volumes = {name: 1.0 for name in results.structure_colours()}
    facts = dict.fromkeys(("weights", "variant", "weights_sha256", "gaborseg", "torch", "seconds", "device"), "x")
    user.choose(volume)
    labels = np.zeros(volume.GetImageData().GetDimensions()[::-1], np.uint8)
    user.panel.choices.outputSegmentation = results.show_results(
        volume, labels, volumes, facts, quality=dict.fromkeys(volumes, 0.9)
    )
    assert not user.ui.resultsButton.isHidden()
    user.ui.copyButton.click()
    lines = slicer.app.clipboard().text().split("\n")
    assert lines[:2] == ["Structure\tVolume (mL)\tPercent\tQuality", "Cerebral grey\t1.00\t5.26\t0.90"]
    assert len(lines) == 20
    from host import dialogs

    dialogs.answers.append(str(tmp_path / "volumes.csv"))
    user.ui.saveButton.click()
    assert (tmp_path / "volumes.csv").read_text().splitlines()[1] == "Cerebral grey,1.00,5.26,0.90"
    dialogs.answers.append(str(tmp_path / "none" / "volumes.csv"))
    user.ui.saveButton.click()
    assert len(user.errors) == 1 and "choose another folder" in user.errors[0]


def test_a_table_of_a_scene_runs_nothing_in_a_spreadsheet(user, volume, tmp_path):
    from host import dialogs

    from GaborSegPanel import results

    facts = dict.fromkeys(("weights", "variant", "weights_sha256", "gaborseg", "torch", "seconds", "device"), "x")
    user.choose(volume)
    labels = np.zeros(volume.GetImageData().GetDimensions()[::-1], np.uint8)
    names = {"=1+1": 1.0, "Core\t=1+1": 1.0}
    user.panel.choices.outputSegmentation = results.show_results(volume, labels, names, facts)
    user.ui.copyButton.click()
    assert slicer.app.clipboard().text().split("\n")[1:] == ["'=1+1\t1.00\t50.00\t", "Core\\t=1+1\t1.00\t50.00\t"]
    dialogs.answers.append(str(tmp_path / "volumes.csv"))
    user.ui.saveButton.click()
    rows = (tmp_path / "volumes.csv").read_text().splitlines()[1:]
    assert rows == ["'=1+1,1.00,50.00,", "Core\\t=1+1,1.00,50.00,"]


def test_a_scan_that_is_no_t1_is_said_in_red_with_its_result(user, volume):
    from GaborSegPanel import results
    from GaborSegPanel.run import Run

    user.choose(volume)
    warned = []
    run = Run(user.panel.choices, None, *[lambda *event: None] * 2, warned.append, *[lambda *event: None] * 3)
    run.folder = user.folder
    doubt = f"{user.folder / 'scan.nii'}: This does not look like a T1-weighted scan"
    run._event({"event": "warning", "message": "Memory is short"})
    run._event({"event": "warning", "kind": "not-t1", "message": doubt})
    assert warned == ["Memory is short", "Brain: This does not look like a T1-weighted scan"]
    node = shown(volume)
    results.note(node, {"doubt": run._doubt})
    user.panel.choices.outputSegmentation = node
    assert user.ui.doubtLabel.text == warned[1] and not user.ui.doubtLabel.isHidden()
    assert user.ui.doubtLabel.palette.color(qt.QPalette.WindowText).red() > 200
    results.note(node, {"doubt": ""})  # the next result in the same node
    user.panel.show_choices()
    assert user.ui.doubtLabel.isHidden()


def test_after_a_module_reload_the_panel_works(user, volume):
    slicer.util.reloadScriptedModule("GaborSeg")
    widget = slicer.modules.GaborSegWidget
    widget.enter()
    assert widget.panel is not user.panel
    assert widget.panel.choices.inputVolume is volume
    widget.panel.environment.stop_check()


def show_made_result(user, volume, facts=None, **measures):
    from GaborSegPanel import results

    names = ("weights", "variant", "weights_sha256", "gaborseg", "torch", "seconds", "device")
    labels = np.zeros(volume.GetImageData().GetDimensions()[::-1], np.uint8)
    volumes = {name: 700.0 / n for n, name in enumerate(results.structure_colours(), start=1)}
    facts = dict.fromkeys(names, "x") | (facts or {})
    user.panel.choices.outputSegmentation = results.show_results(volume, labels, volumes, facts, **measures)
    user.panel.show_choices()


SIDES = {
    "Hippocampus": {"left": 8.0, "right": 6.0, "asymmetry": 2 / 7},
    "Cerebral grey": {"left": 340.0, "right": 360.0, "asymmetry": -2 / 35},
    "Amygdala": {"left": 0.0, "right": 0.0, "asymmetry": None},
}


def headings(table):
    return [table.horizontalHeaderItem(column).text() for column in range(table.columnCount)]


def column_texts(table, column):
    return [table.item(row, column).text() for row in range(table.rowCount)]


def test_the_table_shows_the_columns_that_are_known_and_says_what_they_are(user, volume):
    table, ui = user.ui.volumesTable, user.ui
    show_made_result(user, volume)
    assert headings(table) == ["mL", "% of all"] and ui.icvLabel.isHidden()
    measures = {"sides": SIDES, "icv": {"ml": 1400.0, "percent": {"Hippocampus": 1.0}}, "quality": {"Hippocampus": 0.5}}
    show_made_result(user, volume, **measures)
    assert headings(table) == ["mL", "Left", "Right", "Asymmetry", "% of ICV", "% of all", "Quality"]
    row = [table.verticalHeaderItem(n).text() for n in range(19)].index("Hippocampus")
    cells = [table.item(row, column).text() for column in range(7)]
    assert cells[:5] == ["50.00", "8.00", "6.00", "0.286", "1.000"]
    assert all(table.item(1, column).text() == "" for column in range(1, 5))  # the 3rd ventricle
    tips = [table.horizontalHeaderItem(column).toolTip() for column in range(7)]
    assert "patient's left" in tips[1] and "2 (left - right) / (left + right)" in tips[3] and len(set(tips)) == 7
    assert ui.icvLabel.text == "Intracranial volume (ICV): 1400.0 mL" and not ui.icvLabel.isHidden()


def test_without_an_intracranial_volume_a_line_says_why(user, volume):
    icv = {"ml": None, "missing": "no skull", "percent": {}}
    show_made_result(user, volume, {"icv_missing": "no skull"}, sides=SIDES, icv=icv)
    assert user.ui.icvLabel.text == "No intracranial volume (ICV): no skull"
    assert "% of ICV" not in headings(user.ui.volumesTable)


def test_a_click_on_a_heading_sorts_by_number_and_empty_cells_come_last(user, volume):
    show_made_result(user, volume, sides=SIDES)
    table = user.ui.volumesTable
    names = [table.verticalHeaderItem(n).text() for n in range(19)]
    click = table.horizontalHeader().sectionClicked.emit
    for column, falling in ((1, ["340.00", "8.00", "0.00"]), (3, ["0.286", "-0.057"])):
        empty = [""] * (19 - len(falling))
        click(column)
        assert column_texts(table, column) == [*falling, *empty]
        assert headings(table)[column].endswith("\u2193")
        click(column)
        assert column_texts(table, column) == [*falling[::-1], *empty]
        assert headings(table)[column].endswith("\u2191")
    assert [table.verticalHeaderItem(n).text() for n in range(2)] == ["Cerebral grey", "Hippocampus"]
    click(3)
    assert [table.verticalHeaderItem(n).text() for n in range(19)] == names
    assert headings(table) == ["mL", "Left", "Right", "Asymmetry", "% of all"]


def test_halves_and_intracranial_volume_are_copied(user, volume):
    show_made_result(user, volume, sides=SIDES, icv={"ml": 1400.0, "percent": {"Hippocampus": 3.5714}})
    user.ui.copyButton.click()
    lines = [line.split("\t") for line in slicer.app.clipboard().text().split("\n")]
    assert lines[0][4:] == ["left", "right", "asymmetry", "icv_ml", "percent_of_icv"]
    rows = {row[0]: row[4:] for row in lines[1:]}
    assert rows["Hippocampus"] == ["8.0000", "6.0000", "0.2857", "1400.0000", "3.5714"]
    assert rows["Brainstem"] == ["", "", "", "1400.0000", ""]


def test_weights_without_halves_are_refused_where_halves_are_asked_for(user, volume, tmp_path):
    import json

    content = user.weights.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:length])
    card = json.loads(header["__metadata__"]["gaborseg"])
    card["structures"] = [f"Part {n}" for n in range(19)]
    header["__metadata__"]["gaborseg"] = json.dumps(card)
    text = json.dumps(header).encode()
    (tmp_path / "own.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content[length:])
    user.choose(volume, tmp_path / "own.safetensors")
    user.ui.sidesBox.click()
    user.click_segment()
    assert user.panel.segment.run is None
    assert len(user.errors) == 1 and "own.safetensors: does not say which structures" in user.errors[0]
    assert "take the tick from Left and right" in user.errors[0]


def test_left_and_right_is_off_at_first_and_in_scenes_of_before(user, volume):
    assert not user.ui.sidesBox.checked and not user.panel.choices.sides
    user.ui.sidesBox.click()
    node = user.panel.choices.parameterNode
    assert user.panel.choices.sides and node.HasParameter("sides")
    user.panel.set_parameter_node(None)
    node.UnsetParameter("sides")  # as in a scene of before
    user.panel.set_parameter_node(node)
    assert not user.ui.sidesBox.checked and not user.panel.choices.sides


def test_the_main_columns_are_seen_at_the_usual_width(user, volume):
    """A panel of Slicer is about 310 pixels wide, its tables 285: names, mL, left and right; the others by scrolling,
    and the names stay in sight."""
    show_made_result(user, volume, sides=SIDES, icv={"ml": 1400.0, "percent": {"Hippocampus": 3.5}})
    table, header = user.ui.volumesTable, user.ui.volumesTable.horizontalHeader()
    for width, seen in ((285, 3), (700, 6)):
        table.setFixedWidth(width)
        slicer.app.processEvents()
        widths = [table.columnWidth(column) for column in range(6)]
        assert all(size >= header.sectionSizeHint(column) for column, size in enumerate(widths))
        assert sum(widths[:seen]) <= table.viewport().width
        longest = max(qt.QFontMetrics(table.font).horizontalAdvance(name) for name in SIDES)
        assert table.verticalHeader().width > longest
    assert table.horizontalScrollBar().maximum == 0


# The 3D view


@pytest.fixture
def camera(application):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCameraNode")
    assert np.allclose(node.GetPosition(), (0, 500, 0))
    return node


def shown(volume, segmentation=None):
    """A result, as after a run."""
    from GaborSegPanel import results

    labels = np.zeros(volume.GetImageData().GetDimensions()[::-1], np.uint8)
    labels[3:20, 5:25, 2:28] = 1
    names = ("weights", "variant", "weights_sha256", "gaborseg", "torch", "seconds", "device")
    volumes = dict.fromkeys(results.structure_colours(), 1.0)
    return results.show_results(volume, labels, volumes, dict.fromkeys(names, "x"), segmentation)


def test_the_first_result_is_brought_into_the_middle_of_the_view(user, volume, camera):
    from GaborSegPanel.camera import fit_cameras

    node = shown(volume)
    node.CreateClosedSurfaceRepresentation()
    put_under_transform(node, [[0, -1, 0, 10], [1, 0, 0, -20], [0, 0, 1, 30], [0, 0, 0, 1]])
    fit_cameras(node)
    bounds = np.zeros(6)
    node.GetSegmentation().GetNthSegment(0).GetRepresentation("Closed surface").GetBounds(bounds)
    x, y, z = bounds.reshape(3, 2)
    bounds = np.ravel([10 - y[::-1], x - 20, z + 30])
    np.testing.assert_allclose(camera.GetFocalPoint(), (bounds[::2] + bounds[1::2]) / 2)
    corners = np.array(np.meshgrid(*bounds.reshape(3, 2))).reshape(3, -1).T
    forward = np.subtract(camera.GetFocalPoint(), camera.GetPosition())
    away = corners - camera.GetPosition()
    angles = np.degrees(np.arccos(away @ forward / np.linalg.norm(forward) / np.linalg.norm(away, axis=1)))
    assert 0.5 * camera.GetViewAngle() / 2 < angles.max() <= camera.GetViewAngle() / 2
    place = camera.GetPosition()
    fit_cameras(node)
    np.testing.assert_allclose(camera.GetPosition(), place)


@pytest.mark.parametrize("place", [(100, 300, 20), (0, 400, 0)])
def test_a_camera_that_was_used_is_never_moved(user, volume, camera, place):
    from GaborSegPanel.camera import fit_cameras

    camera.SetPosition(place)
    node = shown(volume)
    node.CreateClosedSurfaceRepresentation()
    fit_cameras(node)
    assert camera.GetPosition() == place


def test_what_else_is_shown_in_3d_is_noticed(user, volume):
    from GaborSegPanel.camera import shows_other_things

    node = shown(volume)
    assert shows_other_things(None) and not shows_other_things(node)
    model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode")
    model.CreateDefaultDisplayNodes()
    assert shows_other_things(node)
    model.GetDisplayNode().SetVisibility(False)
    assert not shows_other_things(node)
    plane = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode")  # as those of the slice views
    plane.CreateDefaultDisplayNodes()
    plane.SetHideFromEditors(True)
    assert not shows_other_things(node)
