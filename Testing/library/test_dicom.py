"""DICOM series: slices in the order of the headers, one series of several, and stacks that are refused."""

import numpy as np
import pytest
import SimpleITK as sitk
from made import RAS_TO_LPS, SHAPE, bright_ball, millimetres, oblique, refusal, save_nifti

from GaborSegLib.scans.checking import check_image
from GaborSegLib.scans.reading import read_image


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
