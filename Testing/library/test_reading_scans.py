"""Reading scans: voxels and millimetres of files written by something else or by hand, and what is refused.

What every format has in common is in test_conformance.py.
"""

import struct

import numpy as np
import pytest
import SimpleITK as sitk
from made import RAS_TO_LPS, SHAPE, bright_ball, oblique, refusal, save_nifti

from GaborSegLib.scans import reading
from GaborSegLib.scans.image import READABLE
from GaborSegLib.scans.reading import read_image


def test_reads_a_nrrd_written_by_hand(tmp_path):
    affine = oblique()
    directions = " ".join(f"({','.join(repr(float(x)) for x in column)})" for column in affine[:3, :3].T)
    origin = ",".join(repr(float(x)) for x in affine[:3, 3])
    header = (
        "NRRD0004\ntype: int16\ndimension: 3\nspace: right-anterior-superior\nsizes: 17 18 20\nendian: little\n"
        f"space directions: {directions}\nencoding: raw\nspace origin: ({origin})\n\n"
    )
    (tmp_path / "scan.nrrd").write_bytes(header.encode() + bright_ball().astype("<i2").tobytes(order="F"))
    read = read_image(tmp_path / "scan.nrrd")
    assert np.array_equal(read.array, bright_ball())
    assert np.allclose(read.affine, affine)


def test_reads_a_metaimage_written_by_hand(tmp_path):
    affine = oblique()
    lps = np.diag(RAS_TO_LPS) @ affine[:3, :3] / (0.9, 1.3, 2.1)
    (tmp_path / "scan.raw").write_bytes(bright_ball().astype("<i2").tobytes(order="F"))
    (tmp_path / "scan.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"TransformMatrix = {' '.join(map(repr, lps.T.ravel().tolist()))}\n"
        f"Offset = {' '.join(map(repr, (RAS_TO_LPS * affine[:3, 3]).tolist()))}\n"
        "ElementSpacing = 0.9 1.3 2.1\nDimSize = 17 18 20\nElementType = MET_SHORT\nElementDataFile = scan.raw\n"
    )
    read = read_image(tmp_path / "scan.mhd")
    assert np.array_equal(read.array, bright_ball())
    assert np.allclose(read.affine, affine)


def test_nifti_intensities_are_scaled(tmp_path):
    content = bytearray(save_nifti(tmp_path / "scan.nii").read_bytes())
    content[112:120] = struct.pack("<2f", 0.5, 3)  # scl_slope, scl_inter
    (tmp_path / "scan.nii").write_bytes(content)
    stored = np.frombuffer(content[352:], "<i2").reshape(SHAPE, order="F")
    assert np.allclose(read_image(tmp_path / "scan.nii").array, stored * 0.5 + 3)


def test_extension_in_capitals(tmp_path):
    save_nifti(tmp_path / "scan.nii.gz").rename(tmp_path / "SCAN.NII.GZ")
    assert np.array_equal(read_image(tmp_path / "SCAN.NII.GZ").array, bright_ball())


def test_single_fourth_axis_is_dropped(tmp_path):
    save_nifti(tmp_path / "scan.nii", bright_ball()[..., None])
    assert np.array_equal(read_image(tmp_path / "scan.nii").array, bright_ball())


@pytest.mark.parametrize("extension", [".nrrd", ".mha"])
def test_single_fourth_axis_is_dropped_by_simpleitk(tmp_path, extension):
    image = sitk.JoinSeries([sitk.GetImageFromArray(np.ascontiguousarray(bright_ball().T))])
    sitk.WriteImage(image, str(tmp_path / f"scan{extension}"))
    assert np.array_equal(read_image(tmp_path / f"scan{extension}").array, bright_ball())


def test_what_nibabel_mends_is_one_warning_and_not_printed(tmp_path, capfd):
    content = bytearray(save_nifti(tmp_path / "scan.nii").read_bytes())
    content[:4] = struct.pack("<i", 349)  # sizeof_hdr
    (tmp_path / "scan.nii").write_bytes(content)
    (doubt,) = read_image(tmp_path / "scan.nii").warnings
    assert doubt.startswith(f"{tmp_path / 'scan.nii'}: ") and "sizeof_hdr should be 348" in doubt
    assert capfd.readouterr() == ("", "")


# Refusals


@pytest.mark.parametrize(
    "error, text, remedy",
    [
        (PermissionError(13, "Permission denied"), "Permission denied", "check the permissions"),
        (MemoryError(), "memory", "close other programs"),
        (EOFError("it ends"), "it ends", "export or copy it again"),
    ],
)
def test_only_a_damaged_file_is_to_be_exported_again(tmp_path, monkeypatch, error, text, remedy):
    def fail(path):
        raise error

    monkeypatch.setattr(reading, "_read_nibabel", fail)
    message = refusal(save_nifti(tmp_path / "scan.nii"))
    assert text in message and remedy in message
    assert ("the file is damaged" in message) == isinstance(error, EOFError)


def test_wrong_checksum_is_refused(tmp_path):
    path = save_nifti(tmp_path / "scan.nii.gz")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    assert "CRC" in refusal(path)


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nrrd", "folder"])
def test_missing_file_is_refused(tmp_path, name):
    assert "no such file" in refusal(tmp_path / name)


def test_detached_header_without_its_data_is_refused(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(bright_ball()), str(tmp_path / "scan.mhd"))
    (tmp_path / "scan.raw").unlink()
    assert "cannot be read" in refusal(tmp_path / "scan.mhd")


@pytest.mark.parametrize("name", ["scan.png", "scan", "scan.gz"])
def test_unknown_extension_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"something")
    message = refusal(tmp_path / name)
    assert all(extension in message for extension in READABLE)


def test_several_volumes_are_refused(tmp_path):
    assert "4 dimensions (17 x 18 x 20 x 2)" in refusal(
        save_nifti(tmp_path / "scan.nii", np.stack([bright_ball()] * 2, -1))
    )


def test_colours_are_refused(tmp_path):
    colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert "colours" in refusal(save_nifti(tmp_path / "scan.nii", colours))


@pytest.mark.parametrize("extension", [".nrrd", ".mha"])
def test_colours_are_refused_by_simpleitk(tmp_path, extension):
    image = sitk.GetImageFromArray(np.zeros((*SHAPE, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / f"scan{extension}"))
    assert "3 values" in refusal(tmp_path / f"scan{extension}")


def test_a_picture_is_refused(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((20, 20), np.uint8)), str(tmp_path / "scan.mha"))
    assert "2 dimensions" in refusal(tmp_path / "scan.mha")
