"""Conformance: what every command must do. A new one gets these tests by being offered, and adds its arguments here."""

import re

import pytest
from made import told

from GaborSegLib import cli, protocol
from GaborSegLib.data.augmentation import AUGMENTATIONS
from GaborSegLib.model.losses import LOSSES
from GaborSegLib.model.network import build_network
from GaborSegLib.model.weights import load_weights, save_weights


def help_of(capsys, *command):
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--help"])
    assert end.value.code == protocol.DONE
    return capsys.readouterr().out


# The arguments with which a command works, see `places`; and which of these are then missing. A command that needs no
# file cannot miss one.
COMMANDS = {
    "segment": ("{scan} -o {out} --weights {weights} --device cpu", ["scan", "weights"]),
    "cohort": ("{data}/images {out} --weights {weights} --workers 1 --no-overview", ["data", "weights"]),
    "bids": ("{bids} {out} participant --weights {weights} --n-cpus 1 --no-overview", ["bids", "weights"]),
    "train": (
        "{data} -o {out} --device cpu --epochs 1 --augmentation none --grid-size 16 --base-channels 4 "
        "--gabor-kernel-size 3 --validation B",
        ["data"],
    ),
    "data": ("{data}", ["data"]),
    "pack": ("{data} -o {out}/packed.zip --grid-size 16", ["data"]),
    "evaluate": ("{small} {data} -o {out}", ["small", "data"]),
    "export": ("{weights} -o {out}/network.pt", ["weights"]),
    "check": ("{scan} --weights {weights} --device cpu", ["scan", "weights"]),
    "environment": ("", []),
    "info": ("{weights}", ["weights"]),
    "demo": ("{scan} -o {out} --weights {weights}", ["scan", "weights"]),
}
# These start processes of their own.
APART = ("cohort", "bids")
CODES = {"scan": "image", "data": "data", "bids": "data", "weights": "weights", "small": "weights"}
MISSING = [(command, kind) for command, (_, kinds) in COMMANDS.items() for kind in kinds]


@pytest.fixture
def places(data_set, tiny_weights, tmp_path):
    """What stands for the names in COMMANDS: {small} are weights for the made data set, {out} is a new folder."""
    scan, small = data_set / "images" / "s0.nii.gz", tmp_path / "small.safetensors"
    network = build_network("mixed", gabor_kernel_size=3, base_channels=4, classes=4)
    card = {**load_weights(tiny_weights).card, "structures": ["Shell", "Core", "Left ball"], "classes": 4}
    save_weights(small, network, card)
    bids = tmp_path / "bids" / "sub-1" / "anat" / "sub-1_T1w.nii.gz"
    bids.parent.mkdir(parents=True)
    bids.write_bytes(scan.read_bytes())
    return {
        "bids": tmp_path / "bids",
        "scan": scan,
        "data": data_set,
        "weights": tiny_weights,
        "small": small,
        "out": tmp_path / "out",
    }


def test_every_command_is_known_here(capsys):
    found = re.findall(r"^ {4}(\w+)(?:\s|$)", help_of(capsys), re.MULTILINE)
    assert sorted(found) == sorted(COMMANDS)


@pytest.mark.parametrize(
    "command", [pytest.param(name, marks=pytest.mark.processes) if name in APART else name for name in COMMANDS]
)
def test_command_ends_with_a_result(command, places, capsys, monkeypatch):
    monkeypatch.setattr("GaborSegLib.report.overview.render_apart", lambda *_: ([], "drawn in test_overview.py"))
    assert "--json" in help_of(capsys, command) and "--debug" in help_of(capsys, command)
    status, events = told(capsys, command, *COMMANDS[command][0].format(**places).split())
    assert status == protocol.DONE
    assert events[-1]["event"] == protocol.RESULT
    kinds = {event["event"] for event in events[:-1]}
    assert kinds <= {protocol.PROGRESS, protocol.EPOCH, protocol.WARNING}


@pytest.mark.parametrize("command, missing", MISSING)
def test_command_refuses_a_missing_file(command, missing, places, tmp_path, capsys):
    """By one error that names the file, and without writing anything."""
    nowhere = tmp_path / "nowhere" / "file.nii.gz"
    arguments = COMMANDS[command][0].format(**{**places, missing: nowhere}).split()
    status, events = told(capsys, command, *arguments)
    assert status == protocol.REFUSED
    *before, error = events
    assert error["event"] == protocol.ERROR and {event["event"] for event in before} <= {protocol.PROGRESS}
    assert str(nowhere) in error["message"] and error["code"] == CODES[missing]
    assert not nowhere.parent.exists() and not places["out"].exists()


@pytest.mark.parametrize(
    "option, names",
    [("--variant", protocol.VARIANTS), ("--loss", protocol.LOSSES), ("--augmentation", protocol.AUGMENTATIONS)],
)
def test_choices_of_training_are_what_there_is(option, names, tmp_path, capsys):
    there = {"--variant": protocol.VARIANTS, "--loss": LOSSES, "--augmentation": AUGMENTATIONS}[option]
    assert tuple(there) == names
    for name in names:
        status, _ = told(capsys, "train", tmp_path / "missing", "-o", tmp_path / "run", option, name)
        assert status == protocol.REFUSED
    with pytest.raises(SystemExit) as end:
        told(capsys, "train", tmp_path / "missing", "-o", tmp_path / "run", option, "another")
    error = capsys.readouterr().err
    assert end.value.code == protocol.REFUSED and all(f"'{name}'" in error for name in names)
