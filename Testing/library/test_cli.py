"""The command line as a person or a program meets it: exit status, what is printed, what is written."""

import ctypes
import gc
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from made import made_scan

from GaborSegLib import cli, environment
from GaborSegLib.cli.demo import icbm152
from GaborSegLib.cli.main import build_parser
from GaborSegLib.data.augmentation import AUGMENTATIONS
from GaborSegLib.errors import GaborSegError, OutputError
from GaborSegLib.inference import segmenter as segmenter_module
from GaborSegLib.inference.segmenter import Segmentation, Segmenter
from GaborSegLib.model.weights import load_weights, save_weights
from GaborSegLib.scans.reading import read_image, scans_in


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(made_scan(0)[0], np.diag([-2.0, 2.0, 2.0, 1.0])), path)
    return path


def run(capsys, *arguments):
    """(exit status, standard output, standard error) of a command in this process."""
    status = cli.main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def test_segment_writes_all_that_is_asked_for(scan, tiny_weights, tmp_path, capsys):
    out = tmp_path / "out"
    status, text, _ = run(
        capsys,
        "segment",
        scan,
        "-o",
        out,
        "--weights",
        tiny_weights,
        "--device",
        "cpu",
        "--seg-nrrd",
        "--volumes",
    )
    assert status == 0
    assert {file.name for file in out.iterdir()} == {"scan_labels.nii.gz", "scan.seg.nrrd", "scan_volumes.csv"}
    assert "Hippocampus" in text and str(out / "scan_labels.nii.gz") in text
    written, original = nibabel.load(out / "scan_labels.nii.gz"), nibabel.load(scan)
    assert written.shape == original.shape and np.allclose(written.affine, original.affine)


def test_json_is_one_event_a_line_and_nothing_else(scan, tiny_weights, tmp_path, capsys):
    status, text, _ = run(capsys, "segment", scan, "-o", tmp_path / "l.mgz", "--weights", tiny_weights, "--json")
    events = [json.loads(line) for line in text.splitlines()]
    assert status == 0
    assert {event["event"] for event in events} == {"progress", "warning", "result"}  # untrained: an unlikely volume
    assert events[-1]["files"] == {"labels": str(tmp_path / "l.mgz")}
    assert set(events[-1]["volumes"]) >= {"Hippocampus", "Thalamus"}
    assert events[-1]["quality"].keys() == events[-1]["volumes"].keys()
    assert all(0 <= quality <= 1 for quality in events[-1]["quality"].values())


def test_several_scans_go_into_one_folder(scan, tiny_weights, tmp_path, capsys):
    second = tmp_path / "second.nii.gz"
    second.write_bytes(scan.read_bytes())
    status, *_ = run(capsys, "segment", scan, second, "-o", tmp_path / "out", "--weights", tiny_weights)
    assert status == 0
    assert len(list((tmp_path / "out").iterdir())) == 2
    status, _, error = run(capsys, "segment", scan, second, "-o", tmp_path / "x.nii", "--weights", tiny_weights)
    assert status == 2 and "name a folder" in error
    status, _, error = run(capsys, "segment", scan, scan, "-o", tmp_path / "y", "--weights", tiny_weights)
    assert status == 2 and "same name" in error and not (tmp_path / "y").exists()


def test_one_bad_scan_of_several_does_not_lose_the_others(scan, tiny_weights, tmp_path, capsys):
    bad = bad_scan("nan", tmp_path, scan)
    status, _, error = run(capsys, "segment", bad, scan, "-o", tmp_path / "out", "--weights", tiny_weights)
    assert status == 2 and str(bad) in error
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["scan_labels.nii.gz"]


@pytest.fixture
def folder(tmp_path):
    """A folder of three scans, and of what is none of them."""
    folder = tmp_path / "cohort"
    folder.mkdir()
    for seed in range(3):
        image = nibabel.Nifti1Image(made_scan(seed)[0], np.diag([-2.0, 2.0, 2.0, 1.0]))
        nibabel.save(image, folder / f"s{seed}.nii.gz")
    (folder / "notes.csv").write_text("scan\n")
    (folder / ".hidden.nii.gz").write_text("")
    return folder


@pytest.mark.slow
def test_a_folder_is_all_its_scans_and_not_the_label_maps_written_beside_them(folder, tiny_weights, tmp_path, capsys):
    out = tmp_path / "single"
    for seed in range(3):
        assert run(capsys, "segment", folder / f"s{seed}.nii.gz", "-o", out, "--weights", tiny_weights)[0] == 0
    for _ in range(2):
        status, text, _ = run(capsys, "segment", folder, "-o", folder, "--weights", tiny_weights, "--seg-nrrd")
        wrote = [Path(line.split()[1]).name for line in text.splitlines() if line.startswith("wrote")]
        assert status == 0
        assert wrote == [f"s{seed}{end}" for seed in range(3) for end in ("_labels.nii.gz", ".seg.nrrd")]
    for seed in range(3):
        one, many = (nibabel.load(place / f"s{seed}_labels.nii.gz").dataobj for place in (out, folder))
        assert np.array_equal(one, many)
    status, _, error = run(capsys, "segment", folder, "-o", tmp_path / "one.nii", "--weights", tiny_weights)
    assert status == 2 and "for 3 scans" in error
    status, _, error = run(capsys, "segment", out, "--weights", tiny_weights)
    assert status == 2 and "3 label maps and no scan" in error
    empty = tmp_path / "empty"
    empty.mkdir()
    status, _, error = run(capsys, "segment", empty, "-o", tmp_path / "new", "--weights", tiny_weights)
    assert status == 2 and str(empty) in error


def test_a_dicom_folder_stays_one_scan(folder, tmp_path):
    slices = made_scan(0)[0].astype(np.int16)
    for k in range(3):
        image = sitk.GetImageFromArray(slices[None, :, :, k])
        image.SetMetaData("0008|0060", "MR")
        image.SetMetaData("0020|000e", "1.2.3")
        sitk.WriteImage(image, str(folder / f"{k}.dcm"))
    assert scans_in(folder) == [folder]
    for scan in (folder / "s0.nii.gz", tmp_path / "missing.nii"):
        assert scans_in(scan) == [scan]


def test_events_of_many_scans_come_in_order_and_name_their_scan(folder, tiny_weights, tmp_path, capsys):
    bad = bad_scan("nan", folder, None)  # between the others by its name
    status, text, _ = run(
        capsys, "segment", folder, "-o", tmp_path / "out", "--weights", tiny_weights, "--json", "--profile"
    )
    events = [json.loads(line) for line in text.splitlines()]
    assert status == 2
    scans = [bad] + [folder / f"s{seed}.nii.gz" for seed in range(3)]
    told = [event for event in events if event["event"] in ("result", "error")]
    assert [str(bad)] + [event["provenance"]["scan"] for event in told[1:]] == list(map(str, scans))
    assert told[0]["event"] == "error" and str(bad) in told[0]["message"]
    warnings = [event for event in events if event["event"] == "warning"]  # untrained: unlikely volumes
    assert [event["scan"] for event in warnings] == list(map(str, scans[1:]))
    assert all(event["scan"] in event["message"] for event in warnings)
    progress = [(event["done"], event["total"]) for event in events if event["event"] == "progress"]
    assert progress == [(done, 4) for done in range(5)]
    for event in told[1:]:
        assert {"Reading", "Network", "Scores to the scan's grid", "Writing"} < event["profile"]["scan"].keys()
        assert {"Importing torch", "Opening the weights"} < event["profile"]["start"].keys()
        assert sum(event["profile"]["scan"].values()) > event["provenance"]["seconds"] - 0.01


def test_a_scan_that_is_no_t1_is_told_to_persons_and_programs(folder, tiny_weights, tmp_path, capsys, monkeypatch):
    """The tiny weights are taken for bundled ones: untrained, they hesitate on every scan."""
    one, command = folder / "s0.nii.gz", ("-o", tmp_path / "out", "--weights", tiny_weights)
    _, text, _ = run(capsys, "segment", one, *command, "--json")
    assert json.loads(text.splitlines()[-1])["looks_like_t1"] is None
    monkeypatch.setattr(segmenter_module, "is_bundled", lambda card: True)
    status, _, error = run(capsys, "segment", one, *command)
    said = [line for line in error.splitlines() if "does not look like a T1-weighted scan" in line]
    assert status == 0 and len(said) == 1 and said[0].startswith(f"warning: {one}: ")
    _, text, _ = run(capsys, "segment", one, folder / "s1.nii.gz", *command, "--json")
    events = [json.loads(line) for line in text.splitlines()]
    doubts = [event["scan"] for event in events if event["event"] == "warning" and event.get("kind") == "not-t1"]
    assert doubts == [str(one), str(folder / "s1.nii.gz")]
    assert [event["looks_like_t1"] for event in events if event["event"] == "result"] == [False, False]


def test_ctrl_c_among_many_scans_leaves_whole_files_only(folder, tiny_weights, tmp_path, capsys, monkeypatch):
    predict, seen = Segmenter.predict, []

    def interrupted(self, cube, report):
        seen.append(cube)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return predict(self, cube, report)

    monkeypatch.setattr(Segmenter, "predict", interrupted)
    status, _, error = run(capsys, "segment", folder, "-o", tmp_path / "out", "--weights", tiny_weights)
    assert (status, error.splitlines()[-1]) == (130, "gaborseg: cancelled")
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["s0_labels.nii.gz", "s1_labels.nii.gz"]
    assert all(nibabel.load(file).get_fdata().shape == (36, 40, 32) for file in files)


def test_errors_of_every_step_cost_their_scan_alone(tiny_weights, tmp_path, capsys, monkeypatch):
    """Of seven scans one cannot be read, the network fails on one, and the files of one cannot be written."""
    folder, out = tmp_path / "cohort", tmp_path / "out"
    folder.mkdir()
    for seed in range(7):
        image = nibabel.Nifti1Image(made_scan(seed)[0], np.diag([-2.0, 2.0, 2.0, 1.0]))
        nibabel.save(image, folder / f"s{seed}.nii.gz")
    (folder / "s1.nii.gz").write_bytes((folder / "s1.nii.gz").read_bytes()[:-200])
    predict, save, predicted = Segmenter.predict, Segmentation.save, []

    def failing_predict(self, cube, report):
        predicted.append(cube)
        if len(predicted) == 3:  # of 0, 2 and 3
            raise GaborSegError("scan 3")
        return predict(self, cube, report)

    def failing_save(self, path, parts=None):
        if path.name.startswith("s6"):
            raise OutputError("scan 6")
        save(self, path, parts)

    monkeypatch.setattr(Segmenter, "predict", failing_predict)
    monkeypatch.setattr(Segmentation, "save", failing_save)
    status, text, _ = run(capsys, "segment", folder, "-o", out, "--weights", tiny_weights, "--json")
    events = [json.loads(line) for line in text.splitlines()]
    assert status == 2
    told = [
        event.get("message") or Path(event["provenance"]["scan"]).name
        for event in events
        if "files" in event or event["event"] == "error"
    ]
    assert str(folder / "s1.nii.gz") in told.pop(1)
    assert told == ["s0.nii.gz", "s2.nii.gz", "scan 3", "s4.nii.gz", "s5.nii.gz", "scan 6"]
    assert sorted(file.name for file in out.iterdir()) == [f"s{seed}_labels.nii.gz" for seed in (0, 2, 4, 5)]


@pytest.mark.slow  # Python looks through all of its memory, four times
def test_one_scan_is_in_memory_at_a_time_and_written_before_the_next_is_read(
    folder, tiny_weights, tmp_path, capsys, monkeypatch
):
    bad_scan("constant", folder, None)  # read, and then refused: it is not kept either
    alive, out, found = weakref.WeakSet(), tmp_path / "out", []

    def read(path):
        gc.collect()
        found.append((len(alive), sorted(file.name for file in out.iterdir()) if out.exists() else []))
        image = read_image(path)
        alive.add(image)
        return image

    monkeypatch.setattr(segmenter_module, "read_image", read)
    assert run(capsys, "segment", folder, "-o", out, "--weights", tiny_weights)[0] == 2
    names = [f"s{seed}_labels.nii.gz" for seed in range(3)]
    assert found == [(0, []), (0, []), (0, names[:1]), (0, names[:2])]


def test_segment_and_check_warn_of_too_little_memory_in_the_same_words(
    scan, tiny_weights, tmp_path, capsys, monkeypatch
):
    """And segment does so before the network starts."""
    monkeypatch.setattr(
        "GaborSegLib.environment.environment", lambda: {"devices": [{"id": "cpu", "total_mib": 64, "free_mib": 7}]}
    )
    told = []
    for arguments in (["check", scan], ["segment", scan, "-o", tmp_path / "labels.nii"]):
        status, out, _ = run(capsys, *arguments, "--weights", tiny_weights, "--device", "cpu", "--json")
        assert status == 0
        events = [json.loads(line) for line in out.splitlines()]
        (place,) = [i for i, event in enumerate(events) if "MiB are needed" in event.get("message", "")]
        told.append(events[place]["message"])
        assert "Segmenting" not in [event.get("stage") for event in events[:place]]
    assert told[0] == told[1] and "7 MiB are free on cpu; close other programs" in told[0]


@pytest.mark.parametrize("kind, status", [(KeyboardInterrupt, 130), (ZeroDivisionError, 1)])
def test_what_is_no_error_of_a_scan_ends_all_of_them(kind, status, tiny_weights, tmp_path, capsys, monkeypatch):
    folder, out = tmp_path / "cohort", tmp_path / "out"
    folder.mkdir()
    for seed in range(5):
        nibabel.save(nibabel.Nifti1Image(made_scan(seed)[0], np.eye(4)), folder / f"s{seed}.nii.gz")
    predict, read, before = Segmenter.predict, [], set(threading.enumerate())

    def failing(self, cube, report):
        if len(read) == 3:
            raise kind
        return predict(self, cube, report)

    monkeypatch.setattr(Segmenter, "predict", failing)
    monkeypatch.setattr(segmenter_module, "read_image", lambda path: read.append(path.name) or read_image(path))
    found, _, error = run(capsys, "segment", folder, "-o", out, "--weights", tiny_weights)
    assert found == status and error.splitlines()[-1].startswith("gaborseg: ")
    assert read == ["s0.nii.gz", "s1.nii.gz", "s2.nii.gz"]
    assert sorted(file.name for file in out.iterdir()) == ["s0_labels.nii.gz", "s1_labels.nii.gz"]
    # tqdm's own watches its bars, from the first one on.
    assert {type(thread).__name__ for thread in set(threading.enumerate()) - before} <= {"TMonitor"}


@pytest.mark.slow  # two threads that wait for each other where others are at work, too
def test_many_scans_have_the_threads_that_one_has(folder, tiny_weights, tmp_path, capsys, monkeypatch):
    predict, seen, before = Segmenter.predict, [], torch.get_num_threads()

    def counting(self, cube, report):
        seen.append(torch.get_num_threads())
        return predict(self, cube, report)

    monkeypatch.setattr(Segmenter, "predict", counting)
    torch.set_num_threads(2)
    try:
        assert run(capsys, "segment", folder, "-o", tmp_path, "--weights", tiny_weights)[0] == 0
        assert seen == [2, 2, 2] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_profile_is_a_table_that_adds_up(scan, tiny_weights, tmp_path, capsys):
    began = time.perf_counter()
    status, text, _ = run(capsys, "segment", scan, "-o", tmp_path, "--weights", tiny_weights, "--profile")
    passed = time.perf_counter() - began
    lines = text[text.index("Stage ") :].splitlines()
    seconds = {line[:27].strip(): float(line[27:].split()[0]) for line in lines[1:] if not line.startswith("-")}
    total = seconds.pop("Total")
    assert status == 0 and {"Network", "Reading", "Rest"} < seconds.keys()
    assert sum(seconds.values()) == pytest.approx(total, abs=0.1)
    # Before the command began this process was at other work, which it takes for the start of Python.
    assert total - seconds["Python"] == pytest.approx(passed, abs=0.5)


def bad_scan(kind, tmp_path, scan):
    path = tmp_path / f"{kind}.nii.gz"
    array, affine = made_scan(0)[0], np.diag([2.0, 2.0, 2.0, 1.0])
    if kind == "missing":
        return path
    if kind == "truncated":
        path.write_bytes(scan.read_bytes()[:-200])
        return path
    if kind == "4d":
        array = np.stack([array, array], axis=-1)
    elif kind == "nan":
        array[3, 3, 3] = np.nan
    elif kind == "constant":
        array[:] = 7
    elif kind == "thin":
        array = array[:15]
    elif kind == "sheared":
        affine[0, 1] = 0.5
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.mark.parametrize("kind", ["missing", "truncated", "4d", "nan", "constant", "thin", "sheared"])
def test_what_cannot_be_segmented_is_refused_in_one_line(kind, scan, tiny_weights, tmp_path, capsys):
    path = bad_scan(kind, tmp_path, scan)
    status, text, error = run(
        capsys, "segment", path, "-o", tmp_path / "new" / "labels.nii.gz", "--weights", tiny_weights, "--device", "cpu"
    )
    assert (status, text) == (2, "")
    assert len(error.strip().splitlines()) == 1 and str(path) in error
    assert not (tmp_path / "new").exists()


def test_unwritable_outputs_are_refused_before_the_work(scan, tiny_weights, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file" / "labels.nii.gz", tmp_path / "file" / "folder"):
        status, text, error = run(capsys, "segment", scan, "-o", output, "--weights", "does-not-matter")
        assert (status, text) == (2, "") and str(tmp_path / "file") in error


def test_an_error_is_an_event_with_json_and_a_traceback_with_debug(scan, tmp_path, capsys):
    status, text, error = run(capsys, "segment", scan, "-o", tmp_path, "--weights", "none.safetensors", "--json")
    event = json.loads(text)
    assert (status, event["event"], event["code"], error) == (2, "error", "weights", "")
    _, _, error = run(capsys, "info", "none.safetensors", "--debug")
    assert "Traceback" in error and "WeightsError" in error


def test_info_and_check_and_environment(scan, tiny_weights, capsys):
    status, text, _ = run(capsys, "info", tiny_weights)
    assert status == 0 and json.loads(text)["variant"] == "mixed"
    status, text, _ = run(capsys, "check", scan, "--weights", tiny_weights, "--device", "cpu", "--json")
    result = json.loads(text.splitlines()[-1])
    assert (result["event"], result["variant"]) == ("result", "mixed") and result["needed_mib"] > 0
    status, text, _ = run(capsys, "environment", "--json")
    result = json.loads(text)
    assert result["missing"] == [] and result["devices"][0]["id"] == "cpu"


@pytest.mark.slow  # all in one
def test_train_evaluate_segment_from_end_to_end(data_set, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = "--variant conventional --epochs 2 --augmentation none --grid-size 32 --base-channels 4 --device cpu"
    status, text, _ = run(capsys, "train", data_set, "-o", out, "--validation", "s1,s2", *arguments.split())
    assert status == 0 and "finished at epoch 2" in text
    status, text, _ = run(
        capsys, "evaluate", out / "best.safetensors", data_set, "--scans", "s1,B", "-o", tmp_path / "e"
    )
    assert status == 0 and "Mean of structures" in text
    lines = (tmp_path / "e" / "scores_scan.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 and lines[1].startswith("s1,Shell,")
    scan = data_set / "images" / "s1.nii.gz"
    status, text, _ = run(capsys, "segment", scan, "-o", tmp_path, "--weights", out / "best.safetensors")
    assert status == 0 and "Left ball" in text


def test_wrong_options_answer_at_once(tmp_path, data_set, capsys):
    for arguments in (["train", data_set], ["train", data_set, "-o", tmp_path, "--epochs", "0"], ["segment"], ["fly"]):
        with pytest.raises(SystemExit) as end:
            run(capsys, *arguments)
        assert end.value.code == 2
    status, _, error = run(capsys, "train", data_set, "-o", tmp_path / "r", "--patch", "40")
    assert status == 2 and "multiple of 16" in error


def imported(arguments):
    """The modules that a command has imported, in a process of its own."""
    code = (
        "import sys; from GaborSegLib import cli\n"
        "try: status = cli.main(sys.argv[1:])\n"
        "except SystemExit as end: status = end.code\n"
        "print(*sys.modules, file=sys.stderr)\nsys.exit(status)"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert process.returncode == 0, process.stderr
    return set(process.stderr.splitlines()[-1].split())


@pytest.mark.processes
def test_a_command_imports_only_what_it_needs(scan, tiny_weights, tmp_path):
    for arguments in (["--help"], ["train", "--help"]):  # the second names the bundled recipes
        assert not {"torch", "numpy", "nibabel", "SimpleITK", "tqdm", "matplotlib"} & imported(arguments)
    nuclei, opened = tmp_path / "nuclei.safetensors", load_weights(tiny_weights)
    save_weights(nuclei, opened.network, {**opened.card, "structures": [f"Nucleus {i}" for i in range(1, 20)]})
    modules = imported(["segment", scan, "-o", tmp_path / "l.nii.gz", "--weights", nuclei])
    assert {"torch", "nibabel"} < modules
    # torch brings tqdm and torch.distributed along by itself.
    assert (
        not {
            "SimpleITK",
            "matplotlib",
            "sympy",
            "torch._dynamo",
            "torch.distributed.launcher",
            "onnx",
            "GaborSegLib.training.trainer",
            "GaborSegLib.report.overview",
        }
        & modules
    )
    # A brain is one piece, and SimpleITK knows pieces.
    assert "SimpleITK" in imported(["segment", scan, "-o", tmp_path / "l.nii.gz", "--weights", tiny_weights])


@pytest.mark.processes
def test_the_demo_writes_everything_of_a_scan(scan, tiny_weights, tmp_path, capsys):
    pytest.importorskip("vtk")
    out = tmp_path / "demo"
    status, text, _ = run(capsys, "demo", scan, "--output", out, "--weights", tiny_weights)
    names = ["labels.nii.gz", "labels.seg.nrrd", "volumes.csv", "overview.png"]
    assert status == 0 and {file.name for file in out.iterdir()} == set(names)
    assert "Hippocampus" in text and "s to segment" in text
    assert text.splitlines()[-4:] == [f"wrote {out / name}" for name in names]
    status, text, _ = run(capsys, "demo", scan, "--output", out, "--weights", tiny_weights, "--json")
    events = [json.loads(line) for line in text.splitlines()]
    assert status == 0 and events[-1]["event"] == "result"
    assert events[-1]["files"]["overview"] == str(out / "overview.png")
    labels = nibabel.load(out / "labels.nii.gz").dataobj
    assert run(capsys, "segment", scan, "-o", tmp_path / "l.nii", "--weights", tiny_weights)[0] == 0
    assert np.array_equal(labels, nibabel.load(tmp_path / "l.nii").dataobj)


def test_the_demo_says_what_to_do_without_nilearn(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
    status, text, error = run(capsys, "demo", "--output", tmp_path / "demo")
    assert (status, text) == (2, "") and len(error.splitlines()) == 1
    assert "pip install nilearn" in error and "gaborseg demo SCAN" in error
    assert not (tmp_path / "demo").exists()
    with pytest.raises(GaborSegError):
        icbm152()


def test_the_module_runs():
    process = subprocess.run([sys.executable, "-m", "GaborSegLib", "--version"], capture_output=True, text=True)
    assert process.returncode == 0 and process.stdout.startswith("gaborseg ")


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc alone can be told"
)
def test_keeps_the_memory_that_it_freed():
    program = (
        "from GaborSegLib.environment import keep_freed_memory\n"
        "def held(): return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "start = held(); {}\nblock = bytearray(b'x') * 2**28; del block; print(held() - start)"
    )
    command = [sys.executable, "-c"]
    with_it = subprocess.run(
        [*command, program.format("keep_freed_memory()")], capture_output=True, text=True, check=True
    )
    without = subprocess.run([*command, program.format("")], capture_output=True, text=True, check=True)
    assert int(without.stdout) < 2**26 < 2**27 < int(with_it.stdout)


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "1"}])
@pytest.mark.parametrize("start", ["as a module", "as a script"])
def test_threads_are_told_how_to_wait_before_torch_is_imported(scan, tmp_path, given, start):
    """By `python -m GaborSegLib` and by `gaborseg`; what the user set stays, alone."""
    program = (
        "import json, os, runpy, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        f"            print(json.dumps({{name: os.environ.get(name) for name in {sorted(environment.WAITING)}}}))\n"
        "            os._exit(sys.stdout.flush() or 7)\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"sys.argv = ['gaborseg', 'segment', {str(scan)!r}, '-o', {str(tmp_path)!r}]\n"
        + (
            "runpy.run_module('GaborSegLib', run_name='__main__')"
            if start == "as a module"
            else "from GaborSegLib.cli import main; main()"
        )
    )
    clean = {name: value for name, value in os.environ.items() if name not in environment.WAITING}
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={**clean, **given})
    assert process.returncode == 7, process.stderr
    expected = given or {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
    assert json.loads(process.stdout) == {name: expected.get(name) for name in environment.WAITING}


def test_every_augmentation_can_be_chosen():
    for name in AUGMENTATIONS:
        assert build_parser().parse_args(["train", "data", "-o", "run", "--augmentation", name]).augmentation == name
