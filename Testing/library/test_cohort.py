"""Cohorts: which scans they have, what is done, what stands out, and whole runs with tiny weights."""

import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made import REPOSITORY, made_scan, told

from GaborSegLib import cli
from GaborSegLib.cohort import engine, group, record
from GaborSegLib.cohort.bids import find_bids, read_filter, snomed_codes
from GaborSegLib.cohort.items import Item, find_items
from GaborSegLib.cohort.work import Settings, segment_item
from GaborSegLib.errors import DataError, GaborSegError
from GaborSegLib.structures import paper_structures

AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])


def save_scan(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(made_scan(seed)[0], AFFINE), path)
    return path


@pytest.fixture
def settings(tiny_weights):
    from GaborSegLib.model.weights import read_card

    return Settings(str(tiny_weights), read_card(tiny_weights)["sha256"], "mixed", overview=False)


@pytest.fixture(scope="module")
def bids(tmp_path_factory):
    """A small BIDS data set: two subjects, one with two sessions and a run, and files that are no T1 scans."""
    folder = tmp_path_factory.mktemp("bids")
    names = [
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-01_T1w.nii.gz",
        "sub-02/ses-b/anat/sub-02_ses-b_acq-mprage_T1w.nii.gz",
    ]
    for seed, name in enumerate(names):
        save_scan(folder / name, seed)
        (folder / name.replace(".nii.gz", ".json")).write_text("{}")
    save_scan(folder / "sub-01/anat/sub-01_T2w.nii.gz", 7)
    (folder / "derivatives/other/sub-01/anat").mkdir(parents=True)
    shutil.copy(folder / names[0], folder / "derivatives/other/sub-01/anat/sub-01_T1w.nii.gz")
    description = {"Name": "made", "BIDSVersion": "1.9.0", "DatasetType": "raw"}
    (folder / "dataset_description.json").write_text(json.dumps(description))
    (folder / "README").write_text("Made scans for tests, with nothing of anyone in them.\n")
    (folder / "participants.tsv").write_text("participant_id\nsub-01\nsub-02\n")
    return folder


# Which scans


def test_a_folder_gives_its_scans_at_any_depth_under_names_that_tell_them_apart(tmp_path):
    for name in ("a/t1.nii.gz", "b/t1.nii.gz", "c.nii", ".hidden/d.nii", "c_labels.nii.gz", "e.seg.nrrd", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [item.id for item in find_items(tmp_path)] == ["a_t1", "b_t1", "c"]


def test_a_csv_names_scans_and_a_name_that_a_spreadsheet_would_run_is_made_harmless(tmp_path):
    (tmp_path / "list.csv").write_text("id,image\n=cmd|x,one.nii\n,two words.nii\n,Größe 1.nii\n", encoding="utf-8")
    assert [item.id for item in find_items(tmp_path / "list.csv")] == ["_cmd_x", "two words", "Größe 1"]
    (tmp_path / "list.csv").write_text("id,image\nx,one.nii\nx,two.nii\n")
    with pytest.raises(DataError, match="several scans are called x"):
        find_items(tmp_path / "list.csv")


def test_no_scans_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no scans"):
        find_items(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        find_items(tmp_path / "none")


def test_bids_gives_t1_scans_of_the_raw_data_alone(bids):
    items = find_bids(bids)
    assert [item.id for item in items] == ["sub-01", "sub-02_ses-a_run-01", "sub-02_ses-b_acq-mprage"]
    assert [(item.subject, item.session) for item in items] == [
        ("sub-01", ""), ("sub-02", "ses-a"), ("sub-02", "ses-b")
    ]  # fmt: skip
    labels = items[1].file("labels", "mixed")
    assert labels == Path("sub-02/ses-a/anat/sub-02_ses-a_run-01_seg-gaborseg_desc-mixed_dseg.nii.gz")
    assert items[1].file("overview", "mixed") == Path("sub-02/figures/sub-02_ses-a_run-01_desc-overview_T1w.png")


def test_bids_can_be_narrowed(bids, tmp_path):
    assert [item.id for item in find_bids(bids, ["sub-02"], ["b"])] == ["sub-02_ses-b_acq-mprage"]
    assert [item.id for item in find_bids(bids, wanted={"run": 1})] == ["sub-02_ses-a_run-01"]
    assert [item.id for item in find_bids(bids, wanted={"acquisition": None, "session": [None, "a"]})] == [
        "sub-01", "sub-02_ses-a_run-01"
    ]  # fmt: skip
    with pytest.raises(DataError, match="no T1w scan of sub-09; it has sub-01, sub-02"):
        find_bids(bids, ["09"])
    with pytest.raises(DataError, match="no T1w scan fits"):
        find_bids(bids, wanted={"run": 7})
    path = tmp_path / "filter.json"
    path.write_text('{"t1w": {"datatype": "anat", "suffix": "T1w", "acquisition": "mprage"}, "bold": {}}')
    assert read_filter(path) == {"acquisition": "mprage"}
    path.write_text('{"t1w": {"suffix": "T2w"}}')
    with pytest.raises(DataError, match="got suffix T2w"):
        read_filter(path)
    for text in ("[", "[]", '{"t1w": 3}', "[" * 100000):
        path.write_text(text)
        with pytest.raises(DataError, match="cannot be read as a BIDS filter file"):
            read_filter(path)


def test_every_structure_has_its_code():
    assert set(snomed_codes()) == {structure.name for structure in paper_structures()}


# What is done


@pytest.fixture
def done(tmp_path, settings):
    """(item, folder of its results), segmented."""
    item, output = Item("one", save_scan(tmp_path / "one.nii.gz")), tmp_path / "out"
    assert segment_item(item, output, settings) is None
    return item, output


def test_what_is_there_and_fits_is_done(done, settings):
    item, output = done
    assert record.is_done(output, item, settings)
    assert record.is_done(output, item, replace(settings, threads=3, weights="/elsewhere/same.safetensors"))
    os.utime(item.path, (1, 1))  # touched, or copied: the same bytes
    assert record.is_done(output, item, settings)


def test_other_weights_options_scans_or_results_are_not(done, settings, monkeypatch):
    item, output = done
    assert not record.is_done(output, item, replace(settings, sha256="0" * 64))
    assert not record.is_done(output, item, replace(settings, mirror=False))
    labels = output / item.file("labels", "mixed")
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-1])
    assert not record.is_done(output, item, settings)
    labels.unlink()
    assert not record.is_done(output, item, settings)
    labels.write_bytes(whole)
    assert record.is_done(output, item, settings)
    save_scan(item.path, seed=5)
    assert not record.is_done(output, item, settings)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"GaborSeg": 3}', '{"GaborSeg": {"Outputs": 3}}', "[" * 99999]
)
def test_a_record_that_makes_no_sense_is_none(done, settings, text):
    item, output = done
    (output / item.file("sidecar", "mixed")).write_text(text)
    assert not record.is_done(output, item, settings)


def test_a_record_says_where_a_result_is_from(done, settings, tiny_weights):
    item, output = done
    facts = json.loads((output / "one.json").read_text())
    assert facts["SpatialReference"] == "orig" and facts["Sources"] == [str(item.path)]
    facts = facts["GaborSeg"]
    assert facts["Settings"]["sha256"] == settings.sha256 and facts["Weights"] == tiny_weights.name
    voxels = np.asanyarray(nibabel.load(output / "one_labels.nii.gz").dataobj)
    for structure in paper_structures():
        millilitres = (voxels == structure.label).sum() * 8 / 1000
        assert facts["VolumesMl"][structure.name] == pytest.approx(millilitres, abs=1e-3)
    rows = list(csv.DictReader(open(output / "one_volumes.tsv"), delimiter="\t"))
    assert float(rows[0]["volume-mm3"]) == pytest.approx((voxels == 1).sum() * 8)


def test_names_of_strangers_become_names_of_files_and_stay_in_their_folder(tmp_path, settings):
    folder, output = tmp_path / "in", tmp_path / "out"
    names = ["with space", "Größe", "two\nlines", "=cmd|x", "-rf", "x..", "\x1b[31mred", "a" * 200]
    for seed, name in enumerate(names):
        save_scan(folder / f"{name}.nii.gz", seed)
    items = find_items(folder)
    assert len({item.id for item in items}) == len(names)
    for item in items:
        assert segment_item(item, output, settings) is None and record.is_done(output, item, settings)
        assert re.fullmatch(r"[\w ][\w.+@ -]*", item.id) and len(item.id) <= 150
    assert {path.parent for path in output.rglob("*") if path.is_file()} == {output, output / "thumbnails"}


@pytest.mark.slow  # makes twenty thousand files
def test_twenty_thousand_scans_are_found(tmp_path):
    for number in range(20_000):
        (tmp_path / f"s{number:05d}.nii.gz").touch()
    items = find_items(tmp_path)
    assert len(items) == 20_000 and items[-1].id == "s19999"


def test_a_scan_that_went_meanwhile_and_a_folder_that_cannot_be_written_are_told(tmp_path, settings):
    item = Item("one", save_scan(tmp_path / "one.nii.gz"))
    (tmp_path / "file").touch()
    assert "cannot be written" in segment_item(item, tmp_path / "file" / "out", settings)
    item.path.unlink()
    assert "one.nii.gz" in segment_item(item, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.processes
def test_a_full_disk_is_told_and_leaves_no_half_results(tmp_path, settings):
    """A limit on how large a file may become ends a write as a full disk does."""
    save_scan(tmp_path / "one.nii.gz")
    code = f"""
import pathlib, resource, signal
from GaborSegLib.cohort.items import Item
from GaborSegLib.cohort.work import Settings, segment_item
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
item = Item("one", pathlib.Path({str(tmp_path / "one.nii.gz")!r}))
print(segment_item(item, {str(tmp_path / "out")!r}, Settings(**{asdict(settings)!r})))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert "cannot be written" in found.stdout, found.stderr
    assert names_in(tmp_path / "out") == []


# What stands out


def test_robust_z_is_that_of_the_median_and_its_absolute_deviation():
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 100.0]
    median = statistics.median(values)
    spread = 1.4826 * statistics.median([abs(value - median) for value in values])
    assert group.robust_z(values) == pytest.approx([(value - median) / spread for value in values])
    assert group.robust_z([*values, None])[-1] is None
    assert group.robust_z(values[:5]) == [None] * 5  # too few to say
    assert group.robust_z([1.0] * 20) == [None] * 20
    assert group.robust_z([1.0] * 19 + [1.1], least=0.02) == pytest.approx([0.0] * 19 + [5.0])


def made_rows(changed=None):
    """Rows of twenty scans that hardly differ; `changed` is given the last one's record."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(20):
        facts = {
            "VolumesMl": {"Hippocampus": random.normal(7, 0.5), "Putamen": random.normal(9, 0.5)},
            "SidesMl": {"Putamen": {"left": 4.6, "right": 4.4, "asymmetry": random.normal(0.04, 0.02)}},
            "Quality": {"Hippocampus": random.normal(0.8, 0.01), "Putamen": 0.8},
            "Warnings": [],
        }
        rows.append({"GaborSeg": facts})
    if changed:
        changed(rows[-1]["GaborSeg"])
    return rows


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (lambda facts: facts["VolumesMl"].update(Hippocampus=3.0), "Hippocampus is smaller than in the others"),
        (
            lambda facts: facts["SidesMl"]["Putamen"].update(asymmetry=-0.9),
            "Putamen is larger on the right than in the others: -0.90, robust z -",
        ),
        (lambda facts: facts["VolumesMl"].update(Putamen=15.0), "Putamen is larger than in the others: 15.00 mL"),
        (lambda facts: facts["Quality"].update(Hippocampus=0.2), "quality, 0.50, is far below"),
        (lambda facts: facts["Warnings"].append("this is no T1"), "this is no T1"),
    ],
)
def test_a_scan_that_stands_out_is_named_with_the_reason(tmp_path, changed, expected):
    items = [Item(f"s{number}", tmp_path / f"s{number}.nii") for number in range(20)]
    for item, facts in zip(items, made_rows(changed)):
        (tmp_path / item.file("sidecar", "mixed")).write_text(json.dumps(facts))
    rows = group.read_group(items, tmp_path, "mixed")
    assert [row.item.id for row in rows if row.reasons] == ["s19"]
    assert expected in rows[-1].reasons[0]
    group.write_group(rows, tmp_path)
    table = list(csv.DictReader(open(tmp_path / group.TABLE, encoding="utf-8"), delimiter="\t"))
    assert [row["scan"] for row in table] == [item.id for item in items]
    assert expected in table[-1]["reasons"] and table[0]["reasons"] == "n/a"
    assert float(table[3]["Putamen mL"]) == pytest.approx(rows[3].volumes["Putamen"], abs=1e-4)
    assert float(table[0]["Putamen left"]) == 4.6 and "Hippocampus left" not in table[0]
    meanings = json.loads((tmp_path / group.MEANINGS).read_text())
    assert list(meanings) == list(table[0])


# Whole runs


@pytest.fixture
def cohort(tmp_path):
    """A folder of three scans and one that is damaged."""
    folder = tmp_path / "scans with spaces"
    for seed in range(3):
        save_scan(folder / f"s{seed}.nii.gz", seed)
    (folder / "bad.nii.gz").write_bytes((folder / "s0.nii.gz").read_bytes()[:2000])
    return folder


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.processes
def test_a_run_does_what_is_not_done_and_names_what_failed(cohort, tmp_path, tiny_weights, capsys):
    output = tmp_path / "out"
    command = ["cohort", cohort, output, "--weights", tiny_weights, "--workers", 2, "--no-overview"]
    status, events = told(capsys, *command)
    result = events[-1]
    assert (status == 2 and result["done"] == ["s0", "s1", "s2"]) or sorted(result["done"]) == ["s0", "s1", "s2"]
    assert list(result["failed"]) == ["bad"] and "bad.nii.gz" in result["failed"]["bad"]
    kinds = ["{}.json", "{}_labels.nii.gz", "{}_volumes.tsv", "thumbnails/{}.png"]
    expected = [kind.format(scan) for scan in ("s0", "s1", "s2") for kind in kinds]
    more = ["group_volumes.json", "group_volumes.tsv", "logs/bad.json", "report.html"]
    assert names_in(output) == sorted([*expected, *more])
    times = {name: (output / name).stat().st_mtime_ns for name in expected}
    save_scan(cohort / "bad.nii.gz", 9)
    status, events = told(capsys, *command)
    assert status == 0 and sorted(events[-1]["before"]) == ["s0", "s1", "s2"] and events[-1]["done"] == ["bad"]
    assert {name: (output / name).stat().st_mtime_ns for name in expected} == times
    assert "logs/bad.json" not in names_in(output)
    # What a worker makes is what the command for one scan makes.
    assert (
        cli.main(
            ["segment", str(cohort / "s1.nii.gz"), "-o", str(tmp_path / "one.nii"), "--weights", str(tiny_weights)]
        )
        == 0
    )
    one, other = (
        np.asanyarray(nibabel.load(path).dataobj) for path in (tmp_path / "one.nii", output / "s1_labels.nii.gz")
    )
    assert np.array_equal(one, other)


def test_results_do_not_go_where_the_scans_are(cohort, tiny_weights, capsys):
    assert cli.main(["cohort", str(cohort), str(cohort / ".." / cohort.name), "--weights", str(tiny_weights)]) == 2
    assert "would be overwritten; choose another name or folder" in capsys.readouterr().err


@pytest.mark.processes
def test_a_bids_app_writes_derivatives_that_the_validator_passes(bids, tmp_path, tiny_weights):
    validator = pytest.importorskip("bids_validator_deno", reason="bids-validator-deno is in the test extra")
    output = tmp_path / "derivatives"
    common = ["--weights", str(tiny_weights), "--workers", "2", "--skip-bids-validation"]
    assert cli.main(["bids", str(bids), str(output), "participant", *common]) == 0
    assert cli.main(["bids", str(bids), str(output), "group", "--weights", str(tiny_weights)]) == 0
    expected = {"dataset_description.json", "dseg.tsv", "README.md", "group_volumes.tsv", "report.html"}
    assert expected < set(names_in(output))
    found = subprocess.run(
        [Path(sys.executable).with_name("bids-validator-deno"), "--json", output], capture_output=True, text=True
    )
    issues = json.loads(found.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert validator


# In every process that Python starts with this on its path, opening a file of that name is a crash.
CRASHING = """
import builtins, os, signal
whole = builtins.open
def crashing(file, *arguments, **more):
    if str(file).endswith("crash.nii.gz"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return whole(file, *arguments, **more)
builtins.open = crashing
"""


@pytest.mark.processes
def test_a_scan_that_ends_its_process_costs_itself_alone(cohort, tmp_path, settings, monkeypatch):
    (cohort / "s1.nii.gz").rename(cohort / "crash.nii.gz")
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(CRASHING)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY)]))
    events = []
    with engine.local_cluster(2, 1) as client:
        outcome = engine.segment_all(find_items(cohort), tmp_path / "out", settings, client, events.append)
    assert sorted(outcome.done) == ["s0", "s2"] and sorted(outcome.failed) == ["bad", "crash"]
    assert "crash.nii.gz" in outcome.failed["crash"] and "SIGSEGV" in outcome.failed["crash"]
    assert "SIGSEGV" in (tmp_path / "out/logs/crash.json").read_text()
    assert [event for event in events if "its worker died" in event.get("message", "")]


@pytest.mark.processes
def test_a_folder_at_work_is_refused_and_left_overs_go(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/.partial-0123.nii").touch()
    code = "import sys\nfrom GaborSegLib.cohort.engine import output_of\nwith output_of(sys.argv[1]): pass"
    with engine.output_of(tmp_path):
        assert names_in(tmp_path) == ["run.lock"]
        found = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, cwd=REPOSITORY)
    assert "another run is at work in this folder" in found.stderr
    assert names_in(tmp_path) == []


def test_slurm_gets_the_options_that_were_given():
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is in the extra cohort")
    with engine.slurm_jobs("partition=short,time=2:00:00,mem=4GB,gres=gpu:1", threads=2) as cluster:
        script = cluster.job_script()
    for line in (
        "#SBATCH -p short",
        "#SBATCH -t 2:00:00",
        "#SBATCH --mem=4G",
        "#SBATCH --gres=gpu:1",
        "--cpus-per-task=2",
    ):
        assert line in script
    for wrong in ("partition", "part ition=x", "x=$(rm)\n"):
        with pytest.raises(GaborSegError, match="wanted options of sbatch"):
            engine.slurm_jobs(wrong, threads=1)
