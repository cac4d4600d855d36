"""What is wrong with a data set: each kind of problem is found, and all of them at once."""

import json
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from made import made_scan

from GaborSegLib import cli
from GaborSegLib.data.checks import check_data, refuse_errors, split_and_check
from GaborSegLib.data.sources import Case, find_data
from GaborSegLib.errors import DataError


def problems(folder, validation=("s1",), table=None):
    """(kind, file name, message) of each problem of a data set."""
    return [(p.kind, p.file.name, p.message) for p in split_and_check(find_data(folder, table), validation)[2]]


def rewrite(file, change=lambda array: array, affine=0.0, dtype=None):
    """Write an image again with its array or its origin changed."""
    image = nibabel.load(file)
    matrix = image.affine.copy()
    matrix[0, 3] += affine
    array = change(np.asanyarray(image.dataobj))
    nibabel.save(nibabel.Nifti1Image(array.astype(dtype or array.dtype), matrix), file)


def test_a_good_data_set_has_no_problems(data_set):
    events = []
    data = find_data(data_set)
    training, validation, found = split_and_check(data, ["s1"], report=events.append)
    assert found == [] and [case.id for case in validation] == ["s1"] and len(training) == 5
    assert [event["done"] for event in events] == [0, 1, 2, 3, 4, 5, 6]
    refuse_errors(found)


def damage(kind, image, labels):
    if kind == "truncated":
        image.write_bytes(image.read_bytes()[:-200])
    elif kind == "zero bytes":
        image.write_bytes(b"")
    elif kind == "text":
        labels.write_text("labels")
    elif kind == "constant":
        rewrite(image, lambda array: array * 0)
    elif kind == "nan":
        rewrite(image, lambda array: np.where(array > 130, np.nan, array))
    elif kind == "shape":
        rewrite(labels, lambda array: array[:-1])
    elif kind == "affine":
        rewrite(labels, affine=0.5)
    elif kind == "unlabelled":
        rewrite(labels, lambda array: array * 0)
    elif kind == "other ids":
        rewrite(labels, lambda array: np.where(array > 0, np.int16(77), np.int16(0)))
    elif kind == "fractions":
        rewrite(labels, lambda array: array * 0.25)
    elif kind == "4d":
        rewrite(labels, lambda array: np.stack([array, array], axis=-1))


@pytest.mark.parametrize(
    ("kind", "folder", "message"),
    [
        ("truncated", "images", "damaged or incomplete"),
        ("zero bytes", "images", "cannot be read"),
        ("text", "labels", "cannot be read"),
        ("constant", "images", "0 in every voxel"),
        ("nan", "images", "NaN"),
        ("shape", "labels", "35 x 40 x 32 voxels, its image 36 x 40 x 32"),
        ("affine", "labels", r"another affine than its image \(up to 0.5"),
        ("unlabelled", "labels", "is empty"),
        ("other ids", "labels", "none of its ids is a structure"),
        ("fractions", "labels", "a label of 2.5; wanted whole numbers"),
        ("4d", "labels", "4 dimensions"),
    ],
)
def test_bad_files(kind, folder, message, data_set):
    damage(kind, data_set / "images" / "s2.nii.gz", data_set / "labels" / "s2.nii.gz")
    errors = [problem for problem in problems(data_set) if problem[0] == "error"]
    assert [error[1] for error in errors] == ["s2.nii.gz"]
    data = find_data(data_set)
    (error,) = [p for p in split_and_check(data, ["s1"])[2] if p.kind == "error"]
    assert error.file == data_set / folder / "s2.nii.gz"
    with pytest.raises(DataError, match=rf"1 problem in the data set, see gaborseg data: .*s2.nii.gz: .*{message}"):
        refuse_errors([error])


def test_all_problems_are_in_one_report(data_set, tmp_path, capsys):
    for i, kind in enumerate(["truncated", "affine", "unlabelled"]):
        damage(kind, data_set / "images" / f"s{i}.nii.gz", data_set / "labels" / f"s{i}.nii.gz")
    damage("constant", data_set / "images" / "s1.nii.gz", None)
    (data_set / "labels" / "s3.nii.gz").unlink()
    found = problems(data_set, ["nobody"])
    assert [(kind, name) for kind, name, _ in found] == [
        ("error", name) for name in ("data", "s3.nii.gz", "s0.nii.gz", "s1.nii.gz", "s1.nii.gz", "s2.nii.gz")
    ]
    assert cli.main(["train", str(data_set), "-o", str(tmp_path / "run"), "--validation", "nobody"]) == 2
    error = capsys.readouterr().err
    assert "6 problems" in error and error.count("s1.nii.gz") == 2 and not (tmp_path / "run").exists()
    assert len(error.splitlines()) == 1


def test_ids_that_the_table_does_not_name(data_set):
    """A note with counts; an error where the table says that it is complete."""

    def mark(array):
        array[0, 0, :3], array[0, 1, 0] = 99, 98
        return array

    for name in ("s0", "s2"):
        rewrite(data_set / "labels" / f"{name}.nii.gz", mark)
    expected = "98 (2 voxels in 2 of 6 maps), 99 (6 voxels in 2 of 6 maps)"
    ((kind, file, message),) = problems(data_set)
    assert (kind, file) == ("note", "structures.csv") and expected in message
    text = (data_set / "structures.csv").read_text()
    for row, kind in (("0,Background,98", "error"), ("0,Background,98 *", "note"), ("0,Background,98 99", None)):
        (data_set / "structures.csv").write_text(f"{text}{row}\n")
        found = problems(data_set)
        assert [problem[0] for problem in found] == [kind] * (kind is not None)
        assert all("99 (6 voxels" in message and " 98 (" not in message for *_, message in found)


def test_structures_that_occur_nowhere(data_set):
    with open(data_set / "structures.csv", "a") as file:
        file.write("4,Horn,40\n")
    ((kind, _, message),) = problems(data_set)
    assert kind == "note" and message.startswith("Horn occurs in no label map")


def test_what_the_source_lacks_is_said(data_set):
    rows = ["label,structure,ids,within", "1,Shell,10,", "2,Core,20,", "3,Left ball,31,", "4,Knob,,Core"]
    (data_set / "structures.csv").write_text("\n".join(rows))
    ((kind, _, message),) = problems(data_set)
    assert kind == "note" and "lacks Knob and labels them as Core" in message
    events = []
    refuse_errors(split_and_check(find_data(data_set))[2], events.append)
    assert [event["event"] for event in events] == ["warning"] and "Knob" in events[0]["message"]


def test_the_same_scan_twice(data_set):
    """Found by its voxels, not by the bytes of the file, which hold a time and a compression."""
    rewrite(data_set / "images" / "s2.nii.gz", lambda _: made_scan(1)[0], dtype=np.float64)
    rewrite(data_set / "labels" / "s2.nii.gz", lambda _: made_scan(1)[1])
    ((kind, name, message),) = problems(data_set, ["s1"])
    assert kind == "error" and "one is for training, one for validation" in message
    ((kind, name, message),) = problems(data_set, ["s0"])
    assert (kind, name) == ("note", "s2.nii.gz") and "counts twice" in message


def test_the_data_are_looked_through_at_every_start(data_set, tmp_path, capsys, monkeypatch):
    """That torchrun started a run again does not make a scan on both sides of the split any better."""
    shutil.copy(data_set / "images" / "s0.nii.gz", data_set / "images" / "s1.nii.gz")
    for restart in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restart)
        status = cli.main(["train", str(data_set), "-o", str(tmp_path / "run"), "--validation", "s1"])
        assert status == 2 and "one for validation; remove one" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_subject_on_both_sides(data_set):
    data = find_data(data_set)
    found = check_data(data, data.cases[:5], data.cases[5:])
    assert [problem.message for problem in found] == [
        "the subject A is in training and validation (s0, s5); hold out all or none"
    ]


def test_two_scans_of_one_name(data_set):
    data = find_data(data_set)
    first, second = data.cases[1:3]
    found = check_data(data, [first, Case(first.id, "B", second.image, second.labels)], [])
    assert [problem.message[:20] for problem in found] == ["has the name s1 as /"]


def test_a_split_that_is_not_possible(data_set):
    for name in ("s1", "s2", "s3", "s4", "s5"):
        for folder in ("images", "labels"):
            (data_set / folder / f"{name}.nii.gz").unlink()
    ((kind, _, message),) = problems(data_set, None)
    assert kind == "error" and "all 1 subjects are held out" in message
    for folder in ("images", "labels"):
        (data_set / folder / "s0.nii.gz").unlink()
    ((kind, _, message),) = problems(data_set, None)
    assert kind == "error" and "no scan with a label map" in message


# The command


def run(capsys, *arguments):
    status = cli.main(["data", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_the_command_as_json(data_set, capsys):
    rewrite(data_set / "labels" / "s2.nii.gz", affine=1)
    status, text, _ = run(capsys, data_set, "--validation", "A", "--json")
    events = [json.loads(line) for line in text.splitlines()]
    assert status == 2 and {event["event"] for event in events[:-1]} == {"progress"}
    (problem,) = events[-1].pop("problems")
    assert (problem["file"], problem["kind"]) == (str(data_set / "labels" / "s2.nii.gz"), "error")
    assert events[-1] == {
        "event": "result",
        "layout": "pairs",
        "cases": 6,
        "subjects": 5,
        "structures": ["Shell", "Core", "Left ball"],
        "absent": [],
        "table": str(data_set / "structures.csv"),
        "training": ["s1", "s2", "s3", "s4"],
        "validation": ["s0", "s5"],
    }


def test_the_command_for_a_person(data_set, capsys):
    status, text, _ = run(capsys, data_set, "--validation-share", "0")
    assert status == 0 and text.endswith("Ready for training\n")
    assert "6 scans of 5 subjects" in text and "3: Shell, Core, Left ball" in text
    (data_set / "labels" / "s3.nii.gz").unlink()
    status, text, _ = run(capsys, data_set, "--validation", "s1")
    assert status == 2 and text.endswith("1 problem to solve\n") and "has no label map of the same name" in text
    assert all(len(line) <= 120 or " " not in line.strip() for line in text.splitlines())
    status, _, error = run(capsys, data_set / "labels")
    assert status == 2 and "holds no data set" in error


def test_the_command_needs_no_torch(data_set):
    code = "import sys; from GaborSegLib import cli; cli.main(['data', sys.argv[1]]); assert 'torch' not in sys.modules"
    process = subprocess.run([sys.executable, "-c", code, str(data_set)], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_evaluation_leaves_out_what_the_source_lacks(data_set, tmp_path, tiny_weights, capsys):
    """The scores are NaN, which JSON does not have: null."""
    from GaborSegLib.structures import paper_structures

    names = [structure.name for structure in paper_structures()]
    rows = [f"{i},{name},{10 * i if i < 4 else 100 + i}," for i, name in enumerate(names[:-1], start=1)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["label,structure,ids,within", *rows, f"19,{names[-1]},,{names[0]}"]))
    arguments = ["evaluate", tiny_weights, data_set, "--table", table, "--scans", "s1", "--device", "cpu", "--json"]
    assert cli.main(list(map(str, arguments))) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    scores = {row["structure"]: row["dice"] for row in result["cube"]}
    assert scores[names[-1]] is None and scores[names[0]] is not None


@pytest.mark.real
def test_real_scans(real_data):
    """Of the challenge: 28 scans of 24 people, and stray voxels of two insula ids in two of their label maps."""
    data = find_data(real_data, "neuromorphometrics")
    assert (len(data.cases), len({case.subject for case in data.cases}), data.problems) == (28, 24, ())
    training, validation = data.split(["1015", "1019"])
    assert [case.id for case in validation] == ["1015", "1019", "1039"] and len(training) == 25
    (note,) = check_data(data, [case for case in training if case.id == "1036"], validation)
    assert note.kind == "note" and "65 (1 voxel in 1 of 4 maps), 66 (2 voxels in 1 of 4 maps)" in note.message


@pytest.mark.real
def test_freesurfer_labels_of_real_heads(real_data, tmp_path):
    maps = real_data.parent / "head-label-maps"
    if not maps.is_dir():
        pytest.skip(f"no label maps in {maps}")
    shutil.copy(maps / "training_seg_01.nii.gz", tmp_path / "aseg.nii.gz")
    (tmp_path / "scans.csv").write_text("image,labels\naseg.nii.gz,aseg.nii.gz\n")  # the check reads only numbers
    data = find_data(tmp_path / "scans.csv", "freesurfer")
    found = check_data(data, data.cases, [])
    assert [problem.kind for problem in found] == ["note", "note"]
    assert "507 (" in found[0].message and "lacks CVL I-V, CVL VI-VII, CVL VIII-X" in found[1].message
