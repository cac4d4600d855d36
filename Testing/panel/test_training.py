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

TINY = "--grid-size 32 --base-channels 4 --gabor-kernel-size 3 --augmentation none --dropout 0"


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
    if run is not None and run.owner():
        end(run)
    user.panel.stop_check()


class User:
    def __init__(self, widget, wait_until):
        self.widget, self.panel, self.training, self.ui = widget, widget.panel, widget.panel.training, widget.ui
        self.wait_until = wait_until
        self.errors = []
        self.panel.show_error = self.errors.append
        self.panel.choices.interpreter = sys.executable
        self.panel.check_environment()
        wait_until(lambda: self.panel.environment is not None)

    @property
    def choices(self):
        return self.panel.choices

    @property
    def run(self):
        return self.training.run

    def choose(self, data, epochs=2, options=TINY, processes=1):
        self.training.choose_data(data)
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
        self.wait_until(lambda: self.run.state != "running" and not self.training._timer.active, timeout)


def end(run):
    owner = run.owner()
    if owner:
        os.killpg(os.getpgid(owner["pid"]), signal.SIGKILL)


def test_two_processes_chart_stop_resume_end_and_segment(user, data_set):
    user.choose(data_set, epochs=40, processes=2)
    user.start()
    assert user.errors == []
    assert user.ui.stopButton.enabled and not user.ui.trainingChoices.enabled
    user.wait_for_epoch(2)
    chart = user.choices.parameterNode.GetNodeReference("GaborSeg.trainingChart")
    series = chart.GetNthPlotSeriesNode(0)
    losses = slicer.util.arrayFromTableColumn(series.GetTableNode(), series.GetYColumnName())
    np.testing.assert_allclose(losses, [row["loss"] for row in user.run.rows][:len(losses)])
    assert slicer.app.applicationLogic().GetSelectionNode().GetActivePlotChartID() == chart.GetID()
    assert [user.ui.diceTable.item(row, 0).text() for row in range(4)] == ["Mean", "Shell", "Core", "Ball"]
    user.ui.stopButton.click()
    user.wait_for_end()
    assert user.errors == [] and "Stopped in epoch" in user.ui.trainingLabel.text
    assert not (user.run.folder / "stop").exists()
    done = len(user.run.rows)
    assert 2 <= done < 40 and not user.ui.resumeButton.isHidden()
    user.ui.resumeButton.click()
    user.wait_for_end(300)
    assert user.errors == [] and "Finished after 40 epochs" in user.ui.trainingLabel.text
    best = user.run.weights
    assert user.ui.weightsBox.findText("made data mixed 1 (trained here)") > 0
    user.panel.choose_weights(best)
    assert "3 structures, validation Dice" in user.ui.cardLabel.text
    image = sitk.ReadImage(str(data_set / "images" / "s0.nii.gz"))
    volume = slicer.util.addVolumeFromArray(sitk.GetArrayFromImage(image), ijkToRAS=np.diag([-2, -2, 2, 1.0]))
    user.ui.inputSelector.setCurrentNode(volume)
    user.ui.segmentButton.click()
    user.wait_until(lambda: user.panel.run is None, 120)
    assert user.errors == []
    node = user.choices.outputSegmentation
    names = [node.GetSegmentation().GetNthSegment(i).GetName() for i in range(3)]
    assert names == ["Shell", "Core", "Ball"]
