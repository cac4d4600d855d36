"""Data sets in every layout that people have."""

import json
import shutil

import pytest

from GaborSegLib.data.sources import find_data
from GaborSegLib.errors import DataError

TABLE = "label,structure,ids\n1,Shell,10\n2,Core,20\n3,Left ball,31\n"


def touch(folder, *names):
    """Empty files: finding does not open them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def found(data):
    """The cases as (id, subject, image, labels), paths relative to the data set's folder."""
    return [
        (c.id, c.subject, *(file.relative_to(data.folder).as_posix() for file in (c.image, c.labels)))
        for c in data.cases
    ]


def problems(data):
    """(kind, file name, message) of each."""
    return [(problem.kind, problem.file.name, problem.message) for problem in data.problems]


def test_folder_pairs(data_set):
    data = find_data(data_set)
    assert data.layout == "pairs" and data.problems == ()
    assert [case.id for case in data.cases] == ["s0", "s1", "s2", "s3", "s4", "s5"]
    assert data.table.names == ("Shell", "Core", "Left ball")
    assert data.cases[5].subject == data.cases[0].subject == "A"


def test_splits_by_subject(data_set):
    data = find_data(data_set)
    for names in (["s0"], ["s5"], ["A"]):
        training, validation = data.split(names)
        assert [case.id for case in validation] == ["s0", "s5"]
        assert [case.id for case in training] == ["s1", "s2", "s3", "s4"]
    for seed in range(10):
        training, validation = data.split(seed=seed, share=0.4)
        assert not {case.subject for case in training} & {case.subject for case in validation}
        assert len({case.subject for case in validation}) == 2
    assert len(data.split(share=0)[0]) == 6
    assert len({case.subject for case in data.split(share=0.01)[1]}) == 1
    with pytest.raises(DataError, match="named nobody"):
        data.split(["nobody"])
    with pytest.raises(DataError, match="none is left"):
        data.split(["A", "B", "C", "D", "E"])


def test_all_that_does_not_match_is_listed(data_set):
    (data_set / "labels" / "s3.nii.gz").unlink()
    (data_set / "images" / "s1.nii.gz").unlink()
    touch(data_set, "images/s2.mgz", "images/._s2.nii.gz", "images/README.txt")
    (data_set / "subjects.csv").write_text("scan,subject\ns0,A\ns5,A\ns4,\n")
    data = find_data(data_set)
    assert [case.id for case in data.cases] == ["s0", "s2", "s4", "s5"]
    assert [case.subject for case in data.cases] == ["A", "s2", "s4", "A"]
    kinds, files, messages = zip(*problems(data))
    assert kinds == ("error", "error", "error", "note")
    assert files[1:] == ("s3.nii.gz", "s1.nii.gz", "subjects.csv")
    assert "same name as" in messages[0] and "s2, s4" in messages[3]
    (data_set / "subjects.csv").write_text("who,what\n")
    assert problems(find_data(data_set))[3][:2] == ("error", "subjects.csv")


def test_what_is_no_data_set_says_what_one_is(data_set):
    with pytest.raises(DataError, match="images or T1w.*BIDS.*nnU-Net.*CSV"):
        find_data(data_set / "labels")
    with pytest.raises(DataError, match="no folder and no CSV"):
        find_data(data_set / "nothing")
    (data_set / "structures.csv").unlink()
    with pytest.raises(DataError, match="structures.csv.*label table.*freesurfer, neuromorphometrics"):
        find_data(data_set)
    assert len(find_data(data_set, "freesurfer").table.names) == 19
    for file in (data_set / "labels").iterdir():
        file.unlink()
    assert "no scan with a label map" in find_data(data_set, "freesurfer").problems[-1].message


# BIDS


def test_bids_in_one_tree(tmp_path):
    (tmp_path / "structures.csv").write_text(TABLE)
    touch(
        tmp_path,
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T1w.json",
        "sub-01/anat/sub-01_dseg.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-1_T1w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-1_dseg.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-2_T1w.nii.gz",
        "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii",
        "sub-02/ses-b/anat/sub-02_ses-b_space-orig_desc-manual_dseg.nii",
        "sub-02/ses-b/anat/sub-02_ses-b_T2w.nii.gz",
        "sub-03/anat/sub-03_T1w.nii.gz",
    )
    data = find_data(tmp_path)
    assert data.layout == "bids"
    assert [case[:2] for case in found(data)] == [
        ("sub-01", "sub-01"),
        ("sub-02_ses-a_run-1", "sub-02"),
        ("sub-02_ses-b", "sub-02"),
    ]
    assert found(data)[2][2:] == (
        "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii",
        "sub-02/ses-b/anat/sub-02_ses-b_space-orig_desc-manual_dseg.nii",
    )
    ((kind, _, message),) = problems(data)
    assert kind == "note" and message.startswith("1 scans have no label map") and message.endswith("sub-03")


def test_bids_labels_in_derivatives(tmp_path):
    (tmp_path / "structures.csv").write_text(TABLE)
    manual = tmp_path / "derivatives" / "manual"
    touch(tmp_path, *(f"sub-{i}/anat/sub-{i}_T1w.nii.gz" for i in (1, 2)))
    touch(manual, *(f"sub-{i}/anat/sub-{i}_desc-manual_dseg.nii.gz" for i in (1, 2)))
    for data in (find_data(tmp_path), find_data(manual, tmp_path / "structures.csv")):
        assert [case.image for case in data.cases] == [tmp_path / f"sub-{i}/anat/sub-{i}_T1w.nii.gz" for i in (1, 2)]
        assert [case.labels.parents[2] for case in data.cases] == [manual, manual] and data.problems == ()
    touch(tmp_path, "derivatives/other/sub-2/anat/sub-2_dseg.nii.gz")
    data = find_data(tmp_path)
    assert [case.id for case in data.cases] == ["sub-1"]
    ((kind, name, message),) = problems(data)
    assert (kind, name) == ("error", "sub-2_T1w.nii.gz") and message.startswith("2 label maps fit it")
    assert [case.id for case in find_data(manual, tmp_path / "structures.csv").cases] == ["sub-1", "sub-2"]


def test_bids_as_fmriprep_writes_it(tmp_path):
    """Its own T1w goes before the raw one, structures before tissues, and the template's space is left out."""
    tree = tmp_path / "derivatives" / "fmriprep"
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz")
    touch(
        tree / "sub-1" / "anat",
        "sub-1_desc-preproc_T1w.nii.gz",
        "sub-1_desc-aseg_dseg.nii.gz",
        "sub-1_desc-aparcaseg_dseg.nii.gz",
        "sub-1_dseg.nii.gz",
        "sub-1_label-GM_probseg.nii.gz",
        "sub-1_space-MNI152NLin2009cAsym_dseg.nii.gz",
        "sub-1_space-MNI152NLin2009cAsym_desc-preproc_T1w.nii.gz",
    )
    for folder in (tmp_path, tree):
        (case,) = find_data(folder, "freesurfer").cases
        assert (case.image.name, case.labels.name) == ("sub-1_desc-preproc_T1w.nii.gz", "sub-1_desc-aseg_dseg.nii.gz")


def test_bids_that_is_not_clear(tmp_path):
    touch(
        tmp_path / "sub-1" / "anat",
        "sub-1_run-1_T1w.nii.gz",
        "sub-1_run-2_T1w.nii.gz",
        "sub-1_dseg.nii.gz",
    )
    touch(tmp_path, "sub-2/anat/sub-2_dseg.nii.gz")
    data = find_data(tmp_path, "freesurfer")
    assert not data.cases
    assert [(kind, name, message[:14]) for kind, name, message in problems(data)[:2]] == [
        ("error", "sub-1_dseg.nii.gz", "2 T1w images f"),
        ("error", "sub-2_dseg.nii.gz", "0 T1w images f"),
    ]


# nnU-Net


def nnunet(folder, facts, *names):
    touch(folder, *names)
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


VERSION_2 = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "B": [5, 6], "A": 2}, "file_ending": ".nrrd"}
VERSION_1 = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "A", "2": "B"}, "numTraining": 2}


def test_nnunet_version_2(tmp_path):
    names = ["imagesTr/a_1_0000.nrrd", "imagesTr/b_0000.nrrd", "labelsTr/a_1.nrrd", "labelsTr/b.nrrd"]
    data = find_data(nnunet(tmp_path, VERSION_2, *names, "labelsTr/x.nii.gz", "imagesTs/c_0000.nrrd"))
    assert data.layout == "nnunet" and data.problems == ()
    assert found(data) == [("a_1", "a_1", names[0], names[2]), ("b", "b", names[1], names[3])]
    assert (data.table.names, data.table.ids, data.table.complete) == (("A", "B"), ({2}, {5, 6}), True)
    (tmp_path / "subjects.csv").write_text("scan,subject\na_1,P\nb,P\n")
    assert {case.subject for case in find_data(tmp_path).cases} == {"P"}
    (tmp_path / "structures.csv").write_text(TABLE)
    assert find_data(tmp_path).table.names[0] == "Shell"


def test_nnunet_version_1_and_its_model_the_decathlon(tmp_path):
    names = ["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTr/scan_0001.nii.gz", "labelsTr/scan_0001.nii.gz"]
    data = find_data(nnunet(tmp_path, VERSION_1, *names))
    assert found(data) == [("a", "a", *names[:2]), ("scan_0001", "scan_0001", *names[2:])]
    assert (data.table.names, data.table.ids) == (("A", "B"), ({1}, {2}))


def test_nnunet_with_more_than_one_channel_is_refused(tmp_path):
    two = {**VERSION_1, "modality": {"0": "T1", "1": "T2"}}
    folder = nnunet(tmp_path, two, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    with pytest.raises(DataError, match=r"dataset.json: got 2 channels \(T1, T2\)"):
        find_data(folder)
    data = find_data(nnunet(tmp_path, VERSION_1))
    assert [case.id for case in data.cases] == ["a"]
    assert problems(data) == [("error", "a_0001.nii.gz", "is channel 1; wanted the T1 scan alone, as channel 0000")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "no dictionary `labels`"),
        ({"labels": {"background": 0, "A": "x"}}, "whole numbers"),
        ({"labels": {"background": 0, "whole": [1, 2], "part": [2]}}, r"\[2\] stand with more than one"),
        ({"labels": {"background": 0, "A": 1, "ignore": 2}}, "ignore"),
        ({"file_ending": ".png"}, "file_ending .png"),
        ({"channel_names": 7}, "channels 7; wanted a dictionary"),
        ({"labels": {"background": 0, "A": [{}]}}, "whole numbers"),
        ({"labels": {"background": 0, "A\x1b": 1}}, r"structure 'A\\x1b'; each needs a name of its own"),
        ({"labels": {f"S{i}": i for i in range(1, 301)}}, "300 structures; wanted 1 to 254"),
        ({"description": json.loads(60 * "[" + 60 * "]")}, "dataset.json: cannot be read as JSON .*nested too deep"),
    ],
)
def test_nnunet_that_cannot_be_trained_on(change, message, tmp_path):
    with pytest.raises(DataError, match=message):
        find_data(nnunet(tmp_path, {**VERSION_1, **change}, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"))


def test_nnunet_without_its_json(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    with pytest.raises(DataError, match="dataset.json: not found.*freesurfer"):
        find_data(tmp_path)
    assert len(find_data(tmp_path, "freesurfer").cases) == 1
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        find_data(tmp_path)


# CSV


def test_csv_of_paths(data_set, tmp_path):
    far = tmp_path / "elsewhere.nii.gz"
    shutil.copy(data_set / "images" / "s1.nii.gz", far)
    path = data_set / "scans.csv"
    path.write_text(f"subject,image,labels\nP,images/s0.nii.gz,labels/s0.nii.gz\n\n,{far},labels/s1.nii.gz\n")
    data = find_data(path)
    assert data.layout == "csv" and data.folder == data_set and data.table.names[0] == "Shell"
    assert [(case.id, case.subject) for case in data.cases] == [("elsewhere", "elsewhere"), ("s0", "P")]
    assert data.cases[0].image == far
    pairs = [
        ("images/s0.nii.gz", "labels/x.nii.gz"),
        ("images/s1.nii.gz", "labels/s1.nii.gz"),
        ("", "labels/s2.nii.gz"),
    ]
    path.write_text("\n".join(["image,labels", *(",".join(pair) for pair in pairs)]))
    data = find_data(path)
    assert [case.id for case in data.cases] == ["s1"]
    assert [message[:18] for *_, message in problems(data)] == ["row 1: labels 'lab", "row 3: image '' is"]
    assert "paths are relative to the CSV's folder" in problems(data)[0][2]
    path.write_text("image;labels\n")
    with pytest.raises(DataError, match="wanted image and labels"):
        find_data(path)


def test_csv_names_scans_by_what_tells_them_apart(tmp_path):
    touch(tmp_path, *(f"{who}/mri/{file}.mgz" for who in ("ann", "bob") for file in ("T1", "aseg")))
    rows = [f"{who}/mri/T1.mgz,{who}/mri/aseg.mgz,{who[0]}" for who in ("ann", "bob")]
    path = tmp_path / "scans.csv"
    path.write_text("\n".join(["image,labels,subject", *rows]))
    assert [case.id for case in find_data(path, "freesurfer").cases] == ["a", "b"]
    path.write_text("\n".join(["image,labels,subject", *(row[:-1] + "one" for row in rows)]))
    data = find_data(path, "freesurfer")
    assert [(case.id, case.subject) for case in data.cases] == [("ann/mri/T1.mgz", "one"), ("bob/mri/T1.mgz", "one")]
