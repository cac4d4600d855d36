"""A data set in one file."""

import io
import json
import struct
import subprocess
import sys
import zipfile

import nibabel
import numpy as np
import pytest
import torch

from GaborSegLib import cli
from GaborSegLib.data.dataset import load_prepared, prepare
from GaborSegLib.data.heads import find_heads, prepare_heads
from GaborSegLib.data.packing import open_packed
from GaborSegLib.data.sources import find_data
from GaborSegLib.errors import DataError
from GaborSegLib.training.snapshot import load_snapshot

SMALL = [
    "--variant",
    "conventional",
    "--epochs",
    "2",
    "--augmentation",
    "none",
    "--grid-size",
    "16",
    "--base-channels",
    "4",
    "--validation",
    "B",
    "--device",
    "cpu",
    "--threads",
    "1",
]


@pytest.fixture
def packed(data_set, tmp_path):
    path = tmp_path / "prepared.zip"
    assert cli.main(["pack", str(data_set), "-o", str(path), "--grid-size", "16"]) == 0
    return path


def test_holds_what_prepare_makes(packed, data_set, tmp_path):
    data, found = open_packed(packed), find_data(data_set)
    assert [(case.id, case.subject) for case in data.cases] == [(case.id, case.subject) for case in found.cases]
    assert data.table.names == found.table.names and data.table.ids == found.table.ids
    expected = prepare(found.cases, found.table, tmp_path / "cache", 16)
    for stem, other in zip(data.prepare(data.cases, tmp_path / "unpacked", 16), expected):
        assert all(torch.equal(one, two) for one, two in zip(load_prepared(stem), load_prepared(other)))


def test_soft_labels_are_packed_if_asked_for(packed, data_set, tmp_path):
    soft = tmp_path / "soft.zip"
    assert cli.main(["pack", str(data_set), "-o", str(soft), "--grid-size", "16", "--soft-labels"]) == 0
    found = find_data(data_set)
    expected = prepare(found.cases, found.table, tmp_path / "cache", 16, soft_labels=True)
    data = open_packed(soft)
    for stem, other in zip(data.prepare(data.cases, tmp_path / "unpacked", 16, soft_labels=True), expected):
        pairs = zip(load_prepared(stem, soft_labels=True), load_prepared(other, soft_labels=True))
        assert all(torch.equal(one, two) for one, two in pairs)
    data = open_packed(packed)
    with pytest.raises(DataError, match="packed without --soft-labels"):
        data.prepare(data.cases, tmp_path / "unpacked", 16, soft_labels=True)


@pytest.mark.processes
def test_trains_without_what_reads_scans_and_to_the_same_weights(packed, data_set, tmp_path):
    blocked = "import sys; sys.modules.update(nibabel=None, SimpleITK=None)\nfrom GaborSegLib import cli\n"
    code = blocked + "sys.exit(cli.main(sys.argv[1:]))"
    arguments = ["train", str(packed), "-o", str(tmp_path / "packed"), *SMALL]
    process = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert cli.main(["train", str(data_set), "-o", str(tmp_path / "folder"), *SMALL]) == 0
    first, second = load_snapshot(tmp_path / "packed"), load_snapshot(tmp_path / "folder")
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    assert (tmp_path / "packed" / "best.safetensors").read_bytes() == (
        tmp_path / "folder" / "best.safetensors"
    ).read_bytes()


def test_heads_go_in_and_are_trained_with(data_set, tmp_path):
    (tmp_path / "heads").mkdir()
    for name in ("one", "two"):
        head = np.zeros([40] * 3, dtype=np.int16)
        head[8:32, 8:32, 8:32] = 516  # skull
        head[12:28, 12:28, 12:28] = 3  # cerebral cortex
        nibabel.save(nibabel.Nifti1Image(head, np.eye(4)), tmp_path / "heads" / f"{name}.nii.gz")
    options = ["--heads", str(tmp_path / "heads")]
    path = tmp_path / "prepared.zip"
    assert cli.main(["pack", str(data_set), "-o", str(path), "--grid-size", "16", *options]) == 0
    data, found = open_packed(path), find_data(data_set)
    stems = prepare(found.cases, found.table, tmp_path / "cache", 16)
    expected = prepare_heads(stems, find_heads(tmp_path / "heads"), tmp_path / "cache", found.table.names)
    unpacked = data.prepare_heads(data.cases, [], [], tmp_path / "unpacked")
    assert len(unpacked) == len(data.cases) and all(len(heads) == 2 for heads in unpacked)
    for one, two in zip(sum(unpacked, []), sum(expected, [])):
        assert np.array_equal(np.load(one), np.load(two))
    assert cli.main(["train", str(path), "-o", str(tmp_path / "run"), *SMALL]) == 0
    assert load_snapshot(tmp_path / "run")[2]["options"]["heads"] == 2


def test_what_is_no_packed_data_set_is_refused(packed, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        open_packed(tmp_path / "none.zip")
    moved = bytearray(packed.read_bytes())  # its first entry lies before the file's begin
    struct.pack_into("<I", moved, len(moved) - 6, struct.unpack_from("<I", moved, len(moved) - 6)[0] + 1000)
    for name, content in (("text.zip", b"text"), ("cut.zip", packed.read_bytes()[:-100]), ("moved.zip", moved)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="damaged or incomplete"):
            open_packed(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("a.txt", "a")
    with pytest.raises(DataError, match="gaborseg pack"):
        open_packed(tmp_path / "other.zip")
    with pytest.raises(DataError, match="--grid-size 16"):
        open_packed(packed).prepare([], tmp_path / "cache", 32)


def repacked(packed, path, index=None, **entries):
    """A copy of a packed data set with some of its index or of its entries changed, and all checksums right."""
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "index.json":
                content = index if isinstance(index, str) else json.dumps({**json.loads(content), **(index or {})})
            new.writestr(name, entries.get(name, content))
    return path


DEEP = 100_000 * "["
CASES = [{"id": f"s{i}", "subject": "A"} for i in range(6)]


@pytest.mark.parametrize(
    "index, message",
    [
        (DEEP, "nested too deep"),
        ("[]", "no packed data set"),
        ({"format": "1"}, "no packed data set"),
        ({"grid_size": 10**6}, "1000000; wanted a whole number from 16 to 1024"),
        ({"grid_size": 16.0}, "16.0; wanted a whole number"),
        ({"heads_each": 10**9}, "heads_each"),
        ({"heads": "two"}, "heads"),
        ({"find_brain": "no"}, "find_brain"),
        ({"cases": 1000 * CASES[:1]}, "no id of its own"),
        ({"cases": [*CASES, {"id": "s9", "subject": "A"}]}, "6.image.npy"),
        ({"cases": [{"id": 7, "subject": "A"}]}, "no id of its own"),
        ({"structures": 255 * [{}]}, "no packed data set"),
        ({"structures": [{"name": f"S{i}", "ids": [i], "counts_as": i} for i in range(1, 256)]}, "255 structures"),
        ({"structures": [{"name": "A", "ids": [1], "counts_as": 2}]}, "counts as one that is not in it"),
        ({"structures": [{"name": "A", "ids": 1, "counts_as": 1}]}, "no packed data set"),
        ({"name": ["a"]}, None),
    ],
)
def test_an_index_that_cannot_be_is_refused(index, message, packed, tmp_path):
    path = repacked(packed, tmp_path / "other.zip", index)
    if message is None:
        assert open_packed(path).folder.name == "['a']"
        return
    with pytest.raises(DataError, match=message) as caught:
        open_packed(path)
    assert str(caught.value).startswith(f"{path}: ") and "gaborseg pack makes one" in str(caught.value)


def npy(array, claims=None):
    file = io.BytesIO()
    np.save(file, array)
    content = file.getvalue()
    return content.replace(b"(16, 16, 16), }".ljust(len(claims)), claims) if claims else content


def test_an_array_that_claims_more_than_it_has_takes_no_memory(packed, tmp_path):
    cube = np.zeros((16, 16, 16), np.float16)
    for content, message in (
        (npy(cube, b"(16, 16, 1600000000), }"), "length is greater than file size"),
        (npy(cube[:8]), r"has the shape \(8, 16, 16\) of <f2, wanted \(16, 16, 16\) of <f2"),
        (npy(cube[None]), "has the shape"),
        (npy(cube.astype(">f2")), "of >f2, wanted"),
        (npy(np.array([{}], dtype=object)), "object"),
        (b"", "damaged or incomplete"),
        (b"PK\x03\x04", "damaged or incomplete"),
    ):
        path = repacked(packed, tmp_path / "other.zip", **{"3.image.npy": content})
        data = open_packed(path)
        with pytest.raises(DataError, match=message):
            data.prepare(data.cases, tmp_path / "cache", 16)
    path = repacked(packed, tmp_path / "other.zip", **{"3.image.npy": bytes(8 * 16**3 + 1025)})
    with pytest.raises(DataError, match="3.image.npy has 33793 bytes, too many for its grid_size"):
        open_packed(path)


def test_labels_without_a_structure_are_refused(packed, tmp_path):
    labels = np.full((16, 16, 16), 4, np.uint8)
    data = open_packed(repacked(packed, tmp_path / "other.zip", **{"3.labels.npy": npy(labels)}))
    assert len(data.table.names) == 3
    for _ in range(2):  # also where it was unpacked before
        with pytest.raises(DataError, match="3.labels.npy has the label 4 of 3 structures"):
            data.prepare(data.cases, tmp_path / "cache", 16)


def test_a_damaged_scan_in_it_is_noticed(packed, tmp_path):
    data = bytearray(packed.read_bytes())
    with zipfile.ZipFile(packed) as file:
        entry = file.getinfo("3.image.npy")
    data[entry.header_offset + 1000] ^= 1
    packed.write_bytes(data)
    damaged = open_packed(packed)
    with pytest.raises(DataError, match="damaged or incomplete"):
        damaged.prepare(damaged.cases, tmp_path / "cache", 16)
