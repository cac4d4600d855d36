"""Scans that are damaged, or made to harm: refused by one line that names the file, at once and without much memory."""

import gzip
import math
import os
import socket
import struct
import tracemalloc
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from made import bright_ball, millimetres, oblique, refusal, save_nifti

from GaborSegLib import environment
from GaborSegLib.errors import DataError, ImageError
from GaborSegLib.files import regular_file
from GaborSegLib.scans.headers import LONGEST
from GaborSegLib.scans.image import READABLE
from GaborSegLib.scans.reading import MOST_BESIDE, read_image, scans_in

RAW = bright_ball().astype("<i2").tobytes(order="F")
NRRD = ("type: short", "dimension: 3", "sizes: 17 18 20", "endian: little")
META = ("ObjectType = Image", "NDims = 3", "BinaryData = True", "DimSize = 17 18 20", "ElementType = MET_SHORT")


def save(path, lines, voxels=RAW):
    """Write an NRRD or MetaImage file of these lines of a header, and bytes."""
    lines = ["NRRD0005", *lines, "", ""] if "nrrd" in path.name or "nhdr" in path.name else [*lines, ""]
    path.write_bytes("\n".join(lines).encode() + voxels)
    return path


def changed(lines, **fields):
    """Header lines with other values for some fields, written without spaces here."""
    keys = {line: line.replace("=", ":").partition(":")[0].strip() for line in lines}
    return [
        f"{keys[line]}{line[len(keys[line]) :][:2]} {fields[keys[line]]}" if keys[line] in fields else line
        for line in lines
    ]


# Voxels that are not whole


def compressed(path):
    """A compressed scan; returns where its compressed voxels begin."""
    if path.suffix == ".mha":
        lines = (*META, "CompressedData = True", "ElementDataFile = LOCAL")
        save(path, lines, zlib.compress(RAW))
    else:
        save(path, (*NRRD, "encoding: gzip"), gzip.compress(RAW, mtime=0))
    return len(path.read_bytes()) - len(zlib.compress(RAW) if path.suffix == ".mha" else gzip.compress(RAW, mtime=0))


@pytest.mark.parametrize("name", ["scan.mha", "scan.nrrd"])
def test_no_flipped_bit_changes_a_voxel(tmp_path, name):
    """A few bits say nothing of the voxels: what system compressed them, for instance."""
    path = tmp_path / name
    begin = compressed(path)
    content, refused = path.read_bytes(), 0
    places = np.random.default_rng(0).integers(begin, len(content), 80)
    for place in [*range(begin, begin + 10), *places, *range(len(content) - 8, len(content))]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert np.array_equal(read_image(path).array, bright_ball())
        except ImageError as error:
            assert str(error).startswith(f"{path}: cannot be read")
            refused += 1
    assert refused > 90


@pytest.mark.parametrize("name", ["scan.mha", "scan.nrrd"])
@pytest.mark.parametrize("missing", [1, 4, 8, 500])
def test_cut_compressed_voxels_are_refused(tmp_path, name, missing):
    path = tmp_path / name
    compressed(path)
    path.write_bytes(path.read_bytes()[:-missing])
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("name", ["scan.mha", "scan.nrrd", "scan.gz.nrrd", "scan.nhdr", "scan.mhd"])
def test_more_or_fewer_voxels_than_the_header_says_are_refused(tmp_path, name, change):
    path, sizes = tmp_path / name, f"17 18 {20 + change}"
    (tmp_path / "scan.raw").write_bytes(RAW)
    if "nrrd" in name or "nhdr" in name:
        lines = (*changed(NRRD, sizes=sizes), "encoding: gzip" if ".gz" in name else "encoding: raw")
        lines = (*lines, "data file: scan.raw") if "nhdr" in name else lines
    else:
        lines = (*changed(META, DimSize=sizes), f"ElementDataFile = {'LOCAL' if 'mha' in name else 'scan.raw'}")
    save(path, lines, b"" if "hd" in path.suffix else gzip.compress(RAW) if ".gz" in name else RAW)
    assert "cannot be read" in refusal(path)


# Voxels in other files


def save_slices(folder):
    for k in range(20):
        (folder / f"s{k + 1:02}.raw").write_bytes(RAW[k * len(RAW) // 20 : (k + 1) * len(RAW) // 20])


LIST = "LIST\n" + "\n".join(f"s{k + 1:02}.raw" for k in range(20))


@pytest.mark.parametrize("files", ["s%02d.raw 1 20 1", LIST])
@pytest.mark.parametrize("name", ["scan.mhd", "scan.nhdr"])
def test_slices_in_files_of_their_own_are_read(tmp_path, name, files):
    save_slices(tmp_path)
    lines = (*META, f"ElementDataFile = {files}") if "mhd" in name else (*NRRD, "encoding: raw", f"data file: {files}")
    path = tmp_path / name
    path.write_text("\n".join(lines if "mhd" in name else ["NRRD0005", *lines]) + "\n")
    assert np.array_equal(read_image(path).array, bright_ball())


@pytest.mark.parametrize(
    "files",
    [
        *("t%02d.raw 1 20 1", "s%02d.raw 2 21 1", "s%02d.raw 1 19 1", "s%02d.raw 1 20 0", "s%02d.raw 1 2000000000 1"),
        *("s%02d.raw 20 1 1", "s01.raw", "LIST", LIST[:-8], f"{LIST}\ns01.raw", LIST.replace("s20", "t20")),
        *(
            "%d%s%n",
            "%s",
            "%n",
            "%",
            "%99999999d 1 20 1",
            "%d" + " " * 900 + "x",
            "x" * 5000,
            "../" * 2000,
            "a\0b",
            ".",
        ),
        *("/dev/zero", "pipe.raw", "loop.raw", "scan.mhd", "scan.nhdr", "", "https://example.org/scan.raw"),
    ],
)
@pytest.mark.parametrize("name", ["scan.mhd", "scan.nhdr"])
def test_data_files_that_do_not_fit_are_refused(tmp_path, name, files):
    save_slices(tmp_path)
    os.mkfifo(tmp_path / "pipe.raw")
    (tmp_path / "loop.raw").symlink_to("loop.raw")
    lines = (*META, f"ElementDataFile = {files}") if "mhd" in name else (*NRRD, "encoding: raw", f"data file: {files}")
    path = tmp_path / name
    path.write_text("\n".join(lines if "mhd" in name else ["NRRD0005", *lines]) + "\n")
    message = refusal(path)
    assert "cannot be read" in message and len(message) < len(str(path)) + 500


# Headers

ABSURD = ("1000000000", "2147483648", "9" * 400, "9" * 5000, "1e300", "x", "", "3 3")


@pytest.mark.parametrize("number", [*ABSURD, "-3"])
@pytest.mark.parametrize("field", ["NDims", "DimSize", "ElementNumberOfChannels", "HeaderSize", "TransformMatrix"])
def test_absurd_numbers_in_a_metaimage_are_refused(tmp_path, field, number):
    value = {"DimSize": f"{number} 18 20", "TransformMatrix": f"{number} 0 0 0 1 0 1 0 0"}.get(field, number)
    lines = [line for line in META if not line.startswith(field)]
    message = refusal(save(tmp_path / "scan.mha", (*lines, f"{field} = {value}", "ElementDataFile = LOCAL")))
    assert len(message) < len(str(tmp_path)) + 500


@pytest.mark.parametrize("number", [*ABSURD, "-3"])
@pytest.mark.parametrize("field", ["dimension", "sizes", "byte skip", "space directions", "kinds"])
def test_absurd_numbers_in_a_nrrd_are_refused(tmp_path, field, number):
    value = {"sizes": f"{number} 18 20", "space directions": f"({number},0,0) (0,1,0) (1,0,0)"}.get(field, number)
    lines = [line for line in (*NRRD, "encoding: raw", "space: LPS") if not line.startswith(field)]
    message = refusal(save(tmp_path / "scan.nrrd", (*lines, f"{field}: {value}")))
    assert len(message) < len(str(tmp_path)) + 500


def test_a_long_header_is_refused(tmp_path):
    lines = [f"key{i}:=value" for i in range(LONGEST // 12)]
    assert "its header has more than 4 MiB" in refusal(save(tmp_path / "scan.nrrd", (*NRRD, *lines)))
    assert "its header has more than 4 MiB" in refusal(save(tmp_path / "scan.mha", (*META, *lines)))


@pytest.mark.parametrize(
    "voxels",
    [
        b"1" * 10**7,
        b" " * 10**7,
        bytes(range(256)) * 48,
        b"1 " * 6119,
        b"1 " * 6121,
        b"1 " * 6119 + b"70000",
        b"1 " * 6119 + b"nan",
        b"1 " * 6119 + b"0.5",
    ],
)
def test_text_voxels_that_do_not_fit_are_refused(tmp_path, voxels):
    assert "cannot be read" in refusal(save(tmp_path / "scan.nrrd", (*NRRD, "encoding: text"), voxels))


def test_text_voxels_are_read(tmp_path):
    text = " ".join(map(str, bright_ball().ravel(order="F"))).encode()
    assert np.array_equal(
        read_image(save(tmp_path / "scan.nrrd", (*NRRD, "encoding: ascii"), text)).array, bright_ball()
    )


@pytest.mark.parametrize("encoding", ["hex", "bzip2", "zrl", "raw raw", ""])
def test_other_encodings_are_refused(tmp_path, encoding):
    assert "wanted one of raw, gzip" in refusal(save(tmp_path / "scan.nrrd", (*NRRD, f"encoding: {encoding}")))


@pytest.mark.parametrize("space", ["left-posterior-superior", "RAS", "left-anterior-superior", "LAS", "scanner-xyz"])
def test_spaces_are_read_as_simpleitk_does(tmp_path, space):
    affine = oblique(3)
    vectors = [f"({','.join(map(repr, column.tolist()))})" for column in affine[:3].T]
    path = save(
        tmp_path / "scan.nrrd",
        (
            *NRRD,
            "encoding: raw",
            f"space: {space}",
            f"space directions: {' '.join(vectors[:3])}",
            f"space origin: {vectors[3]}",
        ),
    )
    read, expected = read_image(path), sitk.ReadImage(str(path))
    point = expected.TransformIndexToPhysicalPoint((3, 11, 5))
    assert np.allclose(millimetres(read.affine) * (-1, -1, 1), point)
    assert np.array_equal(read.array, sitk.GetArrayFromImage(expected).T) and read.warnings == ()


# Memory


@pytest.mark.parametrize(
    "name", ["scan.nii", "scan.nii.gz", "scan.mgh", "scan.mgz", "scan.nrrd", "scan.gz.nrrd", "scan.mha"]
)
def test_a_header_that_claims_much_is_refused_by_the_files_size(tmp_path, name):
    path, content = tmp_path / name, None
    if "nii" in name:
        content = bytearray(nibabel.Nifti1Image(bright_ball(), np.eye(4)).to_bytes())
        struct.pack_into("<4h", content, 40, 3, 2000, 2000, 2000)
    elif "mg" in name:
        content = bytearray(nibabel.MGHImage(bright_ball(), np.eye(4)).to_bytes())
        struct.pack_into(">3i", content, 4, 2000, 2000, 2000)
    if content:
        path.write_bytes(gzip.compress(bytes(content)) if name.endswith("z") else bytes(content))
    elif "nrrd" in name:
        lines = changed((*NRRD, "encoding: raw"), sizes="2000 2000 2000")
        lines = changed(lines, encoding="gzip") if "gz" in name else lines
        save(path, lines, gzip.compress(RAW) if "gz" in name else RAW)
    else:
        save(path, (*changed(META, DimSize="2000 2000 2000"), "ElementDataFile = LOCAL"))
    tracemalloc.start()
    message = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "16000000" in message and "more than a file of" in message and peak < 6 << 20


@pytest.mark.parametrize("extension", [extension for extension in READABLE if extension[1:4] != "seg"])
def test_a_scan_that_this_computer_cannot_hold_is_refused(tmp_path, monkeypatch, extension):
    path = tmp_path / f"scan{extension}"
    if extension.startswith(".mg"):
        nibabel.save(nibabel.MGHImage(np.zeros((64, 64, 64), np.uint8), np.eye(4)), path)
    elif "nii" in extension:
        save_nifti(path, np.zeros((64, 64, 64), np.uint8))
    else:
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((64, 64, 64), np.uint8)), str(path))
    monkeypatch.setattr("GaborSegLib.scans.image.main_memory", lambda: (3, 3))
    message = refusal(path)
    assert "64 x 64 x 64 voxels, which need about 4 MiB" in message and "3 MiB" in message
    monkeypatch.setattr("GaborSegLib.scans.image.main_memory", lambda: (4, 4))
    assert read_image(path).array.shape == (64, 64, 64)


def test_what_this_process_may_have_is_its_own_limit(monkeypatch):
    resource = pytest.importorskip("resource")
    total = environment.main_memory()[0]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (100 << 20, resource.RLIM_INFINITY))
    assert environment.main_memory()[0] == 100 < total


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.mgz", "scan.nrrd", "scan.mha"])
def test_a_file_that_inflates_too_far_is_stopped(tmp_path, name):
    path, more = tmp_path / name, bytes(4 * MOST_BESIDE)
    if "nii" in name:
        path.write_bytes(gzip.compress(nibabel.Nifti1Image(bright_ball(), np.eye(4)).to_bytes() + more, 1))
    elif "mgz" in name:
        path.write_bytes(gzip.compress(nibabel.MGHImage(bright_ball(), np.eye(4)).to_bytes() + more, 1))
    elif "nrrd" in name:
        save(path, (*NRRD, "encoding: gzip"), gzip.compress(RAW + more, 1))
    else:
        save(path, (*META, "CompressedData = True", "ElementDataFile = LOCAL"), zlib.compress(RAW + more, 1))
    tracemalloc.start()
    message = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "it holds more" in message and peak < 3.5 * MOST_BESIDE


@pytest.mark.parametrize("offset", [1e9, 1e30, math.nan, math.inf, -1])
def test_voxels_that_begin_nowhere_are_refused(tmp_path, offset):
    content = bytearray(nibabel.Nifti1Image(bright_ball(), np.eye(4)).to_bytes())
    struct.pack_into("<f", content, 108, offset)
    (tmp_path / "scan.nii").write_bytes(content)
    assert "cannot be read" in refusal(tmp_path / "scan.nii")


# What is no file


@pytest.mark.parametrize("extension", [*READABLE, ".dcm"])
def test_only_regular_files_are_opened(tmp_path, extension):
    """Opening a pipe waits for somebody who writes to it."""
    pipe, loop, device = (tmp_path / f"{name}{extension}" for name in ("pipe", "loop", "device"))
    os.mkfifo(pipe)
    loop.symlink_to(loop.name)
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        assert "wanted a file" in refusal(path)
    assert "there is no such file" in refusal(loop)
    for name in (os.fsdecode(b"\xff" + extension.encode()), "x" * 5000 + extension, "a\0b" + extension):
        with pytest.raises(ImageError) as caught:
            read_image(tmp_path / name)
        assert str(caught.value).isprintable()


def test_a_socket_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.nii")
        with pytest.raises(DataError, match="wanted a file"):
            regular_file("s.nii", DataError)


def test_pipes_in_a_folder_are_no_scans(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    os.mkfifo(tmp_path / "pipe.dcm")
    path = save_nifti(tmp_path / "scan.nii")
    assert scans_in(tmp_path) == [path]
