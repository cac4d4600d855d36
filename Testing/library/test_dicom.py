"""DICOM series: slices in the order of the headers, one series of several, and stacks that are refused."""

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from made import RAS_TO_LPS, SHAPE, bright_ball, millimetres, oblique, refusal, save_nifti, told

from GaborSegLib.scans import dicom_process
from GaborSegLib.scans.checking import check_image
from GaborSegLib.scans.reading import read_image, scans_in


def save_dicom(folder, affine, slices=SHAPE[2], uid="1.2.3", move=lambda k, position: position):
    """Write a series whose file names do not follow the slices' order; `move` displaces slices."""
    folder.mkdir(exist_ok=True)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = RAS_TO_LPS[:, None] * affine[:3, :3] / spacing
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(slices):
        image = sitk.GetImageFromArray(np.ascontiguousarray(bright_ball()[:, :, k].T))
        image.SetSpacing(spacing[:2].tolist())
        position = move(k, RAS_TO_LPS * millimetres(affine, (0, 0, k)))
        fields = {
            "0008|0060": "MR",
            "0008|0018": f"{uid}.{k + 1}",
            "0020|000d": "1.2",
            "0020|000e": uid,
            "0020|0013": str(k + 1),
            "0020|0032": "\\".join(f"{x:.6f}" for x in position),
            "0020|0037": "\\".join(f"{x:.8f}" for x in axes[:, :2].T.ravel()),
        }
        for key, value in fields.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{uid}-{k * 7 % 20:02}.dcm"))
        writer.Execute(image)


@pytest.mark.parametrize("one_file", [False, True])
@pytest.mark.parametrize("straight", [False, True])
def test_dicom_series(tmp_path, straight, one_file):
    affine = np.diag([-0.9, -1.3, 2.1, 1]) if straight else oblique(hand=1)
    save_dicom(tmp_path / "series", affine)
    image = read_image(tmp_path / "series" / "1.2.3-07.dcm" if one_file else tmp_path / "series")
    assert np.array_equal(image.array, bright_ball())
    assert np.allclose(image.affine, affine, atol=1e-4)
    assert check_image(image) == []


def test_longest_dicom_series_is_taken_with_a_warning(tmp_path):
    save_dicom(tmp_path / "study", oblique(hand=1))
    save_dicom(tmp_path / "study", oblique(1, hand=1), slices=3, uid="1.2.2")
    image = read_image(tmp_path / "study")
    assert image.array.shape == SHAPE
    (warning,) = check_image(image)
    assert "2 DICOM series" in warning and "(20)" in warning and str(tmp_path / "study") in warning


def test_series_of_the_named_dicom_file_is_taken(tmp_path):
    save_dicom(tmp_path / "study", oblique(hand=1))
    save_dicom(tmp_path / "study", oblique(1, hand=1), slices=3, uid="1.2.2")
    image = read_image(tmp_path / "study" / "1.2.2-07.dcm")
    assert image.array.shape == (17, 18, 3)
    assert image.warnings == ()


def missing_slice(folder):
    save_dicom(folder, oblique(hand=1))
    (folder / "1.2.3-07.dcm").unlink()  # the second slice


def tilted_stack(folder):
    save_dicom(folder, oblique(hand=1), move=lambda k, position: np.add(position, (0.4 * k, 0, 0)))


@pytest.mark.parametrize("save", [missing_slice, tilted_stack])
def test_uneven_dicom_series_is_refused(tmp_path, save):
    save(tmp_path / "series")
    assert "even, straight stack" in refusal(tmp_path / "series")


def test_folder_without_dicom_is_refused(tmp_path):
    save_nifti(tmp_path / "scan.nii")
    assert "no DICOM" in refusal(tmp_path)


def test_dicom_extension_on_something_else_is_refused(tmp_path):
    (tmp_path / "scan.dcm").write_text("This is not an image.")
    assert "no DICOM" in refusal(tmp_path / "scan.dcm")


# Damaged series


# The list of a disc's files: how it is written, explicitly and with the lowest byte first, and the disc's name.
DICOMDIR = bytes(128) + b"DICM\2\0\x10\0UI\x14\0" + b"1.2.840.10008.1.2.1\0" + b"\4\0\x30\x11CS\4\0DISC"


def damage(file, change):
    content = bytearray(file.read_bytes())
    file.write_bytes(change(content))


def place(content, group, number):
    """Where an element's value begins: SimpleITK writes a tag and four bytes for the length."""
    return content.index(struct.pack("<HH", group, number)) + 8


def more_rows(content):
    struct.pack_into("<H", content, place(content, 0x28, 0x10), 26)
    return content


def nested(content, depth=100_000):
    """Sequences in each other, of a length that is not said, before the pixels."""
    begin = b"".join(struct.pack("<HHIHHI", 0x40, 0xA730, 2**32 - 1, 0xFFFE, 0xE000, 2**32 - 1) for _ in range(depth))
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0) * depth
    here = place(content, 0x7FE0, 0x10) - 8
    return content[:here] + begin + end + content[here:]


# The names of files, of which 00 is the first slice and 13 the last: each change to one of them, each takes a process.
@pytest.mark.parametrize(
    "name, change",
    [
        *(("00", more_rows), ("13", more_rows), ("07", more_rows), ("07", nested)),
        *(("00", lambda content: content[:-1]), ("13", lambda content: content[:-300])),
        *(("00", lambda content: content[:300]), ("13", lambda content: content[:100])),
        *(("00", lambda content: b""), ("13", lambda content: bytes(200) + content[200:])),
        *(("07", lambda content: content[:140] + bytes(60) + content[200:]),),
    ],
)
def test_a_damaged_slice_is_refused_by_name(tmp_path, name, change):
    save_dicom(tmp_path / "series", oblique(hand=1))
    damage(tmp_path / "series" / f"1.2.3-{name}.dcm", change)
    message = refusal(tmp_path / "series")
    assert message.startswith(str(tmp_path / "series" / f"1.2.3-{name}.dcm: ")) or "even, straight stack" in message
    assert "export the series again" in message


def test_more_rows_than_pixels_are_refused(tmp_path):
    save_dicom(tmp_path / "series", oblique(hand=1))
    for file in (tmp_path / "series").iterdir():
        damage(file, more_rows)
    assert "884 bytes of pixels, it holds 612" in refusal(tmp_path / "series")  # 17 x 26 and 17 x 18 of 2 bytes


def test_sequences_in_each_other_are_read(tmp_path):
    save_dicom(tmp_path / "series", oblique(hand=1))
    damage(tmp_path / "series" / "1.2.3-07.dcm", lambda content: nested(content, 10))
    assert np.array_equal(read_image(tmp_path / "series").array, bright_ball())


def test_the_death_of_gdcm_is_one_scans_error(tmp_path, monkeypatch):
    save_dicom(tmp_path / "series", oblique(hand=1))
    killed = subprocess.CompletedProcess([], -11)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    assert "GDCM, which reads DICOM, ended with status -11" in refusal(tmp_path / "series")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold the limit")
def test_gdcm_takes_no_more_memory_than_its_voxels_need(tmp_path):
    """It makes room for whatever length an element tells of, here 2 GiB."""
    save_dicom(tmp_path / "series", oblique(hand=1))
    version = b"\2\0\1\0OB\0\0"
    longer = version + struct.pack("<I", 2**31)
    damage(tmp_path / "series" / "1.2.3-07.dcm", lambda content: content.replace(version + b"\2\0\0\0", longer))
    # Not what `resource` says, which counts from the process that started this one.
    code = "import runpy, sys\ntry: runpy.run_path(sys.argv.pop(1), run_name='__main__')\n"
    code += "finally: print([line for line in open('/proc/self/status') if 'VmHWM' in line][0].split()[1])"
    command = [sys.executable, "-c", code, dicom_process.__file__, str(tmp_path / "series"), str(tmp_path), "300"]
    found = subprocess.run(command, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert 0 < int(found.stdout.split()[-1]) >> 10 < 600  # with its code


def test_scans_beside_one_that_ends_gdcm_are_segmented(tmp_path, tiny_weights, capsys):
    """`nested` overflows GDCM's stack."""
    good = [save_nifti(tmp_path / f"{name}.nii.gz", affine=oblique(hand=1)) for name in ("a", "c")]
    save_dicom(tmp_path / "b", oblique(hand=1))
    damage(tmp_path / "b" / "1.2.3-07.dcm", nested)
    out, weights = ("-o", tmp_path / "out"), ("--weights", tiny_weights)
    status, events = told(capsys, "segment", good[0], tmp_path / "b", good[1], *out, *weights)
    events = [event for event in events if event["event"] in ("result", "error")]
    assert status == 2 and [event["event"] for event in events] == ["result", "error", "result"]
    assert events[1]["message"].startswith(str(tmp_path / "b" / "1.2.3-07.dcm: is no DICOM image, or a damaged one"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_labels.nii.gz", "c_labels.nii.gz"]


def test_other_files_beside_a_series_do_not_matter(tmp_path):
    save_dicom(tmp_path / "series", oblique(hand=1))
    (tmp_path / "series" / "._1.2.3-00.dcm").write_bytes(b"what macOS leaves there")
    (tmp_path / "series" / "notes.txt").write_text("a good scan")
    (tmp_path / "series" / "DICOMDIR").write_bytes(DICOMDIR)
    save_dicom(tmp_path / "series", oblique(1, hand=1), slices=3, uid="1.2.2")
    damage(tmp_path / "series" / "1.2.2-07.dcm", lambda content: content[:-300])
    assert np.array_equal(read_image(tmp_path / "series").array, bright_ball())


def test_a_pipe_beside_a_series_is_refused(tmp_path):
    """GDCM lists some of the files then, and not all."""
    save_dicom(tmp_path / "series", oblique(hand=1))
    os.mkfifo(tmp_path / "series" / "pipe")
    assert "wanted a file" in refusal(tmp_path / "series")


def test_a_folder_of_files_and_no_dicom_image_is_looked_into_without_gdcm(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    scan = save_nifti(tmp_path / "scan.nii")
    (tmp_path / "DICOMDIR").write_bytes(DICOMDIR)
    assert scans_in(tmp_path) == [scan]


def test_a_series_that_this_computer_cannot_hold_is_refused(tmp_path, monkeypatch):
    save_dicom(tmp_path / "series", oblique(hand=1))
    for file in (tmp_path / "series").iterdir():
        damage(file, more_rows)
    monkeypatch.setattr("GaborSegLib.scans.image.main_memory", lambda: (1, 1))
    monkeypatch.setattr("GaborSegLib.scans.image.BYTES_PER_SCAN_VOXEL", 1 << 20)
    assert f"need about {17 * 26 * 20} MiB" in refusal(tmp_path / "series")
