"""Commands against what would lose data, end the process, or come back from a name: refused at once, in one line."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from made import made_scan

from GaborSegLib import cli
from GaborSegLib.environment import main_memory, memory_needed
from GaborSegLib.errors import GaborSegError
from GaborSegLib.inference.segmenter import Segmenter, choose_device
from GaborSegLib.model.network import build_network
from GaborSegLib.model.weights import load_weights, save_weights

ESCAPE = "a\x1b[31m\nb"


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(made_scan(0)[0], np.diag([-2.0, 2.0, 2.0, 1.0])), path)
    return path


@pytest.fixture
def refused(capsys):
    """A function that runs a command that must end with status 2 and one line; gives the line."""

    def run(*arguments):
        capsys.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:  # of argparse, which shows the usage first
            status = end.code
        out, error = capsys.readouterr()
        assert status == 2 and "unexpected" not in error, error
        assert "\x1b" not in out + error
        (line,) = [line for line in error.splitlines() if line.startswith("gaborseg")]
        assert error.endswith(f"{line}\n")
        assert error.count("\n") == 1 or error.startswith(("usage: ", "warning: "))
        return line

    return run


# An output that is one of the inputs


def test_segment_writes_over_no_scan(scan, tiny_weights, tmp_path, refused, monkeypatch):
    other = tmp_path / "scan_labels.nii.gz"
    segments = tmp_path / "x.seg.nrrd"
    for path in (other, segments):
        path.write_bytes(scan.read_bytes())
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "link.nii.gz").symlink_to(scan)
    os.link(scan, tmp_path / "hard.nii.gz")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for arguments in (
        ["scan.nii.gz", "-o", scan],
        [scan, "-o", "below/../scan.nii.gz"],
        [scan, "-o", "link/scan.nii.gz"],
        [scan, "-o", "link.nii.gz"],
        ["link.nii.gz", "-o", scan],
        [scan, "-o", "hard.nii.gz"],
        [scan, other, "-o", "."],
        [segments, "-o", ".", "--seg-nrrd"],
        [scan, "missing_labels.nii.gz", "missing.nii.gz"],  # not there yet, and would be read once it was written
        [scan, "-o", "w.nii", "--weights", "w.nii"],
    ):
        line = refused("segment", *arguments)
        assert "which is read and would be overwritten; choose another name or folder" in line, line
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert cli.main(["segment", str(scan), "-o", "below", "--weights", str(tiny_weights), "--device", "cpu"]) == 0


def test_other_commands_write_over_no_input(data_set, tiny_weights, tmp_path, refused):
    weights, packed, run = tmp_path / "w.pt", tmp_path / "p.zip", tmp_path / "run"
    table = tmp_path / "e" / "scores_cube.csv"
    for path in (table, run / "metrics.csv"):
        path.parent.mkdir()
        path.write_bytes((data_set / "structures.csv").read_bytes())
    weights.write_bytes(tiny_weights.read_bytes())
    os.link(tiny_weights, run / "best.safetensors")
    packed.write_bytes(table.read_bytes())
    (tmp_path / "labels.nii.gz").write_bytes((data_set / "images" / "s1.nii.gz").read_bytes())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for arguments in (
        ["export", weights, "-o", weights],
        ["train", data_set, "-o", run, "--init", run / "best.safetensors"],
        ["train", data_set, "-o", run, "--init", tiny_weights],
        ["train", data_set, "-o", run, "--table", run / "metrics.csv"],
        ["train", data_set, "-o", run, "--facts", run / "run.lock"],
        ["evaluate", tiny_weights, data_set, "-o", table.parent, "--table", table],
        ["pack", data_set, "-o", packed, "--table", packed],
        ["demo", tmp_path / "labels.nii.gz", "-o", tmp_path],
    ):
        line = refused(*arguments)
        assert "which is read and would be overwritten; choose another name or folder" in line, line
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# Sizes


def weights_of(path, tiny_weights, **card):
    opened = load_weights(tiny_weights)
    save_weights(path, opened.network, {**opened.card, **card})
    return path


@pytest.mark.parametrize("card", [{"gabor_kernel_size": 31}, {"grid_size": 1024}])
def test_weights_that_need_more_memory_than_there_is(card, scan, tiny_weights, tmp_path, refused, monkeypatch):
    monkeypatch.setattr("GaborSegLib.environment.main_memory", lambda: (4000, 4000))
    path = weights_of(tmp_path / "large.safetensors", tiny_weights, **card)
    line = refused("segment", scan, "-o", tmp_path / "out", "--weights", path, "--device", "cpu")
    assert line.startswith(f"gaborseg: {path}: about ") and "there are 4000 MiB; choose weights of a" in line
    assert refused("check", scan, "--weights", path, "--device", "cpu") == line
    if "gabor_kernel_size" in card:
        assert f"{path}: about " in refused("export", path, "-o", tmp_path / "out.pt")


def test_weights_for_images_of_two_channels_segment_no_scan(scan, tmp_path, refused):
    sizes = {"variant": "conventional", "in_channels": 2, "classes": 2, "base_channels": 4}
    sizes = {**sizes, "conventional_kernel_size": 3, "gabor_kernel_size": 3}
    path = tmp_path / "two.safetensors"
    save_weights(path, build_network(**sizes), {**sizes, "structures": ["A"], "grid_size": 32, "field": "cube"})
    for arguments in (["segment", scan, "-o", tmp_path / "out"], ["check", scan]):
        assert "takes images of 2 channels, a scan has one; choose" in refused(*arguments, "--weights", path)


def test_the_estimate_of_memory_grows_with_each_size_and_is_what_it_was_for_the_papers():
    paper = {"variant": "gabor", "base_channels": 12, "classes": 20, "conventional_kernel_size": 3}
    paper["gabor_kernel_size"] = 7
    assert memory_needed(0) == memory_needed(0, 128, paper) == 2200
    for sizes in ({"base_channels": 24}, {"classes": 255}, {"gabor_kernel_size": 15}):
        assert memory_needed(0, 128, {**paper, **sizes}) > 2600
    assert memory_needed(0, 128, {**paper, "conventional_kernel_size": 31}) == 2200  # it has none
    assert memory_needed(2**20) == 2216


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v")
def test_the_memory_that_there_is_has_the_limits_of_the_process():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (700 << 20,) * 2)\n"
        "from GaborSegLib.environment import main_memory; print(main_memory()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 700 and main_memory()[0] > 700


@pytest.mark.parametrize(
    "option, value, wanted",
    [
        ("--grid-size", "100000", "from 16 to 1024"),
        ("--base-channels", "100000", "from 4 to 1024"),
        ("--base-channels", "6", "from 4 to 1024 in steps of 4"),
        ("--conventional-kernel-size", "4", "from 1 to 31 in steps of 2"),
        ("--gabor-kernel-size", "151", "from 1 to 31 in steps of 2"),
        ("--gabor-kernel-size", "x", "invalid"),
        ("--threads", "100000", "from 1 to 256"),
        ("--processes", "100000", "from 1 to 256"),
        ("--workers", "100000", "from 0 to 256"),
        ("--lr", "nan", "more than 0"),
        ("--lr", "inf", "more than 0"),
        ("--lr", "-1", "more than 0"),
        ("--lr", "0", "more than 0"),
        ("--lr", "\x1b[31m", r"must be a number, got \x1b[31m"),
        ("--dropout", "2", "less than 1"),
        ("--dropout", "nan", "less than 1"),
        ("--decay", "1.5", "from 0 to 1"),
        ("--decay", "nan", "from 0 to 1"),
        ("--seed", "-1", "from 0 to"),
        ("--seed", str(2**63), "from 0 to"),
        ("--epochs", "9" * 400, "from 1 to"),
        ("--patch", "-16", "from 16 to"),
        ("--validation-share", "nan", "less than 1"),
        ("--gpus", "0,0", "different numbers"),
        ("--unknown\x1b[31m", "1", r"--unknown\x1b[31m"),
        ("--cache", "a\0b", "NUL"),
    ],
)
def test_options_that_nothing_can_be_done_with(option, value, wanted, refused):
    assert wanted in refused("train", "DATA", "-o", "DIR", option, value)


def test_sizes_that_need_more_memory_than_there_is(data_set, tmp_path, refused, monkeypatch):
    monkeypatch.setattr("GaborSegLib.environment.main_memory", lambda: (4000, 4000))
    for option in (["--grid-size", "1024"], ["--base-channels", "1024"], ["--gabor-kernel-size", "31"]):
        line = refused("train", data_set, "-o", tmp_path / "run", "--device", "cpu", *option)
        assert "MiB of memory are needed, there are 4000 MiB" in line and "take a smaller --patch" in line
    line = refused("pack", data_set, "-o", tmp_path / "p.zip", "--grid-size", "1024")
    assert "there are 4000 MiB to prepare cubes of 1024^3 voxels; take a smaller --grid-size" in line


@pytest.mark.parametrize("name", ["mps", "xpu", "meta", "cpu:1", "cuda:-1", "", "gpu", "cuda:" + 40 * "9"])
def test_devices_that_were_never_tested(name):
    with pytest.raises(GaborSegError, match="use auto"):
        choose_device(name)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_precisions_of_a_gpu_are_refused_on_a_cpu(precision, data_set, tmp_path, refused):
    line = refused("train", data_set, "-o", tmp_path / "run", "--device", "cpu", "--precision", precision)
    assert f"--precision {precision}: is for GPUs, this run is on the CPU; take float32" in line


def test_scores_that_are_no_numbers_are_not_written(scan, tiny_weights, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(Segmenter, "predict", lambda self, cube, report: torch.full((20, 32, 32, 32), torch.nan))
    line = refused("segment", scan, "-o", tmp_path / "out", "--weights", tiny_weights, "--device", "cpu")
    assert str(tiny_weights) in line and "no numbers" in line and not (tmp_path / "out").exists()


# What would break the card at the end of the first epoch


@pytest.mark.parametrize(
    "facts, message",
    [
        ({"classes": 7, "structures": ["A"]}, "--facts: has classes, structures, which the run itself says"),
        ({"licence": "\ud800"}, r"has a text that is not UTF-8: .*\\ud800"),
        ({"training": "mine"}, "its card has training 'mine'; wanted a dict"),
        (["licence"], r"got \['licence'\]; wanted a dictionary"),
        ("NaN", "has the number NaN"),
        (60 * "[" + 60 * "]", "nested too deep"),
        (100_000 * "[", "nested too deep"),
        ("", "cannot be read as JSON"),
    ],
)
def test_facts_that_no_card_can_hold(facts, message, data_set, tmp_path, refused):
    path = tmp_path / "facts.json"
    path.write_text(facts if isinstance(facts, str) else json.dumps(facts))
    line = refused("train", data_set, "-o", tmp_path / "run", "--facts", path, "--epochs", "1", "--grid-size", "16")
    assert re.search(message, line), line
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_a_pipe_is_not_waited_for(data_set, tiny_weights, tmp_path, refused):
    names = ("pipe.json", "pipe.csv", "pipe.zip", "pipe.safetensors")
    pipes = [tmp_path / name for name in names]
    for pipe in pipes:
        os.mkfifo(pipe)
    facts, table, packed, weights = pipes
    for arguments in (
        ["train", data_set, "-o", tmp_path / "run", "--facts", facts],
        ["train", data_set, "-o", tmp_path / "run", "--recipe", facts],
        ["data", data_set, "--table", table],
        ["data", table],
        ["train", packed, "-o", tmp_path / "run"],
        ["info", weights],
    ):
        assert str(tmp_path / "pipe.") in refused(*arguments)


# Names


@pytest.mark.parametrize("name", [300 * "x" + ".nii.gz", "loop.nii.gz", "loop/scan.nii.gz", b"\xff.nii.gz", ESCAPE])
def test_names_that_no_file_can_have(name, scan, tiny_weights, tmp_path, refused):
    (tmp_path / "loop.nii.gz").symlink_to("loop.nii.gz")
    (tmp_path / "loop").symlink_to("loop")
    path = os.path.join(os.fspath(tmp_path), os.fsdecode(name))
    commands = [["segment", path], ["segment", scan, "-o", path], ["info", path], ["export", path, "-o", "a.pt"]]
    for arguments in [*commands, ["data", path], ["data", tmp_path, "--table", path], ["train", path, "-o", "run"]]:
        if name == ESCAPE and arguments[1] == scan:
            continue  # a folder may be called so
        refused(*arguments, *(["--weights", tiny_weights] if arguments[0] == "segment" else []))


def test_a_link_to_nothing_is_called_as_it_was_given(tiny_weights, tmp_path, refused):
    (tmp_path / "link.nii.gz").symlink_to("nowhere")
    message = refused("segment", tmp_path / "link.nii.gz", "--weights", tiny_weights)
    assert message.startswith(f"gaborseg: {tmp_path / 'link.nii.gz'}: there is no such file")


def test_a_closed_folder(scan, tmp_path, refused, monkeypatch):
    """An administrator may look into all of them, so the system's answer is made."""

    def closed(path, *arguments, **options):
        if tmp_path in path.parents or path == tmp_path:
            raise PermissionError(13, "Permission denied", str(path))
        return is_dir(path)

    is_dir = Path.is_dir
    monkeypatch.setattr("pathlib.Path.is_dir", closed)
    for arguments in (["segment", scan, "-o", tmp_path / "out"], ["data", tmp_path]):
        assert "Permission denied; check the name, the permissions and the disk" in refused(*arguments)


def test_no_name_reaches_the_terminal_as_it_is(data_set, tiny_weights, tmp_path, capsys):
    for kind in ("images", "labels"):
        (data_set / kind / "s1.nii.gz").rename(data_set / kind / f"=1+1{ESCAPE}.nii.gz")
    scan, out = data_set / "images" / f"=1+1{ESCAPE}.nii.gz", tmp_path / "out"
    assert cli.main(["segment", str(scan), "-o", str(out), "--weights", str(tiny_weights), "--device", "cpu"]) == 0
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err and r"a\x1b[31m" in told.out and r"a\x1b[31m\nb" in told.err
    assert cli.main(["segment", f"{scan}x", "--json"]) == 2
    message = json.loads(capsys.readouterr().out.splitlines()[-1])["message"]
    assert r"a\x1b[31m\nb" in message and message.isprintable()
    assert cli.main(["data", str(data_set), "--validation", "s2"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_name_that_is_not_utf8_is_a_problem_of_its_data_set(data_set, tmp_path, refused):
    for kind in ("images", "labels"):
        (data_set / kind / "s1.nii.gz").rename(data_set / kind / os.fsdecode(b"s\xff.nii.gz"))
    line = refused("train", data_set, "-o", tmp_path / "run")
    assert r"s\udcff.nii.gz: has a name that is not UTF-8; rename it, and its label map" in line


# A full disk


@pytest.mark.processes
def test_export_to_a_full_disk(tiny_weights, tmp_path):
    """A limit of the size of files stands for it; torch's own writer ends the process there by SIGABRT."""
    resource = pytest.importorskip("resource")

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    output = tmp_path / "out" / "w.pt"
    command = [sys.executable, "-m", "GaborSegLib", "export", tiny_weights, "-o", output]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 2 and done.stderr.startswith(f"gaborseg: {output}: cannot be written (File too large)")
    assert list(output.parent.iterdir()) == []
