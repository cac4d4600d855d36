"""Training runs: that they learn, stop, go on exactly, and refuse what would spoil them."""

import csv
import io
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from GaborSegLib import cli
from GaborSegLib.data.sources import find_data
from GaborSegLib.errors import DataError, OutputError, TrainingError
from GaborSegLib.model.gabor import PARAMETER_NAMES
from GaborSegLib.model.losses import PCCLoss
from GaborSegLib.model.weights import load_weights, read_card, save_weights
from GaborSegLib.protocol import BEST, PREVIOUS, SNAPSHOT, STOP
from GaborSegLib.training.lock import request_stop
from GaborSegLib.training.options import Options, learning_rate
from GaborSegLib.training.snapshot import load_snapshot, optimiser_tensors, restore
from GaborSegLib.training.trainer import Trainer

SMALL = Options(
    variant="mixed",
    epochs=3,
    augmentation="strong",
    patch=16,
    grid_size=32,
    base_channels=4,
    gabor_kernel_size=3,
    learning_rate=5e-3,
    decay=0.5,
)
SMALL_ARGUMENTS = (
    "--variant mixed --epochs 3 --augmentation strong --patch 16 --grid-size 32 --base-channels 4 "
    "--gabor-kernel-size 3 --lr 5e-3 --decay 0.5 --validation s1 --threads 1 --device cpu --json"
)


def snapshot(folder):
    """All tensors of a snapshot: the network's and the optimiser's."""
    network, optimiser, _ = load_snapshot(folder)
    return {**network, **{f"optimiser {name}": tensor for name, tensor in optimiser.items()}}


def arguments(data, output, *more):
    return ["train", *map(str, (data, "--output", output, *SMALL_ARGUMENTS.split(), *more))]


def is_step(line):
    event = json.loads(line)
    return event["event"] == "progress" and event["stage"].startswith("Epoch")


class SignalsItself(io.StringIO):
    """Standard output that sends this process a signal once so many training steps were told."""

    def __init__(self, steps, number):
        super().__init__()
        self.steps, self.number = steps, number

    def write(self, line):
        self.steps -= is_step(line)
        if self.steps == 0:
            self.steps = math.inf
            signal.raise_signal(self.number)
        return super().write(line)


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow  # 150 steps, or it has learnt nothing
def test_learns_the_made_structures(data_set, tmp_path):
    options = Options(
        variant="conventional",
        epochs=30,
        augmentation="none",
        grid_size=16,
        base_channels=4,
        learning_rate=5e-3,
        decay=0.5,
        validate_every=30,
        dropout=0.0,
    )
    progress = Trainer(find_data(data_set), tmp_path / "run", options, validation=["s1"]).run()
    assert progress.rows[-1]["loss"] < 0.5 * progress.rows[0]["loss"]
    assert progress.best_dice > 0.8
    assert load_weights(tmp_path / "run" / BEST).card["scores"]["validation"]["dice_mean"] > 0.8


@pytest.mark.slow
def test_writes_what_it_says(data_set, tmp_path, curves):
    events = []
    Trainer(find_data(data_set), tmp_path / "run", SMALL, validation=["s1"], report=events.append).run()
    names = {file.name for file in (tmp_path / "run").iterdir() if not file.name.startswith("optimiser-")}
    assert names == {"metrics.csv", "curves.png", BEST, SNAPSHOT, PREVIOUS, "cache"}
    assert len(list((tmp_path / "run").glob("optimiser-*.safetensors"))) == 2  # of the last two snapshots
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert float(rows[-1]["learning_rate"]) < float(rows[0]["learning_rate"]) == SMALL.learning_rate
    assert all(0 <= float(row["Core"]) <= 1 for row in rows)
    epochs = [event for event in events if event["event"] == "epoch"]
    assert len(epochs) == 3 and epochs[-1]["loss"] == pytest.approx(float(rows[-1]["loss"]))
    assert list(epochs[0]) == ["event", *rows[0]]
    assert list(rows[0]) == (
        [
            "epoch",
            "epochs",
            "loss",
            "learning_rate",
            "seconds",
            "images_per_second",
            "memory_mib",
            "seconds_left",
            "dice_mean",
            "best_dice",
            "best_epoch",
            "Shell",
            "Core",
            "Left ball",
        ]
    )
    for event in epochs:
        left = sum(row["seconds"] for row in epochs[: event["epoch"]]) / event["epoch"] * (3 - event["epoch"])
        assert event["seconds_left"] == pytest.approx(left, abs=0.15)
        assert event["images_per_second"] > 5 / event["seconds"] * 0.99  # validation is not counted
        assert event["best_dice"] == max(row["dice_mean"] for row in epochs[: event["epoch"]])
    card = load_weights(tmp_path / "run" / BEST).card
    assert card["field"] == "content"  # it was trained on cubes of 16^3
    assert card["structures"] == ["Shell", "Core", "Left ball"]
    assert card["training"]["scans"] == ["s0", "s2", "s3", "s4", "s5"]
    assert card["scores"]["validation"]["scans"] == ["s1"]


def test_trains_without_matplotlib(data_set, tmp_path, curves, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    Trainer(find_data(data_set), tmp_path / "run", replace(SMALL, epochs=1), ["s1"]).run()
    assert (tmp_path / "run" / "metrics.csv").exists() and not (tmp_path / "run" / "curves.png").exists()


@pytest.mark.slow  # three trainings
def test_same_seed_same_weights_other_seed_other_weights(data_set, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        options = Options(**{**SMALL.__dict__, "seed": seed, "epochs": 1})
        Trainer(find_data(data_set), tmp_path / name, options, validation=["s1"], cache=tmp_path / "cache").run()
    assert_same(snapshot(tmp_path / "a"), snapshot(tmp_path / "b"))
    a, c = snapshot(tmp_path / "a"), snapshot(tmp_path / "c")
    assert any(not torch.equal(a[name], c[name]) for name in a)


@pytest.mark.processes  # forks
def test_workers_draw_the_same_images(data_set, tmp_path):
    options = Options(**{**SMALL.__dict__, "epochs": 1})
    for workers in (0, 2):
        Trainer(find_data(data_set), tmp_path / str(workers), options, ["s1"], workers=workers).run()
    assert_same(snapshot(tmp_path / "0"), snapshot(tmp_path / "2"))


@pytest.fixture(scope="module")
def whole(made_data, tmp_path_factory):
    """(folder of a run that nothing stopped, its cache)."""
    folder = tmp_path_factory.mktemp("whole")
    assert cli.main(arguments(made_data, folder / "run", "--cache", folder / "cache")) == 0
    return folder / "run", folder / "cache"


def killed(command):
    """Run a command in a process that is killed in the middle of the second of three epochs of five steps."""
    process = subprocess.Popen([sys.executable, "-m", "GaborSegLib", *command], stdout=subprocess.PIPE, text=True)
    steps = filter(is_step, process.stdout)
    assert len(list(itertools.islice(steps, 8))) == 8
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def stopped(command, number):
    """Run a command here and send a signal at the same place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", SignalsItself(8, number))
        status = cli.main(command)
        result = json.loads(sys.stdout.getvalue().splitlines()[-1])
    assert (status, result["event"], result["complete"]) == (0, "result", False)


@pytest.mark.slow  # a run, a stopped one, and the rest of that
@pytest.mark.parametrize("how", [pytest.param("kill", marks=pytest.mark.processes), "SIGTERM", "SIGINT"])
def test_a_stopped_run_goes_on_bit_for_bit(how, whole, made_data, tmp_path):
    whole, cache = whole
    command = arguments(made_data, tmp_path, "--cache", cache)
    killed(command) if how == "kill" else stopped(command, getattr(signal, how))
    assert (tmp_path / SNAPSHOT).exists()
    assert cli.main([*command, "--resume"]) == 0

    assert_same(snapshot(whole), snapshot(tmp_path))
    assert (whole / BEST).read_bytes() == (tmp_path / BEST).read_bytes()
    losses = [[row["loss"] for row in csv.DictReader(open(folder / "metrics.csv"))] for folder in (whole, tmp_path)]
    assert losses[0] == losses[1] and len(losses[0]) == 3


@pytest.mark.parametrize("given", [{}, {"capturable": True}])
def test_a_restored_optimiser_counts_where_torch_does(given):
    """On the CPU unless it is to be capturable; the meta device stands for a GPU."""

    def on(device):
        network = torch.nn.Linear(2, 1, device=device)
        return network, torch.optim.NAdam(network.parameters(), **given)

    network, optimiser = on("cpu")
    for _ in range(2 * (not given)):  # a capturable one steps on GPUs only
        network(torch.ones(1, 2)).sum().backward()
        optimiser.step()
    if given:
        numbers = {"step": torch.tensor(2.0), "mu_product": torch.tensor(0.2)}
        optimiser.state = {parameter: dict(numbers) for parameter in network.parameters()}
    tensors = optimiser_tensors(network, optimiser)
    there = on("meta")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that nothing is copied to meta tensors
        restore(*there, network.state_dict(), tensors)
    for name, parameter in there[0].named_parameters():
        state = there[1].state[parameter]
        for key in ("step", "mu_product"):
            assert state[key].device.type == ("meta" if given else "cpu")
            assert given or torch.equal(state[key], tensors[f"{name}.{key}"])
        assert given or state["exp_avg"].device.type == "meta"


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
        Trainer(find_data(data_set), tmp_path, replace(options, learning_rate=1.0), ["s1"], resume=True)
    with pytest.raises(TrainingError, match="other training or validation scans"):
        Trainer(find_data(data_set), tmp_path, options, ["s2"], resume=True)


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


@pytest.mark.slow  # three trainings, one after the other
def test_the_card_tells_what_the_weights_started_from_however_often_the_run_was_stopped(data_set, tmp_path):
    options = replace(SMALL, epochs=1)
    licence = {"licence": "CC BY-NC 4.0", "credits": "their scans", "limits": "theirs"}
    Trainer(find_data(data_set), tmp_path / "1", options, ["s1"], facts=licence).run()
    Trainer(find_data(data_set), tmp_path / "2", options, ["s2"], init=tmp_path / "1" / BEST).run()
    third = Trainer(find_data(data_set), tmp_path / "3", SMALL, ["s3"], init=tmp_path / "2" / BEST)
    third.save()
    Trainer(find_data(data_set), tmp_path / "3", SMALL, ["s3"], resume=True).run()
    cards = [read_card(tmp_path / name / BEST) for name in "123"]
    assert cards[2]["licence"] == "CC BY-NC 4.0" and cards[2]["credits"] == "their scans" and "limits" not in cards[2]
    stages = cards[2]["training"]["earlier_stages"]
    assert [stage["scans"] for stage in stages] == [card["training"]["scans"] for card in cards[:2]]
    assert "earlier_stages" not in cards[0]["training"] and not any("earlier_stages" in stage for stage in stages)


@pytest.mark.slow  # kernels are fitted
def test_gabor_kernels_start_from_mixed_ones(data_set, tmp_path):
    """Where both are Gabor kernels they are taken, else the nearest to the conventional ones; not again on resuming."""
    options, events = Options(**{**SMALL.__dict__, "variant": "gabor", "epochs": 1}), []
    mixed = Trainer(find_data(data_set), tmp_path / "first", SMALL, ["s1"])
    save_weights(
        tmp_path / "mixed.safetensors", mixed.network, mixed.card({"epoch": 0, "dice_mean": None}), torch.float32
    )
    start = tmp_path / "mixed.safetensors"
    gabor = Trainer(find_data(data_set), tmp_path / "second", options, ["s1"], init=start, report=events.append)
    loaded, own = mixed.network.state_dict(), gabor.network.state_dict()
    new = {name for name in own if name not in loaded}
    assert new == {n for n in own if n.split(".")[-1] in PARAMETER_NAMES and n.split(".")[1] in ("0", "1")}
    assert all(torch.equal(own[name], loaded[name]) for name in own if name in loaded)
    for name, layer in gabor.network.named_modules():
        if f"{name}.sigma" in new:
            mine, theirs = layer.kernel().sum(dim=(2, 3, 4)), loaded[f"{name}.weight"].sum(dim=(2, 3, 4))
            assert torch.corrcoef(torch.stack([mine.flatten(), theirs.flatten()]))[0, 1] > 0.9
    assert any("start as near to them" in event.get("message", "") for event in events)
    gabor.run()
    start.unlink()
    resumed = Trainer(find_data(data_set), tmp_path / "second", options, ["s1"], init=start, resume=True)
    assert len(resumed.inherited["earlier_stages"]) == 1
    assert all(
        torch.equal(value, resumed.network.state_dict()[name]) for name, value in gabor.network.state_dict().items()
    )


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


@contextmanager
def largest_file(size):
    """Context in which the system lets no file grow beyond so many bytes, as a full disk would."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def read_only(folder):
    """Context in which nothing can be written in a folder; as another user, where this one may do everything."""
    user = os.geteuid()
    folder.chmod(0o555)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


@contextmanager
def moved_away(folder):
    """Context in which a folder is not there."""
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    try:
        yield
    finally:
        elsewhere.rename(folder)


@pytest.fixture(scope="module")
def undisturbed(made_data, tmp_path_factory):
    """(options of a run, its folder, its cache); the disk was well."""
    folder, options = (
        tmp_path_factory.mktemp("undisturbed"),
        replace(SMALL, variant="conventional", augmentation="none"),
    )
    Trainer(find_data(made_data), folder / "run", options, ["s1"], cache=folder / "cache").run()
    return options, folder / "run", folder / "cache"


@pytest.mark.slow  # a run, a stopped one, and the rest of that
@pytest.mark.skipif(os.name == "nt", reason="needs POSIX")
@pytest.mark.parametrize("what", ["full disk", "permission", "data"])
def test_what_happens_to_a_disk_leaves_a_run_that_goes_on(what, undisturbed, data_set, tmp_path):
    options, whole, prepared = undisturbed
    cache = shutil.copytree(prepared, tmp_path / "cache")
    with TemporaryDirectory() as folder, ExitStack() as trouble:
        Path(folder).chmod(0o755)  # and not below pytest's folder, which nobody else may enter
        output = Path(folder) / "run"

        def strike(event):
            if event["event"] == "epoch" and event["epoch"] == 2:
                trouble.enter_context(
                    largest_file(100_000)
                    if what == "full disk"
                    else read_only(output)
                    if what == "permission"
                    else moved_away(cache)
                )

        errors = {
            "full disk": (OutputError, "File too large.*last snapshot is kept.*--resume"),
            "permission": (OutputError, "Permission denied.*last snapshot is kept.*--resume"),
            "data": (DataError, "image.npy: cannot be read.*--resume"),
        }
        error, message = errors[what]
        if what == "permission":
            shutil.copytree(cache, Path(folder) / "prepared")
        own_cache = Path(folder) / "prepared" if what == "permission" else cache
        with pytest.raises(error, match=message):
            Trainer(find_data(data_set), output, options, ["s1"], cache=own_cache, report=strike).run()
        trouble.close()
        assert load_snapshot(output)[2]["progress"]["epoch"] == 2
        assert not [file for file in os.listdir(output) if file.startswith(".partial")]
        progress = Trainer(find_data(data_set), output, options, ["s1"], cache=own_cache, resume=True).run()
        assert progress.epoch == 3
        assert_same(snapshot(whole), snapshot(output))


def test_a_stop_file_ends_the_run_after_its_step(data_set, tmp_path):
    def stop(event):
        if event["event"] == "progress" and event["stage"] == "Epoch 2 of 3" and event["done"] == 2:
            request_stop(tmp_path / "run")

    options = replace(SMALL, variant="conventional")
    progress = Trainer(find_data(data_set), tmp_path / "run", options, ["s1"], report=stop).run()
    assert (progress.epoch, progress.step) == (1, 2) and not (tmp_path / "run" / STOP).exists()
    assert load_snapshot(tmp_path / "run")[2]["progress"]["step"] == 2


class InThreads:
    """What two trainers in threads of this process have in the place of a `Team`."""

    size = local_size = 2

    def __init__(self, rank, shared):
        self.rank = self.local_rank = rank
        self.items, self.barrier = shared

    def gather(self, item):
        self.items[self.rank] = item
        self.barrier.wait()
        items = list(self.items)
        self.barrier.wait()
        return items

    def sum(self, *numbers):
        return [sum(column) for column in zip(*self.gather(numbers))]

    def gather_results(self, work):
        return self.gather(work())

    def broadcast_from_first(self, work):
        return self.gather(work() if self.rank == 0 else None)[0]


@pytest.mark.parametrize("when", ["prepared", "validating"])
def test_all_processes_end_when_a_signal_reaches_one_alone_between_steps(when, data_set, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "_parallel", lambda self: self.network)
    shared, options = ([None] * 2, threading.Barrier(2, timeout=20)), replace(SMALL, variant="conventional", epochs=3)

    def train(rank):
        trainer = Trainer(find_data(data_set), tmp_path, options, ["s1", "s2"], team=InThreads(rank, shared))
        prepare = trainer.batches.prepare
        if rank == 1 and when == "prepared":
            trainer.batches.prepare = lambda *arguments: (prepare(*arguments), trainer.stop())[0]
        elif rank == 1:
            trainer.report = lambda event: event.get("stage") == "Validation" and trainer.stop()
        return trainer.run().epoch

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(train, range(2))) == ([0, 0] if when == "prepared" else [1, 1])


def test_a_stop_file_ends_the_preparation_too(data_set, tmp_path):
    (tmp_path / "run").mkdir()
    request_stop(tmp_path / "run")
    progress = Trainer(find_data(data_set), tmp_path / "run", SMALL, ["s1"]).run()
    assert (progress.epoch, progress.step) == (0, 0) and not (tmp_path / "run" / SNAPSHOT).exists()


def test_long_epochs_are_saved_within(data_set, tmp_path, monkeypatch):
    class Crash(Exception):
        pass

    def crash(event):
        if event.get("stage") == "Epoch 1 of 3" and event["done"] == 4:
            raise Crash

    monkeypatch.setattr("GaborSegLib.training.trainer.SNAPSHOT_SECONDS", 0)
    with pytest.raises(Crash):
        Trainer(find_data(data_set), tmp_path, replace(SMALL, variant="conventional"), ["s1"], report=crash).run()
    assert load_snapshot(tmp_path)[2]["progress"]["step"] == 3


def test_augmentation_on_the_device_is_the_same(data_set, tmp_path):
    options = replace(SMALL, variant="conventional", epochs=1, batch_size=2)
    for place in ("cpu", "device"):
        Trainer(find_data(data_set), tmp_path / place, options, ["s1"], augment_on=place).run()
    assert_same(snapshot(tmp_path / "cpu"), snapshot(tmp_path / "device"))


def test_a_batch_is_the_mean_over_its_images(data_set, tmp_path):
    """One step of several images against torch on all of them at once, in float64; the last step has one image less."""
    options = replace(SMALL, variant="conventional", epochs=1, batch_size=3, augmentation="none", dropout=0)
    options = replace(options, grid_size=16, patch=None)
    trainer = Trainer(find_data(data_set), tmp_path, options, ["s1"])
    trainer.network.double()
    gradients, own_step = [], trainer.optimiser.step

    def step():
        gradients.append([parameter.grad.clone() for parameter in trainer.network.parameters()])
        networks.append(deepcopy(trainer.network))
        own_step()

    networks, batches, losses = [], [], []
    trainer.optimiser.step = step
    trainer._prepare()
    for images, labels in trainer._rest_of_epoch():
        batches.append((images.double(), labels))
        losses.append(trainer._step(images.double(), labels))
        trainer.progress.step += 1
    assert [len(images) for images, _ in batches] == [3, 2]
    for network, (images, labels), found, loss in zip(networks, batches, gradients, losses):
        network.zero_grad()
        expected = PCCLoss()(network(images), labels)
        expected.backward()
        assert loss == pytest.approx(expected.item(), rel=1e-12)
        for parameter, gradient in zip(network.parameters(), found):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-8, atol=1e-12)


def test_a_run_may_be_resumed_with_as_many_images_a_step_only(data_set, tmp_path):
    options = replace(SMALL, variant="conventional", epochs=1)
    Trainer(find_data(data_set), tmp_path, options, ["s1"]).run()
    with pytest.raises(TrainingError, match=r"images a step \(batch size times processes\) 1, now it is 2"):
        Trainer(find_data(data_set), tmp_path, replace(options, batch_size=2), ["s1"], resume=True)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_every_precision_trains(precision, data_set, tmp_path):
    options = replace(SMALL, variant="mixed", epochs=1)
    progress = Trainer(find_data(data_set), tmp_path, options, ["s1"], precision=precision).run()
    assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == (precision != "float32")
    assert 0 < progress.rows[0]["loss"] < 1
    weights = load_weights(tmp_path / BEST)
    assert weights.card["training"]["precision"] == precision
    assert all(tensor.dtype == torch.float32 for tensor in snapshot(tmp_path).values())


@pytest.mark.slow  # a cube of 128^3 is prepared
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux' limit of the address space")
def test_out_of_memory_says_what_did_not_fit_and_what_helps(data_set, tmp_path):
    import resource

    options = replace(SMALL, variant="conventional", patch=None, grid_size=128, augmentation="none", base_channels=16)
    data = find_data(data_set)
    trainer = Trainer(replace(data, cases=data.cases[:2]), tmp_path, options, ["s1"])
    trainer._prepare()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + (200 << 20), hard))
    try:
        with pytest.raises(TrainingError, match=r"memory of cpu ran out.*\(128, 128, 128\) voxels.*--patch 64"):
            trainer.run()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_share_of_the_subjects_is_held_out(data_set, tmp_path):
    for share, count in ((0.4, 2), (0.0, 0)):
        trainer = Trainer(find_data(data_set), tmp_path / str(share), SMALL, validation_share=share)
        assert len({case.subject for case in trainer.batches.validation}) == count


def test_an_epoch_takes_its_time_into_the_table(data_set, tmp_path):
    began = time.monotonic()
    progress = Trainer(find_data(data_set), tmp_path, Options(**{**SMALL.__dict__, "epochs": 1}), ["s1"]).run()
    assert 0 < progress.rows[0]["seconds"] <= time.monotonic() - began
    assert progress.rows[0]["memory_mib"] > 50
