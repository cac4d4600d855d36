"""Training from the Advanced tab, with the real library in real processes on small made volumes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import qt
import SimpleITK as sitk
import slicer
from made_data import make_data_set

TINY = "--grid-size 16 --base-channels 4 --gabor-kernel-size 3 --augmentation none --dropout 0"


@pytest.fixture
def data_set(tmp_path):
    return make_data_set(tmp_path / "made data")


@pytest.fixture
def user(module_widget, tmp_path, monkeypatch, wait_until):
    """A person at the Advanced tab; what a dialog would show is collected in `user.errors`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    user = User(module_widget, wait_until)
    yield user
    run = user.training.run
    if run is not None:
        end(run)
    user.panel.environment.stop_check()


class User:
    def __init__(self, widget, wait_until):
        self.widget, self.panel, self.training, self.ui = widget, widget.panel, widget.panel.training, widget.ui
        self.wait_until = wait_until
        self.errors = []
        self.panel.show_error = self.errors.append
        self.panel.choices.interpreter = sys.executable
        self.panel.environment.stop_check()
        have_gpus(self, 0)  # as a check would find; it takes seconds

    @property
    def choices(self):
        return self.panel.choices

    @property
    def run(self):
        return self.training.run

    def choose(self, data, epochs=2, options=TINY, processes=1):
        self.panel.data.choose_data(data)
        self.ui.epochsBox.value = epochs
        self.ui.cubesBox.currentIndex = self.ui.cubesBox.findData(0)
        self.ui.optionsEdit.text = options
        self.ui.optionsEdit.editingFinished.emit()
        self.ui.processesBox.value = processes

    def start(self):
        self.ui.trainButton.click()

    def wait_for_epoch(self, count, timeout=120):
        self.wait_until(lambda: len(self.run.rows) >= count or self.run.state != "running", timeout)
        assert len(self.run.rows) >= count, self.ui.trainingLabel.text

    def wait_for_end(self, timeout=120):
        self.wait_until(lambda: self.run.state != "running", timeout)


def end(run):
    run.update()
    if run.owner:
        os.killpg(os.getpgid(run.owner["pid"]), signal.SIGKILL)


@pytest.mark.processes
def test_two_processes_chart_stop_resume_end_and_segment(user, data_set):
    user.panel.environment.found = None  # so that Start asks for it
    user.choose(data_set, epochs=10, processes=2)
    user.start()
    user.wait_until(lambda: user.run is not None)
    assert user.errors == []
    assert user.ui.stopButton.enabled and not user.ui.trainingChoices.enabled
    user.wait_for_epoch(2)
    chart = user.choices.parameterNode.GetNodeReference("GaborSeg.trainingChart")
    series = chart.GetNthPlotSeriesNode(0)
    losses = slicer.util.arrayFromTableColumn(series.GetTableNode(), series.GetYColumnName())
    np.testing.assert_allclose(losses, [row["loss"] for row in user.run.rows][: len(losses)])
    assert slicer.app.applicationLogic().GetSelectionNode().GetActivePlotChartID() == chart.GetID()
    assert [user.ui.diceTable.item(row, 0).text() for row in range(4)] == ["Mean", "Shell", "Core", "Ball"]
    user.ui.stopButton.click()
    user.wait_for_end()
    assert user.errors == [] and "Stopped in epoch" in user.ui.trainingLabel.text
    assert not (user.run.folder / "stop").exists()
    done = len(user.run.rows)
    assert 2 <= done < 10 and not user.ui.resumeButton.isHidden()
    user.ui.resumeButton.click()
    user.wait_for_end(300)
    assert user.errors == [] and "Finished after 10 epochs" in user.ui.trainingLabel.text
    best = user.run.weights
    assert user.ui.weightsBox.findText("made data mixed 1 (trained here)") > 0
    user.panel.segment.choose_weights(best)
    assert "3 structures, validation Dice" in user.ui.cardLabel.text
    image = sitk.ReadImage(str(data_set / "images" / "s0.nii.gz"))
    volume = slicer.util.addVolumeFromArray(sitk.GetArrayFromImage(image), ijkToRAS=np.diag([-2, -2, 2, 1.0]))
    user.ui.inputSelector.setCurrentNode(volume)
    user.ui.segmentButton.click()
    user.wait_until(lambda: user.panel.segment.run is None, 120)
    assert user.errors == []
    node = user.choices.outputSegmentation
    names = [node.GetSegmentation().GetNthSegment(i).GetName() for i in range(3)]
    assert names == ["Shell", "Core", "Ball"]


# Runs in their folders, without a training


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "Old run"
    path.mkdir()
    return path


@pytest.fixture
def process():
    """A process that looks like a training and does nothing."""
    command = [sys.executable, "-S", "-c", "import time; time.sleep(300)", "-m", "GaborSegLib"]
    started = subprocess.Popen(command)
    yield started
    started.kill()
    started.wait()


def write_rows(folder, count, epochs=10):
    lines = [
        "epoch,epochs,loss,learning_rate,seconds,images_per_second,memory_mib,seconds_left,dice_mean,best_dice,"
        "best_epoch,Shell,Ball"
    ]
    for n in range(1, count + 1):
        scores = f"{n / 20},{n / 20},{n},{n / 10}," if n % 2 == 0 else ",,,,"
        lines.append(f"{n},{epochs},{1 / n},0.001,60,1,100,{60 * (epochs - n)},{scores}")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def record(folder, pid, host=None):
    arguments = ["DATA", "--epochs", "10"]
    (folder / "panel.json").write_text(
        json.dumps(
            {
                "pid": pid,
                "host": host or socket.gethostname(),
                "started": "today",
                "command": "gaborseg train",
                "arguments": arguments,
            }
        )
    )


def tell(folder, **event):
    with open(folder / "events.jsonl", "a") as file:
        file.write(json.dumps(event) + "\n")


def lock(folder, pid, host=None, **more):
    owner = {"pid": pid, "host": host or socket.gethostname(), "started": "today", "command": "gaborseg train", **more}
    (folder / "run.lock").write_text(json.dumps(owner))


def test_a_run_is_found_again_after_slicer_was_closed_and_shown_live(user, folder, process, wait_until):
    from host.application import load_module, unload_module

    record(folder, process.pid)
    write_rows(folder, 4)
    tell(folder, event="progress", stage="Epoch 5 of 10", done=1, total=4)
    user.panel.choices.trainingFolder = str(folder)
    assert "Epoch 5 of 10, step 1 of 4. About 6 min left." in user.ui.trainingLabel.text
    from GaborSegPanel import parameters

    parameters.remember(user.choices)
    unload_module("GaborSeg")  # as when the application ends
    assert process.poll() is None
    slicer.mrmlScene.Clear(True)
    load_module(Path(__file__).parents[2] / "GaborSeg" / "GaborSeg.py")
    slicer.util.selectModule("GaborSeg")
    user.panel.environment.stop_check()
    widget = slicer.modules.GaborSegWidget
    panel, ui = widget.panel, widget.ui
    panel.show_error = user.errors.append
    panel.environment.stop_check()
    assert ui.trainingLabel.text.startswith("Old run: Epoch 5 of 10, step 1 of 4.")
    assert ui.trainingBar.value == round(1000 * 4.25 / 10)
    ui.chartButton.click()
    write_rows(folder, 6)
    tell(folder, event="epoch", epoch=6)
    tell(folder, event="warning", message="memory is short")
    wait_until(lambda: len(panel.training.run.rows) == 6, 5)
    chart = panel.choices.parameterNode.GetNodeReference("GaborSeg.trainingChart")
    dice = chart.GetNthPlotSeriesNode(1)
    np.testing.assert_allclose(slicer.util.arrayFromTableColumn(dice.GetTableNode(), "dice"), [0.1, 0.2, 0.3])
    np.testing.assert_allclose(slicer.util.arrayFromTableColumn(dice.GetTableNode(), "epoch"), [2, 4, 6])
    assert [ui.diceTable.item(1, column).text() for column in range(3)] == ["Shell", "0.600", "0.600"]
    assert "Warnings: 1, see the log" in ui.trainingLabel.text and ui.trainingNotes.isHidden()
    assert ui.log.plainText.count("Old run: memory is short") == 1
    (folder / "last.safetensors").touch()
    process.kill()
    process.wait()
    wait_until(lambda: panel.training.run.state == "killed", 5)
    assert "ended without saying why" in ui.trainingLabel.text and "Resume goes on" in ui.trainingLabel.text
    assert not ui.resumeButton.isHidden() and ui.trainButton.enabled and not ui.stopButton.enabled
    assert len(user.errors) == 1
    panel.training.close()


def test_the_chart_has_lines_only(user, folder):
    """The plot view complains, at every change, of a series with fewer than two points."""
    record(folder, dead_pid())
    write_rows(folder, 1)
    user.choices.trainingFolder = str(folder)
    shown = []
    for count in (1, 2, 3, 4, 1, 5):
        write_rows(folder, count)
        user.run.update()
        user.panel.course.draw()
        chart = user.choices.parameterNode.GetNodeReference("GaborSeg.trainingChart")
        series = [chart.GetNthPlotSeriesNode(i) for i in range(chart.GetNumberOfPlotSeriesNodes())]
        assert all(one.GetTableNode().GetTable().GetNumberOfRows() > 1 for one in series)
        shown.append([one.GetYColumnName() for one in series])
    assert shown == [[], ["loss"], ["loss"], ["loss", "dice"], [], ["loss", "dice"]]


def test_a_chart_of_an_older_scene_goes_on(user, folder):
    """There both series were always shown, and the chart knew them by no name."""
    from GaborSegPanel import chart

    owner = user.choices.parameterNode
    write_rows(folder, 4)
    user.choices.trainingFolder = str(folder)
    made = chart.update_chart(owner, user.run.rows, "Old")
    for name in ("loss", "dice"):
        made.RemoveNodeReferenceIDs(f"GaborSeg.{name}.series")
    again = chart.update_chart(owner, user.run.rows[:3], "Old")
    assert again is made
    assert [again.GetNthPlotSeriesNode(i).GetYColumnName() for i in range(again.GetNumberOfPlotSeriesNodes())] == [
        "loss"
    ]


def test_a_run_killed_before_it_had_saved_anything(user, folder):
    record(folder, dead_pid())
    (folder / "log.txt").write_text("Killed by the cat\n")
    (folder / "events.jsonl").write_text("")
    user.choices.trainingFolder = str(folder)
    assert user.run.state == "killed" and user.ui.resumeButton.isHidden()
    assert "Killed by the cat" in user.ui.trainingNotes.plainText
    assert "Nothing was saved yet; start it again." in user.ui.trainingNotes.plainText


def dead_pid():
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def test_the_number_of_a_dead_run_that_another_program_has_now(user, folder):
    record(folder, os.getpid())  # pytest is no training
    write_rows(folder, 3)
    user.choices.trainingFolder = str(folder)
    assert user.run.state == "killed"


def test_a_run_is_known_from_the_moment_it_was_started():
    """Else it would look like one that was ended from outside: right after its start, it has no command line yet."""
    from GaborSegPanel import training

    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "GaborSegLib"])
        try:
            training._wait_until_known(process.pid)
            assert training._is_ours(process.pid)
        finally:
            process.kill()
            process.wait()


def test_an_error_is_shown_with_all_its_lines(user, folder):
    record(folder, dead_pid())
    tell(folder, event="error", code="data", message="2 problems in the data set\n  a: is empty\n  b: is missing")
    user.choices.trainingFolder = str(folder)
    assert user.run.state == "failed"
    assert user.ui.trainingLabel.text == "Old run: 2 problems in the data set."
    assert user.ui.trainingNotes.plainText.splitlines()[1:] == ["  a: is empty", "  b: is missing"]


@pytest.mark.parametrize(
    "name, text",
    [
        ("panel.json", json.dumps({"pid": "x", "host": socket.gethostname(), "arguments": "none"})),
        ("panel.json", '{"pid": 1, "host": "y", "arguments": ["D", "--epochs", "many"]}'),
        ("events.jsonl", 100000 * "["),
        ("events.jsonl", '{"event": "progress"}\n{"event": "error"}\n["event"]\n'),
        ("metrics.csv", "nan"),
        ("run.lock", 100000 * "["),
    ],
)
def test_a_run_folder_that_somebody_has_damaged_is_shown_as_far_as_it_goes(user, folder, name, text):
    record(folder, dead_pid())
    write_rows(folder, 3)
    if name == "metrics.csv":
        text = (folder / name).read_text().replace(",10,", f",{text},")
    (folder / name).write_text(text)
    user.choices.trainingFolder = str(folder)
    assert user.run.state in ("killed", "stopped") and user.errors == []
    assert user.run.exists and not user.ui.trainingLabel.isHidden()


def test_a_run_of_a_terminal_or_without_its_launcher_is_shown_too(user, folder, process):
    record(folder, dead_pid())  # PythonSlicer is a launcher: its end is not that of the Python that it started
    write_rows(folder, 2)
    user.choices.trainingFolder = str(folder)
    assert user.run.state == "killed"
    lock(folder, process.pid)
    user.wait_until(lambda: user.run.state == "running", 5)
    assert "At work" in user.ui.trainingLabel.text
    user.ui.stopButton.click()
    assert (folder / "stop").exists() and "Stopping after this step" in user.ui.trainingLabel.text
    assert not user.ui.stopButton.enabled


def test_a_second_run_in_a_folder_is_refused(user, folder, process, data_set):
    from GaborSegPanel import PanelError, training

    (folder / "last.safetensors").touch()
    record(folder, dead_pid())
    user.choices.trainingFolder = str(folder)
    lock(folder, process.pid)  # a terminal was faster
    with pytest.raises(PanelError, match=f"another run is at work in this folder: process {process.pid} on"):
        training.start(folder, sys.executable, [str(data_set)])
    user.ui.resumeButton.click()
    assert len(user.errors) == 1 and f"process {process.pid}" in user.errors[0]
    lock(folder, 1, "other-computer")
    with pytest.raises(PanelError, match="process 1 on other-computer, since today.*delete .*run.lock"):
        training.start(folder, sys.executable, [str(data_set)])
    lock(folder, dead_pid())
    assert training.TrainingRun(folder).owner is None


def test_the_run_of_another_computer_is_over_when_it_gave_no_sign_of_life_for_long(user, folder):
    from GaborSegPanel import protocol, training

    lock(folder, 1, "other-computer", beat=30)
    for seconds, is_over in ((0, False), (protocol.OVERDUE - 10, False), (protocol.OVERDUE + 10, True)):
        touched = time.time() - seconds
        os.utime(folder / "run.lock", (touched, touched))
        assert (training.TrainingRun(folder).owner is None) == is_over
    lock(folder, 1, "other-computer")  # by an older version, which does not touch it
    os.utime(folder / "run.lock", (touched, touched))
    assert training.TrainingRun(folder).owner["host"] == "other-computer"


def test_start_never_writes_into_a_folder_that_holds_a_run(user, folder, data_set, monkeypatch):
    started = []

    def start(folder, interpreter, arguments):
        started.append(Path(folder))
        folder.mkdir(parents=True)
        (folder / "last.safetensors").touch()
        return training.TrainingRun(folder)

    from GaborSegPanel import training

    monkeypatch.setattr(training, "start", start)
    user.choose(data_set)
    user.panel.data.stop_check_data()
    user.start()
    assert started == [Path.home() / "GaborSeg" / "runs" / "made data mixed 1"]
    assert user.choices.trainingFolder == str(started[0])
    user.start()
    assert started[1] == started[0].with_name("made data mixed 2")


@pytest.mark.parametrize("answer, goes_on, stops", [("Yes", True, False), ("No", True, True), ("Cancel", False, False)])
def test_closing_slicer_asks(user, folder, process, answer, goes_on, stops):
    from host import dialogs

    closed = []
    window = slicer.util.mainWindow()
    window.show()
    record(folder, process.pid)
    user.choices.trainingFolder = str(folder)
    dialogs.answers.append(int(getattr(qt.QMessageBox, answer)))
    closed.append(window.close())
    assert closed == [goes_on]
    assert len(dialogs.shown) == 1 and "Should the training go on without Slicer?" in dialogs.shown[0]
    assert (folder / "stop").exists() == stops
    assert process.poll() is None
    window.show()


def test_closing_slicer_without_a_run_asks_nothing(user, folder):
    from host import dialogs

    assert slicer.util.mainWindow().close() and dialogs.shown == []
    slicer.util.mainWindow().show()


# Choices


@pytest.mark.processes
def test_all_problems_of_the_data_are_shown(user, data_set, wait_until):
    (data_set / "labels" / "s3.nii.gz").unlink()
    (data_set / "images" / "s1.nii.gz").write_bytes(b"no image")
    image = sitk.ReadImage(str(data_set / "labels" / "s0.nii.gz"))
    image[3, 3, 3] = 77
    sitk.WriteImage(image, str(data_set / "labels" / "s0.nii.gz"))
    user.panel.data.choose_data(data_set)
    wait_until(lambda: not user.panel.data.is_checking, 60)
    assert "4 scans of 4 subjects, 3 structures" in user.ui.dataLabel.text
    assert "3 problems to solve" in user.ui.dataLabel.text
    lines = user.ui.dataProblems.plainText
    assert "s3.nii.gz: has no label map of the same name" in lines
    assert "s1.nii.gz: " in lines and "77 (1 voxel in 1 of" in lines
    user.ui.validationEdit.text = "nobody"
    user.ui.validationEdit.editingFinished.emit()
    assert user.ui.dataLabel.isHidden()  # that was about another choice
    user.ui.checkDataButton.click()
    wait_until(lambda: not user.panel.data.is_checking, 60)
    assert "no scan or subject is named nobody" in user.ui.dataProblems.plainText


@pytest.mark.processes
def test_what_is_no_data_set(user, tmp_path, wait_until):
    user.panel.data.choose_data(tmp_path)
    wait_until(lambda: not user.panel.data.is_checking, 60)
    assert "holds no data set that is known here" in user.ui.dataLabel.text


def have_gpus(user, count):
    cpu = {"id": "cpu", "name": "CPU", "total_mib": None, "free_mib": None}
    gpus = [{"id": f"cuda:{n}", "name": "Fast", "total_mib": 8192, "free_mib": 6144} for n in range(count)]
    found = {"python": "3", "executable": "p", "versions": {}, "missing": [], "devices": [cpu, *gpus]}
    user.panel.environment.take(found)


def test_two_checked_gpus_are_two_gpus(user, data_set):
    from GaborSegPanel.arguments import train_arguments

    have_gpus(user, 2)
    user.panel.data.choose_data(data_set)
    user.panel.data.stop_check_data()
    items = [user.ui.deviceList.item(row) for row in range(user.ui.deviceList.count)]
    assert [item.checkState() == qt.Qt.Checked for item in items] == [True, False]  # auto: the first
    assert not user.ui.processesBox.enabled
    items[1].setCheckState(qt.Qt.Checked)
    arguments = train_arguments(user.choices, user.panel.environment.devices)
    assert arguments[arguments.index("--gpus") + 1] == "0,1" and "--processes" not in arguments
    for row in range(2):
        user.ui.deviceList.item(row).setCheckState(qt.Qt.Unchecked)
    user.ui.processesBox.value = 2
    arguments = train_arguments(user.choices, user.panel.environment.devices)
    assert arguments[arguments.index("--processes") + 1] == "2" and "--gpus" not in arguments


def test_long_names_of_gpus_do_not_make_the_panel_wider(user):
    width = user.ui.tabs.minimumSizeHint.width()
    cpu = {"id": "cpu", "name": "CPU", "total_mib": None, "free_mib": None}
    gpu = {"id": "cuda:0", "name": 9 * "Very fast ", "total_mib": 8192, "free_mib": 6144}
    found = {"python": "3", "executable": "p", "versions": {}, "missing": [], "devices": [cpu, gpu]}
    user.panel.environment.take(found)
    assert not user.ui.deviceList.isHidden() and user.ui.deviceList.item(0).toolTip() == gpu["name"]
    assert user.ui.tabs.minimumSizeHint.width() <= width


def test_names_of_structures_have_room_beside_their_scores(user, folder):
    """At the width of the table in a panel of the usual width."""
    write_rows(folder, 4, epochs=1000)
    user.choices.trainingFolder = str(folder)
    table = user.ui.diceTable
    table.setParent(None)
    table.resize(276, 200)
    table.show()
    slicer.app.processEvents()
    assert table.horizontalScrollBar().maximum == 0 and table.columnWidth(0) > 100
    table.close()


def test_suggestions_follow_devices_and_weights_unless_chosen_by_hand(user):
    choices, ui = user.choices, user.ui
    assert (choices.trainingCubes, choices.trainingEpochs) == (64, 60)  # no GPU here
    assert "--augmentation strong --dropout 0 --decay 0.4" in ui.optionsEdit.text
    assert ui.optionsEdit.toolTip.startswith(ui.optionsEdit.text) and "docs/training.md" in ui.optionsEdit.toolTip
    assert "without a GPU" in ui.hintLabel.text and ui.suggestButton.isHidden()
    have_gpus(user, 1)
    assert not ui.suggestButton.isHidden()
    ui.suggestButton.click()
    assert (choices.trainingCubes, choices.trainingEpochs, ui.optionsEdit.text) == (0, 300, "")
    assert ui.suggestButton.isHidden()
    user.panel.recipe.choose_init("bundled")
    assert (choices.trainingEpochs, choices.trainingRate) == (20, 3e-4)
    ui.epochsBox.value = 21
    user.panel.recipe.choose_init("")
    assert choices.trainingEpochs == 21 and not ui.suggestButton.isHidden()


def test_more_options_follow_until_they_are_written_by_hand_and_then_stay_in_every_scene(user):
    from GaborSegPanel.arguments import train_arguments

    ui, suggested = user.ui, user.ui.optionsEdit.text

    def write(text):
        ui.optionsEdit.text = text
        ui.optionsEdit.editingFinished.emit()

    user.panel.recipe.choose_init("bundled")
    assert "--decay 1" in ui.optionsEdit.text and user.choices.trainingOptions is None
    write("")
    assert (user.choices.trainingOptions, ui.optionsEdit.text) == ("", "")  # none at all, which is a choice, too
    write("--seed 4")
    user.panel.recipe.choose_init("")
    assert (ui.optionsEdit.text, user.choices.trainingEpochs) == ("--seed 4", 60)  # the numbers follow by themselves
    slicer.mrmlScene.Clear(True)
    user.widget.enter()
    user.panel.environment.stop_check()
    assert ui.optionsEdit.text == "--seed 4" and not ui.suggestButton.isHidden()
    user.choices.trainingData = "data"
    assert train_arguments(user.choices, [])[-2:] == ["--seed", "4"]
    write(suggested)
    assert user.choices.trainingOptions is None and ui.suggestButton.isHidden()


def test_spin_boxes_are_bound_within_their_ranges(user):
    ui = user.ui
    for box, name, least, most in (
        (ui.shareBox, "trainingShare", 0, 50),
        (ui.epochsBox, "trainingEpochs", 1, 10000),
        (ui.processesBox, "trainingProcesses", 1, 64),
    ):
        box.value = most + 1
        assert (box.value, getattr(user.choices, name)) == (most, most)
        box.value = least - 1
        assert (box.value, getattr(user.choices, name)) == (least, least)
        setattr(user.choices, name, 17)
        assert box.value == 17
    node = user.choices.parameterNode
    user.panel.set_parameter_node(None)
    ui.epochsBox.value = 5  # nobody's choice any more
    assert node.GetParameter("trainingEpochs") == "17"
    user.panel.set_parameter_node(node)
    assert (ui.epochsBox.value, user.choices.trainingEpochs) == (17, 17)


def test_the_suggested_values(user):
    """Rate, epochs, cubes and more options, out of the recipes in Resources."""
    from GaborSegPanel import protocol, recipes, widgets
    from GaborSegPanel.sections.training_recipe import LOSSES

    assert {key: tuple(recipes.suggestion(*key).values()) for key in recipes.RECIPES} == {
        (True, False): (1e-3, 300, 0, ""),
        (True, True): (3e-4, 20, 0, "--decay 1"),
        (False, False): (1e-3, 60, 64, "--augmentation strong --dropout 0 --decay 0.4 --validate-every 10"),
        (False, True): (3e-4, 20, 96, "--augmentation strong --dropout 0 --decay 1 --validate-every 5"),
    }
    assert recipes.follows_a_suggestion(user.choices)  # as they are at the first start
    assert list(widgets.VARIANT_NAMES) == ["mixed", "gabor", "conventional"]
    assert set(widgets.VARIANT_NAMES) == set(protocol.VARIANTS)
    assert {value for text, value in LOSSES} <= set(protocol.LOSSES)


def test_choices_are_saved_with_the_scene(user, data_set, tmp_path):
    user.choose(data_set, epochs=7, options="--seed 4", processes=2)
    user.panel.data.stop_check_data()
    user.ui.rateEdit.text = "3e-4"
    user.ui.rateEdit.editingFinished.emit()
    user.ui.lossBox.currentIndex = user.ui.lossBox.findData("dice")
    bundle = tmp_path / "scene"
    bundle.mkdir()
    assert slicer.mrmlScene.SaveSceneToSlicerDataBundleDirectory(str(bundle))
    slicer.mrmlScene.Clear()
    assert user.choices.trainingEpochs != 7
    slicer.mrmlScene.SetURL(str(bundle / "scene.mrml"))
    assert slicer.mrmlScene.Connect()
    user.widget.enter()
    ui = user.ui
    assert (ui.epochsBox.value, ui.processesBox.value, ui.rateEdit.text) == (7, 2, "0.0003")
    assert (ui.lossBox.currentText, ui.optionsEdit.text, ui.dataBox.currentData) == ("Dice", "--seed 4", str(data_set))


def test_mistakes_are_said_before_anything_is_started(user, data_set, tmp_path):
    user.start()
    assert "No training data are chosen" in user.errors.pop()
    user.panel.data.choose_data(data_set)
    user.panel.data.stop_check_data()
    user.ui.rateEdit.text = "fast"
    user.ui.rateEdit.editingFinished.emit()
    assert "fast: is no learning rate" in user.errors.pop() and user.ui.rateEdit.text == "0.001"
    user.choices.trainingOptions = '"open'
    user.start()
    assert "More options" in user.errors.pop()
    user.choices.trainingOptions = ""
    user.choices.trainingInit = str(tmp_path / "none.safetensors")
    user.start()
    assert "cannot be read" in user.errors.pop()
    assert not (Path.home() / "GaborSeg").exists()


def test_a_python_that_cannot_train_is_said(user, data_set, tmp_path):
    user.choose(data_set)
    user.panel.data.stop_check_data()
    user.choices.interpreter = str(tmp_path / "none")
    user.start()
    assert len(user.errors) == 1 and "there is no such Python" in user.errors[0]
    assert user.run is None
