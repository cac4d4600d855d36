"""Conformance: what every file format must do. A new one gets these tests by being registered."""

import itertools

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from made import RAS_TO_LPS, SHAPE, bright_ball, oblique, refusal, some_labels

from GaborSegLib.errors import OutputError
from GaborSegLib.scans.checking import check_image
from GaborSegLib.scans.image import NIBABEL, READABLE, WRITABLE
from GaborSegLib.scans.reading import read_image
from GaborSegLib.scans.writing import write_label_map
from GaborSegLib.structures import paper_structures


def stored_ways():
    """Affines of all 48 axis orders and directions, with voxels of three sizes, and oblique ones of both hands."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = np.eye(3)[:, order] * signs * (0.9, 1.3, 2.1)
            affine[:3, 3] = (-80.5, 12.25, 33)
            yield affine
    yield from (oblique(seed, hand) for seed in range(2) for hand in (1, -1))


@pytest.mark.parametrize("extension", WRITABLE)
def test_label_map_comes_back_on_the_same_millimetres(tmp_path, extension):
    path, labels = tmp_path / f"labels{extension}", some_labels()
    for affine in stored_ways():
        write_label_map(path, labels, affine, paper_structures())
        image = read_image(path)
        assert np.array_equal(image.array, labels)
        assert np.allclose(image.affine, affine, atol=1e-4)
        assert image.spacing == pytest.approx((0.9, 1.3, 2.1), abs=1e-5)
        assert image.path == str(path) and image.warnings == ()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("extension", [extension for extension in READABLE if not extension.startswith(".mg")])
def test_reads_what_simpleitk_wrote(tmp_path, extension):
    """MGH files, which it does not write, are compared by their header in test_writing.py."""
    path = tmp_path / f"scan{extension}"
    image = sitk.GetImageFromArray(np.ascontiguousarray(bright_ball().T))
    for affine in stored_ways():
        image.SetSpacing((0.9, 1.3, 2.1))
        image.SetDirection((np.diag(RAS_TO_LPS) @ affine[:3, :3] / (0.9, 1.3, 2.1)).ravel().tolist())
        image.SetOrigin((RAS_TO_LPS * affine[:3, 3]).tolist())
        sitk.WriteImage(image, str(path))
        read = read_image(path)
        assert np.array_equal(read.array, bright_ball())
        assert np.allclose(read.affine, affine, atol=1e-4)
        assert check_image(read) == []


@pytest.mark.parametrize("share", [0, 0.005, 0.05, 0.6, 0.99])
@pytest.mark.parametrize("extension", READABLE)
def test_incomplete_file_is_refused(tmp_path, capfd, extension, share):
    """Cut in its header or in its voxels; where these are two files, each in its turn."""
    path, noise = tmp_path / f"scan{extension}", np.random.default_rng(3).integers(0, 1000, SHAPE).astype(np.int16)
    if extension in NIBABEL:
        nibabel.save((nibabel.MGHImage if "mg" in extension else nibabel.Nifti1Image)(noise, np.eye(4)), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(noise), str(path), "nrrd" in extension)
    for file in sorted(tmp_path.iterdir()):
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * share)])
        assert "cannot be read" in refusal(path)
        file.write_bytes(content)
    assert np.array_equal(np.sort(read_image(path).array, axis=None), np.sort(noise, axis=None))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("extension", READABLE)
def test_text_is_refused(tmp_path, extension):
    (tmp_path / f"scan{extension}").write_text("This is not an image.\n" * 40)
    assert "cannot be read" in refusal(tmp_path / f"scan{extension}")


@pytest.mark.parametrize("extension", WRITABLE)
def test_failing_library_leaves_the_old_file_alone(tmp_path, monkeypatch, extension):
    path = tmp_path / f"labels{extension}"
    path.write_text("old")

    def fail(image, name, **_):
        open(name, "w").close()
        raise OSError(28, "No space left on device") if extension in NIBABEL else RuntimeError("ITK ERROR: disk\n")

    monkeypatch.setattr(nibabel, "save", fail)
    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(OutputError, match="cannot be written"):
        write_label_map(path, some_labels(), oblique(), paper_structures())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
