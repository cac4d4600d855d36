"""Training runs: that they learn, stop, go on exactly, and refuse what would spoil them."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors import safe_open

from GaborSegLib.dataset import find_data
from GaborSegLib.errors import TrainingError
from GaborSegLib.trainer import BEST, SNAPSHOT, Options, Trainer, learning_rate
from GaborSegLib.weights import load_weights

SMALL = Options(
    variant="mixed", epochs=3, augmentation="strong", patch=16, grid_size=32, base_channels=4, gabor_kernel_size=3,
    learning_rate=5e-3, decay=0.5,
)
SMALL_ARGUMENTS = (
    "--variant mixed --epochs 3 --augmentation strong --patch 16 --grid-size 32 --base-channels 4 "
    "--gabor-kernel-size 3 --lr 5e-3 --decay 0.5 --validation s1 --threads 1 --device cpu --json"
).split()


def snapshot(folder):
    with safe_open(folder / SNAPSHOT, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def start(data, output, *more):
    command = [sys.executable, "-m", "GaborSegLib", "train", str(data), "--output", str(output), *SMALL_ARGUMENTS, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for_steps(process, count):
    """Read events until so many training steps are done."""
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and event["stage"].startswith("Epoch"):
            count -= 1
            if count == 0:
                return
    raise AssertionError("the run ended too early")


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_learns_the_made_structures(data_set, tmp_path):
    options = Options(
        variant="conventional", epochs=20, augmentation="none", grid_size=32, base_channels=4, learning_rate=3e-3,
        decay=0.5, validate_every=20, dropout=0.0,
    )
    progress = Trainer(find_data(data_set), tmp_path / "run", options, validation=["s1"]).run()
    assert progress.rows[-1]["loss"] < 0.5 * progress.rows[0]["loss"]
    assert progress.best_dice > 0.8
    assert load_weights(tmp_path / "run" / BEST).card["scores"]["validation"]["dice_mean"] > 0.8


def test_writes_what_it_says(data_set, tmp_path):
    events = []
    Trainer(find_data(data_set), tmp_path / "run", SMALL, validation=["s1"], report=events.append).run()
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert names == {"metrics.csv", "curves.png", BEST, SNAPSHOT, "cache"}
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert float(rows[-1]["learning_rate"]) < float(rows[0]["learning_rate"]) == SMALL.learning_rate
    assert all(0 <= float(row["Core"]) <= 1 for row in rows)
    epochs = [event for event in events if event["event"] == "epoch"]
    assert len(epochs) == 3 and epochs[-1]["loss"] == pytest.approx(float(rows[-1]["loss"]))
    card = load_weights(tmp_path / "run" / BEST).card
    assert card["field"] == "content"  # it was trained on cubes of 16^3
    assert card["structures"] == ["Shell", "Core", "Left ball"]
    assert card["training"]["scans"] == ["s0", "s2", "s3", "s4", "s5"]
    assert card["scores"]["validation"]["scans"] == ["s1"]


def test_same_seed_same_weights_other_seed_other_weights(data_set, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        options = Options(**{**SMALL.__dict__, "seed": seed, "epochs": 1})
        Trainer(find_data(data_set), tmp_path / name, options, validation=["s1"], cache=tmp_path / "cache").run()
    assert_same(snapshot(tmp_path / "a"), snapshot(tmp_path / "b"))
    a, c = snapshot(tmp_path / "a"), snapshot(tmp_path / "c")
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_workers_draw_the_same_images(data_set, tmp_path):
    options = Options(**{**SMALL.__dict__, "epochs": 1})
    for workers in (0, 2):
        Trainer(find_data(data_set), tmp_path / str(workers), options, ["s1"], workers=workers).run()
    assert_same(snapshot(tmp_path / "0"), snapshot(tmp_path / "2"))


@pytest.mark.parametrize("how", ["kill", "terminate", "interrupt"])
def test_a_stopped_run_goes_on_bit_for_bit(how, data_set, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options = ["--cache", str(tmp_path / "cache")]
    assert start(data_set, whole, *options).communicate(timeout=120) and (whole / SNAPSHOT).exists()

    process = start(data_set, stopped, *options)
    wait_for_steps(process, 8)  # in the middle of the second of three epochs of five steps
    process.send_signal({"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}[how])
    output = process.communicate(timeout=60)[0]
    if how == "kill":
        assert process.returncode == -signal.SIGKILL
    else:
        result = json.loads(output.splitlines()[-1])
        assert (process.returncode, result["event"], result["complete"]) == (0, "result", False)
    process = start(data_set, stopped, "--resume", *options)
    process.communicate(timeout=120)
    assert process.returncode == 0

    assert_same(snapshot(whole), snapshot(stopped))
    assert (whole / BEST).read_bytes() == (stopped / BEST).read_bytes()
    losses = [[row["loss"] for row in csv.DictReader(open(folder / "metrics.csv"))] for folder in (whole, stopped)]
    assert losses[0] == losses[1] and len(losses[0]) == 3


def test_a_finished_run_resumed_does_nothing(data_set, tmp_path):
    options = Options(**{**SMALL.__dict__, "epochs": 1})
    Trainer(find_data(data_set), tmp_path, options, ["s1"]).run()
    before = (tmp_path / SNAPSHOT).read_bytes()
    Trainer(find_data(data_set), tmp_path, options, ["s1"], resume=True).run()
    assert (tmp_path / SNAPSHOT).read_bytes() == before


def test_a_folder_with_a_run_is_not_overwritten(data_set, tmp_path):
    options = Options(**{**SMALL.__dict__, "epochs": 1})
    Trainer(find_data(data_set), tmp_path, options, ["s1"]).run()
    with pytest.raises(TrainingError, match="--resume"):
        Trainer(find_data(data_set), tmp_path, options, ["s1"])
    with pytest.raises(TrainingError, match="learning_rate 0.005"):
        Trainer(find_data(data_set), tmp_path, Options(**{**options.__dict__, "learning_rate": 1.0}), ["s1"], resume=True)
    with pytest.raises(TrainingError, match="other training or validation scans"):
        Trainer(find_data(data_set), tmp_path, options, ["s2"], resume=True)


def test_a_damaged_snapshot_is_refused(data_set, tmp_path):
    (tmp_path / SNAPSHOT).write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      rest")
    with pytest.raises(TrainingError, match="not a snapshot"):
        Trainer(find_data(data_set), tmp_path, SMALL, ["s1"], resume=True)


def test_nan_stops_and_keeps_the_best_weights(data_set, tmp_path):
    trainer = Trainer(find_data(data_set), tmp_path, SMALL, ["s1"])
    network = trainer.network

    def spoil(event):
        if event["event"] == "epoch":
            with torch.no_grad():
                next(network.parameters()).fill_(math.nan)

    trainer.report = spoil
    with pytest.raises(TrainingError, match="loss became nan in epoch 2"):
        trainer.run()
    assert all(torch.isfinite(p).all() for p in load_weights(tmp_path / BEST).network.parameters())


def test_starts_from_a_weight_file(data_set, tmp_path):
    options = Options(**{**SMALL.__dict__, "epochs": 1})
    Trainer(find_data(data_set), tmp_path / "first", options, ["s1"]).run()
    best = tmp_path / "first" / BEST
    second = Trainer(find_data(data_set), tmp_path / "second", options, ["s1"], init=best)
    loaded = load_weights(best).network.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in second.network.state_dict().items())
    other = Options(**{**options.__dict__, "variant": "conventional"})
    with pytest.raises(TrainingError, match="mixed kernels, the run conventional"):
        Trainer(find_data(data_set), tmp_path / "third", other, ["s1"], init=best)


def test_other_structures_keep_all_but_the_last_layer(data_set, tmp_path, tiny_weights):
    events = []
    trainer = Trainer(find_data(data_set), tmp_path, SMALL, ["s1"], init=tiny_weights, report=events.append)
    loaded = load_weights(tiny_weights).network.state_dict()
    own = trainer.network.state_dict()
    same = {name for name in own if own[name].shape == loaded[name].shape and torch.equal(own[name], loaded[name])}
    assert same == {name for name in own if not name.startswith("outputs.")}
    assert any("other structures" in event.get("message", "") for event in events)


def test_learning_rate_is_constant_then_falls_along_a_cosine():
    options = Options(learning_rate=2.0, decay=0.4)
    rates = [learning_rate(options, step, 100) for step in range(100)]
    assert rates[:61] == [2.0] * 61
    assert rates[80] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(1 + math.cos(math.pi * 39 / 40))
    assert all(learning_rate(Options(decay=0.0), step, 10) == 1e-3 for step in range(10))


def test_a_full_disk_is_said_and_leaves_the_last_snapshot(data_set, tmp_path, monkeypatch):
    from GaborSegLib import trainer as module
    from GaborSegLib.errors import OutputError

    trainer = Trainer(find_data(data_set), tmp_path, SMALL, ["s1"])
    whole, count = module.save, []

    def full(*arguments):
        count.append(arguments)
        if len(count) > 1:
            raise OSError(28, "No space left on device")
        return whole(*arguments)

    monkeypatch.setattr(module, "save", full)
    with pytest.raises(OutputError, match="No space left on device"):
        trainer.run()
    assert not [file for file in os.listdir(tmp_path) if file.startswith(".partial")]
    resumed = Trainer(find_data(data_set), tmp_path, SMALL, ["s1"], resume=True)
    assert resumed.progress.epoch == 1


def test_an_epoch_takes_its_time_into_the_table(data_set, tmp_path):
    began = time.monotonic()
    progress = Trainer(find_data(data_set), tmp_path, Options(**{**SMALL.__dict__, "epochs": 1}), ["s1"]).run()
    assert 0 < progress.rows[0]["seconds"] <= time.monotonic() - began
    assert progress.rows[0]["memory_mib"] > 50
