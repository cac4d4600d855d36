"""The benchmarks on accuracy: their arithmetic, and all of them in one run on made scans."""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import accuracy
import agreement
import contacts
import contrasts
import icv
import layers
import peers
import recipe
import robustness
import specks
import whole_click
from degradations import DEGRADATIONS, Degradation
from scans import Network, Scan, Scans

from GaborSegLib.cli.main import build_parser
from GaborSegLib.model.gabor import GaborConv3d, gabor_kernels
from GaborSegLib.model.network import build_network
from GaborSegLib.model.weights import load_weights, save_weights
from GaborSegLib.scans.image import Image
from GaborSegLib.structures import paper_structures, resource_path


def test_the_papers_figures_average_to_what_it_says():
    for figures, average in accuracy.PAPER.values():
        assert len(figures) == len(paper_structures()) == 19
        assert np.mean(figures) == pytest.approx(average, abs=1)
    assert set(accuracy.VERMIS) < {structure.name for structure in paper_structures()}


def test_the_mean_of_two_stages_is_for_a_cube_between_theirs(tiny_weights, tmp_path):
    opened = load_weights(tiny_weights)
    for value, size in ((1.0, 160), (4.0, 144)):
        for parameter in opened.network.parameters():
            torch.nn.init.constant_(parameter, value)
        card = {**opened.card, "grid_size": size, "training": {"seed": size}}
        save_weights(tmp_path / f"{size}.safetensors", opened.network, card)
    path = recipe.averaged(tmp_path / "160.safetensors", tmp_path / "144.safetensors", tmp_path / "mean.safetensors")
    mean = load_weights(path)
    assert all((parameter == 2.5).all() for parameter in mean.network.parameters())
    assert mean.card["grid_size"] == 152
    assert mean.card["training"]["seed"] == 160 and "mean" in mean.card["training"]["averaged"]


@pytest.mark.parametrize(
    "name, gpu, file, starts, in_heads",
    [
        ("mixed", False, "mixed-cpu", [None, 1, 2, 3, 4, "5-mean", 6, 7, "8-mean"], "nnyyyyyy"),
        ("conventional", False, "conventional-cpu", [None, 1, 2, "3-mean", 4], "nnyy"),
        ("gabor", False, "gabor-cpu", ["mixed", 1, 2], "yy"),
        ("gabor", True, "gpu", [None, 1], "y"),
        ("brain", False, "finder", [None, 1], "y"),
        ("outline", True, "outline", ["brain", 1, "2-mean"], "yy"),
        ("sides", False, "sides", [None, 1], "n"),
        ("icv", False, "icv", ["outline", 1], "n"),
    ],
)
def test_stages_go_on_from_the_best_weights_or_a_mean(name, gpu, file, starts, in_heads, tmp_path, monkeypatch):
    """`starts`: what each stage begins with, and what is there at the end."""
    asked = []

    def take(command):
        asked.append(build_parser().parse_args(command))
        return 0

    def path(start):
        if isinstance(start, int):
            return tmp_path / f"{name}-{start}" / "best.safetensors"
        weights = resource_path("Weights") / f"{start}.safetensors"
        return weights if weights.exists() else tmp_path / f"{name}-{start}.safetensors"

    monkeypatch.setattr(recipe.cli, "main", take)
    monkeypatch.setattr(recipe.trainer, "Trainer", recipe.Trainer)  # to have it put back
    for data in ("brains", "halves"):
        monkeypatch.setattr(recipe, data, lambda folder: folder)
    monkeypatch.setattr(recipe.icv, "made_data", lambda folder, scans, size: folder)
    monkeypatch.setattr(recipe, "averaged", lambda weights, others, path: path)
    last = recipe.train(name, gpu, tmp_path, ["--threads", "3"])
    assert [*(options.init for options in asked), str(last)] == [start and str(path(start)) for start in starts]
    assert [options.recipe for options in asked] == [f"{file}:{number}" for number in range(1, len(starts))]
    assert "".join("y" if options.heads else "n" for options in asked) == in_heads
    assert all(options.threads == 3 and options.resume for options in asked)
    assert {options.variant for options in asked} == {None if name in recipe.HELPERS else name}


@pytest.fixture
def head_map(tmp_path):
    """A ball of brain with a cerebellum below, fluid around, bone around that, and a neck with fluid and a cord."""
    distance = np.linalg.norm(np.indices((64, 64, 64)) - 31.5, axis=0)
    labels = np.select([distance < 15, distance < 20, distance < 24, distance < 28], [3, 24, 515, 511])
    neck = np.zeros_like(labels, dtype=bool)
    neck[28:36, 28:36, :16] = True
    labels[neck] = 24
    labels[30:34, 30:34, :16] = 512
    labels[(distance < 18) & (np.arange(64) < 20)] = 8  # its lowest voxel is at 14
    path = tmp_path / "head.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.int16), np.eye(4)), path)
    return path


def test_the_inside_of_a_built_skull_does_not_follow_the_brain(head_map):
    image, inside = icv.build(head_map, 1)
    # By hand: a ball of 20 mm without the cap below 14, which is 17.5 mm from the middle.
    cap = np.pi * 2.5**2 * (3 * 20 - 2.5) / 3
    assert inside.sum() == pytest.approx(4 / 3 * np.pi * 20**3 - cap, rel=0.02)
    smaller, same = icv.build(head_map, 1, size=0.8)
    assert np.array_equal(inside, same)
    changed = abs(image.array - smaller.array) > 40
    assert changed.sum() > 1000 and changed[~inside].mean() < 0.001
    assert not np.array_equal(icv.build(head_map, 2)[0].array, image.array)


def test_the_loss_of_sides_is_of_left_against_right_alone():
    """By hand: 0.1 and 0.3 of what is not background, on the left; the third voxel is on no side."""
    scores = torch.tensor([[0.6, 0.1, 0.3], [0.2, 0.2, 0.6], [0.98, 0.01, 0.01]]).T.reshape(1, 3, 1, 1, 3)
    labels = torch.tensor([1, 2, 0]).reshape(1, 1, 1, 3)
    expected = -(np.log(0.1 / 0.4) + np.log(0.6 / 0.8)) / 2
    assert recipe.side_loss(scores, labels).item() == pytest.approx(expected, rel=1e-5)
    assert recipe.side_loss(scores, 0 * labels).item() == 0


def test_no_loss_is_minus_nothing():
    row = {
        "weights": "a",
        "scan": "1",
        "degradation": "Noise",
        "strength": "",
        "structure": "b",
        "dice": 0.9,
        "failure": None,
    }
    assert "| 0.000 | 0.000 (1) |" in robustness.robustness_table([{**row, "lost": -0.0004}])


def test_volume_differences():
    volumes = np.array([[[1.0, 4.0, 0.0], [3.0, 4.0, 0.0]]])
    assert accuracy.relative_difference(volumes).tolist() == [[100.0, 0.0, 0.0]]


def test_correlation_within_structures_leaves_their_means_out():
    # Two structures of different means in which quality and Dice go against each other.
    pairs = np.array([[0.1, 0.2], [0.2, 0.1], [0.8, 0.9], [0.9, 0.8]])
    within = pairs - accuracy.group_means(pairs, ["a", "a", "b", "b"])
    assert accuracy.correlation(pairs) > 0.9
    assert accuracy.correlation(within) == pytest.approx(-1)


def test_a_scan_in_a_head_is_the_scan_with_surroundings(monkeypatch):
    for name, value in (("FIELD", 64), ("PREPARED", 48), ("ABOVE", 4)):
        monkeypatch.setattr(accuracy, name, value)
    truth = 3 * (distances((34, 40, 30), (17, 20, 15)) < 12).astype(np.uint8)
    scan = Scan("made", "S", Image(400 * (truth > 0).astype(np.float32), np.eye(4)), truth)
    away = distances((64, 64, 64), (32, 32, 32))
    head = np.select([away < 12, away < 16, away < 21], [3, 24, 511], 0).astype(np.int32)
    image, labels = accuracy.put_in_head(scan, head, seed=4)
    assert image.array.shape == labels.shape == (64,) * 3 and image.spacing == (1, 1, 1)
    assert (labels == 3).sum() == (truth == 3).sum()
    centre = np.array(np.nonzero(labels)).mean(axis=1)
    assert centre == pytest.approx([32, 32, 36], abs=1.1)
    # The brain is even, as it was, and within the head what surrounds it is not as dark as the air further out.
    away = distances(labels.shape, centre)
    brain, scalp, air = image.array[away < 10], image.array[(away > 17) & (away < 20)], image.array[away > 25]
    assert brain.mean() == pytest.approx(200, rel=0.01) and brain.std() == pytest.approx(0.03 * 200, rel=0.2)
    assert scalp.mean() > 2 * air.mean()
    with pytest.raises(ValueError, match="made"):
        accuracy.put_in_head(Scan("made", "S", Image(scan.image.array, 2 * np.eye(4)), truth), head, seed=4)


def test_a_scan_that_was_moved_agrees_with_itself():
    """Three balls; the second scan has other voxels, and the head was turned by 8 degrees and moved by 3 to 5 mm."""
    turn = np.deg2rad(8)
    turned = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    centres, radii = np.array([[-8.0, 2, 3], [9, 6, -4], [1, -9, 2]]), (7, 6, 5)

    def scan(affine, rotation, shift):
        where = np.moveaxis(np.indices((56, 60, 52)), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
        truth = np.zeros(where.shape[:3], np.uint8)
        for label, (centre, radius) in enumerate(zip(centres @ rotation.T + shift, radii), start=1):
            truth[np.linalg.norm(where - centre, axis=-1) < radius] = label
        return Scan("made", "S", Image(np.array([0.0, 100, 140, 60], np.float32)[truth], affine), truth)

    affine = np.diag([1.0, 1.0, 1.2, 1.0])
    affine[:3, 3] = (-28, -30, -31)
    fixed, moving = scan(affine, np.eye(3), 0), scan(affine, turned, np.array([5.0, -3, 4]))
    (found,) = agreement.agreement(fixed, moving, [(fixed.truth, moving.truth)])
    apart = [
        2 * ((fixed.truth == n) & (moving.truth == n)).sum() / ((fixed.truth == n).sum() + (moving.truth == n).sum())
        for n in (1, 2, 3)
    ]
    # The balls are voxels: on other grids their own surfaces are others.
    assert np.all(found > 0.92) and np.all(np.array(apart) < 0.75)


def distances(shape, centre):
    """Of each voxel from a place, in voxels."""
    return np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - np.array(centre), axis=-1)


@pytest.fixture
def weights(tmp_path):
    """A weight file of a small network for the made data set, not trained, whose card knows splits."""
    torch.manual_seed(2)
    card = {
        "variant": "conventional",
        "conventional_kernel_size": 3,
        "gabor_kernel_size": 3,
        "in_channels": 1,
        "classes": 4,
        "base_channels": 4,
        "structures": ["Shell", "Core", "Left ball"],
        "grid_size": 32,
        "field": "cube",
        "training": {"scans": ["s1", "s2"], "loss": "pcc", "earlier_stages": [{"scans": ["s3"]}]},
        "scores": {"validation": {"scans": ["s0", "s5"]}},
    }
    save_weights(tmp_path / "small.safetensors", build_network("conventional", classes=4, base_channels=4), card)
    return tmp_path / "small.safetensors"


@pytest.mark.slow
def test_all_tables_in_one_run(weights, data_set, tmp_path, monkeypatch, capsys):
    few = [next(d for d in DEGRADATIONS if d.name == name) for name in ("Gamma", "Slices", "Field of view")]

    def fail(*_):
        return Image(np.zeros((20, 20, 20), np.float32), np.eye(4)), np.ones((20, 20, 20), np.uint8)

    few.append(Degradation("Empty", "all 0", fail))
    monkeypatch.setattr(robustness.measure, "__defaults__", (few,))
    monkeypatch.setattr(accuracy, "CUBE", 32)  # the paper's 128 would take nearly all of the time
    tables = ["dice", "repeatability", "agreement", "flip", "robustness"]
    out = tmp_path / "out"
    arguments = ["accuracy.py", weights, "--data", data_set, "--device", "cpu", "--output", out, "--tables", *tables]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    accuracy.main()
    text, name = capsys.readouterr().out, f"{weights.parent.name}/small"
    assert (out / "accuracy.md").read_text(encoding="utf-8").strip() == text.strip()
    assert "s0 (validation), s5 (validation)" in text  # subject A was held out
    assert "## Dice on validation scans" in text and "| Left ball |" in text
    assert f"- {name}: the scans s0 and s5 (validation)" in text and "1 not trained on" in text
    assert "## Agreement between both scans of 1 subjects" in text and "## Left and right" in text
    assert f"{name}, s0, Empty all 0: ImageError" in text
    with open(out / "robustness.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["scan"] for row in rows} == {"s0", "s5"}
    assert {row["degradation"] for row in rows} == {"None", "Gamma", "Slices", "Field of view", "Empty"}
    assert all(0 <= float(row["quality"]) <= 1 and 0 <= float(row["dice"]) <= 1 for row in rows)
    network = Network(weights, "cpu", Scans(data_set).data)
    splits = {"s1": "training", "s3": "training", "s0": "validation", "s4": "unknown"}
    assert {scan: network.split(scan) for scan in splits} == splits


def test_the_robustness_table_has_means_worst_scans_and_what_failed():
    def row(scan, degradation, lost, dice=0.5, failure=None):
        names = {"weights": "net", "scan": scan, "degradation": degradation, "strength": "much", "structure": "Core"}
        return {**names, "dice": dice, "lost": lost, "quality": 0.5, "failure": failure}

    rows = [row("a", "Noise", 0.02), row("b", "Noise", 0.06), row("a", "Blur", 0.2), row("b", "Blur", 0.6, 0.0, "Oops")]
    text = robustness.robustness_table([row("a", robustness.NONE, 0.0), *rows])
    assert "| Noise | much | 0.040 | 0.060 (b) |" in text and "| Blur | much | 0.400 | 0.600 (b) |" in text
    assert "- net: 1 of 2 lose at most 0.05" in text and "- net, b, Blur much: Oops" in text
    assert "None" not in text


@pytest.mark.parametrize(
    "contrast, order",  # from dark to bright
    [
        ("T1 inversion recovery", ("fluid", "grey", "white", "fat")),
        ("T1 spin echo", ("fluid", "grey", "white", "fat")),
        ("T2", ("bone", "muscle", "white", "grey", "fluid")),
        ("PD", ("bone", "white", "grey")),
        ("FLAIR", ("fluid", "white", "grey")),
        ("diffusion b0", ("fat", "white", "grey", "fluid")),
        ("diffusion b1000", ("fat", "fluid", "white", "grey")),
    ],
)
def test_made_contrasts_have_the_order_of_brightness_that_scans_have(contrast, order):
    tissues = list(contrasts.TISSUES)
    codes = np.repeat(np.arange(len(tissues)), 8)[None, None].repeat(16, 0).repeat(16, 1)
    image = contrasts.shown(codes, contrast, "made")
    means = [np.median(image[codes == tissues.index(tissue)]) for tissue in order]
    assert np.all(np.diff(means) > 0)
    assert not image[codes == tissues.index("air")].any()


def test_tissues_of_a_brain_and_of_a_head():
    """A made T1 of few voxels: air, cerebral white and grey, ventricle; what has no label is fluid if it is dark."""
    truth = np.array([0, 13, 1, 16, 0, 0]).reshape(1, 1, 6)
    t1 = np.array([0, 200, 140, 30, 40, 150], np.float32).reshape(1, 1, 6)
    codes = contrasts.brain_codes(truth, t1).ravel()
    assert [list(contrasts.TISSUES)[code] for code in codes] == ["air", "white", "grey", "fluid", "fluid", "grey"]
    codes = contrasts.head_codes(np.array([0, 2, 3, 24, 507, 511, 515]))
    assert [list(contrasts.TISSUES)[c] for c in codes] == ["air", "white", "grey", "fluid", "muscle", "fat", "bone"]


def test_contrasts_are_measured_once_and_counted(tmp_path):
    class Hesitating:
        name, asked = "net", []

        def segment(self, image, what):
            self.asked.append(what)
            return SimpleNamespace(quality={"Core": image - 0.1, "Shell": image + 0.1})

    network, path = Hesitating(), tmp_path / "rows.csv"
    of_scans = {("T1", "T1"): (0.9, 0.8), ("changed T1", "Blur: 2 mm"): (0.4,), ("changed T1", "Blur: 1 mm"): (0.9,)}
    chosen = [
        contrasts.Case(*names, str(number), lambda value=value: value)
        for names, values in of_scans.items()
        for number, value in enumerate(values)
    ]
    for count in (2, 4):
        contrasts.measure(network, chosen[:count], path)
    assert len(network.asked) == 4
    text = contrasts.contrasts_table(contrasts.read_rows(path))
    assert "| T1 | T1 | 0.80 to 0.90 | 0 of 2 |" in text and "| changed T1 | Blur | 0.40 to 0.90 | 1 of 2 |" in text


def test_what_is_mostly_out_of_view_does_not_count():
    truth = np.zeros((10, 10, 10), np.uint8)
    truth[0:4] = 1
    truth[6:10] = 2
    scan = Scan("made", "S", Image(truth.astype(np.float32), np.eye(4)), truth)
    rest = truth[3:]
    shares = robustness._in_view(scan, Image(rest.astype(np.float32), np.eye(4)), rest, range(1, 3))
    assert shares.tolist() == [0.25, 1.0]


def test_scans_are_turned_to_right_anterior_superior(data_set):
    scan = Scans(data_set)["s0"]
    assert nibabel.aff2axcodes(scan.image.affine) == ("R", "A", "S")
    stored = nibabel.load(data_set / "images" / "s0.nii.gz")
    assert nibabel.aff2axcodes(stored.affine) == ("L", "A", "S")
    assert np.array_equal(scan.image.array, stored.get_fdata()[::-1].astype(np.float32))
    assert np.allclose(scan.image.affine @ [0, 0, 0, 1], stored.affine @ [stored.shape[0] - 1, 0, 0, 1])


def test_faces_that_two_classes_share_and_small_pieces_are_counted():
    labels = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.uint8)
    expected = np.zeros((4, 4), dtype=int)
    for place in np.ndindex(labels.shape):
        for step in np.eye(3, dtype=int):
            beside = tuple(place + step)
            if all(i < n for i, n in zip(beside, labels.shape)) and labels[place] != labels[beside]:
                expected[labels[place], labels[beside]] += 1
    assert np.array_equal(contacts.touching_faces(labels, 4), expected + expected.T)
    labels = np.zeros((9, 20, 20), dtype=np.uint8)
    labels[0], labels[4, 0, :12], labels[6, 0, :9] = 1, 1, 1  # 400 voxels, 12, 9
    labels[8] = 2
    assert contacts.count_pieces(labels, 3, 10).tolist() == [0, 1, 0]


def test_specks_are_listed_by_their_size():
    names = [structure.name for structure in paper_structures()]
    labels = np.zeros((40, 20, 20), dtype=np.uint8)
    labels[:20], labels[25, :2, :2], labels[30, :2, :3] = (1 + names.index("Cerebral grey"),) * 3
    assert specks.sizes_of_specks(labels, (2.0, 1.0, 1.0)).tolist() == [12.0]  # and one of 8 mm3
    rows = [("a", [np.array([12.0, 30.0]), np.array([])], [0.8, 0.9], 0.1), ("b", [np.array([11.0])] * 2, [], 0.25)]
    lines = specks.table(rows).splitlines()
    assert lines[2] == "| a | 2 (0.042) | 0 (0.000) | 0.80000 | 0.90000 | 0.10 |"
    assert lines[-1] == "| **all** | 3 | 1 | 0.80000 | 0.90000 | up to 0.25 |"


def test_peers_are_told_as_ratios_to_the_mixed_network():
    made = {"parameters": 10, "start_mib": 100, "peak_mib": 200.0}
    rounds = [{**made, "seconds": s, "cpu_seconds": 4.0} for s in (1.0, 9.0, 2.0)]
    other = {"parameters": 3000, "seconds": 3.0, "cpu_seconds": 5.0, "start_mib": 200, "peak_mib": 450.0}
    text = peers.table({"other": other, "mixed": peers.middle(rounds)}).splitlines()
    assert text[2] == "| other | 3,000 | 3.00 | 1.50 | 5.00 | 1.25 | 450 | 250 | 2.50 |"
    assert text[3] == "| mixed | 10 | 2.00 | 1.00 | 4.00 | 1.00 | 200 | 100 | 1.00 |"


def test_a_network_is_measured():
    measured = peers.measure("mixed", 16)
    assert measured["parameters"] == 1_597_776  # the paper's 1.60 million, whatever the Gabor layers became
    assert measured["seconds"] > 0


@pytest.mark.processes
def test_the_whole_click_is_measured(tiny_weights, data_set, tmp_path, capsys):
    whole_click.click(data_set / "images" / "s0.nii.gz", tiny_weights, 1, tmp_path / "out")
    text = capsys.readouterr().out
    assert "Network" in text and "Total" in text and (tmp_path / "out" / "s0_labels.nii.gz").exists()


def test_the_click_is_measured_beside_load(tiny_weights, data_set, tmp_path, capsys, monkeypatch):
    """Each count once a round, with that many processes that live meanwhile and not after."""
    seen, processes, start = [], [], whole_click.subprocess.Popen

    def started(command):
        processes.append(start(command))
        return processes[-1]

    def timed(*command):
        seen.append([process.poll() for process in processes if process.poll() is None])
        return 2.0 + len(seen[-1]), ""

    monkeypatch.setattr(whole_click.subprocess, "Popen", started)
    monkeypatch.setattr(whole_click, "timed", timed)
    monkeypatch.setattr(whole_click.os, "cpu_count", lambda: 2)
    whole_click.beside_load("scan.nii", tiny_weights, 2, [2], 1, tmp_path)
    assert [len(alive) for alive in seen] == [0, 2, 0, 2]
    assert len(processes) == 4 and all(process.poll() is not None for process in processes)
    rows = [[float(cell) for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:4]]
    assert [row[:2] for row in rows] == [[0, 2.0], [2, 4.0]]
    assert [row[3:] for row in rows] == [[1, 1, 1], [2, 1.8, 1.11]]  # 2 s alone; four threads, two of them at 0.8


def test_the_kernels_that_the_own_ones_are_timed_beside_are_the_same():
    layer = GaborConv3d(2, 3, 5)
    parameters = list(layer.parameters())
    torch.testing.assert_close(layers.separated(*parameters, 5), gabor_kernels(*parameters, 5))


def test_taps_that_meet_a_voxel():
    """Counted by a convolution of ones with ones."""
    for size, k in (((3, 4, 5), 7), ((8, 1, 9), 3)):
        counted = torch.nn.functional.conv3d(torch.ones(1, 1, *size), torch.ones(1, 1, k, k, k), padding=k // 2).sum()
        assert layers.taps_that_meet_a_voxel(size, k) == counted


@pytest.mark.slow  # the mixed network of full size, and the same with plain convolutions
def test_layers_are_timed(capsys, monkeypatch):
    """The tables of training and layers on small cubes, and a network without Gabor layers on the plain side."""
    monkeypatch.setattr(layers, "own_peak", lambda *_: 1.0)
    layers.training_table(16, 1)
    layers.layers_table(16, 1)
    output = capsys.readouterr().out
    assert (
        "| Gabor layers / plain 7^3 | " in output and "| mixed down.4.layers.3 x2 | 192 to 192, 7^3 | 1x1x1 |" in output
    )
    plain = layers.with_plain_convolutions(build_network("mixed"))
    assert not any(isinstance(module, GaborConv3d) for module in plain.modules())
