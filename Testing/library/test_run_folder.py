"""A run's folder: who may use it, and snapshots that survive what happens to disks."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from GaborSegLib import protocol
from GaborSegLib.errors import OutputError, TrainingError
from GaborSegLib.protocol import LOCK, OVERDUE, PREVIOUS, SNAPSHOT, STOP, has_snapshot, is_alive, is_overdue, read_lock
from GaborSegLib.training import lock as lock_module
from GaborSegLib.training.lock import check_shared, locked, request_stop, stop_requested
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


def lock_of(pid, host=None, **more):
    facts = {"started": "2026-01-01T00:00:00+00:00", "command": "gaborseg train", **more}
    return json.dumps({"pid": pid, "host": host or socket.gethostname(), **facts})


def dead_pid():
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def test_a_lock_names_its_owner_and_goes_with_it(tmp_path):
    with locked(tmp_path / "run"):
        owner = json.loads((tmp_path / "run" / LOCK).read_text())
        assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
        assert owner.keys() == {"pid", "host", "started", "command", "beat"}
    assert os.listdir(tmp_path / "run") == []


@pytest.mark.parametrize("host", [None, "elsewhere"])
def test_a_second_run_is_refused_and_told_of_the_first(tmp_path, host):
    (tmp_path / LOCK).write_text(lock_of(os.getppid(), host))
    with pytest.raises(TrainingError, match=rf"process {os.getppid()} on {host or ''}.*gaborseg train"):
        with locked(tmp_path):
            raise AssertionError("the folder was given away")
    assert (tmp_path / LOCK).read_text() == lock_of(os.getppid(), host)


def test_what_a_lock_says_is_shown_short_and_without_what_a_terminal_obeys(tmp_path):
    owner = {"pid": os.getppid(), "host": socket.gethostname(), "command": "\x1b[31m" + 10**6 * "x"}
    (tmp_path / LOCK).write_text(json.dumps(owner))
    with pytest.raises(TrainingError, match=r"\\x1b\[31mxxx") as caught, locked(tmp_path):
        pass
    assert len(str(caught.value)) < 2000 and "\x1b" not in str(caught.value)


@pytest.mark.processes
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    for text in (lock_of(dead_pid()), "", "no JSON", "[1]"):
        (tmp_path / LOCK).write_text(text)
        (tmp_path / ".partial-0123abcd.safetensors").write_text("what the dead process was writing")
        with locked(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        assert os.listdir(tmp_path) == []


def left_by_another_computer(folder, seconds, **more):
    """A lock that another computer touched so many seconds ago."""
    (folder / LOCK).write_text(lock_of(1, "elsewhere", **more))
    touched = (folder / LOCK).stat().st_mtime - seconds
    os.utime(folder / LOCK, (touched, touched))


def test_the_lock_of_another_computer_is_taken_over_when_it_was_not_touched_for_long(tmp_path):
    left_by_another_computer(tmp_path, OVERDUE + 60, beat=30)
    events = []
    with locked(tmp_path, report=events.append):
        assert read_lock(tmp_path)["pid"] == os.getpid() and os.listdir(tmp_path) == [LOCK]
    assert [event["event"] for event in events] == ["warning"]
    assert f"process 1 on elsewhere gave no sign of life for {OVERDUE + 60} s" in events[0]["message"]
    left_by_another_computer(tmp_path, OVERDUE + 60)  # by an older version, which does not touch it
    with pytest.raises(TrainingError, match="process 1 on elsewhere"), locked(tmp_path):
        pass


@pytest.mark.parametrize("ending", ["touched", "silent", "gone"])
def test_a_young_lock_of_another_computer_is_watched(ending, tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "OVERDUE", 10)
    left_by_another_computer(tmp_path, 5, beat=30)
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        age = 2 if ending == "touched" and len(naps) == 3 else 5 + 2 * len(naps)
        left_by_another_computer(tmp_path, age, beat=30)
        if ending == "gone" and len(naps) == 3:
            (tmp_path / LOCK).unlink()

    monkeypatch.setattr(lock_module.time, "sleep", sleep)
    events = []
    if ending == "touched":
        with pytest.raises(TrainingError, match="process 1 on elsewhere"), locked(tmp_path, report=events.append):
            pass
    else:
        with locked(tmp_path, report=events.append):
            assert read_lock(tmp_path)["pid"] == os.getpid()
    assert len(naps) == 3 and "waiting up to 5 s for a sign of life" in events[0]["message"]
    assert len(events) == (2 if ending == "silent" else 1)


def test_a_lock_is_touched_and_whoever_lost_it_ends_without_touching_it(tmp_path, monkeypatch):
    ended, events = [], []
    monkeypatch.setattr(lock_module, "BEAT", 0.01)
    monkeypatch.setattr(lock_module.os, "_exit", ended.append)
    with locked(tmp_path, report=events.append) as owner:
        os.utime(tmp_path / LOCK, (1, 1))
        wait_until(lambda: (tmp_path / LOCK).stat().st_mtime > 1)
        assert read_lock(tmp_path) == owner and not ended
        (tmp_path / "other").write_text(lock_of(1, "elsewhere"))
        os.utime(tmp_path / "other", (1, 1))
        os.replace(tmp_path / "other", tmp_path / LOCK)
        wait_until(lambda: ended)
    assert set(ended) == {2} and "process 1 on elsewhere" in events[0]["message"]
    assert (tmp_path / LOCK).read_text() == lock_of(1, "elsewhere") and (tmp_path / LOCK).stat().st_mtime == 1


def wait_until(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("clock", [-86400, 0, 86400])
def test_a_lock_is_overdue_by_the_clock_of_its_disk(clock, tmp_path, monkeypatch):
    now = time.time
    monkeypatch.setattr(protocol.time, "time", lambda: now() + clock)
    for seconds, more, overdue in ((0, {"beat": 30}, False), (OVERDUE + 60, {"beat": 30}, True), (10**6, {}, False)):
        left_by_another_computer(tmp_path, seconds, **more)
        assert is_overdue(tmp_path, read_lock(tmp_path)) == overdue
    assert os.listdir(tmp_path) == [LOCK]


def team(rank, other):
    """Two processes on two machines; `other` is what one answers: whether it sees the lock, has a run, and where."""

    def gather(item):
        return [item, other] if rank == 0 else [other, item]

    def fail(error):
        raise error

    return SimpleNamespace(rank=rank, size=2, local_size=1, gather=gather, fail=fail)


def test_machines_look_whether_they_share_the_folder_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "SEEN_WITHIN", 0.01)
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    elsewhere.mkdir()
    events = []
    with locked(here) as owner:
        check_shared(here, owner, team(0, (True, False, "B")), 1, events.append)
        assert not events
        check_shared(here, owner, team(0, (False, False, "B")), 0, events.append)  # the first start
        assert len(events) == 1 and "not seen from B" in events[0]["message"] and "--node-rank" in events[0]["message"]
        for others, restart in (
            ((False, True, "B"), 0),
            ((False, False, "B"), 1),
        ):
            with pytest.raises(TrainingError, match="not seen from B; the run was begun on another machine"):
                check_shared(here, owner, team(0, others), restart)
        save(here, 1)
        check_shared(here, owner, team(0, (False, True, "B")), 1, events.append)  # the first machine stayed the first
        assert len(events) == 2
        name = socket.gethostname()
        with pytest.raises(TrainingError, match=f"not seen from {name}; the run was begun on another machine"):
            check_shared(elsewhere, owner, team(1, (True, False, "A")), 1)


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
