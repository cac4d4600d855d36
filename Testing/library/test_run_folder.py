"""A run's folder: who may use it, and snapshots that survive what happens to disks."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from GaborSegLib.errors import OutputError, TrainingError
from GaborSegLib.protocol import LOCK, PREVIOUS, SNAPSHOT, STOP, has_snapshot, is_alive
from GaborSegLib.training.lock import locked, request_stop, stop_requested
from GaborSegLib.training.snapshot import load_snapshot, save_snapshot


@pytest.fixture
def run(tmp_path):
    """A folder with two snapshots of two numbers, of the steps 1 and 2."""
    for step in (1, 2):
        save(tmp_path, step)
    return tmp_path


def save(folder, step):
    tensors = {"weight": torch.full((3,), float(step))}
    save_snapshot(folder, tensors, {"weight.moment": torch.full((3,), -float(step))}, {"progress": {"step": step}})


def step_of(snapshot):
    """The step of a snapshot, whose parts must belong together."""
    network, optimiser, facts = snapshot
    step = facts["progress"]["step"]
    assert network["weight"].tolist() == [step] * 3 and optimiser["weight.moment"].tolist() == [-step] * 3
    return step


def lock_of(pid, host=None):
    facts = {"started": "2026-01-01T00:00:00+00:00", "command": "gaborseg train"}
    return json.dumps({"pid": pid, "host": host or socket.gethostname(), **facts})


def dead_pid():
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def test_a_lock_names_its_owner_and_goes_with_it(tmp_path):
    with locked(tmp_path / "run"):
        owner = json.loads((tmp_path / "run" / LOCK).read_text())
        assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
        assert owner.keys() == {"pid", "host", "started", "command"}
    assert os.listdir(tmp_path / "run") == []


@pytest.mark.parametrize("host", [None, "elsewhere"])
def test_a_second_run_is_refused_and_told_of_the_first(tmp_path, host):
    (tmp_path / LOCK).write_text(lock_of(os.getppid(), host))
    with pytest.raises(TrainingError, match=rf"process {os.getppid()} on {host or ''}.*gaborseg train"):
        with locked(tmp_path):
            raise AssertionError("the folder was given away")
    assert (tmp_path / LOCK).read_text() == lock_of(os.getppid(), host)


@pytest.mark.processes
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    for text in (lock_of(dead_pid()), "", "no JSON", "[1]"):
        (tmp_path / LOCK).write_text(text)
        (tmp_path / ".partial-0123abcd.safetensors").write_text("what the dead process was writing")
        with locked(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        assert os.listdir(tmp_path) == []


def test_a_dead_process_that_nobody_waited_for_is_not_alive():
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    assert is_alive(process.pid)
    process.kill()
    if os.path.exists("/proc/self/stat"):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is dead then, and still has its number
        assert not is_alive(process.pid)
    process.communicate()
    assert not is_alive(process.pid)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"), locked(tmp_path / "file" / "run"):
        pass


def test_a_stop_request_is_seen_once(tmp_path):
    assert not stop_requested(tmp_path)
    request_stop(tmp_path)
    assert (tmp_path / STOP).exists() and stop_requested(tmp_path) and not stop_requested(tmp_path)


def test_the_last_two_snapshots_are_kept_and_no_more(run):
    save(run, 3)
    assert step_of(load_snapshot(run)) == 3
    assert len(os.listdir(run)) == 4
    (run / SNAPSHOT).unlink()  # a crash between the two renames leaves this
    events = []
    assert has_snapshot(run) and step_of(load_snapshot(run, events.append)) == 2
    assert "is missing; going on from previous" in events[0]["message"]


@pytest.mark.parametrize("which", ["last", "optimiser"])
def test_a_damaged_snapshot_is_noticed_and_the_one_before_taken(run, tmp_path_factory, which):
    other = {SNAPSHOT, PREVIOUS}
    before = [name for name in os.listdir(run) if name not in other]
    save(run, 3)
    newest = SNAPSHOT if which == "last" else next(name for name in os.listdir(run) if name not in {*other, *before})
    good = (run / newest).read_bytes()
    damaged = [good[:cut] for cut in (0, 5, 100, len(good) - 1)]
    for place in range(0, len(good), 3):
        damaged.append(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
    fell_back = 0
    for data in damaged:
        copy = tmp_path_factory.mktemp("copy") / "run"
        shutil.copytree(run, copy)
        (copy / newest).write_bytes(data)
        events = []
        step = step_of(load_snapshot(copy, events.append))
        assert step == (2 if events else 3)  # 3 where the flipped bit meant nothing, such as in JSON's white space
        fell_back += step == 2
        if events:
            assert f"{copy}{os.sep}" in events[0]["message"] and PREVIOUS in events[0]["message"]
            save(copy, 4)
            assert step_of(load_snapshot(copy)) == 4 and (copy / "damaged.safetensors").exists()
    assert fell_back > 0.9 * len(damaged)


def test_without_a_good_snapshot_it_is_said_what_to_do(run):
    for name in (SNAPSHOT, PREVIOUS):
        (run / name).write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      rest")
    with pytest.raises(TrainingError, match="last.safetensors: is damaged.*previous.safetensors: is damaged.*backup"):
        load_snapshot(run)


def test_a_snapshot_that_is_nested_too_deep_is_said(run):
    text = 100_000 * "["
    for name in (SNAPSHOT, PREVIOUS):
        save_file({"a": torch.zeros(1)}, run / name, metadata={"facts": text, "sha256": ""})
    with pytest.raises(TrainingError, match="last.safetensors: is damaged.*backup"):
        load_snapshot(run)
    save(run, 4)  # what the one before names cannot be known
    assert step_of(load_snapshot(run)) == 4


def test_files_of_two_snapshots_are_no_pair(run):
    first, second = sorted(run.glob("optimiser-*"))
    swapped = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(swapped)
    with pytest.raises(TrainingError, match="does not have its checksum"):
        load_snapshot(run)
