"""The paper's experiments, small."""

import math
import os
import signal
import sys
from argparse import ArgumentParser
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from made import made_scan

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "paper"))

import cost
import figure1
import figure3
import figure4
import gabor_layers
import open_questions
import schedule
import sizes
import study

from GaborSegLib.model.gabor import GaborConv3d
from GaborSegLib.model.weights import load_weights
from GaborSegLib.protocol import read_lock
from GaborSegLib.scans.image import Image
from GaborSegLib.structures import paper_structures
from GaborSegLib.training.options import Options

# Fig. 1


def test_with_equal_frequencies_the_factor_is_one_sinusoid():
    """a cos + b sin = sqrt(a^2 + b^2) cos(x - atan2(b, a)); with different frequencies it has no such form."""
    x = torch.linspace(-10, 10, 2001, dtype=torch.float64)
    factor = figure1.sinusoidal_factor(x, 1.0, 2.0, 0.1, 0.1)
    expected = math.sqrt(5) * torch.cos(2 * math.pi * 0.1 * x - math.atan2(2, 1))
    torch.testing.assert_close(factor, expected)
    torch.testing.assert_close(factor[:1001], factor[1000:])  # a period of 10
    mixed = figure1.sinusoidal_factor(x, 1.0, 2.0, 0.1, 0.25)
    assert (mixed[:1001] - mixed[1000:]).abs().max() > 1


@pytest.mark.parametrize("size", [5, 20, 50, 80])
def test_pcc_starts_at_a_half_and_ends_at_0_and_dice_starts_where_the_size_says(size):
    ends = torch.tensor([0.0, 1.0])
    pcc, dice = (figure1.simulate(loss, size, ends, seeds=[0]).losses[0] for loss in figure1.LOSSES.values())
    torch.testing.assert_close(pcc, torch.tensor([0.5, 0.0]), rtol=0, atol=0.02)
    # Clipped N(0.5, 0.5^2) has the mean 0.5, so the sums are 0.5 m^3 and 0.5 * 100^3.
    start = 1 - size**3 / (0.5 * figure1.LENGTH**3 + size**3)
    torch.testing.assert_close(dice, torch.tensor([start, 0.0]), rtol=0, atol=0.003)


def test_for_a_small_object_dice_is_flat_and_then_falls_abruptly():
    times = torch.tensor([0.5, 0.9, 0.99, 0.999])
    pcc, dice = (figure1.simulate(loss, 5, times, seeds=[1]) for loss in figure1.LOSSES.values())
    assert (dice.losses[0, :2] > 0.98).all() and dice.losses[0, 2] > 0.8 and dice.losses[0, 3] < 0.7
    assert pcc.losses[0, 1] < 0.45 and pcc.losses[0, 2] < 0.15
    assert pcc.gradients[0, 0].abs() > 10 * dice.gradients[0, 0].abs()
    assert dice.gradients[0, 3].abs() > 20 * pcc.gradients[0].abs().max()


def test_the_gradient_is_that_of_finite_differences():
    times, loss = torch.tensor([0.4]), figure1.LOSSES["PCC"]
    step = 1e-2
    around = figure1.simulate(loss, 20, torch.tensor([0.4 - step, 0.4 + step]), seeds=[2]).losses[0]
    gradient = figure1.simulate(loss, 20, times, seeds=[2]).gradients[0, 0]
    assert gradient.item() == pytest.approx((around[1] - around[0]).item() / (2 * step), rel=0.02)


# The study


def test_the_runs_of_a_split_are_those_of_the_paper():
    found = study.runs("paper", range(5))
    assert len({run.name for run in found}) == 225
    options = {(run.options.variant, run.options.loss, f"{math.log10(run.options.learning_rate):.1f}") for run in found}
    assert len(options) == 45 and {rate for *_, rate in options} == {"-4.0", "-3.5", "-3.0", "-2.5", "-2.0"}
    assert {(run.options.epochs, run.options.batch_size, run.options.grid_size) for run in found} == {(300, 2, 128)}
    assert {run.options.augmentation for run in found} == {"paper"}


def test_a_study_that_is_begun_can_be_gone_on_with():
    """What tells a run's folder, its row and its snapshot from others stays as it is."""
    run = study.runs("small", [0])[0]
    assert run.name == "small/split0/conventional-pcc-1.0e-03"
    assert ",".join(run.key) == "scale,split,variant,loss,rate"
    assert ",".join(run.key.values()) == "small,0,conventional,pcc,1.0e-03"
    assert asdict(run.options) == {
        **asdict(Options()),
        **{"variant": "conventional", "grid_size": 64, "epochs": 14, "augmentation": "strong", "dropout": 0.0},
        **{"decay": 0.4, "validate_every": 2},
    }


def test_splits_are_by_subject_and_of_the_papers_shares():
    cases = [SimpleNamespace(subject=f"p{number // 2}", id=number) for number in range(80)]  # two scans of each
    seen = set()
    for number in range(study.SPLITS):
        parts = study.split_cases(cases, number)
        assert [len(part) for part in parts] == [48, 8, 24]
        people = [{case.subject for case in part} for part in parts]
        assert not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]
        seen.add(tuple(case.id for case in parts[2]))
    assert len(seen) == study.SPLITS


TINY = Options(
    grid_size=16, epochs=2, base_channels=4, gabor_kernel_size=3, dropout=0.0, augmentation="none", validate_every=1
)


@pytest.fixture(scope="module")
def ten_scans(tmp_path_factory):
    """A data set of ten made scans: six are trained on, one is validated on, three are tested."""
    folder = tmp_path_factory.mktemp("ten") / "data"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for seed in range(10):
        scan, ids = made_scan(seed, (18, 20, 16))
        nibabel.save(nibabel.Nifti1Image(scan, np.eye(4)), folder / "images" / f"s{seed}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(ids, np.eye(4)), folder / "labels" / f"s{seed}.nii.gz")
    (folder / "structures.csv").write_text("label,structure,source_ids\n1,Shell,10\n2,Core,20\n3,Left ball,31\n")
    return folder


def options_for(folder, scans, *more):
    parser = ArgumentParser()
    study.add_options(parser, "unused.csv")
    return parser.parse_args(
        ["--output", str(folder / "runs"), "--data", str(scans), "--table", str(folder / "table.csv"), *more]
    )


def corner(**changes):
    """Two variants, two losses and two rates of the study, with tiny networks."""
    found = study.runs("tiny", [0], replace(TINY, **changes))
    wanted = {("mixed", "pcc"), ("mixed", "dice"), ("conventional", "pcc"), ("conventional", "dice")}
    return [
        run
        for run in found
        if (run.key["variant"], run.key["loss"]) in wanted and run.key["rate"] in ("1.0e-03", "1.0e-02")
    ]


@pytest.mark.processes
def test_a_corner_of_the_study_is_complete_although_a_worker_is_killed(ten_scans, tmp_path, capsys):
    options, killed, told = options_for(tmp_path, ten_scans, "--workers", "2"), [], []

    def kill_one(table):
        told.append(len(table))
        locks = [read_lock(path.parent) for path in (tmp_path / "runs/tiny").rglob("run.lock")]
        if locks and locks[0] and not killed:
            killed.append(locks[0]["pid"])
            os.kill(locks[0]["pid"], signal.SIGKILL)

    todo = corner()
    assert len(todo) == 8
    assert study.carry_out(todo, options, kill_one) == []
    rows = study.read_table(options.table)
    assert killed and "its worker died" in capsys.readouterr().err
    assert told == list(range(1, 9))
    assert {(row["variant"], row["loss"], row["rate"]) for row in rows} == {tuple(run.key.values())[2:] for run in todo}
    for row in rows:
        assert row["epochs"] == "2" and 0 <= float(row["test_dice"]) <= 1
        scores = [float(row[name]) for name in ("Shell", "Core", "Left ball")]
        assert float(row["test_dice"]) == pytest.approx(np.mean(scores), abs=2e-4)
    # What is there is not done again.
    assert study.carry_out(todo, options_for(tmp_path, ten_scans), kill_one) == [] and len(told) == 8


def test_a_run_that_diverges_is_a_result(ten_scans, tmp_path):
    options, (run,) = options_for(tmp_path, ten_scans), corner()[:1]
    run = replace(run, options=replace(run.options, learning_rate=1e30))
    assert study.carry_out([run], options) == []
    (row,) = study.read_table(options.table)
    assert row["failure"].startswith("the loss became nan in epoch ") and "test_dice" not in row
    results = figure3.Results([row], "tiny")
    assert results.dice("conventional", "pcc", "1.0e-03").tolist() == [0.0] and results.failures() == [row]


def test_what_cannot_be_done_is_said_in_a_line(tmp_path, ten_scans, capsys):
    options = options_for(tmp_path, ten_scans, "--workers", "2", "--device", "cuda")
    for work, status, text in (
        (lambda: study.carry_out(corner(), options), 2, "workers of this command share no GPU; leave out --workers"),
        (lambda: ["tiny/one"], 1, "not finished, start again to go on: tiny/one"),
    ):
        with pytest.raises(SystemExit) as ended:
            study.end(work)
        assert ended.value.code == status
        told = capsys.readouterr().err
        assert text in told and told.count("\n") == 1


def test_the_terminal_says_how_a_study_stands(tmp_path):
    runs = corner()
    table = [{**runs[0].key, "test_dice": "0.5"}, {**runs[1].key, "failure": "the loss became nan"}]
    watch = schedule.Watch(runs, tmp_path, lambda: table)
    assert watch.line() == "1 done, 0 running, 1 failed, 6 to do; not known yet how many hours left"
    seconds = {0: [1800, 1800], 1: [3600], 2: [1800]}  # an epoch each; the runs are of two epochs
    for number, epochs in seconds.items():
        folder = tmp_path / runs[number].name
        folder.mkdir(parents=True)
        rows = "".join(f"{second}\n" for second in epochs)
        (folder / "metrics.csv").write_text(f"seconds\n{rows}")
    (tmp_path / runs[2].name / "run.lock").write_text(
        f'{{"pid": {os.getpid()}, "host": "{schedule.socket.gethostname()}"}}'
    )
    # Run 2 has one epoch of half an hour left; the five others take what their variants' epochs took.
    by_variant = {"conventional": [0.5, 0.5], "mixed": [1.0]}
    by_variant[runs[2].options.variant].append(0.5)
    expected = 0.5 + sum(2 * np.mean(by_variant[run.options.variant]) for run in runs[3:])
    assert watch.line() == f"1 done, 1 running, 1 failed, 5 to do; about {expected:.1f} hours left"


# Fig. 3, Table 1, the sentences


def made_results(dice, splits=(0,)):
    """Results in which `dice(variant, loss, rate exponent, split)` was found; None was not run."""
    rows = []
    for run in study.runs("small", splits):
        value = dice(run.options.variant, run.options.loss, math.log10(run.options.learning_rate), run.split)
        if value is not None:
            rows.append({**run.key, "test_dice": f"{value:.4f}"})
    return figure3.Results(rows, "small")


def as_the_paper_says(variant, loss, exponent, split):
    value = {"conventional": 0.83, "mixed": 0.826, "gabor": 0.80}[variant] + 0.002 * split
    value -= {"pcc": 0.0, "dice": 0.005, "cross-entropy": 0.05}[loss]
    value -= 0.01 * max(0, -3 - exponent) * {"pcc": 1, "dice": 3, "cross-entropy": 2}[loss]
    return value - (0.5 if loss == "dice" and exponent > -2.9 else 0)


def test_runs_that_do_what_the_paper_says_agree_with_every_sentence():
    text = figure3.sentences_table(made_results(as_the_paper_says, (0, 1)))
    rows = text.splitlines()[2:]
    assert len(rows) == 11
    for row in rows:
        agree, _, count = row.split(" | ")[1].partition(" of ")
        assert agree == count, row
    assert "| 6 of 6 | conventional +0." in rows[0] and rows[0].endswith("| 2 % |")  # 1 / 64


def test_runs_that_do_the_opposite_agree_with_none():
    turned = {"pcc": "dice", "dice": "pcc", "cross-entropy": "pcc"}
    results = made_results(lambda variant, loss, exponent, split: as_the_paper_says(variant, turned[loss], exponent, 0))
    rows = figure3.sentences_table(results).splitlines()[2:]
    assert rows[0].split(" | ")[1] == rows[1].split(" | ")[1] == rows[2].split(" | ")[1] == "0 of 3"
    assert rows[0].endswith("| 100 % |")


def test_what_was_not_run_is_said():
    results = made_results(lambda variant, loss, *_: 0.5 if (variant, loss) == ("mixed", "pcc") else None)
    assert "not run yet" in figure3.sentences_table(results).splitlines()[2]
    lines = figure3.rates_table(results).splitlines()[2:]
    assert lines[0].count("not run yet") == 5 and "| mixed | pcc | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 |" in lines


def test_table_1_has_the_papers_numbers_in_brackets(tmp_path):
    results = made_results(as_the_paper_says, (0, 1, 2))
    last = figure3.structures_table(results).splitlines()[-1]
    assert last.startswith("| **Mean** | 83.2±0.2 (83) | 82.7±0.2 (82) | 82.8±0.2 (83) |")
    figure3.draw(results, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


# Fig. 4 and sizes


def test_figure_4_has_a_column_for_each_and_hides_what_the_paper_hides(tmp_path, monkeypatch):
    labels = np.zeros((30, 36, 28), np.uint8)
    labels[5:25, 5:30, 5:22] = 1
    labels[12:18, 12:22, 10:16] = 19
    shown = []
    monkeypatch.setattr(figure4, "render_apart", lambda part, *_: (shown.append(set(np.unique(part))), ([], "none"))[1])
    image = Image(labels.astype(np.float32), np.diag([1.0, 1.0, 2.0, 1.0]))
    figure4.draw(image, {"experts": labels, "mixed": labels}, tmp_path / "four.png")
    names = {structure.label: structure.name for structure in paper_structures()}
    assert names[1] in figure4.HIDDEN and names[19] not in figure4.HIDDEN
    assert shown == [{0, 19}] * 2 and (tmp_path / "four.png").stat().st_size > 10_000


def test_sizes_are_the_papers():
    for variant, size, millions in sizes.PAPER:
        assert sizes.parameters(variant, size) / 1e6 == pytest.approx(millions, abs=0.006)
    assert sizes.table().splitlines()[-1].startswith("| V-Net | 5^3 |")


# What the paper leaves open


def energy(layer):
    return layer.kernel().detach().square().sum(dim=(2, 3, 4))


def as_ordinary(layer):
    """A `GaborConv3d` with the same tensors."""
    ordinary = GaborConv3d(layer.in_channels, layer.out_channels, layer.kernel_size)
    ordinary.load_state_dict(layer.state_dict())
    return ordinary


@pytest.mark.parametrize("name", gabor_layers.LAYERS)
def test_another_layer_is_trained_within_its_limits_and_is_an_ordinary_one_with_these_tensors(name):
    torch.manual_seed(0)
    layer = gabor_layers.LAYERS[name](3, 4, 5)
    if name != "uniform":
        torch.testing.assert_close(energy(layer), torch.full((4, 3), 1 / 3))
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    other = torch.nn.Conv3d(4, 1, 1)  # fixed kernels alone have nothing to train
    optimiser = torch.optim.NAdam([*layer.parameters(), *other.parameters()], lr=0.01)
    for _ in range(5):
        optimiser.zero_grad()
        other(layer(torch.randn(1, 3, 8, 8, 8))).square().mean().backward()
        optimiser.step()
    after = layer.state_dict()
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    everything = set(after)
    expected = {"fixed": set(), "real": everything - {"amplitude_im", "frequency_im"}}.get(name, everything)
    assert changed == expected
    if name == "six":
        assert torch.equal(after["frequency_re"], after["frequency_im"])
        assert torch.equal(after["amplitude_re"], after["amplitude_im"])
    if name == "real":
        assert (after["amplitude_im"] == 0).all()
    torch.testing.assert_close(layer.kernel(), as_ordinary(layer).kernel(), rtol=0, atol=0)


def test_six_parameters_are_the_real_part_with_another_phase():
    layer = gabor_layers.SixParameters(2, 2, 7)
    real = gabor_layers.RealPart(2, 2, 7)
    state = layer.state_dict()
    state["amplitude_re"] = math.sqrt(2) * state["amplitude_re"]
    state["amplitude_im"] = torch.zeros(2, 2)
    state["phase"] = state["phase"] - math.pi / 4
    real.load_state_dict(state)
    torch.testing.assert_close(layer.kernel(), real.kernel())


def test_each_question_has_its_runs_and_its_table():
    runs = open_questions.runs(list(open_questions.QUESTIONS))
    assert len(runs) == len({run.name for run in runs}) == 16
    assert {run.options.gabor_kernel_size for run in runs} == {3, 5, 7, 9}
    assert {run.layer for run in runs} == {"", *gabor_layers.LAYERS}
    parts = open_questions.runs(["parameters"])
    assert {run.layer for run in parts} == {"", "six", "real", "fixed"} and len(parts) == 8
    rows = [{**run.key, "test_dice": f"0.{50 + 2 * run.options.seed}", "seconds": "9"} for run in parts[:5]]
    lines = open_questions.table("parameters", rows).splitlines()
    assert lines[2] == "| eight parameters, 7^3 | 50.0 | 52.0 | 51.0 | 9, 9 |"
    assert lines[-1] == "| fixed, not trained | 50.0 | not run yet |  | 9 |"


@pytest.mark.slow  # three epochs of training, three tests
def test_a_network_of_other_layers_is_stopped_resumed_and_scored(ten_scans, tmp_path):
    """With the ordinary trainer's files."""
    run = next(run for run in open_questions.runs(["parameters"], TINY, "mixed") if run.layer == "six")
    options = options_for(tmp_path, ten_scans)
    folder = options.output / run.name
    stops = lambda event: (folder / "stop").touch() if event["event"] == "epoch" else None
    assert study.train(run, options.output, ten_scans, report=stops) is None
    assert len((folder / "metrics.csv").read_text().splitlines()) == 2
    assert study.carry_out([run], options) == []
    (row,) = study.read_table(options.table)
    assert row["layer"] == "six" and row["epochs"] == "2" and 0 <= float(row["test_dice"]) <= 1
    network = load_weights(folder / "best.safetensors").network
    layers = [module for module in network.modules() if isinstance(module, GaborConv3d)]
    assert layers and all(torch.equal(layer.frequency_re, layer.frequency_im) for layer in layers)
    assert not all(torch.equal(layer.frequency_re, layer.amplitude_re) for layer in layers)


def test_the_cost_is_that_of_all_images_of_all_epochs():
    """28 scans of 24 people, as here: 14 people are trained on."""
    cases = [SimpleNamespace(subject=f"p{number}") for number in range(24)]
    counts = cost.images(study.runs("paper", [0, 3]), cases)
    assert counts == dict.fromkeys(study.VARIANTS, 2 * 15 * 300 * 14)
    text = cost.table(counts, {"conventional": 0.1, "mixed": 0.2, "gabor": 0.4})
    assert text.splitlines()[2] == "| conventional | 126,000 | 0.1 | 3.5 |"
    assert text.splitlines()[-1] == "| all | 378,000 |  | 24.5 |"
    assert 0 < cost.step_seconds(TINY) < 60


def test_the_document_gets_its_tables(tmp_path):
    results = made_results(as_the_paper_says)
    document = tmp_path / "paper.md"
    document.write_text("Before\n<!-- state -->\nold\n<!-- end -->\nafter\n<!-- rates -->\n<!-- end -->\n")
    parts = {"state": figure3.state(results), "rates": "| a |"}
    figure3.fill(document, parts)
    figure3.fill(document, parts)
    expected = "45 of 45 runs of split 0 are done, 0 diverged; 0.0 hours on the clock."
    assert document.read_text() == (
        f"Before\n<!-- state -->\n{expected}\n<!-- end -->\nafter\n<!-- rates -->\n| a |\n<!-- end -->\n"
    )
    with pytest.raises(SystemExit, match="has 0 times <!-- sentences -->"):
        figure3.fill(document, {"sentences": ""})
