"""A volume out to a file and a label map back, in every geometry."""

import nibabel
import numpy as np
import pytest
import slicer
import vtk

TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
AFFINES = {
    "right-handed": np.diag([1, 1.2, 2, 1.0]),
    "left-handed": np.diag([-1, 1.2, 2, 1.0]),
    "sagittal": np.array([[0, 0, 1.5, -30], [-1, 0, 0, 40], [0, -1, 0, 50], [0, 0, 0, 1.0]]),
    "oblique": np.array([[0.8, -0.66, 0, 5], [0.6, 0.88, 0, -7], [0, 0, 3.0, 11], [0, 0, 0, 1]]),
}


@pytest.fixture
def scan(module_widget):
    from GaborSegPanel import scan

    return scan


@pytest.fixture
def refusal(module_widget):
    from GaborSegPanel import PanelError

    return PanelError


def add_volume(affine=np.eye(4)):
    array = np.random.default_rng(0).normal(size=(8, 7, 6)).astype(np.float32)
    return slicer.util.addVolumeFromArray(array, ijkToRAS=np.asarray(affine, float), name="Head")


def put_under(volume, matrix):
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.asarray(matrix, float)))
    volume.SetAndObserveTransformNodeID(transform.GetID())
    return transform


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("moved", [False, True], ids=["", "under a transform"])
def test_round_trip(scan, affine, moved, tmp_path):
    volume = add_volume(affine)
    expected = affine
    if moved:
        shift = np.diag([1.1, 1.1, 1.1, 1.0])
        shift[:3, 3] = 3, -4, 5
        turn = np.eye(4)
        turn[:3, :3] = TURN.T
        outer = put_under(volume, turn)
        outer.SetAndObserveTransformNodeID(put_under(add_volume(), shift).GetID())
        expected = shift @ turn @ affine
    scan.check_volume(volume)
    written = scan.write_volume(volume, tmp_path / "scan.nii")
    image = nibabel.load(tmp_path / "scan.nii")
    np.testing.assert_allclose(image.affine, expected, atol=1e-4)
    array = np.asarray(image.dataobj)
    np.testing.assert_array_equal(array, slicer.util.arrayFromVolume(volume).T)
    labels = (array > 0).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), tmp_path / "labels.nii")
    np.testing.assert_array_equal(scan.read_labels(tmp_path / "labels.nii", volume, written), labels.T)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_every_usual_type_of_voxel(scan, dtype, tmp_path):
    array = np.arange(64).reshape(4, 4, 4).astype(dtype)
    volume = slicer.util.addVolumeFromArray(array, name="Head")
    scan.write_volume(volume, tmp_path / "scan.nii")
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "scan.nii").dataobj), array.T)


def test_labels_elsewhere_are_not_taken(scan, refusal, tmp_path):
    volume = add_volume()
    affine = scan.write_volume(volume, tmp_path / "scan.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 7, 8), np.uint8), np.diag([-1, 1, 1, 1.0])), tmp_path / "labels.nii")
    with pytest.raises(ValueError, match="does not lie"):
        scan.read_labels(tmp_path / "labels.nii", volume, affine)


def test_a_volume_changed_meanwhile(scan, refusal, tmp_path):
    volume = add_volume()
    affine = scan.write_volume(volume, tmp_path / "scan.nii")
    slicer.util.updateVolumeFromArray(volume, np.zeros((5, 5, 5)))
    with pytest.raises(refusal, match="Head: was changed"):
        scan.read_labels(tmp_path / "scan.nii", volume, affine)


def test_no_volume(scan, refusal):
    with pytest.raises(refusal, match="No volume"):
        scan.check_volume(None)


def test_a_volume_without_voxels(scan, refusal):
    with pytest.raises(refusal, match="holds no voxels"):
        scan.check_volume(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"))


def test_a_transform_that_is_not_linear(scan, refusal):
    volume = add_volume()
    spline = vtk.vtkThinPlateSplineTransform()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for n, point in enumerate(((0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9), (9, 9, 9))):
        source.InsertNextPoint(point)
        target.InsertNextPoint([value + n % 2 for value in point])
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    transform.SetAndObserveTransformToParent(spline)
    volume.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(refusal, match="Head: is under a transform that is not linear; harden"):
        scan.check_volume(volume)


def test_shear(scan, refusal):
    volume = add_volume()
    put_under(volume, [[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    with pytest.raises(refusal, match="Head: its axes are not at right angles; resample"):
        scan.check_volume(volume)
