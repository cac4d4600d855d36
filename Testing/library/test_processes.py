"""Training in several processes: real ones, that find each other over this machine's own network and use gloo.

The results are compared with those of one process alone, which test_trainer.py compares with torch. Most of the time
goes into importing torch, two seconds for each process, so there are few tests, and each asserts much.
"""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from GaborSegLib import cli, environment
from GaborSegLib.data.sources import find_data
from GaborSegLib.errors import TrainingError
from GaborSegLib.protocol import LOCK, SNAPSHOT, STOP, is_alive
from GaborSegLib.training.options import Options
from GaborSegLib.training.processes import launch
from GaborSegLib.training.snapshot import load_snapshot
from GaborSegLib.training.trainer import Trainer

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes by Linux' /proc"),
]

# Augmented and with dropout: what is drawn depends on neither the processes nor their number.
OPTIONS = Options(
    variant="conventional",
    epochs=4,
    batch_size=2,
    augmentation="strong",
    grid_size=16,
    base_channels=4,
    learning_rate=2e-3,
)
ARGUMENTS = [
    "--variant",
    "conventional",
    "--epochs",
    "4",
    "--augmentation",
    "strong",
    "--grid-size",
    "16",
    "--base-channels",
    "4",
    "--lr",
    "2e-3",
    "--validation",
    "s1,s2",
    "--threads",
    "1",
    "--json",
]
TRAIN = ["-m", "GaborSegLib", "train"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The cache of prepared scans that `alone` fills and all runs share."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def alone(made_data, prepared, tmp_path_factory):
    """(network, best validation Dice) of one process with two images a step; two of the six scans are validated on."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    progress = Trainer(find_data(made_data), folder, OPTIONS, ["s1", "s2"], cache=prepared).run()
    return load_snapshot(folder)[0], progress.best_dice


@pytest.fixture
def start(tmp_path):
    """Function that starts a Python process; those that are left at the end are killed. None may leave a folder."""
    processes, temporary = [], tmp_path / "temporary files"
    temporary.mkdir()

    def run(*arguments, **more):
        command = [sys.executable, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        variables = {name: value for name, value in os.environ.items() if name not in environment.WAITING}
        variables["TMPDIR"] = str(temporary)
        processes.append(subprocess.Popen(command, **pipes, env=variables, **more))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()
    assert not list(temporary.glob("gaborseg-*"))


def fail(place):
    """What processes of `launch` do that fail at every start, each time in another way."""
    if place.restart == 0:
        raise ValueError("a message\nof two lines")
    if place.restart == 1:
        os.abort()
    if place.restart == 2:
        return 5
    os.kill(os.getpid(), signal.SIGKILL)


def fail_for_good(place):
    """What processes of `launch` do of which one tells an error, while the other fails for want of it."""
    if place.rank:
        return 2
    raise RuntimeError("no answer")


def children(pid, word):
    """Process ids of a process's children whose command holds a word."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and word in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return sorted(found)


def wait_for(process, kind, **values):
    """Read events until one of a kind with these values; all that were read."""
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == kind and all(events[-1].get(key) == value for key, value in values.items()):
            return events
    raise AssertionError(f"the run ended too early: {events[-3:]} {process.stderr.read()}")


def finish(process):
    """The events to the end of a process that ends well."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, output + errors
    return [json.loads(line) for line in output.splitlines()]


def assert_as_alone(folder, alone):
    network, best = alone
    found, _, facts = load_snapshot(folder)
    assert facts["progress"]["epoch"] == OPTIONS.epochs
    for name in network:
        torch.testing.assert_close(found[name], network[name], rtol=0, atol=1e-5)
    assert facts["progress"]["best_dice"] == pytest.approx(best, abs=1e-6)


def test_a_killed_process_is_replaced_and_the_run_ends_as_it_would_have(
    made_data, prepared, tmp_path, start, alone, capsys
):
    output = tmp_path / "run"
    process = start(*TRAIN, made_data, "-o", output, "--processes", 2, "--cache", prepared, *ARGUMENTS)
    events = wait_for(process, "epoch", epoch=1)
    workers = children(process.pid, "spawn_main")
    assert len(workers) == 2
    for pid in workers:  # their threads wait for each other as those of the process that started them do
        variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
        assert {"OMP_WAIT_POLICY=PASSIVE", "GOMP_SPINCOUNT=1000", "KMP_BLOCKTIME=0"} <= set(variables)

    assert json.loads((output / LOCK).read_text())["pid"] == process.pid
    status = cli.main(["train", str(made_data), "-o", str(output), "--resume", "--device", "cpu", *ARGUMENTS])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert status == 2 and f"process {process.pid} on {socket.gethostname()}" in told["message"]

    os.kill(workers[1], signal.SIGKILL)
    events += finish(process)
    warnings = [event["message"] for event in events if event["event"] == "warning"]
    assert len(warnings) == 1 and "SIGKILL" in warnings[0] and "restart 1 of 3" in warnings[0]
    result = events[-1]
    assert (result["event"], result["complete"]) == ("result", True)
    assert result["best_dice"] == pytest.approx(alone[1], abs=1e-6)
    assert result["weights"] == str(output / "best.safetensors")
    assert_as_alone(output, alone)
    with open(output / "metrics.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]
    assert not (output / LOCK).exists()


def test_no_process_outlives_a_killed_launcher_and_one_process_goes_on(made_data, prepared, tmp_path, start, alone):
    output, cache = tmp_path / "run", ["--cache", str(prepared)]
    process = start(*TRAIN, made_data, "-o", output, "--processes", 2, *cache, *ARGUMENTS)
    wait_for(process, "epoch", epoch=1)
    workers = children(process.pid, "spawn_main")
    assert len(workers) == 2
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < end, "processes are left"
        time.sleep(0.2)
    assert (output / LOCK).exists()
    more = [*cache, *ARGUMENTS, "--resume", "--batch-size", "2", "--device", "cpu"]
    assert cli.main(["train", str(made_data), "-o", str(output), *more]) == 0
    assert_as_alone(output, alone)


# Runs `python -m GaborSegLib`, and fails if a thread of the process group is left when Python is about to shut down:
# one that still holds a tensor can end the process by SIGABRT.
WATCHED = """
import runpy, sys
from pathlib import Path
try:
    runpy.run_module("GaborSegLib", run_name="__main__", alter_sys=True)
except SystemExit as end:
    status = end.code
names = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
sys.exit(status or [name for name in names if "gloo" in name] or 0)
"""


def test_a_stopped_run_goes_on_under_two_launchers_and_leaves_no_thread(made_data, prepared, tmp_path, start, alone):
    """Stopped by SIGTERM to the launcher; then as if on two machines, of which one has the folder of the run."""
    machines = [tmp_path / "one", tmp_path / "two"]
    for machine in machines:
        machine.mkdir()
    process = start(*TRAIN, made_data, "-o", "run", "--processes", 2, *ARGUMENTS, cwd=machines[0])
    wait_for(process, "epoch", epoch=1)
    process.terminate()
    result = finish(process)[-1]
    assert (result["event"], result["complete"]) == ("result", False)
    assert not (machines[0] / "run" / STOP).exists() and not (machines[0] / "run" / LOCK).exists()

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = (
        "-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --rdzv-backend static --master-addr 127.0.0.1 "
        f"--master-port {port} --local-addr 127.0.0.1"
    ).split()
    (tmp_path / "watched.py").write_text(WATCHED)
    train = [tmp_path / "watched.py", "train", made_data, "-o", "run", "--resume", "--device", "cpu", *ARGUMENTS]
    launchers = [start(*launch, "--node-rank", i, *train, cwd=machine) for i, machine in enumerate(machines)]
    events = [finish(launcher) for launcher in launchers]
    assert events[0][-1]["complete"] and events[1] == []  # the first process alone reports and writes
    warnings = [event["message"] for event in events[0] if event["event"] == "warning"]
    assert len(warnings) == 1 and warnings[0].startswith("run: is on ") and "--node-rank" in warnings[0]
    assert_as_alone(machines[0] / "run", alone)
    assert os.listdir(machines[1] / "run") == ["cache"]


def test_an_error_with_a_remedy_is_told_once_and_not_tried_again(made_data, tmp_path, start):
    options = [*ARGUMENTS, "--lr", "1e30", "--augmentation", "none"]
    process = start(*TRAIN, made_data, "-o", tmp_path / "run", "--processes", 2, *options)
    output, _ = process.communicate(timeout=300)
    events = [json.loads(line) for line in output.splitlines()]
    assert process.returncode == 2
    assert [event["event"] for event in events if event["event"] in ("error", "warning")] == ["error"]
    assert "the loss became nan" in events[-1]["message"] and "learning rate" in events[-1]["message"]
    assert not (tmp_path / "run" / LOCK).exists()


def test_gpus_that_are_not_there_are_refused_at_once(made_data, tmp_path, capsys):
    here = torch.cuda.device_count()
    status = cli.main(["train", str(made_data), "-o", str(tmp_path / "run"), "--gpus", f"{here},{here + 1}"])
    assert status == 2 and f"got {here},{here + 1}" in capsys.readouterr().err
    assert not (tmp_path / "run" / SNAPSHOT).exists()


def test_after_the_third_restart_a_run_ends_and_the_causes_were_told_in_a_line_each():
    told = []
    with pytest.raises(TrainingError, match=r"process 0 of 1 died \(SIGKILL: .*--resume"):
        launch(fail, 1, None, told.append)
    causes = ["ValueError: a message of two lines", "SIGABRT", "exit status 5"]
    goes_on = "the run goes on from its last snapshot, restart"
    assert told == [f"process 0 of 1 died ({cause}); {goes_on} {i} of 3" for i, cause in enumerate(causes, 1)]


def test_an_error_that_any_process_tells_is_final():
    told = []
    assert launch(fail_for_good, 2, None, told.append) == 2 and not told
