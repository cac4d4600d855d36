"""Names of files, and files that are written whole or not at all."""

import pytest
from made import oblique, some_labels

from GaborSegLib.errors import OutputError
from GaborSegLib.files import check_output, replacing, split_extension
from GaborSegLib.scans.image import WRITABLE
from GaborSegLib.scans.writing import write_label_map
from GaborSegLib.structures import paper_structures


@pytest.mark.parametrize(
    "path, stem, extension",
    [
        ("a/scan.nii.gz", "a/scan", ".nii.gz"),
        ("scan.SEG.nrrd", "scan", ".seg.nrrd"),
        ("sub-1.T1w.nii", "sub-1.T1w", ".nii"),
        ("scan.tar.gz", "scan.tar", ".gz"),
        ("weights.safetensors", "weights", ".safetensors"),
        ("a.b/scan", "a.b/scan", ""),
    ],
)
def test_split_extension(path, stem, extension):
    assert split_extension(path) == (stem, extension)


def test_replacing_gives_the_extension_and_makes_folders(tmp_path):
    path = tmp_path / "new" / "folder" / "labels.SEG.NRRD"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent and temporary.name.endswith(".seg.nrrd")
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failing_writer_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "volumes.csv"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="No space left") as caught, replacing(tmp_path / "volumes.csv") as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert str(caught.value).startswith(str(tmp_path / "volumes.csv"))
    assert list(tmp_path.iterdir()) == []


def write(path):
    write_label_map(path, some_labels(), oblique(), paper_structures())


def check(path):
    check_output(path, WRITABLE)


@pytest.mark.parametrize("call", [write, check])
def test_unknown_output_extension(tmp_path, call):
    with pytest.raises(OutputError, match=r"'.png'.*\.seg\.nrrd") as caught:
        call(tmp_path / "labels.png")
    assert str(tmp_path / "labels.png") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", [write, check])
@pytest.mark.parametrize("name", ["file/labels.nii", "file/folder/labels.nrrd", "folder.nii"])
def test_impossible_output(tmp_path, call, name):
    (tmp_path / "file").write_text("a file, not a folder")
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(OutputError) as caught:
        call(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name)) and "\n" not in message
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.nii"]


def test_check_output_leaves_nothing_behind(tmp_path):
    check_output(tmp_path / "new" / "folder" / "labels.nii.gz", WRITABLE)
    check_output(tmp_path / "volumes.csv", [".csv"])
    assert list(tmp_path.iterdir()) == []


def test_check_output_tries_to_write(tmp_path, monkeypatch):
    def deny(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.mkdir", deny)
    with pytest.raises(OutputError, match="Permission denied"):
        check_output(tmp_path / "labels.nii.gz", WRITABLE)
