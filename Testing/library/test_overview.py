"""The overview picture: what is on it, and that left stays left however a scan is stored."""

import importlib.util
import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from matplotlib.image import imread

from GaborSegLib.report import overview
from GaborSegLib.structures import Structure, named_structures, paper_structures

STRUCTURES = [
    Structure(1, "Cerebral grey", (200, 150, 140)),
    Structure(2, "Left", (255, 0, 0)),
    Structure(3, "Front", (0, 255, 0)),
    Structure(4, "Top", (0, 0, 255)),
]
SLICES, VIEWS = np.s_[100:640, 40:1400], np.s_[660:1110, 40:1400]  # where they are in the picture


@pytest.fixture(scope="module")
def head():
    """A (scan, labels, affine), right-anterior-superior: an ellipsoid that holds a ball at the left, front and top."""
    x, y, z = (np.indices((34, 44, 36)).T - (17, 22, 18)).T
    labels = (x**2 / 14**2 + y**2 / 18**2 + z**2 / 13**2 < 1).astype(np.uint8)
    for label, (i, j, k) in ((2, (-8, 1, 0)), (3, (1, 11, 1)), (4, (0, -2, 7))):
        labels[(x - i) ** 2 + (y - j) ** 2 + (z - k) ** 2 < 16] = label
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -70, -90, -60
    return 100 * (labels > 0) + np.linspace(0, 50, 36), labels, affine


@pytest.fixture
def no_vtk(monkeypatch):
    monkeypatch.setitem(sys.modules, "vtk", None)


@pytest.fixture(scope="module")
def picture(head, tmp_path_factory):
    """The head's, without 3D views."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vtk", None)
        return draw(tmp_path_factory.mktemp("picture") / "overview.png", head)


def draw(path, head, structures=STRUCTURES, **options):
    overview.write_overview(path, *head, structures, "head.nii.gz", "A caption.", **options)
    picture = imread(path)[..., :3]
    assert picture.shape == (1200, 1800, 3)
    return picture


def stored(head, axes):
    """The same head, stored with other axes."""
    scan, labels, affine = head
    images = [nibabel.Nifti1Image(np.asarray(a, np.float32), affine) for a in (scan, labels)]
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(tuple(axes))
    )
    scan, labels = (image.as_reoriented(turn) for image in images)
    return scan.get_fdata(), labels.get_fdata().astype(np.int16), scan.affine


def place(picture, channel):
    """Mean (row, column) of the pixels in which one of red, green and blue stands out."""
    others = [c for c in range(3) if c != channel]
    return np.argwhere(picture[..., channel] - picture[..., others].max(axis=2) > 0.3).mean(axis=0)


def test_colours_are_on_the_picture(head, tmp_path, no_vtk):
    picture = draw(tmp_path / "overview.png", head, volumes={"Left": 12.3})
    assert os.listdir(tmp_path) == ["overview.png"]
    for structure in STRUCTURES:
        swatch = np.abs(picture[:, 1400:] - np.array(structure.colour) / 255).max(axis=2) < 0.01
        assert swatch.sum() > 300, structure.name


def test_radiological_convention(picture):
    """The patient's left is at the right of the axial slice, the front above; front is at the left of the sagittal."""
    slices = picture[SLICES]
    axial, sagittal = slices[:, :400], slices[:, 840:]

    def middle(plane):
        return np.argwhere(plane.max(axis=2) > 0.3).mean(axis=0)

    assert place(axial, 0)[1] > middle(axial)[1] + 40
    assert place(axial, 1)[0] < middle(axial)[0] - 40
    assert place(sagittal, 1)[1] < middle(sagittal)[1] - 40
    assert place(sagittal, 2)[0] < middle(sagittal)[0] - 40


@pytest.mark.parametrize("axes", ["LAS", "PSR", "ILA"])
def test_same_picture_however_stored(head, picture, tmp_path, no_vtk, axes):
    assert np.abs(draw(tmp_path / "overview.png", stored(head, axes)) - picture).max() < 0.02


def test_thick_slices_keep_the_shape(head, picture, tmp_path, no_vtk):
    scan, labels, affine = head
    thick = draw(tmp_path / "overview.png", (scan[..., ::2], labels[..., ::2], affine @ np.diag([1, 1, 2, 1])))
    assert np.abs(thick - picture)[SLICES].mean() < 0.05


def test_every_plane_shows_a_single_structure(head, tmp_path, no_vtk):
    scan, labels, affine = head
    slices = draw(tmp_path / "overview.png", (scan, 2 * (labels == 2), affine))[SLICES]
    for plane in np.split(slices[:, :1350], [360, 720], axis=1):
        assert np.isfinite(place(plane, 0)).all()


def test_nothing_segmented_and_a_name_like_a_formula(head, tmp_path):
    scan, labels, affine = head
    overview.write_overview(tmp_path / "o.png", scan, 0 * labels, affine, paper_structures(), "$x_$ " * 99, "", {})
    assert imread(tmp_path / "o.png")[SLICES].max() > 0.5


@pytest.mark.slow
def test_other_and_many_structures(head, tmp_path, no_vtk):
    """As many as Neuromorphometrics has: each has its swatch in the legend, and none runs off the picture."""
    structures = named_structures([f"Region {i} of the cortex" for i in range(1, 140)])
    legend = draw(tmp_path / "overview.png", head, structures)[:, 1400:]
    for structure in (structures[0], structures[2], structures[3]):  # in the labels: not faint
        assert (np.abs(legend - np.array(structure.colour) / 255).max(axis=2) < 0.01).any(), structure.name
    assert legend[:85].max() < 0.1 and legend[1170:].max() < 0.1


def test_shapes_must_agree(head, tmp_path):
    with pytest.raises(ValueError, match=r"\(34, 44, 36\).*\(34, 44\)"):
        draw(tmp_path / "overview.png", (head[0], head[1][..., 0], head[2]))


@pytest.mark.processes
def test_views_in_three_dimensions(head, tmp_path):
    if importlib.util.find_spec("vtk") is None:
        pytest.skip("the package vtk is not installed")
    views = draw(tmp_path / "overview.png", head)[VIEWS]
    if views[..., 0].std() < 0.05:
        pytest.skip("VTK cannot draw on this computer")
    for structure in STRUCTURES[1:]:
        channel = int(np.argmax(structure.colour))
        assert np.isfinite(place(views, channel)).all()
    # From the left, front, above, the front ball is left of the left one; from the other side it is right of it.
    assert place(views[:, :680], 1)[1] < place(views[:, :680], 0)[1]
    assert place(views[:, 680:], 1)[1] > place(views[:, 680:], 0)[1]


def test_picture_without_a_drawing_computer(head, tmp_path, monkeypatch):
    """The process that draws in 3D dies where there is no OpenGL; a note takes the place of its pictures."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: _died(command))
    views = draw(tmp_path / "overview.png", head)[VIEWS]
    assert 0 < (views.max(axis=2) > 0.3).mean() < 0.02


def _died(command):
    raise subprocess.CalledProcessError(-11, command)
