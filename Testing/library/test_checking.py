"""Which images are refused, and which are taken with a warning."""

import nibabel
import numpy as np
import pytest
from made import SHAPE, bright_ball, oblique, refusal, save_nifti

from GaborSegLib.errors import ImageError
from GaborSegLib.scans.checking import check_image
from GaborSegLib.scans.image import Image
from GaborSegLib.scans.reading import read_image


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_voxels_without_a_number_are_refused(tmp_path, value):
    array = bright_ball().astype(np.float64)
    array[3, 4, 5] = value
    assert "NaN or infinite" in refusal(save_nifti(tmp_path / "scan.nii", array))


def test_constant_image_is_refused(tmp_path):
    assert "every voxel" in refusal(save_nifti(tmp_path / "scan.nii", np.full(SHAPE, 7, np.int16)))


def test_few_voxels_are_refused(tmp_path):
    assert "17 x 18 x 15 voxels" in refusal(save_nifti(tmp_path / "scan.nii", bright_ball()[:, :, :15]))


def test_shear_is_refused_in_a_file(tmp_path):
    affine = np.eye(4)
    affine[0, 1] = 2e-3
    assert "right angles" in refusal(save_nifti(tmp_path / "scan.nii", affine=affine))


@pytest.mark.parametrize(
    "entry, value, words",
    [((1, 1), 0, "voxel size"), ((0, 3), np.nan, "affine"), ((2, 2), np.inf, "affine"), ((0, 1), 1, "right angles")],
)
def test_affine_is_refused(entry, value, words):
    affine = np.eye(4)
    affine[entry] = value
    with pytest.raises(ImageError, match=f"^scan.nii: .*{words}"):
        check_image(Image(bright_ball(), affine, "scan.nii"))


@pytest.mark.parametrize("size", [3e-7, (1, 1, 3e-7), (1, 25, 1), 0.3, 1e9])
def test_voxels_of_no_head_are_refused(size):
    with pytest.raises(ImageError, match="^scan.nii: got voxels of .* mm, .* wanted 0.01 to 20 mm, and 10 to 1000 mm"):
        check_image(Image(bright_ball(), np.diag([*np.multiply(size, (1, 1, 1)), 1]), "scan.nii"))


def test_rounded_affine_passes():
    affine = oblique()
    affine[0, 1] += 5e-4
    assert check_image(Image(bright_ball(), affine)) == []


# Warnings


def warning(image):
    (line,) = check_image(image)
    assert line.startswith("scan.nii: ") and "\n" not in line
    return line


def test_thick_slices_are_warned_of():
    assert "1 x 1 x 3.5 mm" in warning(Image(bright_ball(), np.diag([1, 1, 3.5, 1]), "scan.nii"))
    assert check_image(Image(bright_ball(), np.diag([1, 1, 3, 1]), "scan.nii")) == []


def test_ct_is_warned_of():
    assert "as in CT" in warning(Image(bright_ball() - 1000, np.eye(4), "scan.nii"))


@pytest.mark.parametrize("shift", [100, -100])
def test_background_is_warned_of(shift):
    assert "background" in warning(Image(bright_ball() + shift, np.eye(4), "scan.nii"))


def test_standardised_intensities_are_warned_of():
    array = bright_ball().astype(np.float32)
    assert "background" in warning(Image((array - array.mean()) / array.std(), np.eye(4), "scan.nii"))


def test_shoulders_and_one_bright_spot_are_not_warned_of():
    array = bright_ball()
    array[:, :, :3] = 700
    array[8, 8, 8] = 30000
    array[:3, :, :3] = 0
    assert check_image(Image(array, np.eye(4), "scan.nii")) == []


def test_unknown_orientation_is_warned_of(tmp_path):
    image = nibabel.Nifti1Image(bright_ball(), np.eye(4))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "scan.nii")
    (line,) = check_image(read_image(tmp_path / "scan.nii"))
    assert "how the head lies" in line and line.startswith(str(tmp_path / "scan.nii"))


def test_unknown_orientation_of_a_nrrd_is_warned_of(tmp_path):
    header = "NRRD0004\ntype: int16\ndimension: 3\nsizes: 17 18 20\nendian: little\nencoding: raw\n\n"
    (tmp_path / "scan.nrrd").write_bytes(header.encode() + bright_ball().astype("<i2").tobytes(order="F"))
    (line,) = check_image(read_image(tmp_path / "scan.nrrd"))
    assert "how the head lies" in line
