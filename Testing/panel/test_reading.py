"""When the panel reads files: for a new choice, for the user, and for a run that is followed; not for every change."""

import builtins
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import qt

RESOURCES = Path(__file__).resolve().parents[2] / "Resources"


@pytest.fixture
def reads(monkeypatch):
    """What asked the disk since the list was last emptied: calls of Python's own functions, and Qt's settings."""
    found = []

    def noted(owner, name):
        real = getattr(owner, name)

        def call(*arguments, **options):
            found.append(f"{name} {arguments[:1]}")
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    for owner, names in (
        (builtins, ("open",)),
        (io, ("open",)),
        (os, ("open", "stat", "lstat", "access", "listdir", "scandir", "statvfs")),
        (qt, ("QSettings",)),
    ):
        for name in names:
            noted(owner, name)
    return found


@pytest.fixture
def panel(module_widget, tmp_path, monkeypatch):
    """A panel where all is chosen that is read from files: weights, corrections, data, and a run that was stopped."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    panel = module_widget.panel
    panel.environment.stop_check()
    weights = tmp_path / "run" / "best.safetensors"
    weights.parent.mkdir()
    shutil.copy(RESOURCES / "Weights" / "mixed.safetensors", weights)
    (weights.parent / "metrics.csv").write_text(_metrics(3))
    (weights.parent / "last.safetensors").touch()
    add_correction(tmp_path, "a")
    panel.segment.choose_weights(weights)
    panel.choices.correctionsFolder = str(tmp_path / "corrections")
    panel.choices.trainingData = str(tmp_path / "corrections")
    panel.choices.trainingInit = "bundled"
    panel.choices.trainingFolder = str(weights.parent)
    return panel


def _metrics(epochs):
    from GaborSegPanel import protocol

    rows = [f"{n},4,0.5,0.001,60,1,100,60,0.5,0.5,{n},0.5" for n in range(1, epochs + 1)]
    return "\n".join([",".join((*protocol.METRIC_COLUMNS, "Ball")), *rows]) + "\n"


def add_correction(folder, name):
    (folder / "corrections" / "images").mkdir(parents=True, exist_ok=True)
    (folder / "corrections" / "images" / f"{name}.nii.gz").touch()
    with open(folder / "corrections" / "subjects.csv", "a") as file:
        file.write("scan,subject\n" * (name == "a") + f"{name},{name}\n")


def test_other_changes_read_nothing(panel, reads):
    ui, choices = panel.ui, panel.choices
    assert "19 structures" in ui.cardLabel.text and ui.dataBox.currentText == "Corrections (1)"
    assert ui.trainingLabel.text.startswith("run: Stopped in epoch 4 of 4") and ui.diceTable.rowCount == 2
    reads.clear()
    choices.trainingLoss = "dice"
    choices.device = "cpu"
    choices.trainingDevices = "0"
    ui.epochsBox.value = 7
    ui.shareBox.value = 20
    ui.cubesBox.currentIndex = ui.cubesBox.findData(96)
    ui.validationEdit.text = "sub-01"
    ui.validationEdit.editingFinished.emit()
    ui.rateEdit.text = "0.002"
    ui.rateEdit.editingFinished.emit()
    ui.suggestButton.click()
    choices.parameterNode.Modified()
    assert reads == []
    assert (choices.trainingEpochs, ui.lossBox.currentData, ui.deviceBox.currentData) == (20, "dice", "cpu")


def test_the_users_own_choices_are_written_at_once_and_read_with_the_scene_only(panel, reads):
    reads.clear()
    panel.choices.trainingOptions = "--seed 3"
    assert set(reads) == {"QSettings ()"}
    reads.clear()
    assert panel.ui.optionsEdit.text == "--seed 3"
    panel.choices.trainingLoss = "dice"
    assert reads == []


def test_a_new_choice_is_read(panel, reads, tmp_path):
    reads.clear()
    panel.choices.variant, panel.choices.weights = "gabor", ""
    assert any("gabor.safetensors" in read for read in reads)
    reads.clear()
    panel.choices.trainingFolder = str(tmp_path / "other")
    assert any("other" in read for read in reads)


def test_what_was_changed_meanwhile_is_read_when_the_user_comes_back(panel, module_widget, tmp_path):
    ui = panel.ui
    assert ui.weightsBox.currentText == "run (trained here)"
    add_correction(tmp_path, "b")
    shutil.copy(RESOURCES / "Weights" / "gabor.safetensors", tmp_path / "run" / "best.safetensors")
    (tmp_path / "run" / "metrics.csv").unlink()
    card = ui.cardLabel.text
    panel.choices.trainingLoss = "dice"
    assert (ui.dataBox.currentText, ui.cardLabel.text) == ("Corrections (1)", card)
    module_widget.enter()
    panel.environment.stop_check()
    assert ui.dataBox.currentText == "Corrections (2)" and ui.dataBox.currentData == panel.choices.trainingData
    assert ui.weightsBox.currentText == str(Path("run/best.safetensors"))
    assert "19 structures" in ui.cardLabel.text and ui.cardLabel.text != card


def test_a_run_is_followed_by_its_timer_and_its_weights_are_listed_at_its_end(panel, tmp_path, wait_until):
    run, ui = tmp_path / "run", panel.ui
    (run / "metrics.csv").write_text(_metrics(4))
    assert panel.training.run.state == "stopped"
    wait_until(lambda: panel.training.run.state == "finished", 5)
    assert ui.trainingLabel.text.startswith("run: Finished after 4 epochs")


def test_weights_trained_elsewhere_are_offered_when_their_run_is_chosen(panel, tmp_path):
    other = tmp_path / "other run"
    shutil.copytree(tmp_path / "run", other)
    assert panel.ui.weightsBox.findText("other run (trained here)") < 0
    panel.choices.trainingFolder = str(other)
    assert panel.ui.weightsBox.findText("other run (trained here)") > 0


@pytest.mark.parametrize(
    "change, says",
    [
        ({"format": 2}, "got format 2, this program reads up to 1; install a newer GaborSeg"),
        ({"field": None}, "its card has field None"),
        ({"variant": "wavelet"}, "its card has variant 'wavelet'; this program knows conventional, gabor, mixed"),
    ],
)
def test_a_card_that_this_copy_cannot_use_is_said(panel, tmp_path, change, says):
    from GaborSegPanel import PanelError, parameters

    card = parameters.read_card(RESOURCES / "Weights" / "mixed.safetensors") | change
    header = json.dumps({"__metadata__": {"gaborseg": json.dumps(card)}}).encode()
    (tmp_path / "new.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(PanelError, match=f"new.safetensors: {says}"):
        parameters.read_card(tmp_path / "new.safetensors")
